"""The import arrows of docs and DESIGN, read from the source of every module: no list of exceptions.

Imports inside functions count as well, and so do literal names given to ``import_module``.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = ("appliance", "edge_agent", "drivers")

#: Parts of the house, the most specific name first where one lies in another.
BASE = {"appliance.contracts"}
SERVICES = {
    "appliance.store",
    "appliance.security",
    "appliance.sandbox",
    "appliance.queue",
    "appliance.registry",
    "appliance.engine",
}
#: What the gateway and the command line share: changing and checking flows, looking at the engine's health.
FLOWS = {"appliance.claims", "appliance.flowbook", "appliance.webpaths", "appliance.world"}
HEALTH = {"appliance.findings", "appliance.running", "appliance.listener", "appliance.safemode", "appliance.strain"}
#: Files of models and the engine for them: looked after by the command line, the kernel and the gateway.
MODEL_FILES = {"appliance.ai.building", "appliance.ai.library"}
MAY_IMPORT: dict[str, set[str]] = {
    "appliance.contracts": set(),
    "appliance.paths": BASE,
    "appliance.listener": BASE,
    "appliance.engine": BASE,
    "appliance.queue": BASE,
    "appliance.sandbox": BASE,
    "appliance.security": BASE,
    "appliance.store": BASE | {"appliance.engine"},
    "appliance.registry": BASE,
    "appliance.ai": BASE | {"appliance.ai.building", "appliance.ai.grammar", "appliance.ai.host.memory"},
    "appliance.ai.grammar": BASE,
    "appliance.ai.host.memory": set(),
    "appliance.ai.building": BASE | {"appliance.ai.host.memory"},
    "appliance.ai.library": BASE
    | {"appliance.ai", "appliance.ai.building", "appliance.ai.host.memory", "appliance.trust"},
    "appliance.ai.gateway": BASE,
    "appliance.ai.memory": BASE,
    "appliance.ai.providers": BASE,
    "appliance.nodes": BASE,
    "appliance.triggers": BASE,
    "appliance.supervisor": set(),
    "appliance.box": BASE | {"appliance.security"},
    "appliance.integrity": BASE | {"appliance.security"},
    "appliance.update": BASE
    | {"appliance.security", "appliance.store", "appliance.box", "appliance.paths", "appliance.integrity"}
    | {"appliance.trust"},
    "appliance.fleet": BASE | {"appliance.security", "edge_agent.protocol", "drivers"},
    "appliance.workshop": BASE | {"appliance.engine", "appliance.store"},
    "appliance.sharing": BASE | {"appliance.security", "appliance.store"},
    "appliance.kernel": BASE
    | SERVICES
    | {"appliance.claims", "appliance.fleet", "appliance.integrity", "appliance.workshop", "appliance.world"}
    | {"appliance.ai.gateway", "appliance.ai.memory", "appliance.running"}
    | {"appliance.sharing", "appliance.trust", "appliance.update"}
    | MODEL_FILES,
    "appliance.world": BASE | {"appliance.sandbox", "appliance.fleet", "appliance.ai.gateway", "appliance.ai.grammar"},
    "appliance.webpaths": BASE | {"appliance.engine"},
    "appliance.claims": BASE | {"appliance.engine", "appliance.fleet", "appliance.world"},
    "appliance.flowbook": BASE
    | SERVICES - {"appliance.queue"}
    | {"appliance.fleet", "appliance.kernel", "appliance.ai.gateway"}
    | FLOWS,
    "appliance.backups": BASE | {"appliance.store"},
    "appliance.chats": BASE | {"appliance.engine", "appliance.registry", "appliance.security", "appliance.store"},
    "appliance.restoring": {"appliance.paths", "appliance.safemode", "appliance.security", "appliance.store"},
    "appliance.findings": {"appliance.safemode", "appliance.strain", "appliance.wording"},
    "appliance.wording": set(),
    "appliance.trust": set(),
    "appliance.strain": set(),
    "appliance.running": set(),
    "appliance.sdnotify": set(),
    "appliance.safemode": {"appliance.kernel"},
    "appliance.doctor": BASE
    | SERVICES - {"appliance.queue"}
    | {"appliance.kernel", "appliance.update"}
    | FLOWS
    | HEALTH,
    "appliance.gateway": BASE
    | SERVICES - {"appliance.queue", "appliance.sandbox"}
    | {"appliance.kernel", "appliance.ai.gateway", "appliance.sharing"}
    | FLOWS
    | HEALTH
    | {"appliance.workshop", "appliance.update", "appliance.wording"}
    | MODEL_FILES
    | {"appliance.backups", "appliance.chats", "appliance.restoring"},
    "edge_agent.protocol": set(),
    "edge_agent": {"drivers", "edge_agent.protocol"},
    "drivers": set(),
}
#: The top of the house: it starts and steers all the rest.
TOP = {
    "appliance.firststart",
    "appliance.startup",
    "appliance.service",
    "appliance.herald",
    "appliance.commands",
    "appliance.cli",
}
EVERYTHING = set(MAY_IMPORT) | TOP
#: Folders in which one file is one plug-in.
PLUGINS = ("appliance.nodes", "appliance.triggers", "appliance.ai.providers", "drivers")
#: Libraries whose home DESIGN.md names. Any other may choose its home, but has only one.
HOMES = {"peewee": "appliance.store", "huey": "appliance.queue", "flask": "appliance.gateway"}
#: msgspec is part of the contract, as the types of every config.
EVERYWHERE = {"msgspec"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield node.lineno, str(argument.value)


def part_of(name: str) -> str | None:
    """The part of the house that a module or an imported name belongs to."""
    return max((part for part in EVERYTHING if name == part or name.startswith(part + ".")), key=len, default=None)


def test_every_module_belongs_to_a_part_of_the_house() -> None:
    homeless = [name for name, _ in modules() if part_of(name) is None and name not in OURS]
    assert not homeless


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for name, path in modules():
        part = part_of(name)
        allowed = EVERYTHING if part in TOP else MAY_IMPORT.get(part or "", set())
        for line, imported in imports(name, path):
            if imported.split(".")[0] in OURS and imported != "appliance":  # which is empty by itself
                target = part_of(imported)
                if target != part and target not in allowed:
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {part} must not import {imported}")
    assert not wrong, "\n".join(wrong)


def home(name: str) -> str:
    """Who may claim a library: a single file for a plug-in, else the part of the house.

    What a sensor box installs (``edge_agent``, ``drivers``) cannot borrow from the appliance: it has its own homes.
    """
    part = part_of(name) or name
    if part in PLUGINS:
        return name
    if name.startswith("edge_agent"):
        return "edge_agent"
    if name.startswith("appliance.ai."):
        return "appliance.ai"
    return "appliance.cli" if part in TOP else part


def test_one_library_has_one_home() -> None:
    homes: dict[tuple[bool, str], set[str]] = defaultdict(set)
    for name, path in modules():
        for _, imported in imports(name, path):
            library = imported.split(".")[0]
            if library not in sys.stdlib_module_names and library not in OURS:
                homes[name.startswith("appliance"), library].add(home(name))
    crowded = {library: found for (_, library), found in homes.items() if len(found) > 1}
    assert not crowded.keys() - EVERYWHERE, crowded
    for library, place in HOMES.items():
        assert homes[True, library] <= {place}, library
        assert not homes[False, library], library


def test_a_schema_is_looked_at_without_any_library() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {imported}"
        for name, path in modules()
        if part_of(name) == "appliance.ai.grammar"
        for line, imported in imports(name, path)
        if imported.split(".")[0] not in sys.stdlib_module_names | {"appliance"}
    ]
    assert not found


def test_the_engine_is_pure() -> None:
    impure = {"socket", "sqlite3", "subprocess", "asyncio", "selectors", "multiprocessing"}
    found = [
        f"{path.relative_to(ROOT)}:{line}: {imported}"
        for name, path in modules()
        if part_of(name) == "appliance.engine"
        for line, imported in imports(name, path)
        if imported.split(".")[0] in impure
    ]
    assert not found
