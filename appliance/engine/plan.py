"""A flow made ready to run: nodes by number, edges both ways, configs compiled, effects known.

A plan belongs to one immutable version and is shared by all its runs. Inner graphs (``for_each`` bodies) are
plans of their own, found by their place: ``""`` is the flow itself, ``"loop"`` the body of node ``loop``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from appliance.contracts import Effect, Node, seconds
from appliance.engine import expressions
from appliance.engine.configs import ConfigPlan
from appliance.engine.flow import Body, EdgeSpec, Flow, History, NodeSpec, Retry, Settings, parse
from appliance.engine.needs import needs_of
from appliance.engine.validate import ERROR_PORT, Catalog

NO_RETRY = Retry(attempts=1)


class Edge:
    """A link between two numbered nodes."""

    __slots__ = ("condition", "index", "port", "source", "target")

    def __init__(self, index: int, source: int, target: int, port: str, condition: str) -> None:
        self.index = index
        self.source = source
        self.target = target
        self.port = port
        self.condition = expressions.expression(condition) if condition else None


class PlannedNode:
    """One node with everything a step needs, worked out once."""

    __slots__ = (
        "_config",
        "conditional",
        "effect",
        "id",
        "incoming",
        "index",
        "join_any",
        "kind",
        "needs",
        "on_crash",
        "out",
        "retry",
        "spec",
        "timeout",
        "wired_error",
    )

    def __init__(self, index: int, spec: NodeSpec, kind: Node[Any], settings: Settings) -> None:
        self.index = index
        self.id = spec.id
        self.spec = spec
        self.kind = kind
        self.effect = kind.effect_of(spec.config)
        self.retry = spec.retry or NO_RETRY
        self.timeout = seconds(spec.timeout) if spec.timeout is not None else None
        self.join_any = spec.join == "any"
        self.on_crash = spec.on_crash or settings.on_crash
        self.needs = needs_of(spec.needs) if spec.needs else ()
        self.incoming: list[Edge] = []
        self.out: list[Edge] = []
        self.wired_error = False
        self.conditional = False
        self._config: ConfigPlan | None = None

    @property
    def config(self) -> ConfigPlan:
        """Compiled at the first step rather than for every node of a large flow at once."""
        if self._config is None:
            self._config = ConfigPlan(self.kind.Config, self.spec.config)
        return self._config

    @property
    def fenced(self) -> bool:
        return self.effect is not Effect.PURE


class Plan:
    """The graph of one version (or of a body in it)."""

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        edges: Sequence[EdgeSpec],
        settings: Settings,
        catalog: Catalog,
        place: str,
    ) -> None:
        self.place = place
        self.settings = settings
        self.nodes = [PlannedNode(i, spec, catalog.nodes[spec.type], settings) for i, spec in enumerate(nodes)]
        self.by_id = {node.id: node for node in self.nodes}
        self._connect(edges)
        self.starts = [node.index for node in self.nodes if not node.incoming]
        self.indegree = [len(node.incoming) for node in self.nodes]
        self.timeout = seconds(settings.timeout) if settings.timeout is not None else None

    def _connect(self, edges: Sequence[EdgeSpec]) -> None:
        for index, spec in enumerate(edges):
            source, target = self.by_id[spec.source], self.by_id[spec.target]
            edge = Edge(index, source.index, target.index, spec.port, spec.condition)
            source.out.append(edge)
            target.incoming.append(edge)
            source.wired_error = source.wired_error or spec.port == ERROR_PORT
            source.conditional = source.conditional or edge.condition is not None

    def downstream(self, index: int) -> set[int]:
        """The node and all that comes after it."""
        found = {index}
        stack = [index]
        while stack:
            for edge in self.nodes[stack.pop()].out:
                if edge.target not in found:
                    found.add(edge.target)
                    stack.append(edge.target)
        return found


class FlowPlan:
    """All plans of one version: ``graphs[""]`` is the flow, the others are bodies by their node's path."""

    def __init__(self, flow: Flow, catalog: Catalog) -> None:
        self.flow = flow
        self.settings = flow.settings
        self.history: History = flow.settings.history
        self.graphs: dict[str, Plan] = {}
        self._add("", flow.nodes, flow.edges, catalog)

    def _add(self, place: str, nodes: Sequence[NodeSpec], edges: Sequence[EdgeSpec], catalog: Catalog) -> None:
        self.graphs[place] = Plan(nodes, edges, self.settings, catalog, place)
        for spec in nodes:
            body = spec.config.get("body")
            if catalog.nodes[spec.type].has_body and body:
                inner = msgspec.convert(body, Body)
                self._add(body_place(place, spec.id), inner.nodes, inner.edges, catalog)


def body_place(place: str, node: str) -> str:
    """The place of a node's body inside its flow."""
    return f"{place}/{node}" if place else node


def plan_flow(raw: Mapping[str, Any], catalog: Catalog) -> FlowPlan:
    """The plan of a validated flow. Raises ``ValidationError`` or ``KeyError`` for one that is not."""
    return FlowPlan(parse(raw), catalog)
