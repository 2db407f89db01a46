"""``open_store``: the engine's small database ``flowork.db``, with one object for each noun in it.

The gateway, the kernel and the command line have it open at the same time, each with a ``Store`` of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from appliance.store.audit import AuditEntries
from appliance.store.database import Database
from appliance.store.errors import StoreError
from appliance.store.flows import Flows
from appliance.store.good_copy import keep_good_copy, read_mark
from appliance.store.notes import Notes
from appliance.store.opening import DATABASE, LOCK, REPAIR_NOTE, OpenReport, prepare
from appliance.store.people import People
from appliance.store.settings import SettingsStore
from appliance.store.sqlite_file import UserLock
from appliance.store.values import Values

#: Seconds between two good copies that deployments ask for.
GOOD_COPY_EVERY = 3600.0
_URL = "FLOWORK_DATABASE_URL"  # refused rather than ignored until another database can be used


class Store:
    """The repositories of one data folder. Safe from any thread, and in a child after ``fork``.

    ``report`` tells what opening has done to the file.
    """

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
        self._db = Database(data / DATABASE)
        self._notes = Notes(self._db)
        self.report = report
        self.flows = Flows(self._db, now)
        self.people = People(self._db, now)
        self.values = Values(self._db, now, self._copied_state)
        self.audit = AuditEntries(self._db)
        self.settings = SettingsStore(self._db, environ)

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._db.close()
        self._lock.release()

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
        ``StoreCorrupt``, and keeps the older copy, if the database turns out to be damaged.
        """
        return keep_good_copy(self._data, self._db.path, self._now(), every)

    def _copied_state(self) -> int:
        mark = read_mark(self._data)
        return mark.state_version if mark else 0

    def repair(self) -> OpenReport | None:
        """The last repair that nobody has acknowledged yet, whichever process made it."""
        return self._notes.get(REPAIR_NOTE, OpenReport)

    def acknowledge_repair(self) -> None:
        """A person has read about the repair."""
        with self._db.write():
            self._notes.drop(REPAIR_NOTE)


def open_store(data: Path, *, environ: Mapping[str, str] | None = None, now: Callable[[], float] = time.time) -> Store:
    """Open ``flowork.db`` in the data folder, making, updating or repairing it first where that is needed.

    Look at ``Store.report``: a repair that lost something must be shown loudly. ``environ`` holds the settings'
    overrides (the process environment if not given), ``now`` is the clock (Unix seconds). Raises
    ``StoreError``: read-only folder, full disk, database of a newer Flowork, repair while others use it.
    """
    environ = os.environ if environ is None else environ
    if environ.get(_URL):
        raise StoreError(f"{_URL}: only the SQLite file in the data folder is supported; unset it", retryable=False)
    lock = UserLock(data / LOCK)
    report = prepare(data, lock, now)
    store = Store(data, report, lock, environ, now)
    if report.state != "opened":
        try:
            store.keep_good_copy(every=0)
        except BaseException:
            store.close()
            raise
    return store
