"""What is wrong with a flow: every fault with its place and its mend, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, get_type_hints

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError, Node, Problem, Trigger, World, names_in, seconds
from appliance.engine import configs, expressions, needs
from appliance.engine.flow import EdgeSpec, Flow, GroupSpec, NodeSpec, TriggerSpec

MAX_NODES = 20_000
MAX_DEPTH = 8
ERROR_PORT = "error"


class Catalog(Protocol):
    """The node and trigger kinds that are installed."""

    @property
    def nodes(self) -> Mapping[str, Node[Any]]: ...

    @property
    def triggers(self) -> Mapping[str, Trigger[Any]]: ...


def validate(raw: Any, catalog: Catalog, world: World) -> list[Problem]:
    """All faults of a flow in today's form; an empty list means that it can be planned and run."""
    if not isinstance(raw, dict):
        return [Problem("", "a flow is a JSON object with name, nodes and edges")]
    return [
        *_shape(raw),
        *_list_shape(raw, "triggers", TriggerSpec),
        *_list_shape(raw, "groups", GroupSpec),
        *_triggers(raw, catalog, world),
        *_graph(raw, "", catalog, world, 0),
    ]


def _shape(raw: Mapping[str, Any]) -> Iterator[Problem]:
    hints = get_type_hints(Flow, include_extras=True)
    for name in raw:
        if name not in hints:
            yield Problem(str(name), f"no such part of a flow{_like(str(name), hints)}")
    if "nodes" not in raw:
        yield Problem("nodes", "is required: a list of {id, type, config}")
    if "name" not in raw:
        yield Problem("name", "is required: what the flow is called")
    for name in ("name", "settings", "description", "spec", "tags"):
        if name in raw:
            try:
                value = msgspec.convert(raw[name], hints[name])
            except msgspec.ValidationError as exc:
                yield configs.problem_of(name, exc)
            else:
                if name == "settings" and value.timeout is not None:
                    yield from _duration(value.timeout, "settings.timeout")


def _list_shape(raw: Mapping[str, Any], name: str, kind: Any, prefix: str = "") -> Iterator[Problem]:
    """Faults of each entry by itself, and ids that are used twice."""
    entries = raw.get(name, [])
    if not isinstance(entries, list):
        yield Problem(prefix + name, "must be a list")
        return
    seen: dict[str, int] = {}
    for index, entry in enumerate(entries):
        place = f"{prefix}{name}[{index}]"
        try:
            spec = msgspec.convert(entry, kind)
        except msgspec.ValidationError as exc:
            yield configs.problem_of(place, exc)
            continue
        if isinstance(spec, EdgeSpec):
            continue
        if spec.id in seen:
            yield Problem(f"{place}.id", f"{spec.id!r} is used by {name}[{seen[spec.id]}] too; ids are unique")
        seen[spec.id] = index
        if isinstance(spec, NodeSpec):
            yield from _node_durations(spec, place)
            yield from needs.faults(spec.needs, f"{place}.needs")


def _node_durations(spec: NodeSpec, place: str) -> Iterator[Problem]:
    if spec.timeout is not None:
        yield from _duration(spec.timeout, f"{place}.timeout")
    if spec.retry is not None:
        yield from _duration(spec.retry.backoff, f"{place}.retry.backoff")
        yield from _duration(spec.retry.max_backoff, f"{place}.retry.max_backoff")


def _duration(value: float | str, place: str) -> Iterator[Problem]:
    try:
        seconds(value)
    except ConfigError as exc:
        yield Problem(place, exc.message)


