"""A flow's spec: the same flow in markdown, for people to read, to edit, and to have it drafted again from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from appliance.workshop.palette import Palette

#: Characters of one setting that are shown.
_LONGEST = 300


def spec_of(flow: Mapping[str, Any], palette: Palette, wish: str = "") -> str:
    """What starts the flow, and what its steps do in their order. ``wish`` is what its owner asked for."""
    return "\n".join(_lines(flow, palette, wish)).rstrip() + "\n"


def _lines(flow: Mapping[str, Any], palette: Palette, wish: str) -> Iterator[str]:
    yield f"# {flow.get('name', 'Flow')}"
    yield ""
    for text in (flow.get("description", ""), wish):
        if text:
            yield from (text.strip(), "")
    yield "## When it runs"
    yield ""
    for trigger in flow.get("triggers", []):
        yield from _part(trigger, palette.triggers.get(trigger.get("type", ""), {}))
    if not flow.get("triggers"):
        yield "- When a person or another flow starts it."
    yield ""
    yield "## What it does"
    yield ""
    ways = _ways(flow)
    for number, node in enumerate(in_order(flow), 1):
        yield from _part(node, palette.nodes.get(node.get("type", ""), {}), f"{number}.", ways.get(node["id"], []))
    yield ""


def _part(
    entry: Mapping[str, Any], kind: Mapping[str, Any], mark: str = "-", ways: list[str] | None = None
) -> Iterator[str]:
    title = kind.get("title") or entry.get("type", "")
    name = entry.get("name") or entry.get("id", "")
    off = " (switched off)" if entry.get("disabled") else ""
    yield f"{mark} **{name}** ({title}){off}: {kind.get('summary', '')}".rstrip(": ")
    indent = " " * (len(mark) + 1)
    for key, value in entry.get("config", {}).items():
        if key != "body":
            yield f"{indent}- {key}: {_shown(value)}"
    body = entry.get("config", {}).get("body")
    if isinstance(body, Mapping):
        yield f"{indent}- for each: {', '.join(str(node.get('id')) for node in in_order(body))}"
    for way in ways or []:
        yield f"{indent}- {way}"
    if entry.get("notes"):
        yield f"{indent}- note: {entry['notes'].strip()}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if "\n" in text:
        return f"`{' ⏎ '.join(text.splitlines())}`"
    return f"`{text}`"


def _ways(flow: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where each node leads, in words."""
    found: dict[str, list[str]] = {}
    for edge in flow.get("edges", []):
        port = edge.get("port", "out")
        way = f"then {edge['to']}" if port == "out" else f"{port}: then {edge['to']}"
        if edge.get("condition"):
            way += f", if `{edge['condition']}`"
        found.setdefault(edge["from"], []).append(way)
    return found


def in_order(graph: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nodes, each behind all that lead to it; those of a circle at the end (Kahn's algorithm)."""
    nodes = {node["id"]: node for node in graph.get("nodes", []) if "id" in node}
    links = [(e.get("from"), e.get("to")) for e in graph.get("edges", []) if e.get("from") in nodes]
    waits = dict.fromkeys(nodes, 0)
    for _, target in links:
        if target in waits:
            waits[target] += 1
    order = [name for name, count in waits.items() if not count]
    for name in order:
        for source, target in links:
            if source == name and target in waits:
                waits[target] -= 1
                if not waits[target]:
                    order.append(target)
    return [nodes[name] for name in [*order, *(name for name in nodes if name not in set(order))]]
