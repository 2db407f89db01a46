"""Where an engine keeps its data: in its folder, or in the database that ``FLOWORK_DATABASE_URL`` names.

Nothing of Postgres is imported, and no driver, where there is no such URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from appliance.contracts import ConfigError
from appliance.store.history import History
from appliance.store.journal import Journal
from appliance.store.opening import DATABASE
from appliance.store.retention import Exchange, Retention
from appliance.store.shard_history import ShardHistory
from appliance.store.shard_journal import ShardJournal
from appliance.store.shard_retention import ShardRetention
from appliance.store.sqlite_file import backup_database

URL = "FLOWORK_DATABASE_URL"
_SCHEMES = ("postgresql://", "postgres://")


def database_url(environ: Mapping[str, str] | None = None) -> str:
    """The URL of the database, empty for the data folder. Raises ``ConfigError`` for one that is not Postgres'."""
    url = (os.environ if environ is None else environ).get(URL, "").strip()
    if url and not url.startswith(_SCHEMES):
        raise ConfigError(
            f"{URL}: write postgresql://user:password@host:5432/database, or unset it to use the data folder"
        )
    return url


def make_journal(
    data: Path,
    *,
    writer: int,
    sync: bool = True,
    shared: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Journal:
    """The journal of an engine, not opened yet. ``writer`` makes the runs' ids and owns the runs that it writes.

    With ``shared`` nobody owns them: a gateway has accepted them, and a kernel takes them up.
    """
    url = database_url(environ)
    if not url:
        return ShardJournal(data, writer=writer, sync=sync)
    from appliance.store.postgres.journal import PostgresJournal

    return PostgresJournal(url, writer=writer, sync=sync, shared=shared)


def make_history(data: Path, environ: Mapping[str, str] | None = None) -> History:
    """The runs of an engine, for reading."""
    url = database_url(environ)
    if not url:
        return ShardHistory(data)
    from appliance.store.postgres.history import PostgresHistory

    return PostgresHistory(url)


def make_retention(
    data: Path, journal: Journal, exchange: Exchange, environ: Mapping[str, str] | None = None
) -> Retention:
    """What keeps the runs of an engine within bounds. ``exchange`` swaps files between two commits of ``journal``."""
    url = database_url(environ)
    if not url:
        return ShardRetention(data, lambda day: journal.writes.get(day, 0), exchange)
    from appliance.store.postgres.retention import PostgresRetention

    return PostgresRetention(url)


def copy_store(data: Path, path: Path) -> None:
    """A copy of flows, people and settings as the new file ``path``, while the engine runs. Raises ``StoreError``."""
    url = database_url()
    if not url:
        backup_database(data / DATABASE, path)
        return
    from appliance.store.postgres.export import copy_store as copy_from_server

    copy_from_server(url, path)
