"""What changed between two versions of a flow, told by nodes, edges, triggers and settings.

Works on the JSON as saved, of any age; nothing is validated. Elements are matched by their id, so the order
in which nodes stand in the file is no difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

_Under = Callable[[str, str], str]

_PARTS = ("nodes", "triggers", "edges", "settings")
_EDGE_DEFAULTS = {"port": "out", "condition": ""}
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_PLACE = re.compile(r"position(\.|$)")
_DEEPEST = 50  # beyond, two values are compared as a whole


class Change(Struct, frozen=True):
    """One value that differs; ``path`` is where, such as ``config.rules[2].when``.

    An index is that of the new list (of the old one for what was removed); a list of things with ids is
    matched by them: ``config.body.nodes[hot].config.when``.
    """

    path: str
    op: Literal["added", "removed", "changed"]
    old: Any = None
    new: Any = None


class Element(Struct, frozen=True):
    """A node or trigger; ``changes`` is empty where it was added or removed as a whole."""

    id: str
    type: str
    changes: list[Change] = []


class Elements(Struct, frozen=True):
    """The nodes or the triggers that differ. ``moved`` ones lie elsewhere on the canvas and are else the same."""

    added: list[Element] = []
    removed: list[Element] = []
    changed: list[Element] = []
    moved: list[str] = []


class FlowDiff(Struct, frozen=True):
    """The difference of two versions; ``other`` is what belongs to the flow itself (name, tags, spec)."""

    nodes: Elements
    triggers: Elements
    edges_added: list[Any]
    edges_removed: list[Any]
    settings: list[Change]
    other: list[Change]

    @property
    def empty(self) -> bool:
        """True if nothing differs but the order of things."""
        parts = (self.edges_added, self.edges_removed, self.settings, self.other)
        groups = (self.nodes, self.triggers)
        return not any(parts) and not any(g.added or g.removed or g.changed or g.moved for g in groups)


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> FlowDiff:
    """How the flow ``new`` differs from ``old``."""
    edges_added, edges_removed = _edges(old.get("edges"), new.get("edges"))
    return FlowDiff(
        nodes=_elements(old.get("nodes"), new.get("nodes")),
        triggers=_elements(old.get("triggers"), new.get("triggers")),
        edges_added=edges_added,
        edges_removed=edges_removed,
        settings=list(_changes("", old.get("settings", {}), new.get("settings", {}), 0)),
        other=list(_changes("", _rest(old), _rest(new), 0)),
    )


def _rest(flow: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flow.items() if key not in _PARTS}


def _elements(old: Any, new: Any) -> Elements:
    before, after = _by_id(old), _by_id(new)
    result = Elements(
        added=[_element(id_, after[id_]) for id_ in after if id_ not in before],
        removed=[_element(id_, before[id_]) for id_ in before if id_ not in after],
        changed=[],
        moved=[],
    )
    for id_ in after:
        if id_ in before:
            changes = list(_changes("", before[id_], after[id_], 0))
            if changes and all(_PLACE.match(change.path) for change in changes):
                result.moved.append(id_)
            elif changes:
                result.changed.append(_element(id_, after[id_], changes))
    return result


def _element(id_: str, value: Any, changes: list[Change] | None = None) -> Element:
    kind = value.get("type", "") if isinstance(value, Mapping) else ""
    return Element(id_, str(kind), changes or [])


def _by_id(values: Any) -> dict[str, Any]:
    """Things by their id; what has none, or the id of another, goes by its place in the list."""
    found: dict[str, Any] = {}
    for index, value in enumerate(values if isinstance(values, list) else []):
        id_ = value.get("id") if isinstance(value, Mapping) else None
        found[id_ if isinstance(id_, str) and id_ and id_ not in found else f"#{index}"] = value
    return found


def _edges(old: Any, new: Any) -> tuple[list[Any], list[Any]]:
    before, after = _edge_list(old), _edge_list(new)
    return _beyond(after, before), _beyond(before, after)


def _edge_list(edges: Any) -> list[Any]:
    return [
        {k: v for k, v in edge.items() if k not in _EDGE_DEFAULTS or v != _EDGE_DEFAULTS[k]}
        if isinstance(edge, Mapping)
        else edge
        for edge in (edges if isinstance(edges, list) else [])
    ]


def _beyond(edges: list[Any], others: list[Any]) -> list[Any]:
    """The edges that ``others`` lacks, as often as it lacks them."""
    spare = Counter(_canonical(edge) for edge in others)
    found = []
    for edge in edges:
        key = _canonical(edge)
        if spare[key]:
            spare[key] -= 1
        else:
            found.append(edge)
    return found


def _canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _changes(path: str, old: Any, new: Any, depth: int) -> Iterator[Change]:
    if depth < _DEEPEST and isinstance(old, Mapping) and isinstance(new, Mapping):
        yield from _in_mapping(path, old, new, depth + 1)
    elif depth < _DEEPEST and isinstance(old, list) and isinstance(new, list):
        yield from _in_list(path, old, new, depth + 1)
    elif _canonical(old) != _canonical(new):
        yield Change(path, "changed", old, new)


def _in_mapping(
    path: str, old: Mapping[str, Any], new: Mapping[str, Any], depth: int, under: _Under | None = None
) -> Iterator[Change]:
    for key in [*old, *(key for key in new if key not in old)]:
        place = (under or _under)(path, key)
        if key not in new:
            yield Change(place, "removed", old=old[key])
        elif key not in old:
            yield Change(place, "added", new=new[key])
        else:
            yield from _changes(place, old[key], new[key], depth)


def _in_list(path: str, old: list[Any], new: list[Any], depth: int) -> Iterator[Change]:
    if _all_have_ids(old) and _all_have_ids(new):
        before, after = _by_id(old), _by_id(new)
        yield from _in_mapping(path, before, after, depth, lambda path, id_: f"{path}[{id_}]")
        return
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    left, right = old[start : len(old) - end], new[start : len(new) - end]
    both = min(len(left), len(right))
    for index in range(both):
        yield from _changes(f"{path}[{start + index}]", left[index], right[index], depth)
    for index in range(both, len(left)):
        yield Change(f"{path}[{start + index}]", "removed", old=left[index])
    for index in range(both, len(right)):
        yield Change(f"{path}[{start + index}]", "added", new=right[index])


def _all_have_ids(values: list[Any]) -> bool:
    ids = [value.get("id") if isinstance(value, Mapping) else None for value in values]
    return bool(ids) and all(isinstance(id_, str) and id_ for id_ in ids) and len(set(ids)) == len(ids)


def _common(old: list[Any], new: list[Any]) -> int:
    """How many items at the start are the same."""
    count = 0
    for before, after in zip(old, new, strict=False):
        if _canonical(before) != _canonical(after):
            break
        count += 1
    return count


def _under(path: str, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{msgspec.json.encode(key).decode()}]"
    return f"{path}.{key}" if path else key
