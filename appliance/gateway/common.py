"""What the nouns share: queries of lists, and the words for what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from msgspec import Meta, Struct

from appliance.security.roles import DEFAULT_WORKSPACE
from appliance.store.errors import NotFound
from appliance.store.names import decode_cursor, encode_cursor
from appliance.store.records import Page

Workspace = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9_.-]{0,62})$",
        description="The workspace; `*` is all of them and needs a role in all",
    ),
]
Cursor = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{0,512}$", description="`next` of the page before")]
Limit = Annotated[int, Meta(ge=1, le=500, description="Entries on a page")]
T = TypeVar("T")
#: Names of variables and secrets, as templates write them.
Name = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="Letters, digits and _")]
VersionNumber = Annotated[int, Meta(ge=1, le=2**53, description="A version's number")]
Moment = Annotated[float, Meta(ge=0, le=1e11)]
Note = Annotated[str, Meta(max_length=2000)]
RunIdText = Annotated[str, Meta(pattern="^[0-9A-HJKMNP-TV-Z]{13}$", description="A run's id")]


class Query(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every query; a parameter that is not known is refused."""


class Body(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every body; a field that is not known is refused."""


class InWorkspace(Query, frozen=True):
    """Which workspace."""

    workspace: Workspace = DEFAULT_WORKSPACE


class Paged(InWorkspace, frozen=True):
    """Which workspace, and which part of the list."""

    cursor: Cursor = ""
    limit: Limit = 50


class PartOnly(Query, frozen=True):
    """Which part of the list."""

    cursor: Cursor = ""
    limit: Limit = 50


def number_in(cursor: str) -> int | None:
    """The number that a list goes on below; None at its beginning. Raises ``ConfigError``."""
    if not cursor:
        return None
    position: list[Any] = decode_cursor(cursor, int)
    return int(position[0]) if -(2**63) <= position[0] < 2**63 else None


def numbered_page(items: Sequence[T], last: int | None) -> Page[T]:
    """A page whose next one begins below the number ``last``; None at the end."""
    return Page(items, "" if last is None else encode_cursor(last))


def one_workspace(workspace: str) -> str:
    """A workspace that something can be put into. Raises ``NotFound`` for ``*``."""
    if workspace == "*":
        raise NotFound("name one workspace: ?workspace=default")
    return workspace
