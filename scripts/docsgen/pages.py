"""One page per node and trigger, an index of each, the page of the engine's settings, the table of the examples."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from appliance.contracts import Effect, Node, Trigger, WebTrigger
from appliance.registry import Registry, help_of
from appliance.store.settings import Settings
from scripts.docsgen import api, commands, drivers
from scripts.docsgen.tables import Table, markdown, tables

ROOT = Path(__file__).resolve().parents[2]
_MADE = "<!-- Made by scripts/make-docs from the code: change the code and run it again. -->"
_CATEGORIES = {
    "logic": "Which way a run goes",
    "data": "Data and memory",
    "time": "Time and waiting",
    "people": "People",
    "ai": "Models",
    "network": "Network",
    "devices": "Pins, ports and devices",
    "files": "Files",
    "code": "Scripts and programs",
}
_EFFECTS = {
    Effect.PURE: "`pure`: it changes nothing outside. After a crash it is simply run again.",
    Effect.IDEMPOTENT: "`idempotent`: doing it twice does no harm. It starts once all that led to it is on disk; "
    "after a crash it is run again under the same idempotency key.",
    Effect.ONCE: "`once`: doing it twice would do harm. It starts once all that led to it is on disk; if a crash "
    "cuts it off in the middle, [`on_crash`](../flow-format.md#after-a-crash) says what becomes of it.",
}
_EVERY_NODE = (
    "What every node has besides its settings (retries, timeout, joins, the `error` port) is in "
    "[the flow format](../flow-format.md#nodes)."
)
_EVERY_TRIGGER = (
    "Templates here see `vars` and `secrets` only: they are filled in when the trigger is attached. What every "
    "trigger has besides its settings is in [the flow format](../flow-format.md#triggers)."
)
_ABOUT_SETTINGS = (
    "They hold for the whole engine, and each has a default that is right for most. `flowork settings` shows them, "
    "`flowork settings set keep_days=7` changes one. The environment variable `FLOWORK_` + name in capitals "
    "(`FLOWORK_KEEP_DAYS=7`; a list has commas between its entries) comes before what is stored, and that comes "
    "before the default."
)
_ABOUT_EXAMPLES = """\
Flows to look at, try and change. A test runs every one of them in a real engine, with a real MQTT broker and with a
web server of its own in the place of web sites.

```sh
flowork run examples/pantry.json --input '{"items": [{"name": "rice"}]}' --follow
flowork flow deploy examples/power-log.json
```

The first line tries a flow without keeping anything, the second makes one live in the engine. Those with MQTT expect a
broker on this machine (`mqtt://127.0.0.1:1883`; `sudo apt install mosquitto`): change the address if yours stands
elsewhere. What a secret is needed for is said in the text."""
_HEADER = ["setting", "takes", "default", "bounds", "template", "what it is for"]


def pages() -> dict[str, str]:
    """Every generated page, by its path in the repository."""
    registry = Registry().scan()
    assert not registry.broken, registry.broken
    found = {
        "docs/api.md": api.page(),
        "docs/cli.md": commands.page(),
        "docs/settings.md": _settings(),
        "examples/README.md": _example_index(ROOT / "examples"),
        **drivers.pages(_MADE),
    }
    for name, node in registry.nodes.items():
        found[f"docs/nodes/{name}.md"] = _node(name, node)
    for name, trigger in registry.triggers.items():
        found[f"docs/triggers/{name}.md"] = _trigger(name, trigger)
    found["docs/nodes/README.md"] = _node_index(registry.nodes)
    found["docs/triggers/README.md"] = _trigger_index(registry.triggers)
    return {path: text.rstrip() + "\n" for path, text in sorted(found.items())}


def examples(plugin: Node[Any] | Trigger[Any]) -> list[dict[str, Any]]:
    """The JSON examples in a plug-in's help. Raises ``ValueError`` for an indented block that is not JSON."""
    found = []
    for is_block, lines in _blocks(help_of(plugin)[1]):
        if is_block:
            found += list(_objects("\n".join(lines)))
    return found


def _objects(text: str) -> Iterator[dict[str, Any]]:
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].strip()


def _blocks(text: str) -> Iterator[tuple[bool, list[str]]]:
    """Runs of lines: those of an indented block (dedented), and those of prose."""
    for indented, lines in groupby(text.splitlines(), key=lambda line: line.startswith("    ")):
        block = list(lines)
        yield indented, textwrap.dedent("\n".join(block)).splitlines() if indented else block


