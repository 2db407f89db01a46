"""What a model is told about the node and trigger kinds, and the JSON Schema that binds its flow to them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: How often one kind may stand in a draft, and how many nodes it has at most: what a small model can keep in mind.
TIMES = 4
MOST_NODES = 16
MOST_TRIGGERS = 3
#: Depth to which a config's schema is kept; what lies deeper may be any JSON.
_DEPTH = 6
_KEPT = ("type", "enum", "const", "minItems")

Entry = Mapping[str, Any]


class Palette:
    """The kinds of a catalog (``Registry.catalog``) by their type."""

    def __init__(self, catalog: Mapping[str, Sequence[Entry]]) -> None:
        self.nodes: dict[str, Entry] = {entry["type"]: entry for entry in catalog["nodes"]}
        self.triggers: dict[str, Entry] = {entry["type"]: entry for entry in catalog["triggers"]}

    def overview(self) -> str:
        """All kinds, a line each."""
        return "\n".join(
            [
                "Triggers (what starts a run):",
                *(f"- {entry['type']}: {entry['summary']}" for entry in self.triggers.values()),
                "",
                "Nodes (the steps):",
                *(f"- {entry['type']}: {entry['summary']}" for entry in self.nodes.values()),
            ]
        )

    def choice_schema(self) -> dict[str, Any]:
        """Which kinds a flow needs: ``{"triggers": […], "nodes": […]}``."""

        def some(names: Iterable[str], least: int, most: int) -> dict[str, Any]:
            return {"type": "array", "items": {"enum": list(names)}, "minItems": least, "maxItems": most}

        triggers, nodes = some(self.triggers, 0, MOST_TRIGGERS), some(self.nodes, 1, 8)
        return {
            "type": "object",
            "properties": {"triggers": triggers, "nodes": nodes},
            "required": ["triggers", "nodes"],
            "additionalProperties": False,
        }

    def details(self, triggers: Iterable[str], nodes: Iterable[str], *, examples: bool = True) -> str:
        """The chosen kinds with their settings, ports and, if wanted, an example of each."""
        lines = ["Triggers:"]
        lines += [_detail(self.triggers[name], examples) for name in triggers]
        lines += ["", "Nodes:"]
        lines += [_detail(self.nodes[name], examples) for name in nodes]
        return "\n".join(lines)

    def flow_schema(self, triggers: Iterable[str], nodes: Iterable[str]) -> dict[str, Any]:
        """Of ``{"flow": …, "sample": …}``: a flow of these kinds only, and a payload as its trigger would bring it.

        A node's id is its type, or the type with a number behind it; so edges can only name nodes that there may be.
        """
        kinds = list(nodes)
        plain = [name for name in kinds if not self.nodes[name]["has_body"]]
        nested = len(plain) < len(kinds) and bool(plain)
        flow = self._graph(kinds, {"$ref": "#/$defs/inner"} if nested else {"type": "object"})
        flow["properties"] = {
            "name": {"type": "string"},
            "triggers": {
                "type": "array",
                "maxItems": MOST_TRIGGERS,
                "items": _one_of(self._trigger(name) for name in triggers),
            },
            **flow["properties"],
        }
        flow["required"] = ["name", "triggers", *flow["required"]]
        if not list(triggers):
            flow["properties"]["triggers"] = {"type": "array", "maxItems": 0}
        return {
            "type": "object",
            "properties": {"flow": flow, "sample": {}},
            "required": ["flow", "sample"],
            "additionalProperties": False,
            "$defs": {"inner": self._graph(plain, {})} if nested else {},
        }

    def _graph(self, kinds: Sequence[str], body: dict[str, Any]) -> dict[str, Any]:
        ids = [name for kind in kinds for name in ids_of(kind)]
        ports = sorted({port for kind in kinds for port in self.nodes[kind]["ports"]})
        edge = _record({"from": {"enum": ids}, "to": {"enum": ids}, "port": _port(ports)}, ["from", "to"])
        edge["properties"]["condition"] = {"type": "string"}
        return _record(
            {
                "nodes": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MOST_NODES,
                    "items": _one_of(self._node(kind, body) for kind in kinds),
                },
                "edges": {"type": "array", "items": edge},
            },
            ["nodes", "edges"],
        )

    def _node(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        config = bare(self.nodes[kind]["schema"], body)
        return _record(
            {"id": {"enum": ids_of(kind)}, "type": {"const": kind}, "config": config}, ["id", "type", "config"]
        )

    def _trigger(self, kind: str) -> dict[str, Any]:
        ids = [f"{kind}{number or ''}" for number in (0, 2, 3)]
        config = bare(self.triggers[kind]["schema"], {})
        return _record({"id": {"enum": ids}, "type": {"const": kind}, "config": config}, ["id", "type", "config"])


def ids_of(kind: str) -> list[str]:
    """The ids that nodes of a kind may have."""
    return [kind, *(f"{kind}_{number}" for number in range(2, TIMES + 1))]


def _record(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _one_of(forms: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"anyOf": list(forms)}


def _port(ports: list[str]) -> dict[str, Any]:
    # `switch` has ports of its config's making.
    return {"type": "string"} if "otherwise" in ports else {"enum": ports}


def bare(schema: Mapping[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """A config's schema with only what binds its form: what it means is checked, and told, afterwards.

    References are put in place. ``body`` stands for a graph within a node.
    """
    return _bare(schema, schema.get("$defs", {}), body, 0)


def _bare(part: Mapping[str, Any], defs: Mapping[str, Any], body: dict[str, Any], depth: int) -> dict[str, Any]:
    if part.get("x-flowork-text") == "graph":
        return body
    if depth > _DEPTH:
        return {}
    if "$ref" in part:
        return _bare(defs[part["$ref"].rpartition("/")[2]], defs, body, depth + 1)

    def inside(value: Mapping[str, Any]) -> dict[str, Any]:
        return _bare(value, defs, body, depth + 1)

    found: dict[str, Any] = {key: part[key] for key in _KEPT if key in part}
    for key in ("anyOf", "oneOf"):
        if key in part:
            found["anyOf"] = [inside(one) for one in part[key]]
    if isinstance(part.get("items"), Mapping):
        found["items"] = inside(part["items"])
    if "properties" in part:
        found["properties"] = {name: inside(value) for name, value in part["properties"].items()}
        found["required"] = list(part.get("required", []))
        found["additionalProperties"] = False
    elif isinstance(part.get("additionalProperties"), Mapping):
        found["additionalProperties"] = inside(part["additionalProperties"])
    return found


def _detail(entry: Entry, examples: bool) -> str:
    schema = entry["schema"]
    form = schema["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    required = set(form.get("required", []))
    fields = [_field(name, part, name in required) for name, part in form.get("properties", {}).items()]
    lines = [f"- {entry['type']}: {entry['summary']}"]
    if "ports" in entry:
        lines.append(f"  leaves by: {', '.join(entry['ports'])}")
    lines.append(f"  config: {'; '.join(fields) or 'none'}")
    if examples and (example := example_of(entry)):
        lines.append(f"  for example: {example}")
    return "\n".join(lines)


def _field(name: str, part: Mapping[str, Any], required: bool) -> str:
    what = part.get("description") or part.get("title") or ""
    choice = f" ({' | '.join(map(str, part['enum']))})" if "enum" in part else ""
    kind = part.get("x-flowork-text", "")
    notes = ", ".join(note for note in (kind, "needed" if required else "", what) if note)
    return f"{name}{choice}{f' [{notes}]' if notes else ''}"


def example_of(entry: Entry) -> str:
    """The first example in a kind's help, on one line."""
    found = re.search(r"(?:^|\n\n)((?: {4}.*\n?)+)", entry.get("help", ""))
    return " ".join(found.group(1).split()) if found else ""
