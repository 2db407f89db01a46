"""What a step does to the world, and what it may return."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct


class Effect(StrEnum):
    """What a node does to the world; decides how it is fenced and what happens after a crash."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


class Out(Struct, frozen=True):
    """A result on a named port. A plain return value means ``Out(value)``; port ``""`` fires no edge."""

    value: Any = None
    port: str = "out"


class Park(Struct, frozen=True):
    """Wait durably, holding no thread: until the moment ``until`` (Unix seconds, UTC) or a signal.

    ``signals`` are names that :meth:`Context.signal` or a person's answer may wake; ``memo`` (JSON) is
    kept and handed back to :meth:`Node.resume`. ``ask`` is shown to a person (approvals).
    """

    until: float | None = None
    signals: tuple[str, ...] = ()
    memo: Any = None
    ask: Mapping[str, Any] | None = None


class Target(Struct, frozen=True):
    """What is run for one item of a :class:`Spawn`: a flow by its id, or the node's own body from ``start`` on.

    ``start`` is one of the body's first nodes (to which no edge leads): it and what comes behind it run, the other
    first nodes do not. With neither it is the whole body. ``engine`` is where its steps run, by the engine's name; what
    takes no time and touches nothing stays here.
    """

    flow: str = ""
    start: str = ""
    engine: str = ""


class Spawn(Struct, frozen=True):
    """Run a flow (``flow``: its id) or the node's own body (``flow=""``) once per item, as child runs.

    ``targets``, if given, says for each item by itself what is run. At most ``concurrency`` at a time. The node is
    resumed with ``Wake.value`` a list of ``{"ok": bool, "output": ..., "error": ..., "run": id}`` in the order of
    ``items``. A failed child is run again up to ``attempts`` times in all, ``backoff`` seconds after it failed
    (doubling). With ``stop_on_error`` the first child that failed for good cancels those that have not finished; so
    does the moment ``until`` (Unix seconds, UTC), behind which the error's id is ``timed-out``. ``enough`` successes
    end the others at once (0: none does); so does the failure behind which there cannot be so many any more.
    """

    items: Sequence[Any]
    flow: str = ""
    concurrency: int = 4
    attempts: int = 1
    backoff: float = 1.0
    stop_on_error: bool = False
    memo: Any = None
    targets: Sequence[Target] = ()
    until: float | None = None
    enough: int = 0


class Wake(Struct, frozen=True):
    """Why a parked step goes on: ``kind`` is ``time``, ``signal`` or ``children``."""

    kind: str
    signal: str = ""
    value: Any = None
    memo: Any = None


class Pending:
    """A result that comes later from another thread; completing it twice is fine, the first one counts."""

    __slots__ = ("_callback", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._callback: Callable[[Any, BaseException | None], None] | None = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def complete(self, value: Any = None, error: BaseException | None = None) -> None:
        """Settle with a value or an error. Safe from any thread."""
        if self._done:
            return
        self._value, self._error, self._done = value, error, True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(value, error)

    def then(self, callback: Callable[[Any, BaseException | None], None]) -> None:
        """Call ``callback(value, error)`` exactly once, at once if already settled."""
        self._callback = callback
        if self._done:
            claimed, self._callback = self._callback, None
            if claimed is not None:
                claimed(self._value, self._error)


Result = Any | Out | Park | Spawn | Pending | Awaitable[Any]
