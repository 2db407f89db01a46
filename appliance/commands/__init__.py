"""The commands of ``flowork``: one file each, found by ``appliance.cli``; ``_*.py`` is what they share."""

from __future__ import annotations

from pathlib import Path

import click

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder. [default: $FLOWORK_DATA, or FloworkData in the checkout]",
)
