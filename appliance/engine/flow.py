"""The flow format: what a flow's JSON holds, and how older forms of it are read.

``parse`` only shapes data (defaults, durations); whether the flow makes sense is told by ``validate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from appliance.contracts import Duration

Name = Annotated[str, Meta(min_length=1, max_length=120)]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")]


class Retry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a failed step is tried again: exponential backoff with jitter, kept over restarts."""

    attempts: Annotated[int, Meta(ge=1, le=1000, description="Attempts in all, the first one included")] = 3
    backoff: Annotated[Duration, Meta(description="Wait before the second attempt; doubles from there")] = 1.0
    max_backoff: Annotated[Duration, Meta(description="Longest wait between two attempts")] = 300.0
    jitter: Annotated[float, Meta(ge=0, le=1, description="Random share added to a wait, 0.1 is 10 %")] = 0.1


class NodeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One node as saved."""

    id: Id
    type: Name
    config: dict[str, Any] = {}
    name: Annotated[str, Meta(max_length=120)] = ""
    retry: Retry | None = None
    timeout: Duration | None = None
    join: Literal["all", "any"] = "all"
    on_crash: Annotated[
        Literal["retry", "skip", "fail", "ask"] | None,
        Meta(description="What becomes of a `once` step that was cut off by a crash"),
    ] = None
    needs: Annotated[
        str | list[str],
        Meta(description="What the engine must have on which it runs: `model:…`, `device:…`, `engine:…` or `any`"),
    ] = ""
    disabled: bool = False
    position: dict[str, float] | None = None
    notes: Annotated[str, Meta(max_length=10_000)] = ""


class EdgeSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A link from an output port of ``from`` to the node ``to``; it fires if ``condition`` holds."""

    source: Id = field(name="from")
    target: Id = field(name="to")
    port: str = "out"
    condition: str = ""


class TriggerSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One trigger as saved. With ``starts_runs`` off its events only wake steps that wait for them."""

    id: Id
    type: Name
    config: dict[str, Any] = {}
    name: Annotated[str, Meta(max_length=120)] = ""
    starts_runs: bool = True
    disabled: bool = False
    position: dict[str, float] | None = None


class GroupSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nodes that stand together under a heading on the canvas. It means nothing to runs."""

    id: Id
    name: Annotated[str, Meta(max_length=120)] = ""
    nodes: list[Id] = []
    color: Annotated[str, Meta(max_length=40)] = ""


class History(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long this flow's runs are kept, if not as long as the engine's settings say."""

    days: Annotated[float, Meta(ge=0, le=3650)] | None = None
    failed_days: Annotated[float, Meta(ge=0, le=3650)] | None = None


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How runs of the flow go beside each other."""

    mode: Literal["parallel", "queued", "single", "restart"] = "parallel"
    max_runs: Annotated[int, Meta(ge=1, le=10_000)] = 10
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0
    timeout: Duration | None = None
    on_crash: Literal["retry", "skip", "fail", "ask"] = "ask"
    history: History = History()
    model_budget: Annotated[float, Meta(ge=0, description="US dollars a day for models; 0: any")] | None = None


class Flow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole flow as saved."""

    name: Name
    nodes: list[NodeSpec]
    edges: list[EdgeSpec] = []
    triggers: list[TriggerSpec] = []
    settings: Settings = Settings()
    description: Annotated[str, Meta(max_length=10_000)] = ""
    spec: Annotated[str, Meta(max_length=200_000)] = ""
    tags: list[Name] = []
    groups: list[GroupSpec] = []


class Body(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The inner graph of a node that runs it per item (``for_each``)."""

    nodes: list[NodeSpec]
    edges: list[EdgeSpec] = []


def modernize(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The flow with older spellings converted: ``connections``, ``sourceHandle``, ``module_id`` …

    Values that are already in today's form are left alone; nothing is validated here.
    """
    flow = {key: value for key, value in raw.items() if key not in _DROPPED}
    links = flow.pop("connections", None)
    if links is not None and "edges" not in flow:
        flow["edges"] = links
    if isinstance(flow.get("nodes"), list):
        flow["nodes"] = [_modern_node(node) for node in flow["nodes"]]
    if isinstance(flow.get("edges"), list):
        flow["edges"] = [_modern_edge(edge) for edge in flow["edges"]]
    flow.setdefault("name", str(raw.get("title") or raw.get("label") or raw.get("preset_name") or "Imported flow"))
    flow.pop("title", None)
    return flow


_DROPPED = {"preset_name", "label", "viewport", "version", "id"}


def is_old(raw: Mapping[str, Any]) -> bool:
    """True if :func:`modernize` has something to convert."""
    if "connections" in raw or ("nodes" in raw and "name" not in raw):
        return True
    nodes, edges = raw.get("nodes"), raw.get("edges")
    old_node = isinstance(nodes, list) and any(isinstance(n, dict) and "module_id" in n for n in nodes)
    old_edge = isinstance(edges, list) and any(isinstance(e, dict) and "source" in e for e in edges)
    return old_node or old_edge


def _modern_node(node: Any) -> Any:
    if not isinstance(node, dict) or "module_id" not in node:
        return node
    modern: dict[str, Any] = {
        "id": str(node.get("id", "")),
        "type": node["module_id"],
        "config": node.get("config_values") or node.get("config") or {},
    }
    name = node.get("name") or node.get("label")
    if name:
        modern["name"] = str(name)
    place = node.get("position") or {key: node[key] for key in ("x", "y") if key in node}
    if place:
        modern["position"] = place
    return modern


def _modern_edge(edge: Any) -> Any:
    if not isinstance(edge, dict) or "source" not in edge:
        return edge
    modern: dict[str, Any] = {"from": str(edge["source"]), "to": str(edge.get("target", ""))}
    port = edge.get("source_port_name") or edge.get("sourceHandle") or edge.get("port")
    if port and port not in {"output", "default", "success"}:
        modern["port"] = str(port)
    if edge.get("condition"):
        modern["condition"] = edge["condition"]
    return modern


def parse(raw: Mapping[str, Any]) -> Flow:
    """A :class:`Flow` from JSON data in today's form. Raises ``msgspec.ValidationError``."""
    return msgspec.convert(raw, Flow)
