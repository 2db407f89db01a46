"""The journal: what happened to all runs since the last commit, in one transaction with one sync.

Here is what every journal promises and takes; ``shard_journal.py`` keeps it in SQLite files, ``postgres/journal.py``
in a database that several kernels share. ``places.py`` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from appliance.engine.states import RunState
from appliance.store.runids import RunIds, moment

K = TypeVar("K")

RUN_COLUMNS = (
    "id, flow, version, place, state, accepted, finished, trigger, event, error, parent, origin, letter, steps"
)


#: The number, which no flow has, under which the kernels of a cluster keep what they share of the engine's peers.
PEERS = -(1 << 62) - 1


class Lease(NamedTuple):
    """What a kernel holds while it may write: its number, and which holder of that number it is."""

    writer: int
    epoch: int


class RunRow(NamedTuple):
    """A run as it is stored; times are microseconds since 1970, UTC."""

    id: int
    flow: int
    version: int
    place: str
    state: int
    accepted: int
    finished: int | None
    trigger: str
    event: bytes
    error: bytes | None
    parent: int | None
    origin: int | None
    letter: int
    steps: bytes


class RunUpdate(NamedTuple):
    """A run's new state; ``steps`` is None or one more chunk with its number."""

    id: int
    state: int
    finished: int | None
    error: bytes | None
    letter: int


class StateOp(NamedTuple):
    """A durable value of a flow (``value`` None: deleted), number ``ver`` of all such changes."""

    ver: int
    flow: int
    key: str
    value: bytes | None


class Batch:
    """What one commit writes. Everything is filed under the run that it belongs to."""

    __slots__ = ("blobs", "chunks", "keys", "ops", "runs", "updates")

    def __init__(self) -> None:
        self.runs: list[RunRow] = []
        self.updates: list[RunUpdate] = []
        self.chunks: list[tuple[int, int, bytes]] = []
        self.ops: list[tuple[int, StateOp]] = []
        self.keys: list[tuple[str, int]] = []
        self.blobs: list[tuple[str, int]] = []

    def __bool__(self) -> bool:
        return bool(self.runs or self.updates or self.chunks or self.ops or self.keys)

    def split(self, key: Callable[[int], K]) -> dict[K, Batch]:
        """Smaller batches, by what ``key`` says of a run's id."""
        parts: dict[K, Batch] = {}

        def part(run: int) -> Batch:
            return parts.setdefault(key(run), Batch())

        for row in self.runs:
            part(row.id).runs.append(row)
        for update in self.updates:
            part(update.id).updates.append(update)
        for chunk in self.chunks:
            part(chunk[0]).chunks.append(chunk)
        for op in self.ops:
            part(op[0]).ops.append(op)
        for entry in self.keys:
            part(entry[1]).keys.append(entry)
        for blob in self.blobs:
            part(blob[1]).blobs.append(blob)
        return parts


class Journal(ABC):
    """A journal, open for writing. ``power`` durability syncs every commit, ``process`` none."""

    ids: RunIds
    #: What was found damaged and put aside.
    damaged: list[str]
    #: Grows with every write to a day; a rewrite of that day's file that finds it grown begins anew.
    writes: dict[str, int]
    #: Every commit is refused with ``LeaseLost`` once this lease is somebody else's; None: there is one kernel only.
    fence: Lease | None = None

    @abstractmethod
    def open(self) -> None:
        """Find the newest id, so that ids grow over restarts. Raises ``StoreFailure``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Calling it twice is fine."""

    def newest(self) -> float:
        """When the newest run was accepted (Unix seconds); 0 without any."""
        return moment(self.ids.last) if self.ids.last else 0.0

    # --- writing ---

    @abstractmethod
    def commit(self, batch: Batch) -> None:
        """Write all of a batch; on return it is on disk. Raises ``StoreFailure``, and then it can be made again.

        Raises ``EventTaken``, and nothing of the batch is written, if another kernel has made a run of one of its
        unique events; ``LeaseLost`` if this kernel may not write any more.
        """

    @abstractmethod
    def set_letter(self, run: int, letter: int, who: str, reason: str, at: int) -> bool:
        """Move a run on or off the dead-letter list. False if there is no such run. Raises ``StoreFailure``."""

    @abstractmethod
    def drop_state_ops(self, upto: int) -> None:
        """Forget changes of durable values that the store has now. Raises ``StoreFailure``."""

    @abstractmethod
    def probe(self) -> None:
        """Write something harmless. Raises ``StoreFailure`` while that is refused."""

    # --- reading back ---

    @abstractmethod
    def run_of_key(self, key: str) -> int | None:
        """The run that a unique event started, looked up in the newest two days."""

    @abstractmethod
    def recent_events(self, flow: int, trigger: str, limit: int) -> Iterator[tuple[int, bytes]]:
        """The newest runs of a trigger (id, packed event), newest first, from the newest two days."""

    @abstractmethod
    def under_way(self, newest: int | None = None) -> Iterator[tuple[RunRow, list[bytes]]]:
        """Every run of this kernel that has not ended, oldest first, with its further chunks.

        With ``newest`` only those of so many newest days. Where kernels share the journal, runs that nobody owns yet
        (a gateway has accepted them) become this kernel's.
        """

    @abstractmethod
    def load(self, run: int) -> tuple[RunRow, list[bytes]] | None:
        """One run with its further chunks, or None."""

    @abstractmethod
    def children(self, parent: int) -> Iterator[tuple[RunRow, list[bytes]]]:
        """The child runs of a run, oldest first."""

    @abstractmethod
    def state_ops(self, after: int) -> list[StateOp]:
        """The changes of durable values later than number ``after`` that the store does not have, in order."""

    @abstractmethod
    def mark(self) -> object:
        """Changes whenever somebody else may have put a run there that this kernel does not know."""

    # --- housekeeping of files, of which a database server has none ---

    def forget(self, day: str) -> None:  # noqa: B027  # nothing to close is a full answer
        """Close the file of a day that is about to be rewritten or deleted."""

    def uncheckpointed(self) -> dict[str, int]:
        """How many transactions each file has seen since its log was last moved into it."""
        return {}

    def lengthen(self) -> None:  # noqa: B027
        """Make the log that commits go to as long as a quiet day needs it. Now and then, off the engine's thread."""

    def checkpoint(self, day: str) -> None:  # noqa: B027
        """Move a file's log into it."""


def ended(state: int) -> bool:
    """True for a run that has nothing more to do."""
    return state >= RunState.SUCCEEDED
