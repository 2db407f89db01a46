"""``flowork version``."""

from __future__ import annotations

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork version", "flowork version --json", name="version")
def command(session: Session) -> None:
    """Print the version of Flowork, of Python and of SQLite."""
    import platform
    import sqlite3
    from importlib.metadata import version

    found = {"flowork": version("flowork"), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    if session.as_json:
        out.emit(found)
    else:
        out.say(found["flowork"])
