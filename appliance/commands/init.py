"""``flowork init``."""

from __future__ import annotations

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork init", "flowork init --data /srv/flowork --json", name="init")
@click.option("--quiet", is_flag=True, help="Show no key, for output that goes into a log.")
def command(session: Session, quiet: bool) -> None:
    """Make the data folder ready: keys, database, an example flow. What is there already is left alone.

    The owner's private key is shown when it is made. `flowork up` does all this by itself.
    """
    from appliance import firststart
    from appliance.paths import data_folder

    folder = data_folder(session.folder)
    made = firststart.prepare(folder)
    if session.as_json:
        key = made.keys.owner_private_key
        answer = {
            "data": str(folder),
            "engine": made.keys.engine.id,
            "owner": made.keys.owner_address,
            "private_key": key.reveal() if key and not quiet else None,
            "example": made.example or None,
            "database": made.report.message,
            "notes": list(made.keys.notes),
        }
        out.emit(answer)
        return
    for note in made.keys.notes:
        out.say(note)
    if made.report.loss:
        out.say(f"Warning: {made.report.message}", err=True, color="red")
    out.say(f"engine {made.keys.engine.id} in {folder}")
    if quiet:
        return
    lines = firststart.key_lines(made.keys)
    if made.example:
        lines += firststart.example_lines(made.example)
    for line in [*lines, "start it with `flowork up`"]:
        out.say(line)
