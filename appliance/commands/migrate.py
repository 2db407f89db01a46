"""``flowork migrate``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.store.postgres.moving import Moved

_SQLITE = "sqlite"


@leaf(
    "flowork migrate --to postgresql://flowork@db.example:5432/flowork",
    "flowork migrate --to sqlite",
    "flowork migrate --to sqlite --data /var/lib/flowork",
    name="migrate",
)
@click.option("--to", "target", required=True, metavar="URL|sqlite", help="A Postgres database, or the data folder.")
def command(session: Session, target: str) -> None:
    """Move the engine's flows, people and runs into a Postgres database, or back into its folder.

    Every row is compared with where it came from. Cut off, the same command goes on where it was. The engine must not
    run meanwhile. The password may come from PGPASSWORD or ~/.pgpass instead of the URL, which others can see.
    """
    from appliance.commands._input import BadInput
    from appliance.paths import EngineLock
    from appliance.store.places import URL, database_url

    here = database_url()
    if target == _SQLITE and not here:
        raise BadInput(f"{URL} names no database to move from")
    if target != _SQLITE and not target.startswith(("postgresql://", "postgres://")):
        raise BadInput("--to takes postgresql://user@host:5432/database, or sqlite")
    folder = session.need_identity()
    with EngineLock(folder, "kernel"), EngineLock(folder, "gateway"), progress(session, "moving", unit="rows") as tell:
        if target == _SQLITE:
            from appliance.store.postgres.moving import move_to_folder

            moved = move_to_folder(here, folder, tell)
        else:
            from appliance.security.keys import read_engine
            from appliance.store.postgres.moving import move_to_server

            moved = move_to_server(folder, target, read_engine(folder).id, tell)
    _note(session, folder, moved, "" if target == _SQLITE else target)
    _say(session, moved, back=target == _SQLITE)


def _note(session: Session, folder: Path, moved: Moved, url: str) -> None:
    """In the audit log, which has moved too."""
    from appliance.security.audit import AuditLog
    from appliance.store.metadata import open_store
    from appliance.store.places import URL

    with closing(open_store(folder, environ={URL: url})) as store:
        AuditLog(store.audit, folder).append(session.identity.label, "engine.migrate", moved.to)


def _say(session: Session, moved: Moved, *, back: bool) -> None:
    rows, days = counted(moved.rows, "row"), counted(moved.days, "day")
    text = f"{rows} of {days} and {counted(moved.blobs, 'large value')} moved to {moved.to}, and compared"
    session.done({"to": moved.to, "rows": moved.rows, "days": moved.days, "blobs": moved.blobs,
                  "left_out": moved.left_out, "set_aside": moved.set_aside}, text)  # fmt: skip
    for line in moved.left_out:
        session.note(f"left out: {line}")
    if back:
        session.note("unset FLOWORK_DATABASE_URL wherever it is set, then start Flowork")
        if moved.set_aside:
            session.note(f"the older files are in {moved.set_aside}; delete them when you are done with them")
        return
    session.note("set FLOWORK_DATABASE_URL to it for the kernel, the gateway and your shell, then start Flowork")
    session.note(
        f"keys/, files/, packages/ and memory.db stay in {session.folder}: another machine needs a copy of keys/, "
        "under which secrets are sealed"
    )