def _help(plugin: Node[Any] | Trigger[Any]) -> str:
    summary, rest = help_of(plugin)
    parts = [summary, ""]
    for is_block, lines in _blocks(rest):
        parts += ["```json", *lines, "```"] if is_block else lines
    return "\n".join(parts)


def _node(name: str, node: Node[Any]) -> str:
    return "\n\n".join(
        [
            f"# {node.title}",
            _MADE,
            f"Node type `{name}`.",
            _help(node),
            _config(node),
            "## Ports",
            _ports(node),
            "## Effect",
            _effect(node),
            _EVERY_NODE,
        ]
    )


def _trigger(name: str, trigger: Trigger[Any]) -> str:
    how = " It is reached over HTTP." if isinstance(trigger, WebTrigger) else ""
    return "\n\n".join(
        [
            f"# {trigger.title}",
            _MADE,
            f"Trigger type `{name}`.{how}",
            _help(trigger),
            _config(trigger),
            _EVERY_TRIGGER,
        ]
    )


def _config(plugin: Node[Any] | Trigger[Any]) -> str:
    parts = ["## Settings"]
    for table in tables(plugin.Config):
        parts += _section(table)
    return "\n\n".join(parts)


def _section(table: Table) -> Iterator[str]:
    if table.title:
        yield f"### {table.title}"
        yield table.about
    yield markdown(_HEADER, table.rows) if table.rows else "It has none."


def _ports(node: Node[Any]) -> str:
    if type(node).ports_of is not Node.ports_of:
        ways = "Its way out depends on the settings, see above."
    elif node.ports == ("out",):
        ways = "Leaves by `out`."
    else:
        ways = f"Leaves by {_either([f'`{port}`' for port in node.ports])}."
    return f"{ways} A failure leaves by `error` if that is wired, with `{{error, payload}}`."


def _either(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _effect(node: Node[Any]) -> str:
    if type(node).effect_of is Node.effect_of:
        return _EFFECTS[node.effect]
    chosen = node.effect_of(examples(node)[0])
    return f"Depends on the settings. The first example above is {_EFFECTS[chosen]}"


def _node_index(nodes: Mapping[str, Node[Any]]) -> str:
    unknown = {node.category for node in nodes.values()} - _CATEGORIES.keys()
    assert not unknown, f"name these categories in {__name__}: {unknown}"
    parts = ["# Nodes", _MADE, "What a step of a flow can do. Each is one file in `appliance/nodes/`."]
    for category, title in _CATEGORIES.items():
        rows = [_entry(name, node) for name, node in nodes.items() if node.category == category]
        if rows:
            parts += [f"## {title}", markdown(["node", "what it does"], rows)]
    parts.append("Yours is missing? [Add a node in one file](../add-a-node.md).")
    return "\n\n".join(parts)


def _trigger_index(triggers: Mapping[str, Trigger[Any]]) -> str:
    rows = [_entry(name, trigger) for name, trigger in triggers.items()]
    about = "What starts a run. Each is one file in `appliance/triggers/`."
    return "\n\n".join(["# Triggers", _MADE, about, markdown(["trigger", "what it does"], rows)])


def _entry(name: str, plugin: Node[Any] | Trigger[Any]) -> list[str]:
    return [f"[{plugin.title}]({name}.md) `{name}`", help_of(plugin)[0]]


def _example_index(folder: Path) -> str:
    rows = [_example(path) for path in sorted(folder.glob("*.json"))]
    return "\n\n".join(["# Examples", _MADE, _ABOUT_EXAMPLES, markdown(["flow", "what it does", "made of"], rows)])


def _example(path: Path) -> list[str]:
    flow = json.loads(path.read_text())
    kinds = dict.fromkeys(part["type"] for name in ("triggers", "nodes") for part in flow[name])
    return [
        f"[{flow['name']}]({path.name})",
        flow["description"].replace("<", "&lt;"),
        ", ".join(f"`{kind}`" for kind in kinds),
    ]


def _settings() -> str:
    (table,) = tables(Settings)
    rows = [[name, kind, default, bounds, about] for name, kind, default, bounds, _, about in table.rows]
    return "\n\n".join(
        [
            "# Settings of the engine",
            _MADE,
            _ABOUT_SETTINGS,
            markdown(["setting", "takes", "default", "bounds", "what it is for"], rows),
        ]
    )
