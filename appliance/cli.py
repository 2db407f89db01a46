"""The command ``flowork``. One command, or one group of commands, is one file in ``appliance/commands/``.

A file ``dead_letters.py`` there is ``flowork dead-letters`` and defines a click command named ``command``.
Files are found by their names and imported only when their command is given, so that ``flowork up`` does
not pay for the others. For the same reason they import what they need inside their functions.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import click

from appliance import commands
from appliance.contracts import FlowError


class Commands(click.Group):
    """A group whose members are the modules of ``appliance.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(module.name.replace("_", "-") for module in iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in self.list_commands(ctx):
            return None
        found = import_module(f"{commands.__name__}.{cmd_name.replace('-', '_')}").command
        assert isinstance(found, click.Command)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error meant for people is one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except FlowError as exc:
            raise click.ClickException(exc.message) from exc


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Flowork: an automation appliance that never forgets a run."""
