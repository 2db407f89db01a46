"""The extra ``edge`` has all that the agent and the drivers import: on an edge box nothing else is installed."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported() -> set[str]:
    """Top-level names of everything that is imported, inside functions too."""
    found: set[str] = set()
    for package in ("edge_agent", "drivers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"edge_agent", "drivers"}


def test_an_edge_box_has_what_it_imports() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.extras_require"]["edge"].split("\n")
    wanted = {re.split(r"[<>=;\[ ]", line.strip())[0].lower() for line in lines if line.strip()}
    # zeroconf's own, by which it knows the machine's addresses.
    wanted |= {"ifaddr"} if "zeroconf" in wanted else set()
    homes = packages_distributions()
    missing = {name for name in imported() if not {home.lower() for home in homes.get(name, [name])} & wanted}
    assert missing == set()


def test_nothing_of_the_appliance_is_imported() -> None:
    assert "appliance" not in imported()
