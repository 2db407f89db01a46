"""The durable values of flows, in memory; every change is numbered and journaled with the step that made it.

flowork.db holds the values as they were at a marker; the journal holds the numbered changes behind it. Now and
then the marker moves up (:meth:`FlowStates.changed_since`), and the journal forgets what it no longer needs.
"""

from __future__ import annotations

from typing import Any

from appliance.contracts import ConfigError
from appliance.engine import trace
from appliance.store.journal import StateOp

MAX_VALUE = 262_144
MAX_KEYS = 10_000
#: The number under which events to other engines wait; the numbers above it are of accounts of models.
OUTBOX = -(1 << 62)
#: What a deleted value is changed to.
GONE: Any = object()


class FlowStates:
    """All flows' values. Only the engine thread changes them."""

    def __init__(self) -> None:
        self._values: dict[int, dict[str, Any]] = {}
        self.version = 0
        self.marker = 0
        self._changed: dict[tuple[int, str], StateOp] = {}

    def load(self, rows: list[tuple[int, str, Any]], marker: int, ops: list[StateOp]) -> None:
        """Fill from flowork.db (``rows`` up to ``marker``) and the journal's changes behind it."""
        self.version = self.marker = marker
        for flow, key, value in rows:
            self._values.setdefault(flow, {})[key] = value
        for op in ops:
            self._put(op.flow, op.key, GONE if op.value is None else trace.unpack(op.value))
            self._changed[op.flow, op.key] = op
            self.version = max(self.version, op.ver)

    def replace(self, flow: int, values: dict[str, Any]) -> None:
        """Another kernel has changed a flow's values until now, and wrote these down."""
        self._values[flow] = values
        self._changed = {place: op for place, op in self._changed.items() if op.flow != flow}

    def know(self, flow: int, changes: dict[str, Any]) -> None:
        """What is written down already was changed so (``GONE`` deletes)."""
        for key, value in changes.items():
            self._put(flow, key, value)
            self._changed.pop((flow, key), None)

    def of(self, flow: int) -> dict[str, Any]:
        """A flow's values; read only."""
        return self._values.setdefault(flow, {})

    def beside(self) -> dict[int, dict[str, Any]]:
        """The values under negative numbers, which no flow has: the engine's own (accounts of models)."""
        return {number: values for number, values in self._values.items() if OUTBOX < number < 0}

    def apply(self, flow: int, changes: dict[str, Any]) -> list[StateOp]:
        """Make changes (``GONE`` deletes) and return them numbered, for the journal."""
        ops = []
        for key, value in changes.items():
            self._put(flow, key, value)
            self.version += 1
            op = StateOp(self.version, flow, key, None if value is GONE else trace.pack(value))
            self._changed[flow, key] = op
            ops.append(op)
        return ops

    def _put(self, flow: int, key: str, value: Any) -> None:
        values = self._values.setdefault(flow, {})
        if value is GONE:
            values.pop(key, None)
        else:
            values[key] = value

    def take_changed(self) -> tuple[list[StateOp], int]:
        """The newest change of every value since the marker, and the number up to which that is all."""
        ops = sorted(self._changed.values())
        return ops, self.version

    def saved(self, upto: int) -> None:
        """flowork.db has everything up to this number."""
        self.marker = upto
        self._changed = {place: op for place, op in self._changed.items() if op.ver > upto}


class StepState:
    """A step's view of its flow's values: reads see its own changes; they count when the step succeeds."""

    __slots__ = ("_values", "changes")

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self.changes: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        value = self.changes.get(key, self._values.get(key, default))
        return default if value is GONE else value

    def set(self, key: str, value: Any) -> None:
        """Raises ``ConfigError`` for a value over 256 KiB or more than 10,000 keys."""
        if len(trace.pack(value)) > MAX_VALUE:
            raise ConfigError(f"state {key!r} is larger than {MAX_VALUE // 1024} KiB; keep large values in files")
        if key not in self._values and len(self._values) + len(self.changes) >= MAX_KEYS:
            raise ConfigError(f"a flow keeps at most {MAX_KEYS:,} values")
        self.changes[key] = value

    def delete(self, key: str) -> None:
        self.changes[key] = GONE

    def keys(self) -> list[str]:
        names = dict.fromkeys(self._values) | dict.fromkeys(self.changes)
        return [name for name in names if self.changes.get(name) is not GONE]