def _entries(raw: Mapping[str, Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = raw.get(name)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield index, entry


def _triggers(raw: Mapping[str, Any], catalog: Catalog, world: World) -> Iterator[Problem]:
    for index, entry in _entries(raw, "triggers"):
        kind = entry.get("type")
        if not isinstance(kind, str):
            continue
        place = f"triggers[{index}]"
        found = catalog.triggers.get(kind)
        if found is None:
            yield Problem(f"{place}.type", _unknown("trigger", kind, catalog.triggers))
        else:
            yield from _config(found, entry.get("config", {}), f"{place}.config", world)


def _config(kind: Node[Any] | Trigger[Any], raw: Any, place: str, world: World) -> Iterator[Problem]:
    if not isinstance(raw, dict):
        return
    faults = configs.problems(kind.Config, raw)
    if not faults:
        faults = [*kind.check(raw, world), *_model_faults(kind, raw, world)]
    for fault in faults:
        yield Problem(f"{place}.{fault.path}" if fault.path else place, fault.message)


def _model_faults(kind: Node[Any] | Trigger[Any], raw: Mapping[str, Any], world: World) -> Iterator[Problem]:
    """Models that are named and cannot be there."""
    for field in kind.model_fields if isinstance(kind, Node) else ():
        for name in names_in(raw.get(field)):
            if "{{" not in name and "{%" not in name and (fault := world.model_fault(name)):
                yield Problem(field, fault)


def _graph(raw: Any, prefix: str, catalog: Catalog, world: World, depth: int) -> Iterator[Problem]:
    """Faults of nodes and edges, here and in the bodies within."""
    if not isinstance(raw, dict) or depth > MAX_DEPTH:
        yield Problem(prefix.rstrip("."), f"must be nodes and edges, nested at most {MAX_DEPTH} deep")
        return
    nodes = raw.get("nodes")
    if isinstance(nodes, list) and not nodes:
        yield Problem(f"{prefix}nodes", "a flow needs at least one node")
    if isinstance(nodes, list) and len(nodes) > MAX_NODES:
        yield Problem(f"{prefix}nodes", f"at most {MAX_NODES:,} nodes; put a part into a subflow")
        return
    yield from _list_shape(raw, "nodes", NodeSpec, prefix)
    yield from _list_shape(raw, "edges", EdgeSpec, prefix)
    ports: dict[str, tuple[str, ...] | None] = {}
    for index, entry in _entries(raw, "nodes"):
        yield from _node(entry, f"{prefix}nodes[{index}]", catalog, world, depth)
        ports[str(entry.get("id"))] = _ports(entry, catalog)
    yield from _edges(raw, prefix, ports)


def _node(entry: dict[str, Any], place: str, catalog: Catalog, world: World, depth: int) -> Iterator[Problem]:
    kind = entry.get("type")
    if not isinstance(kind, str):
        return
    found = catalog.nodes.get(kind)
    if found is None:
        yield Problem(f"{place}.type", _unknown("node", kind, catalog.nodes))
        return
    config = entry.get("config", {})
    if found.has_body and entry.get("needs"):
        yield Problem(f"{place}.needs", "it runs where its flow does; give `needs` to the nodes inside")
    yield from _config(found, config, f"{place}.config", world)
    if found.has_body and isinstance(config, dict) and config.get("body") is not None:
        yield from _graph(config["body"], f"{place}.config.body.", catalog, world, depth + 1)


def _ports(entry: dict[str, Any], catalog: Catalog) -> tuple[str, ...] | None:
    """The node's ports, or None where they cannot be known."""
    kind = catalog.nodes.get(str(entry.get("type")))
    config = entry.get("config", {})
    if kind is None or not isinstance(config, dict):
        return None
    try:
        return kind.ports_of(config)
    except Exception:
        # A config that is wrong anyway, and said so by its own fault.
        return None


def schema_notes(raw: Any, catalog: Catalog, world: World, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Answers' schemas that a model of this machine would refuse: no fault, for another model may be asked."""
    if not isinstance(raw, dict) or depth > MAX_DEPTH:
        return
    for index, entry in _entries(raw, "nodes"):
        kind, config = catalog.nodes.get(str(entry.get("type"))), entry.get("config", {})
        place = f"{prefix}nodes[{index}].config"
        if kind is None or not isinstance(config, dict):
            continue
        for field, schema in _schemas(kind, config):
            names = [name for models in kind.model_fields for name in names_in(config.get(models))]
            if fault := world.schema_fault(schema, names):
                yield f"{place}.{field}: local models refuse it: {fault}"
        if kind.has_body:
            yield from schema_notes(config.get("body"), catalog, world, f"{place}.body.", depth + 1)


def _schemas(kind: Node[Any], config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    try:
        # In one with a template only the values in it are known to be right or wrong.
        return [each for each in kind.schemas(config) if "{{" not in str(each[1]) and "{%" not in str(each[1])]
    except Exception:
        # A config that is wrong anyway, and said so by its own fault.
        return []


class NodeTraits(Struct, frozen=True):
    """What a node's config makes of it: its ports, with ``error``, its effect, and the hosts that see what it works on
    because it asks models there (``?``: only a run can tell).
    """

    ports: tuple[str, ...]
    effect: str
    sends_to: tuple[str, ...] = ()


def traits(raw: Any, catalog: Catalog, world: World, prefix: str = "", depth: int = 0) -> dict[str, NodeTraits]:
    """The traits of each node by its id (``loop/inner`` in the body of ``loop``), as far as they can be known."""
    found: dict[str, NodeTraits] = {}
    if not isinstance(raw, dict) or depth > MAX_DEPTH:
        return found
    for _, entry in _entries(raw, "nodes"):
        kind, config = catalog.nodes.get(str(entry.get("type"))), entry.get("config", {})
        ports = _ports(entry, catalog)
        if kind is None or ports is None or not isinstance(entry.get("id"), str):
            continue
        name = f"{prefix}{entry['id']}"
        told = (*(str(port) for port in ports), ERROR_PORT)
        found[name] = NodeTraits(told, _effect(kind, config), _places(kind, config, world))
        if kind.has_body:
            found |= traits(config.get("body"), catalog, world, f"{name}/", depth + 1)
    return found


def _effect(kind: Node[Any], config: Mapping[str, Any]) -> str:
    try:
        return str(kind.effect_of(config))
    except Exception:
        # A config that is wrong anyway, and said so by its own fault.
        return str(kind.effect)


def _places(kind: Node[Any], config: Mapping[str, Any], world: World) -> tuple[str, ...]:
    try:
        return tuple(str(place) for place in kind.sends_to(config, world))
    except Exception:
        # The same.
        return ()


def _edges(raw: Mapping[str, Any], prefix: str, ports: dict[str, tuple[str, ...] | None]) -> Iterator[Problem]:
    links: dict[str, list[str]] = {}
    seen: dict[tuple[Any, ...], int] = {}
    for index, edge in _entries(raw, "edges"):
        place = f"{prefix}edges[{index}]"
        source, target, port = edge.get("from"), edge.get("to"), edge.get("port", "out")
        for end, name in (("from", source), ("to", target)):
            if isinstance(name, str) and name not in ports:
                yield Problem(f"{place}.{end}", f"there is no node {name!r}{_like(name, ports)}")
        if not (isinstance(source, str) and isinstance(target, str)):
            continue
        known = ports.get(source)
        if known is not None and isinstance(port, str) and port != ERROR_PORT and port not in known:
            names = ", ".join([*known, ERROR_PORT])
            yield Problem(f"{place}.port", f"node {source!r} has no port {port!r}; it has {names}")
        key = (source, target, port, edge.get("condition", ""))
        if key in seen:
            yield Problem(place, f"repeats edges[{seen[key]}]; remove one")
        seen[key] = index
        condition = edge.get("condition", "")
        if isinstance(condition, str) and condition and (fault := expressions.check(condition, True)):
            yield Problem(f"{place}.condition", fault)
        if source in ports and target in ports:
            links.setdefault(source, []).append(target)
    cycle = find_cycle(ports, links)
    if cycle:
        yield Problem(f"{prefix}edges", f"the flow runs in a circle: {' → '.join(cycle)}; remove one of these edges")


def find_cycle(names: Iterable[str], links: Mapping[str, list[str]]) -> list[str]:
    """One cycle as a path that ends where it began, or []. Iterative depth-first search."""
    done: set[str] = set()
    for root in names:
        path: list[str] = []
        on_path: set[str] = set()
        stack: list[tuple[str, Iterator[str]]] = []
        if root not in done:
            stack.append((root, iter(links.get(root, ()))))
            path.append(root)
            on_path.add(root)
        while stack:
            name, rest = stack[-1]
            for following in rest:
                if following in on_path:
                    return [*path[path.index(following) :], following]
                if following not in done:
                    stack.append((following, iter(links.get(following, ()))))
                    path.append(following)
                    on_path.add(following)
                    break
            else:
                stack.pop()
                done.add(name)
                on_path.discard(path.pop())
    return []


def _like(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known)[:2000], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _unknown(what: str, kind: str, known: Mapping[str, Any]) -> str:
    hint = _like(kind, known)
    return f"there is no {what} type {kind!r}{hint or '; known are ' + ', '.join(sorted(known))}"
