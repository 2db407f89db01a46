"""One page per driver and an index of them, from the drivers' own words and configs."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from drivers.base import Driver, all_types
from scripts.docsgen.tables import Table, markdown, tables

_HEADER = ["setting", "takes", "default", "bounds", "what it is for"]
_ABOUT = """\
What a machine can sense and do. Each is one file in `drivers/`, run by the edge agent: on the appliance's own machine
or on another. Flows use them through triggers and nodes that name the same settings.

Times are seconds. Besides its own events every driver may tell these:

| event | what it says |
| --- | --- |
| `initial` | how things are when the watch begins; nothing has changed |
| `lost` | the source went away or stopped answering; the value says why |
| `gap` | it is back; the value is the number of seconds for which nothing could be seen |
| `overflow` | more happened than the settings let through; the value is how many observations were left out |"""


def pages(made: str) -> dict[str, str]:
    """The pages by their paths; ``made`` is the line that says where they come from."""
    kinds = all_types()
    rows = [[f"[{kind.title}]({name}.md) `{name}`", _words(kind)[0]] for name, kind in kinds.items()]
    index = ["# Drivers", made, _ABOUT, markdown(["driver", "what it is"], rows)]
    found = {"docs/drivers/README.md": "\n\n".join(index)}
    for name, kind in kinds.items():
        summary, rest = _words(kind)
        parts = [f"# {kind.title}", made, f"Driver `{name}`.", summary, _help(rest), "## Settings"]
        for table in tables(kind.Config):
            parts += _section(table)
        found[f"docs/drivers/{name}.md"] = "\n\n".join(parts)
    return found


def _words(kind: type[Driver[Any]]) -> tuple[str, str]:
    summary, _, rest = (sys.modules[kind.__module__].__doc__ or "").strip().partition("\n\n")
    return " ".join(summary.split()), rest.strip("\n")


def _help(text: str) -> str:
    """Indented blocks are JSON."""
    parts: list[str] = []
    for indented, lines in groupby(text.splitlines(), key=lambda line: line.startswith("    ")):
        block = list(lines)
        parts += ["```json", *textwrap.dedent("\n".join(block)).splitlines(), "```"] if indented else block
    return "\n".join(parts)


def _section(table: Table) -> Iterator[str]:
    if table.title:
        yield f"### {table.title}"
    rows = [[name, kind, default, bounds, about] for name, kind, default, bounds, _, about in table.rows]
    yield markdown(_HEADER, rows)
