"""Repositories in memory, as small as their contracts allow, and a clock that is set by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from appliance.security.audit import AuditEntry, Entry
from appliance.security.tokens import Token, TokenRow


class Clock:
    """Time that moves when told to."""

    def __init__(self, start: float = 1_795_224_098.25) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


class SessionRow(Struct):
    hash: str
    address: str
    created: float
    expires: float


class MemorySessions:
    def __init__(self) -> None:
        self.rows: dict[str, SessionRow] = {}
        self.writes = 0

    def add(self, digest: str, address: str, created: float, expires: float) -> None:
        self.rows[digest] = SessionRow(digest, address, created, expires)

    def get(self, digest: str) -> SessionRow | None:
        return self.rows.get(digest)

    def extend(self, digest: str, expires: float) -> None:
        self.writes += 1
        self.rows[digest].expires = expires

    def delete(self, digest: str) -> bool:
        return self.rows.pop(digest, None) is not None

    def delete_of(self, address: str) -> int:
        return sum(self.delete(row.hash) for row in list(self.rows.values()) if row.address == address)

    def delete_expired(self, now: float) -> int:
        return sum(self.delete(row.hash) for row in list(self.rows.values()) if row.expires <= now)


class MemoryTokens:
    def __init__(self) -> None:
        self.rows: dict[str, TokenRow] = {}
        self.notes: list[float] = []

    def add(self, token: Token) -> None:
        self.rows[token.id] = msgspec.convert(token, TokenRow, from_attributes=True)

    def get(self, token_id: str) -> TokenRow | None:
        return self.rows.get(token_id)

    def of(self, address: str) -> Iterable[TokenRow]:
        return (row for row in self.rows.values() if row.address == address)

    def revoke(self, token_id: str, when: float) -> bool:
        if self.rows[token_id].revoked is not None:
            return False
        self.rows[token_id] = msgspec.structs.replace(self.rows[token_id], revoked=when)
        return True

    def used(self, token_id: str, when: float) -> None:
        self.notes.append(when)
        self.rows[token_id] = msgspec.structs.replace(self.rows[token_id], last_used=when)


class UserRow(Struct, frozen=True):
    address: str
    name: str
    created: float


class MemoryUsers:
    def __init__(self) -> None:
        self.rows: dict[str, UserRow] = {}
        self.roles: dict[str, dict[str, str]] = {}

    def get(self, address: str) -> UserRow | None:
        return self.rows.get(address)

    def grants(self, address: str) -> Mapping[str, str]:
        return self.roles.get(address, {})

    def put(self, address: str, name: str, created: float) -> None:
        before = self.rows.get(address)
        self.rows[address] = UserRow(address, name, before.created if before else created)

    def grant(self, address: str, workspace: str, role: str | None) -> None:
        roles = self.roles.setdefault(address, {})
        roles.pop(workspace, None)
        if role is not None:
            roles[workspace] = role

    def remove(self, address: str) -> bool:
        self.roles.pop(address, None)
        return self.rows.pop(address, None) is not None


class SealedRow(Struct, frozen=True):
    workspace: str
    name: str
    sealed: bytes


class MemorySecrets:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], SealedRow] = {}
        self._lock = threading.RLock()

    def put(self, workspace: str, name: str, sealed: bytes) -> None:
        with self._lock:
            self.rows[workspace, name] = SealedRow(workspace, name, sealed)

    def get(self, workspace: str, name: str) -> SealedRow | None:
        return self.rows.get((workspace, name))

    def names(self, workspace: str) -> Iterable[str]:
        return (name for place, name in self.rows if place == workspace)

    def delete(self, workspace: str, name: str) -> bool:
        return self.rows.pop((workspace, name), None) is not None

    def all(self) -> Iterator[SealedRow]:
        return iter(list(self.rows.values()))

    def replace(self, workspace: str, name: str, old: bytes, new: bytes) -> bool:
        with self._lock:
            row = self.rows.get((workspace, name))
            if row is None or row.sealed != old:
                return False
            self.put(workspace, name, new)
            return True


class MemoryAudit:
    def __init__(self) -> None:
        self.rows: list[AuditEntry] = []
        self._lock = threading.Lock()

    def last(self) -> Entry | None:
        return self.rows[-1] if self.rows else None

    def add(self, entry: Entry) -> bool:
        with self._lock:
            if entry.seq != len(self.rows) + 1:
                return False
            self.rows.append(msgspec.convert(entry, AuditEntry, from_attributes=True))
            return True

    def entries(self) -> Iterator[Entry]:
        return iter(list(self.rows))
