"""Retention of the shards: only as whole files. A shard is rewritten without what has had its time, or deleted when
nothing is left. Nothing is ever VACUUMed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from appliance.store import shards
from appliance.store.retention import ENDED, GOOD, WORTH, Exchange, Policy, Retention, Swept, age, expired, youngest
from appliance.store.runids import SPAN_BITS
from appliance.store.shards import bytes_of, total_bytes

logger = logging.getLogger(__name__)


class ShardRetention(Retention):
    """Sweeps the shards; ``exchange`` swaps files on the writer's thread."""

    def __init__(self, data: Path, writes: Callable[[str], int], exchange: Exchange) -> None:
        self._data = data
        self._writes = writes
        self._exchange = exchange

    def sweep(self, policy: Policy, now: float) -> Swept:
        swept = Swept()
        today = time.strftime("%Y-%m-%d", time.gmtime(now))
        closed = [day for day in reversed(shards.days(self._data)) if day < today]
        for day in closed:
            self._guarded(day, partial(self._by_age, day, policy, now, swept))
        self._by_size(closed, policy, swept)
        return swept

    def _guarded(self, day: str, work: Callable[[], None]) -> None:
        """One day that cannot be read or rewritten does not keep the others from being swept."""
        try:
            work()
        except (sqlite3.Error, OSError) as exc:
            logger.warning("runs/%s.db cannot be swept: %s", day, exc)
            for file in shards.files_of(_fresh(shards.shard_path(self._data, day))):
                file.unlink(missing_ok=True)

    def _by_age(self, day: str, policy: Policy, now: float, swept: Swept) -> None:
        if age(day, now) < youngest(policy):
            return
        condition, values = expired(policy, now)
        self._drop(day, _spared(condition, policy), values, swept, WORTH)

    def _by_size(self, closed: list[str], policy: Policy, swept: Swept) -> None:
        """Too much altogether: first the good runs of the oldest days go, then all their ended runs."""
        for condition in (GOOD, ENDED):
            for day in closed:
                if self.total_bytes() <= policy.max_bytes:
                    return
                if shards.shard_path(self._data, day).exists():
                    self._guarded(day, partial(self._drop, day, _spared(condition, policy), [], swept, 0.0))

    def _drop(self, day: str, condition: str, values: list[float], swept: Swept, worth: float) -> None:
        before = self._writes(day)
        path = shards.shard_path(self._data, day)
        reader = shards.open_reader(path)
        try:
            total = reader.execute("SELECT count(*) FROM run").fetchone()[0]
            going = reader.execute(f"SELECT count(*) FROM run WHERE {condition}", values).fetchone()[0]
            if total and (not going or going < total * worth):
                return
            # Durable values that flowork.db does not have yet; within minutes it has.
            if going == total and reader.execute("SELECT 1 FROM state_op LIMIT 1").fetchone():
                return
            sql = f"SELECT hash FROM blob_use WHERE run IN (SELECT id FROM run WHERE {condition})"
            blobs = {row[0] for row in reader.execute(sql, values)}
        finally:
            reader.close()
        size = bytes_of(path)
        if going == total:
            done = self._exchange(day, before, lambda: _delete(path))
        else:
            done = self._rewrite(day, path, condition, values, before)
        if done:
            (swept.deleted if going == total else swept.rewritten).append(day)
            swept.freed += max(0, size - bytes_of(path))
            swept.blobs |= blobs

    def _rewrite(self, day: str, path: Path, condition: str, values: list[float], before: int) -> bool:
        fresh = _fresh(path)
        for file in shards.files_of(fresh):
            file.unlink(missing_ok=True)
        _copy_kept(path, fresh, condition, values)

        def swap() -> None:
            # A power cut must meet the old file complete or the new one without the old one's WAL.
            _empty_wal(path)
            for file in shards.files_of(path)[1:]:
                file.unlink(missing_ok=True)
            fresh.replace(path)
            _sync_folder(path.parent)

        done = self._exchange(day, before, swap)
        for file in shards.files_of(fresh):
            file.unlink(missing_ok=True)
        return done

    def blobs_in_use(self, digests: Iterable[str]) -> set[str]:
        left = set(digests)
        used: set[str] = set()
        for day in shards.days(self._data):
            try:
                reader = shards.open_reader(shards.shard_path(self._data, day))
            except sqlite3.Error:
                return used | left
            try:
                for digest in list(left):
                    if reader.execute("SELECT 1 FROM blob_use WHERE hash = ? LIMIT 1", (digest,)).fetchone():
                        used.add(digest)
                        left.discard(digest)
            except sqlite3.DatabaseError:
                # A shard that cannot be read may use anything: nothing is deleted then.
                return used | left
            finally:
                reader.close()
        return used

    def total_bytes(self) -> int:
        return total_bytes(self._data)


def _fresh(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _spared(condition: str, policy: Policy) -> str:
    """Only runs that have ended, and no children of a run that has not."""
    sql = f"{ENDED} AND ({condition})"
    if policy.parents:
        sql += f" AND (parent IS NULL OR parent NOT IN ({', '.join(str(int(run)) for run in policy.parents)}))"
    return sql


def _copy_kept(path: Path, fresh: Path, condition: str, values: list[float]) -> None:
    """A new shard with what stays, complete and on disk."""
    writer = shards.open_writer(fresh, sync=True)
    try:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("ATTACH ? AS old", (str(path),))
        writer.execute("BEGIN")
        kept = f"SELECT id FROM old.run WHERE NOT ({condition})"
        writer.execute(f"INSERT INTO run SELECT * FROM old.run WHERE id IN ({kept})", values)
        for table, column in (("chunk", "run"), ("blob_use", "run"), ("letter_note", "run"), ("event_key", "run")):
            writer.execute(f"INSERT INTO {table} SELECT * FROM old.{table} WHERE {column} IN (SELECT id FROM run)")
        writer.execute(f"INSERT INTO flow_span SELECT DISTINCT flow, id >> {SPAN_BITS} FROM run")
        writer.execute("INSERT INTO state_op SELECT * FROM old.state_op")
        writer.execute("COMMIT")
    finally:
        writer.close()
    with fresh.open("rb") as file:
        os.fsync(file.fileno())


def _empty_wal(path: Path) -> None:
    """Move everything into the file itself. Raises ``sqlite3.OperationalError`` while another process reads."""
    connection = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=1, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=FULL")
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise sqlite3.OperationalError("it is being read")
    finally:
        connection.close()


def _delete(path: Path) -> None:
    for file in shards.files_of(path):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
