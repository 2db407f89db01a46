"""Two versions of a flow side by side, in colours."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from appliance.commands import _output as out
from appliance.commands._flows import plain
from appliance.commands._session import Session
from appliance.engine.diff import Change, Elements, FlowDiff, diff

if TYPE_CHECKING:
    from appliance.store.records import Version

_COLORS = {"added": "green", "removed": "red", "changed": "yellow"}
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def show(session: Session, old: Version, new: Version) -> None:
    """What has changed from ``old`` to ``new``."""
    found = diff(old.body, new.body)
    if session.as_json:
        out.emit({"from": old.number, "to": new.number, **plain(found)})
        return
    out.say(f"version {old.number} → {new.number}", bold=True)
    if found.empty:
        out.say("no difference")
        return
    _elements("node", found.nodes)
    _elements("trigger", found.triggers)
    _edges(found)
    _changes("settings", found.settings)
    _changes("flow", found.other)


def _elements(what: str, group: Elements) -> None:
    for element in group.added:
        _line("added", f"{what} {element.id} ({element.type})")
    for element in group.removed:
        _line("removed", f"{what} {element.id} ({element.type})")
    for element in group.changed:
        _line("changed", f"{what} {element.id} ({element.type})")
        for change in element.changes:
            _change(change, indent="    ")
    if group.moved:
        _line("changed", f"{what}s moved on the canvas: {', '.join(group.moved)}")


def _edges(found: FlowDiff) -> None:
    for op, edges in (("added", found.edges_added), ("removed", found.edges_removed)):
        for edge in edges:
            _line(op, f"edge {_edge(edge)}")


def _edge(edge: Any) -> str:
    if not isinstance(edge, dict):
        return out.short(edge)
    port = f" (port {edge['port']})" if edge.get("port") else ""
    condition = f" if {edge['condition']}" if edge.get("condition") else ""
    return f"{edge.get('from')} → {edge.get('to')}{port}{condition}"


def _changes(what: str, changes: list[Change]) -> None:
    for change in changes:
        _change(change, prefix=f"{what} ")


def _change(change: Change, *, indent: str = "", prefix: str = "") -> None:
    old, new = change.old, change.new
    if change.op == "changed" and isinstance(old, str) and isinstance(new, str) and "\n" in f"{old}{new}".strip():
        _line("changed", f"{prefix}{change.path or 'value'}:", indent)
        _lines(old, new, f"{indent}    ")
        return
    values = {
        "added": out.short(change.new),
        "removed": out.short(change.old),
        "changed": f"{out.short(change.old)} → {out.short(change.new)}",
    }
    _line(change.op, f"{prefix}{change.path or 'value'}: {values[change.op]}", indent)


def _lines(old: str, new: str, indent: str) -> None:
    """The lines in which two texts differ."""
    before, after = old.splitlines(), new.splitlines()
    for op, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if op != "equal":
            for line in before[a:b]:
                _line("removed", line, indent)
            for line in after[c:d]:
                _line("added", line, indent)


def _line(op: str, text: str, indent: str = "") -> None:
    out.say(f"{indent}{_SIGNS[op]} {out.plain(text)}", color=_COLORS[op])
