"""``open_store``: the engine's small database, with one object for each noun in it: ``flowork.db``, or in Postgres.

The gateway, the kernel and the command line have it open at the same time, each with a ``Store`` of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from appliance.store.audit import AuditEntries
from appliance.store.database import Database, FileDatabase
from appliance.store.flows import Flows
from appliance.store.good_copy import keep_good_copy, read_mark
from appliance.store.moved import refuse_moved
from appliance.store.notes import Notes
from appliance.store.opening import DATABASE, LOCK, REPAIR_NOTE, OpenReport, prepare
from appliance.store.people import People
from appliance.store.places import database_url
from appliance.store.settings_store import SettingsStore
from appliance.store.sqlite_file import UserLock
from appliance.store.values import Values

#: Seconds between two good copies that deployments ask for.
GOOD_COPY_EVERY = 3600.0
#: A state version that no change reaches: all that is in a database server counts as copied.
_ALL = (1 << 63) - 1


class Store:
    """The repositories of one engine. Safe from any thread, and in a child after ``fork``.

    ``report`` tells what opening has done to the database.
    """

    #: The journal writes durable values where they are kept.
    _settled = True

    def __init__(self, db: Database, report: OpenReport, environ: Mapping[str, str], now: Callable[[], float]) -> None:
        self._db = db
        self._notes = Notes(db)
        self.report = report
        self.flows = Flows(db, now)
        self.people = People(db, now)
        self.values = Values(db, now, self._copied_state, settled=self._settled)
        self.audit = AuditEntries(db)
        self.settings = SettingsStore(db, environ)

    def close(self) -> None:
        """Close the database; twice is fine."""
        self._db.close()

    @contextmanager
    def atomically(self) -> Iterator[None]:
        """Several calls as one: all is kept or nothing (save and deploy)."""
        with self._db.write():
            yield

    def changes(self) -> dict[str, int]:
        """Counters that grow when ``deployments``, ``values``, ``people`` or ``settings`` change.

        One small read, no disk access: other processes may ask several times a second.
        """
        return self._db.counters()

    def keep_good_copy(self, every: float = GOOD_COPY_EVERY) -> bool:
        """Renew the copy that a damaged file is replaced with, if it is older than ``every`` seconds.

        To be called after deployments and now and then (state: see ``values.droppable``). Raises
        ``StoreCorrupt``, and keeps the older copy, if the database turns out to be damaged. A database server looks
        after its own disk: nothing is copied then.
        """
        return False

    def _copied_state(self) -> int:
        return _ALL

    def repair(self) -> OpenReport | None:
        """The last repair that nobody has acknowledged yet, whichever process made it."""
        return self._notes.get(REPAIR_NOTE, OpenReport)

    def acknowledge_repair(self) -> None:
        """A person has read about the repair."""
        with self._db.write():
            self._notes.drop(REPAIR_NOTE)


class FileStore(Store):
    """The store in ``flowork.db`` of a data folder."""

    _settled = False

    def __init__(
        self,
        data: Path,
        report: OpenReport,
        lock: UserLock,
        environ: Mapping[str, str],
        now: Callable[[], float],
    ) -> None:
        self._data = data
        self._lock = lock
        self._now = now
        super().__init__(FileDatabase(data / DATABASE), report, environ, now)

    def close(self) -> None:
        super().close()
        self._lock.release()

    def keep_good_copy(self, every: float = GOOD_COPY_EVERY) -> bool:
        return keep_good_copy(self._data, self._data / DATABASE, self._now(), every)

    def _copied_state(self) -> int:
        mark = read_mark(self._data)
        return mark.state_version if mark else 0


def open_store(data: Path, *, environ: Mapping[str, str] | None = None, now: Callable[[], float] = time.time) -> Store:
    """Open the engine's database, making, updating or repairing it first where that is needed.

    It is ``flowork.db`` in the data folder, or in Postgres if ``FLOWORK_DATABASE_URL`` says so. Look at
    ``Store.report``: a repair that lost something must be shown loudly. ``environ`` holds the settings' overrides and
    the URL (the process environment if not given), ``now`` is the clock (Unix seconds). Raises ``StoreError``:
    read-only folder, full disk, database of a newer Flowork, repair while others use it, server away.
    """
    environ = os.environ if environ is None else environ
    url = database_url(environ)
    if url:
        from appliance.store.postgres.database import PostgresDatabase
        from appliance.store.postgres.opening import prepare as prepare_server

        return Store(PostgresDatabase(url), prepare_server(url, data, now), environ, now)
    return _open_file(data, environ, now)


def _open_file(data: Path, environ: Mapping[str, str], now: Callable[[], float]) -> Store:
    refuse_moved(data)
    lock = UserLock(data / LOCK)
    report = prepare(data, lock, now)
    store = FileStore(data, report, lock, environ, now)
    if report.state != "opened":
        try:
            store.keep_good_copy(every=0)
        except BaseException:
            store.close()
            raise
    return store
