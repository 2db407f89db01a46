"""The documentation says what the code does: made pages are current, samples are valid, names and links exist."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.contracts import FlowError, Node, Trigger, seconds
from appliance.engine import configs, expressions, flow, sandbox
from appliance.engine.validate import MAX_DEPTH, MAX_NODES, validate
from appliance.kernel.families import MAX_DEPTH as MAX_CALLS
from appliance.kernel.families import MAX_ITEMS
from appliance.registry import Registry, help_of
from scripts.docsgen.output import differences
from scripts.docsgen.pages import examples
from tests.support.bench_engine import AnyWorld
from tests.support.house import House
from tests.support.pages import PAGES, ROOT, anchor, fences, headings, links, prose, tables

REGISTRY = Registry().scan()
PLUGINS = {
    **{f"node {name}": node for name, node in REGISTRY.nodes.items()},
    **{f"trigger {name}": trigger for name, trigger in REGISTRY.triggers.items()},
}
FORMAT = (ROOT / "docs" / "flow-format.md").read_text()


class Anywhere(AnyWorld):
    """A machine on which everything is installed and works."""

    def confined(self) -> bool:
        return True


# --- pages made from the code ---


def test_made_pages_are_current() -> None:
    assert differences() == [], "run scripts/make-docs"


@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_explains_itself(name: str) -> None:
    plugin = PLUGINS[name]
    summary, rest = help_of(plugin)
    assert plugin.title
    assert summary.endswith(".")
    assert len(summary) < 120
    assert rest
    assert examples(plugin), "its help has no example: an indented block of JSON"


@pytest.mark.parametrize("name", PLUGINS)
def test_every_example_in_a_help_text_is_valid(name: str) -> None:
    plugin: Node[Any] | Trigger[Any] = PLUGINS[name]
    for example in examples(plugin):
        assert configs.problems(plugin.Config, example) == []
        assert list(plugin.check(example, Anywhere())) == []


@pytest.mark.parametrize("name", PLUGINS)
def test_every_setting_says_what_it_is_for(name: str) -> None:
    (page,) = (ROOT / "docs").glob("{}s/{}.md".format(*name.split()))
    for header, *rows in tables(page.read_text()):
        assert [row[0] for row in rows if not row[header.index("what it is for")]] == []


# --- the flow format ---


@pytest.mark.parametrize("number", range(len(fences(FORMAT, "json"))))
def test_samples_of_the_flow_format_are_valid(number: int) -> None:
    info, text = fences(FORMAT, "json")[number]
    sample, kind = json.loads(text), info.removeprefix("json").strip()
    if kind == "settings":
        assert msgspec.convert(sample, flow.Settings)
    elif kind == "edge":
        assert msgspec.convert(sample, flow.EdgeSpec)
        assert expressions.check(sample["condition"], True) == ""
    elif kind:
        assert validate(_whole(kind, sample), REGISTRY, Anywhere()) == []
    else:
        assert set(sample) == {"error", "payload"}  # what leaves by the error port


def _whole(kind: str, sample: dict[str, Any]) -> dict[str, Any]:
    if kind == "old":
        assert flow.is_old(sample)
        return flow.modernize(sample)
    if kind == "flow":
        return sample
    nodes = [sample] if kind == "node" else [{"id": "n", "type": "log"}]
    return {"name": "n", "nodes": nodes, "triggers": [sample] if kind == "trigger" else []}


@pytest.mark.parametrize(
    "kind",
    [
        flow.Flow,
        flow.NodeSpec,
        flow.EdgeSpec,
        flow.TriggerSpec,
        flow.GroupSpec,
        flow.Settings,
        flow.History,
        flow.Retry,
    ],
)
def test_the_flow_format_names_every_field_with_its_default(kind: type[msgspec.Struct]) -> None:
    fields = msgspec.structs.fields(kind)
    wanted = {f"`{field.encode_name}`" for field in fields}
    rows = next((rows for _, *rows in tables(FORMAT) if {row[0] for row in rows} == wanted), None)
    assert rows is not None, f"no table has exactly the fields of {kind.__name__}: {sorted(wanted)}"
    documented = {row[0].strip("`"): row[1] for row in rows}
    for field in fields:
        assert _default_agrees(field, documented[field.encode_name]), f"{kind.__name__}.{field.encode_name}"


def _default_agrees(field: Any, said: str) -> bool:
    if field.required:
        return said == "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default is None:
        return said == "none"
    text = said.strip("`")
    if isinstance(default, float) and re.search("[a-z]", text):
        return seconds(text) == default
    expected = {} if isinstance(default, msgspec.Struct) else default
    return bool(json.loads(text) == expected)


def test_the_flow_format_names_limits_filters_and_functions() -> None:
    names = re.findall(r"`(\w+)`", prose(FORMAT))
    assert [name for name in sandbox._FILTERS if not name.startswith("_") and name not in names] == []
    assert [name for name in sandbox.environment().globals if name not in names] == []
    removed = FORMAT.partition("own, all but")[2].partition("; and these")[0]
    assert set(re.findall(r"`(\w+)`", removed)) == set(sandbox._REMOVED)
    limits = [sandbox.MAX_ITERATIONS, sandbox.MAX_VALUE, sandbox.MAX_BITS, expressions.MAX_SOURCE, MAX_NODES, MAX_ITEMS]
    assert [limit for limit in limits if f"{limit:,}" not in FORMAT] == []
    assert f"{sandbox.MAX_SECONDS} s" in FORMAT
    assert f"nested {MAX_DEPTH} deep" in FORMAT
    assert f"call each other {MAX_CALLS} deep" in FORMAT


def test_the_flow_format_names_what_templates_see() -> None:
    from appliance.kernel.context import _NAMES

    rows = next(rows for (first, *_), *rows in tables(FORMAT) if first == "name")
    assert {row[0].strip("`()") for row in rows} == {*_NAMES, "payload", "event"}


# --- errors ---


def test_every_error_id_is_explained() -> None:
    explained = [heading for heading in headings((ROOT / "docs" / "errors.md").read_text()) if heading.islower()]
    used = {*_ids_of_exceptions(), *_ids_in_texts(), *_ids_with_a_status()}
    assert sorted(used - set(explained)) == []
    assert len(explained) == len(set(explained))
    # What is explained has to be there: every id is a text somewhere in the code.
    texts = {node.value for _, tree in _modules() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert [error_id for error_id in explained if error_id not in texts] == []


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        yield path, ast.parse(path.read_text())


def _ids_of_exceptions() -> Iterator[str]:
    """The id of every ``FlowError`` and its subclasses, which are found by the names of their bases."""
    classes = {node.name: node for _, tree in _modules() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    family, grown = {FlowError.__name__}, True
    while grown:
        found = {name for name, node in classes.items() if family & {ast.unparse(base) for base in node.bases}}
        grown = not found <= family
        family |= found
    for name in family:
        for statement in classes[name].body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Constant):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                if ast.unparse(target) == "id":
                    yield str(statement.value.value)


def _ids_in_texts() -> Iterator[str]:
    """Ids of errors that are written as JSON: ``{"id": …, "message": …}``."""
    for _, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                entries = {key.value: value for key, value in zip(node.keys, node.values, strict=True) if _text(key)}
                if "message" in entries and _text(entries.get("id")):
                    yield entries["id"].value


def _ids_with_a_status() -> Iterator[str]:
    """Ids that the gateway has an HTTP status for: the keys of its table."""
    for _, tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "STATUSES":
                assert isinstance(node.value, ast.Dict)
                yield from (key.value for key in node.value.keys if isinstance(key, ast.Constant))


def _text(node: Any) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# --- what a newcomer copies ---


README = (ROOT / "README.md").read_text()
ADD_A_NODE = (ROOT / "docs" / "add-a-node.md").read_text()


def dropped_in(data: Path, text: str, name: str) -> Path:
    """Put the file of a page's sample where a person would."""
    (source,) = [source for info, source in fences(text, "python") if info == f"python {name}"]
    path = data / "packages" / "nodes" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


