"""The audit log's entries, which are added and read and nothing else (SQL triggers refuse the rest).

The hash chain over them is the work of ``appliance.security.audit``, whose repository protocol this class meets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from appliance.store.database import Database
from appliance.store.names import page_size
from appliance.store.tables import AUDIT

_AT_ONCE = 500


class AuditRow(Struct, frozen=True, kw_only=True):
    """One entry: ``time`` in microseconds since 1970 (UTC), ``detail`` JSON text, hashes in hex."""

    seq: int
    time: int
    actor: str
    action: str
    target: str
    workspace: str
    detail: str
    prev: str
    hash: str


class AuditEntries:
    """``store.audit``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def last(self) -> AuditRow | None:
        """The newest entry."""
        row = self._db.one(AUDIT.select().order_by(AUDIT.seq.desc()))
        return None if row is None else AuditRow(**row)

    def get(self, seq: int) -> AuditRow | None:
        """One entry by its number."""
        row = self._db.one(AUDIT.select().where(AUDIT.seq == seq))
        return None if row is None else AuditRow(**row)

    def add(self, entry: object) -> bool:
        """Keep an entry (anything with the attributes of :class:`AuditRow`); False if its ``seq`` is taken.

        Not for use inside ``store.atomically()``: the chain's head, a file, is moved on as soon as this
        returns, and a rollback after that would look like a log that was cut off.
        """
        row = msgspec.convert(entry, AuditRow, from_attributes=True)
        with self._db.write():
            if self._db.one(AUDIT.select(AUDIT.seq).where(AUDIT.seq == row.seq)):
                return False
            self._db.run(AUDIT.insert(msgspec.structs.asdict(row)))
        return True

    def entries(self) -> Iterator[AuditRow]:
        """All entries from the first on, a few at a time in memory."""
        seq = -1
        while rows := self._db.all(AUDIT.select().where(AUDIT.seq > seq).order_by(AUDIT.seq).limit(_AT_ONCE)):
            yield from (AuditRow(**row) for row in rows)
            seq = rows[-1]["seq"]

    def page(
        self,
        before: int | None = None,
        limit: int = 50,
        *,
        actor: str = "",
        action: str = "",
        workspace: str | None = None,
    ) -> Sequence[AuditRow]:
        """Entries, newest first: those below the number ``before``, by ``actor``, of an ``action`` if given.

        ``action`` also finds what lies under it: ``flow`` finds ``flow.deploy``.
        """
        query = AUDIT.select().order_by(AUDIT.seq.desc())
        if before is not None:
            query = query.where(AUDIT.seq < before)
        if actor:
            query = query.where(AUDIT.actor == actor)
        if action:
            query = query.where((AUDIT.action == action) | AUDIT.action.startswith(action + "."))
        if workspace is not None:
            query = query.where(AUDIT.workspace == workspace)
        return [AuditRow(**row) for row in self._db.all(query.limit(page_size(limit)))]
