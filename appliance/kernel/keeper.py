"""What goes to the journal: records gathered between commits, cleaned of secrets, large values put aside.

The keeper also decides what happens when the disk refuses: room is made, then history is given up before flows
are (``degraded``), and what could not be kept is counted and said.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any

from appliance.contracts import Event
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import Record
from appliance.kernel.context import Services
from appliance.kernel.runs import LiveRun
from appliance.store.journal import Batch, Journal, StateOp
from appliance.store.shards import StoreFailure

logger = logging.getLogger(__name__)

#: A blob's reference as msgpack writes it: the key, then a text of 64 characters.
_BLOB = re.compile(rb"\$blob\xd9\x40([0-9a-f]{64})")
RETRY_DISK = 5.0
MAX_HELD = 5_000


class Keeper:
    """Gathers what happened and commits it. Used by the engine thread only."""

    def __init__(self, journal: Journal, services: Services, max_snapshot: int) -> None:
        self._journal = journal
        self._services = services
        self._max_snapshot = max_snapshot
        self._touched: list[LiveRun] = []
        self._ops: list[tuple[int, StateOp]] = []
        self._keys: dict[str, int] = {}
        self._blobs: list[tuple[str, int]] = []
        self._callbacks: list[Callable[[], Any]] = []
        self.found_secret: Callable[[bytes], bool] = lambda data: False
        self.scrub: Callable[[Any], Any] = lambda value: value
        self.make_room: Callable[[], None] = lambda: None
        self.committed: Callable[[], None] = lambda: None
        self.waiting = 0
        self.commits = 0
        self.degraded = ""
        self.lost_history = 0
        self._next_try = 0.0
        self._fresh = False

    @property
    def pending(self) -> bool:
        """True if something happened since the last commit."""
        return self._fresh

    def since(self, run: LiveRun) -> int:
        """Microseconds since the run was accepted."""
        return max(0, int(self._services.wall() * 1e6) - run.accepted)

    def touch(self, run: LiveRun) -> None:
        """The run has something to write."""
        self._fresh = True
        if not run.dirty:
            run.dirty = True
            self._touched.append(run)

    def after_commit(self, callback: Callable[[], Any]) -> None:
        """Call once everything up to now is on disk."""
        self._fresh = True
        self._callbacks.append(callback)

    def record(self, run: LiveRun, record: Record) -> Any:
        """Keep a record; returns its value as it was kept (secrets are gone from it)."""
        try:
            data = trace.encode(record)
        except (TypeError, ValueError, OverflowError) as exc:
            record = _readable(record, exc)
            data = trace.encode(record)
        if self.found_secret(data):
            record = Record(
                record.kind, record.node, record.attempt, record.at, record.took, record.port,
                self.scrub(record.value), self.scrub(record.extra),
            )  # fmt: skip
            data = trace.encode(record)
        value = record.value
        if len(data) > self._max_snapshot:
            data = trace.encode(self._aside(run, record))
        if b"$blob" in data:
            self._note_blobs(run, data)
        run.records.append(data)
        self.touch(run)
        return value

    def _aside(self, run: LiveRun, record: Record) -> Record:
        """The record with its value (and large extras) replaced by references to blobs."""
        value, extra = record.value, record.extra
        if len(trace.pack(value)) > self._max_snapshot // 2:
            value = self._blob(run, value)
        if extra and len(trace.pack(extra)) > self._max_snapshot // 2:
            extra = {
                key: self._blob(run, item) if len(trace.pack(item)) > 4096 else item for key, item in extra.items()
            }
        return Record(record.kind, record.node, record.attempt, record.at, record.took, record.port, value, extra)

    def _blob(self, run: LiveRun, value: Any) -> dict[str, Any]:
        return self._services.blobs.put(trace.pack(value), "application/x-flowork-value")

    def _note_blobs(self, run: LiveRun, data: bytes) -> None:
        """The run uses these blobs: they stay for as long as it is kept."""
        self._blobs += [(digest.decode(), run.id) for digest in _BLOB.findall(data)]

    def unpack(self, value: Any) -> Any:
        """The value of a record: itself, or what its blob holds."""
        if isinstance(value, dict) and value.get("type") == "application/x-flowork-value" and "$blob" in value:
            return trace.unpack(self._services.blobs.get(value))
        return value

    def pack_event(self, run: LiveRun, event: Event, kind: str, item: list[int] | None) -> tuple[bytes, Any]:
        """The event for the run's row, and its payload as kept. Form: ``[id, view, payload, item]``."""
        view, payload = run.event, event.payload
        data = _pack_safely([event.id, view, payload, item])
        if self.found_secret(data):
            view, payload = self.scrub(view), self.scrub(payload)
            run.event = view
            data = _pack_safely([event.id, view, payload, item])
        if len(data) > self._max_snapshot:
            data = trace.pack([event.id, view, self._blob(run, payload), item])
        if b"$blob" in data:
            self._note_blobs(run, data)
        return data, payload

    def clean(self, value: Any) -> Any:
        """A value without secrets."""
        return self.scrub(value) if self.found_secret(trace.pack(value)) else value

    def state_ops(self, run: LiveRun, changes: dict[str, Any]) -> None:
        """Change durable values of the run's flow together with the run."""
        self._ops += [(run.id, op) for op in self._services.states.apply(run.flow.num, changes)]
        self.touch(run)

    def remember_key(self, key: str, run: int) -> None:
        """This event has its run."""
        self._keys[key] = run

    def run_of_key(self, key: str) -> int | None:
        """The run of an event that may start one only."""
        found = self._keys.get(key)
        return found if found is not None else self._journal.run_of_key(key)

    def commit(self) -> tuple[list[LiveRun], list[Callable[[], Any]]]:
        """Write everything; returns the runs that were written and what waits for that."""
        self._fresh = False
        touched, self._touched = self._touched, []
        callbacks, self._callbacks = self._callbacks, []
        if touched:
            batch = self._batch(touched)
            if self._write(batch):
                self._kept(touched)
                self.committed()
            else:
                self._hold(touched)
        return touched, callbacks

    def try_again(self) -> None:
        """If the journal was given up, write what is held at the next commit."""
        if self.degraded and self._touched:
            self._fresh = True

    def _batch(self, touched: list[LiveRun]) -> Batch:
        batch = Batch()
        for run in touched:
            if not run.row_written:
                batch.runs.append(run.new_row())
                continue
            if run.records:
                batch.chunks.append((run.id, run.chunks, trace.join(run.records)))
            if run.needs_update:
                batch.updates.append(run.update())
        batch.ops = self._ops
        batch.keys = list(self._keys.items())
        batch.blobs = self._blobs
        return batch

    def _kept(self, touched: list[LiveRun]) -> None:
        self._ops, self._keys, self._blobs = [], {}, []
        self.commits += 1
        for run in touched:
            if run.row_written and run.records:
                run.chunks += 1
            run.row_written = True
            run.needs_update = run.dirty = False
            run.records = []

    def _write(self, batch: Batch) -> bool:
        if self.degraded and time.monotonic() < self._next_try:
            return False
        try:
            self._journal.commit(batch)
        except StoreFailure as exc:
            return self._second_try(batch, exc)
        if self.degraded:
            logger.warning("the journal can be written again; %d runs left no history", self.lost_history)
            self.degraded = ""
        return True

    def _second_try(self, batch: Batch, failure: StoreFailure) -> bool:
        try:
            if not self.degraded:
                self.make_room()
                self._journal.commit(batch)
                return True
        except (StoreFailure, OSError) as exc:
            failure = exc if isinstance(exc, StoreFailure) else StoreFailure(str(exc))
        if not self.degraded:
            logger.critical("the journal cannot be written: %s. Flows go on, history does not", failure)
        self.degraded = str(failure)
        self._next_try = time.monotonic() + RETRY_DISK
        return False

    def _hold(self, touched: list[LiveRun]) -> None:
        """The disk refused: keep what still matters in memory for the next try, let go of the rest."""
        for run in touched:
            over = run.state >= RunState.SUCCEEDED and not run.row_written
            if over or len(self._touched) >= MAX_HELD:
                run.dirty = False
                run.records = []
                self.lost_history += 1
            else:
                self._touched.append(run)
        held = {run.id for run in self._touched}
        self._ops = [(run, op) for run, op in self._ops if run in held]
        self._blobs = [(digest, run) for digest, run in self._blobs if run in held]


def _readable(record: Record, problem: Exception) -> Record:
    """A record whose value no file can hold, with the value said in words."""
    value = {"unserializable": repr(record.value)[:2000], "reason": str(problem)}
    return Record(record.kind, record.node, record.attempt, record.at, record.took, record.port, value, None)


def _pack_safely(value: Any) -> bytes:
    try:
        return trace.pack(value)
    except (TypeError, ValueError, OverflowError) as exc:
        head, view, payload, item = value
        return trace.pack([head, view, {"unserializable": repr(payload)[:2000], "reason": str(exc)}, item])
