"""The command ``flowork``. One command, or one group of commands, is one file in ``appliance/commands/``.

A file ``dead_letters.py`` there is ``flowork dead-letters`` and defines a click command named ``command``; files whose
name begins with ``_`` are what the commands share. They are found by their names and imported only when their
command is given, so that ``flowork up`` does not pay for the others. For the same reason they import what they
need inside their functions.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import click

from appliance import commands


class Commands(click.Group):
    """A group whose members are the modules of ``appliance.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        names = (module.name for module in iter_modules(commands.__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found = import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}").command
        assert isinstance(found, click.Command)
        return found


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Flowork: an automation appliance that never forgets a run.

    Every command works on one data folder (--data, or $FLOWORK_DATA), on the box itself, with or without the engine
    running, and answers in JSON with --json. `flowork COMMAND --help` shows examples.
    """


if __name__ == "__main__":
    main()