@pytest.mark.parametrize("page", [README, ADD_A_NODE], ids=["README", "add-a-node"])
def test_the_node_in_one_file_works(tmp_path: Path, page: str) -> None:
    dropped_in(tmp_path, page, "dew_point.py")
    node = Registry().scan(tmp_path / "packages").nodes["dew_point"]
    (example,) = examples(node)
    assert configs.problems(node.Config, example) == []
    with House(tmp_path) as house:
        assert house.kernel.registry.broken == []
        flow = house.deploy({"name": "Damp", "nodes": [{"id": "dew", "type": "dew_point", "config": example}]})
        assert house.start(flow, "hand", {"t": 20, "rh": 50})["output"] == {"dew_point": 9.3}


def test_the_node_with_an_effect_works(tmp_path: Path) -> None:
    dropped_in(tmp_path, ADD_A_NODE, "wake_on_lan.py")
    node = Registry().scan(tmp_path / "packages").nodes["wake_on_lan"]
    (example,) = examples(node)
    assert configs.problems(node.Config, example) + list(node.check(example, Anywhere())) == []
    assert [problem.path for problem in node.check({"mac": "3c:ec"}, Anywhere())] == ["mac"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card, House(tmp_path) as house:
        card.bind(("127.0.0.1", 0))
        card.settimeout(10)
        there = {"host": "127.0.0.1", "port": card.getsockname()[1]}
        flow = house.deploy({"name": "Up", "nodes": [{"id": "w", "type": "wake_on_lan", "config": example | there}]})
        assert house.start(flow, "hand", {"who": "desk"})["output"] == {"who": "desk"}
        assert card.recv(200) == b"\xff" * 6 + bytes.fromhex("3cecef123456") * 16


def test_the_test_of_the_node_passes(tmp_path: Path) -> None:
    dropped_in(tmp_path, ADD_A_NODE, "dew_point.py")
    node = Registry().scan(tmp_path / "packages").nodes["dew_point"]
    (source,) = [source for info, source in fences(ADD_A_NODE, "python") if info == "python test_dew_point.py"]
    names: dict[str, Any] = {}
    exec(source, names)
    names["test_a_room_at_twenty_degrees"](node)


def test_the_flow_in_the_readme_is_valid() -> None:
    ((_, text),) = fences(README, "json")
    assert validate(json.loads(text), REGISTRY, Anywhere()) == []


def test_the_tour_of_the_readme(tmp_path: Path) -> None:
    ((_, text),) = fences(README, "console")
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    assert len(lines) == 10
    flowork(tmp_path, "flowork init")
    for line in lines:
        if "RUN" in line:
            newest = json.loads(flowork(tmp_path, "flowork runs --flow pantry --json"))
            line = line.replace("RUN", newest["items"][0]["id"])
        assert flowork(tmp_path, line)


def flowork(data: Path, line: str) -> str:
    """What a command prints; its exit code is 0."""
    command = [sys.executable, "-m", "appliance.cli", *shlex.split(line)[1:]]
    environ = {"PATH": os.environ["PATH"], "FLOWORK_DATA": str(data)}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    return done.stdout


# --- names and links ---


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for link in links(page.read_text()):
        place, _, name = link.partition("#")
        if "://" in place or place.startswith("mailto:"):
            continue
        target = (page.parent / place).resolve() if place else page
        if not target.is_relative_to(ROOT) or not _has(target, name):
            dead.append(link)
    assert dead == []


def _has(target: Path, name: str) -> bool:
    if not name:
        return target.exists()
    return target.exists() and name in {anchor(heading) for heading in headings(target.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:appliance|edge_agent|drivers|tests|scripts|docs|examples)/[\w./-]+)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
