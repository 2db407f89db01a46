"""A backup of an engine whose flows and runs are in Postgres: the archive is the same as one of a data folder."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from appliance.store.archive import ArchiveWriter, Progress
from appliance.store.backup_writer import BackupWriter
from appliance.store.opening import DATABASE
from appliance.store.postgres.connecting import connect, explained
from appliance.store.postgres.days import days, total_bytes
from appliance.store.postgres.export import blob_names, export_blob, export_day, export_store, snapshot


class ServerBackupWriter(BackupWriter):
    """Everything in the database is of one moment; the files beside it are taken as they are met."""

    #: Without ``blobs``: these are in the database.
    folders = ("keys", "files", "packages")

    def __init__(self, url: str, data: Path, stage: Path, progress: Progress | None) -> None:
        super().__init__(data, stage, progress)
        self._url = url
        self._room = stage

    def size_of_store(self) -> int:
        with explained(self._url), closing(connect(self._url)) as connection:
            blobs = connection.execute("SELECT coalesce(sum(size), 0)::bigint FROM blob").fetchone()
            return total_bytes(connection) + (blobs[0] if blobs else 0)

    def add_store(self, archive: ArchiveWriter) -> None:
        with explained(self._url), closing(connect(self._url)) as connection, snapshot(connection):
            for day in sorted(days(connection)):
                copy = self._room / f"{day}.db"
                export_day(connection, day, copy)
                self.add(archive, f"runs/{day}.db", copy)
                copy.unlink()
            copy = self._room / DATABASE
            export_store(connection, copy)
            self.add(archive, DATABASE, copy)
            copy = self._room / "blob"
            for digest, _ in blob_names(connection):
                export_blob(connection, digest, copy)
                self.add(archive, f"blobs/{digest[:2]}/{digest}", copy)
