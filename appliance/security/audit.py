"""Who did what, in a chain in which every entry holds the hash of the one before.

Changing, inserting or removing an entry breaks the chain from there on; :meth:`AuditLog.verify` names the place.
Cutting off the end leaves a chain that is whole in itself, so the last hash is also kept in
``keys/audit.head``. What this cannot prove: entries by somebody who can write the database *and* the keys
folder and computes the whole chain anew. Against that, keep the head (``flowork audit verify`` prints it)
somewhere else.

An entry's hash is SHA-256 over the canonical JSON (keys sorted, no spaces, UTF-8) of all its other fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.security.files import explained, keys_folder, locked, write_atomic
from appliance.security.scrub import Scrubber
from appliance.security.secret import MASK

HEAD_FILE = "audit.head"
#: The ``prev`` of the first entry.
GENESIS = "0" * 64
_MAX_TEXT = 512
_MAX_DETAIL = 4096
_TRIES = 50
_HIDDEN = ("password", "passwd", "passphrase", "secret", "token", "private_key", "api_key", "authorization", "cookie")
_log = logging.getLogger(__name__)


class AuditError(FlowError):
    """The audit log cannot take an entry."""

    id = "audit"


class Entry(Protocol):
    """One row. ``time`` is in microseconds since 1970 (UTC), ``detail`` canonical JSON text, hashes in hex."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> int: ...
    @property
    def actor(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def workspace(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def prev(self) -> str: ...
    @property
    def hash(self) -> str: ...


class AuditEntry(Struct, frozen=True, kw_only=True):
    """An entry to be kept; the fields are those of :class:`Entry`."""

    seq: int
    time: int
    actor: str
    action: str
    target: str
    workspace: str
    detail: str
    prev: str
    hash: str


class AuditRepo(Protocol):
    """Where entries are kept. Nothing is ever changed or removed through it."""

    def last(self) -> Entry | None: ...

    def add(self, entry: Entry) -> bool:
        """False (and nothing done) if the ``seq`` is taken already."""

    def entries(self) -> Iterable[Entry]:
        """All, by ``seq``, a few at a time in memory."""


class VerifyResult(Struct, frozen=True, kw_only=True):
    """``broken`` is the ``seq`` of the first entry that is wrong or missing; ``reason`` says how."""

    ok: bool
    count: int
    head: str
    broken: int | None = None
    reason: str = ""


class AuditLog:
    """Appends to and verifies the audit log of the engine whose data folder is ``data``."""

    def __init__(
        self,
        repo: AuditRepo,
        data: Path,
        *,
        scrubber: Scrubber | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._repo = repo
        self._folder = keys_folder(data)
        self._scrubber = scrubber or Scrubber()
        self._now = now

    def append(
        self,
        actor: str,
        action: str,
        target: str = "",
        detail: Mapping[str, Any] | None = None,
        *,
        workspace: str = "",
    ) -> AuditEntry:
        """Add an entry and remember it as the end: ``actor`` is ``Identity.label``, ``action`` like ``flow.deploy``.

        Secrets are taken out of all texts, fields named like one are hidden, and what is too long is cut.
        Several processes may append at once. Not inside a database transaction, for that may still be undone:
        there, :meth:`add`, and :meth:`settle` once it is committed. Raises ``AuditError``, ``KeysError``, and
        what the repo raises.
        """
        entry = self.add(actor, action, target, detail, workspace=workspace)
        self.settle(entry)
        return entry

    def add(
        self,
        actor: str,
        action: str,
        target: str = "",
        detail: Mapping[str, Any] | None = None,
        *,
        workspace: str = "",
    ) -> AuditEntry:
        """The first half of :meth:`append`, for use inside the transaction of what is being audited."""
        texts = {"actor": actor, "action": action, "target": target, "workspace": workspace}
        texts = {name: self._scrubber.scrub_text(_plain(text))[:_MAX_TEXT] for name, text in texts.items()}
        kept = self._kept(detail or {})
        for _ in range(_TRIES):
            last = self._repo.last()
            if last is None:
                self._begin()
            seq, prev = (last.seq + 1, last.hash) if last else (1, GENESIS)
            fields = {"seq": seq, "time": int(self._now() * 1e6), **texts, "detail": kept, "prev": prev}
            entry = msgspec.convert({**fields, "hash": _digest(fields)}, AuditEntry)
            if self._repo.add(entry):
                return entry
        raise AuditError("the audit log is being written by too many at once; try again")

    def settle(self, entry: AuditEntry) -> None:
        """Remember a committed entry as the end of the log, unless another process was quicker.

        A head that cannot be written is a warning and not an error: the entry is safe. One that is missing,
        damaged or not in the chain is left as it is, for :meth:`verify` to report.
        """
        try:
            with explained(self._folder), locked(self._folder):
                head = self._head()
                if head is not None and head.seq < entry.seq and self._in_chain(head, entry):
                    self._write_head(entry.seq, entry.hash)
        except FlowError as exc:
            _log.warning("audit: %s", exc.message)

    def verify(self) -> VerifyResult:
        """Walk the whole chain; names the first entry that is not as it was written."""
        try:
            head = self._head()
        except AuditError as exc:
            return VerifyResult(ok=False, count=0, head="", reason=exc.message)
        count, prev = 0, GENESIS
        for entry in self._repo.entries():
            reason = _fault(entry, count + 1, prev)
            if not reason and head is not None and head.seq == entry.seq and head.hash != entry.hash:
                reason = f"entry {entry.seq} is not the one that keys/{HEAD_FILE} remembers: history was rewritten"
            if reason:
                return VerifyResult(ok=False, count=count, head=prev, broken=count + 1, reason=reason)
            count, prev = count + 1, entry.hash
        if reason := _fault_at_end(head, count):
            return VerifyResult(ok=False, count=count, head=prev, broken=count + 1, reason=reason)
        return VerifyResult(ok=True, count=count, head=prev)

    def accept(self, actor: str, reason: str) -> AuditEntry:
        """Go on from where the database ends (an older one was restored); the log says that this was done."""
        with explained(self._folder), locked(self._folder):
            try:
                head = self._head()
            except AuditError:
                head = None
            last = self._repo.last()
            self._write_head(last.seq if last else 0, last.hash if last else GENESIS)
        expected = {"expected_seq": head.seq, "expected_hash": head.hash} if head else {"expected_seq": None}
        return self.append(actor, "audit.accept", detail={"reason": reason, **expected})

    def _kept(self, detail: Mapping[str, Any]) -> str:
        text = _canonical(_without_secrets(self._scrubber.scrub(dict(detail))))
        if len(text) > _MAX_DETAIL:
            text = _canonical({"cut": text[: _MAX_DETAIL // 2]})
        return text

    def _begin(self) -> None:
        """Make the head before the first entry: from then on, a missing head is a sign that it was removed."""
        with explained(self._folder):  # not locked: this may be inside a transaction, which is a lock of its own
            if not (self._folder / HEAD_FILE).exists():
                self._write_head(0, GENESIS)

    def _in_chain(self, head: _Head, entry: AuditEntry) -> bool:
        """Whether ``entry`` comes after the head; a walk if the two are not neighbours (a crash, or a race)."""
        if head.seq == entry.seq - 1:
            return head.hash == entry.prev
        return head.seq == 0 or any(head.seq == at.seq and head.hash == at.hash for at in self._repo.entries())

    def _head(self) -> _Head | None:
        path = self._folder / HEAD_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Head)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeError):
            raise AuditError(f"{path} is damaged, so a cut-off end of the log cannot be told") from None

    def _write_head(self, seq: int, digest: str) -> None:
        write_atomic(self._folder / HEAD_FILE, msgspec.json.encode(_Head(seq, digest)) + b"\n")


class _Head(Struct, frozen=True):
    seq: int
    hash: str


def _fault(entry: Entry, seq: int, prev: str) -> str:
    """What is wrong with the entry that should be number ``seq``; empty if nothing is."""
    if entry.seq != seq:
        return f"entry {seq} is missing: entry {entry.seq} comes instead"
    if entry.prev != prev:
        return f"entry {seq} does not follow the entry before it: one of the two was replaced"
    names = (name for name in AuditEntry.__struct_fields__ if name != "hash")
    if _digest({name: getattr(entry, name) for name in names}) != entry.hash:
        return f"entry {seq} was changed after it was written"
    return ""


def _fault_at_end(head: _Head | None, count: int) -> str:
    if head is None:
        return f"keys/{HEAD_FILE} was removed, so a cut-off end cannot be told" if count else ""
    if head.seq <= count:
        return ""
    return f"entries {count + 1} to {head.seq} are gone: the end was cut off, or an older database was restored"


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(text: str) -> str:
    """Text as any database gives it back: no NUL (Postgres), no half surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _without_secrets(value: Any) -> Any:
    """JSON in which no field named like a secret shows its value; what JSON has no form for becomes text."""
    if isinstance(value, Mapping):
        return {
            _plain(str(key)): MASK if _names_secret(str(key)) and item is not None else _without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_without_secrets(item) for item in value]
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _plain(str(value))


def _names_secret(key: str) -> bool:
    """``token`` and ``smtp_password``, but not ``token_id``."""
    return key.lower().replace("-", "_").endswith(_HIDDEN)
