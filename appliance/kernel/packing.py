"""Values made into what the journal keeps: packed, cleaned of secrets, the large ones put aside as blobs."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from appliance.contracts import Event, NodeError
from appliance.engine import trace
from appliance.engine.trace import Record
from appliance.kernel.context import Services
from appliance.kernel.runs import LiveRun

logger = logging.getLogger(__name__)

#: A blob's reference as msgpack writes it: the key, then a text of 64 characters.
_BLOB = re.compile(rb"\$blob\xd9\x40([0-9a-f]{64})")


class Packing:
    """Packs records, events and values. ``max_snapshot``: bytes of a record beyond which its values are put aside."""

    def __init__(self, services: Services, max_snapshot: int) -> None:
        self._services = services
        self._max_snapshot = max_snapshot
        #: The blobs that runs have come to use since the last commit.
        self._blobs: list[tuple[str, int]] = []
        self.found_secret: Callable[[bytes], bool] = lambda data: False
        self.scrub: Callable[[Any], Any] = lambda value: value

    def pack_record(self, run: LiveRun, record: Record) -> tuple[bytes, Any]:
        """A record for the journal, and its value without secrets."""
        try:
            data = trace.encode(record)
        except Exception as exc:
            record = _readable(record, exc)
            data = trace.encode(record)
        if self.found_secret(data):
            record = Record(
                record.kind, record.node, record.attempt, record.at, record.took, self.scrub(record.port),
                self.scrub(record.value), self.scrub(record.extra),
            )  # fmt: skip
            data = trace.encode(record)
        value = record.value
        if len(data) > self._max_snapshot:
            data = trace.encode(self._aside(run, record))
        if b"$blob" in data:
            self._note_blobs(run, data)
        return data, value

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

    def _blob(self, run: LiveRun, value: Any) -> Any:
        """The reference to a value that was put aside, or the value itself if the disk refused."""
        try:
            return self._services.blobs.put(trace.pack(value), "application/x-flowork-value")
        except NodeError as exc:
            logger.warning("a value of run %s stays in its record: %s", run.text, exc)
            return value

    def _note_blobs(self, run: LiveRun, data: bytes) -> None:
        """The run uses these blobs: they stay for as long as it is kept."""
        self._blobs += [(digest.decode(), run.id) for digest in _BLOB.findall(data)]

    def unpack(self, value: Any) -> Any:
        """The value of a record: itself, or what its blob holds."""
        if isinstance(value, dict) and value.get("type") == "application/x-flowork-value" and "$blob" in value:
            return trace.unpack(self._services.blobs.get(value))
        return value

    def pack_event(self, run: LiveRun, event: Event, item: list[int] | None) -> tuple[bytes, Any]:
        """The event for the run's row, and its payload as kept. Form: ``[id, view, payload, item]``."""
        head, view, payload = event.id, run.event, event.payload

        def pack(form: list[Any]) -> bytes:
            return trace.pack_event(form, run.trigger, run.accepted)

        try:
            data = pack([head, view, payload, item])
        except Exception:
            head, view, payload = packable(head), packable(view), packable(payload)
            data = pack([head, view, payload, item])
        if self.found_secret(data):
            head, view, payload = self.scrub(head), self.scrub(view), self.scrub(payload)
            data = pack([head, view, payload, item])
        run.event = view
        if len(data) > self._max_snapshot:
            data = pack([head, view, self._blob(run, payload), item])
        if b"$blob" in data:
            self._note_blobs(run, data)
        return data, payload

    def clean(self, value: Any) -> Any:
        """A value without secrets, that can be packed."""
        try:
            data = trace.pack(value)
        except Exception:
            value = packable(value)
            data = trace.pack(value)
        return self.scrub(value) if self.found_secret(data) else value


def packable(value: Any) -> Any:
    """The value if it can be packed, else what it looks like."""
    try:
        trace.pack(value)
    except Exception as exc:
        return {"unserializable": _shown(value), "reason": _shown(exc, str)}
    return value


def _shown(value: Any, show: Callable[[Any], str] = repr) -> str:
    try:
        return show(value)[:2000].encode(errors="backslashreplace").decode()
    except Exception:
        return f"a {type(value).__name__}"


def _readable(record: Record, problem: Exception) -> Record:
    """A record that no file can hold, with those values said in words that are at fault."""
    extra = None
    if record.extra is not None:
        extra = {key: packable(value) for key, value in record.extra.items()}
    value, port = packable(record.value), _shown(record.port, str)
    logger.warning("a step gave a value that cannot be kept: %s", _shown(problem, str))
    return Record(record.kind, record.node, record.attempt, record.at, record.took, port, value, extra)
