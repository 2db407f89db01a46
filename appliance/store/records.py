"""What the repositories of ``flowork.db`` hand out. Times are Unix seconds, UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """A part of a list; ``next`` is the cursor of the part behind it, empty at the end."""

    items: Sequence[T]
    next: str = ""


class Flow(Struct, frozen=True, kw_only=True):
    """A flow without its versions' bodies.

    ``id`` is the name's slug when the flow was made and never changes; ``num`` names the flow in the run
    shards for ever. ``live`` is the id of the version that triggers start (``live_number`` its number) and
    ``newest`` the number of the last one saved. ``deleted`` flows are kept because old runs name them.
    """

    num: int
    id: str
    workspace: str
    name: str
    folder: str
    tags: tuple[str, ...]
    newest: int
    live: int | None
    live_number: int | None
    enabled: bool
    created: float
    updated: float
    deleted: float | None = None


class VersionHead(Struct, frozen=True, kw_only=True):
    """A version without its body: ``id`` is unique in the engine, ``number`` counts up within the flow."""

    id: int
    flow: int
    number: int
    hash: str
    author: str
    message: str
    created: float


class Version(VersionHead, frozen=True, kw_only=True):
    """One immutable save. ``text`` is the JSON with keys and values in the order they were given."""

    text: str

    @property
    def body(self) -> dict[str, Any]:
        """The flow as data; decoded anew on every access."""
        return cast("dict[str, Any]", msgspec.json.decode(self.text))

    @property
    def spec(self) -> str:
        """The flow's markdown specification, if it has one."""
        spec = self.body.get("spec", "")
        return spec if isinstance(spec, str) else ""


class Deployment(Struct, frozen=True, kw_only=True):
    """One move of a flow's live pointer (version ids) or of its switch.

    ``action`` is ``deploy``, ``undeploy``, ``enable``, ``disable`` or ``delete``.
    """

    id: int
    flow: int
    action: str
    before: int | None
    after: int | None
    who: str
    at: float
