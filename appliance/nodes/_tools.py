"""The tools of an AI agent: what its config says of each, and the schema by which it can call these and nothing else.

The schema is the wall. It is made from exactly the tools that are offered, it binds the model while it answers, and
what comes back is held against it once more: whatever a text talks the model into, no other tool can be named and no
argument can be given that its tool does not have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Code, Problem, Target, World
from appliance.nodes import _schemas

_Name = Annotated[str, Meta(pattern=r"^([A-Za-z_][A-Za-z0-9_-]{0,63})?$")]


class Tool(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing that the model may do."""

    about: Annotated[Code, Meta(description="What it is for, as the model is told", min_length=1, max_length=1000)]
    node: Annotated[str, Meta(description="The first of the nodes in this node's body that do it")] = ""
    flow: Annotated[str, Meta(description="Or the id of the flow that does it")] = ""
    name: Annotated[_Name, Meta(description="What the model calls it; the node's or flow's id if left out")] = ""
    arguments: Annotated[
        dict[str, Any],
        Meta(description="Its arguments by name, each with its JSON Schema; one with a `default` may be left out"),
    ] = {}
    dangerous: Annotated[bool, Meta(description="A person is asked before every call")] = False

    @property
    def called(self) -> str:
        """What the model calls it."""
        return self.name or self.node or self.flow

    @property
    def target(self) -> Target:
        """What runs when it is called."""
        return Target(flow=self.flow) if self.flow else Target(start=self.node)

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its arguments: an object, with nothing else in it."""
        needed = [name for name, one in self.arguments.items() if not (isinstance(one, dict) and "default" in one)]
        return {
            "type": "object",
            "properties": self.arguments,
            "required": needed,
            "additionalProperties": False,
        }


class Call(Struct):
    """A tool that the model wants used. ``verdict`` is why it is not, in words for the model."""

    tool: str
    arguments: dict[str, Any]
    decided: bool = False
    verdict: str = ""


class Answer(Struct, frozen=True):
    """The model is done."""

    value: Any


class Wrong(Exception):
    """An answer that is none; says so in words for the model."""


def tool_faults(tools: Sequence[Any], body: Any, world: World) -> Iterator[Problem]:
    """What is wrong with a config's tools as saved, templates not rendered."""
    starts, seen = first_nodes(body), dict[str, int]()
    for index, raw in enumerate(tools):
        try:
            tool = msgspec.convert(raw, Tool)
        except msgspec.ValidationError:
            continue  # a template where only its value fits
        place = f"tools[{index}]"
        yield from _home_faults(tool, place, starts, world)
        if tool.called in seen:
            yield Problem(f"{place}.name", f"{tool.called!r} is the name of tools[{seen[tool.called]}] too")
        seen[tool.called] = index
        for name, schema in tool.arguments.items():
            if "{{" not in str(schema):  # else only its value is known to be right or wrong
                yield from (Problem(f"{place}.arguments.{at}", text) for at, text in _schemas.faults(schema, name))


def _home_faults(tool: Tool, place: str, starts: list[str], world: World) -> Iterator[Problem]:
    if bool(tool.node) == bool(tool.flow):
        yield Problem(f"{place}.node", "give either `node` (an id in the body) or `flow` (the id of a flow)")
    elif tool.node and "{" not in tool.node and tool.node not in starts:
        known = ", ".join(starts) or "none"
        yield Problem(f"{place}.node", f"{tool.node!r} is not a first node of the body; these are: {known}")
    elif tool.flow and "{" not in tool.flow and not world.flow_exists(tool.flow):
        yield Problem(f"{place}.flow", f"there is no flow {tool.flow!r}; save and deploy it first")


def first_nodes(body: Any) -> list[str]:
    """The ids of a body's nodes to which no edge leads."""
    if not isinstance(body, Mapping):
        return []
    nodes, edges = body.get("nodes", []), body.get("edges", [])
    if not (isinstance(nodes, list) and isinstance(edges, list)):
        return []
    reached = {edge.get("to") for edge in edges if isinstance(edge, dict)}
    return [node["id"] for node in nodes if isinstance(node, dict) and "id" in node and node["id"] not in reached]


def reply_schema(tools: Iterable[Tool], answer: Mapping[str, Any] | None, calls: int) -> dict[str, Any]:
    """The JSON Schema of one turn: a call of one of exactly these tools (or up to ``calls`` of them), or the answer."""
    each = [_closed(tool={"const": tool.called}, arguments=tool.schema()) for tool in tools]
    final = _closed(answer=dict(answer) if answer else {"type": "string"})
    if calls > 1 and each:
        several = {"type": "array", "items": {"anyOf": each}, "minItems": 1, "maxItems": calls}
        return {"anyOf": [_closed(calls=several), final]}
    return {"anyOf": [*each, final]}


def _closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def read_reply(data: Any, tools: Sequence[Tool], answer: Mapping[str, Any] | None, calls: int) -> list[Call] | Answer:
    """The calls of a turn, or its final answer. Raises :class:`Wrong`."""
    if not isinstance(data, dict):
        raise Wrong("the answer must be one JSON object")
    if "answer" in data:
        if fault := _schemas.misfit(_closed(answer=dict(answer) if answer else {"type": "string"}), data):
            raise Wrong(fault)
        return Answer(data["answer"])
    wanted = data.get("calls") if calls > 1 else [data]
    if not isinstance(wanted, list) or not 1 <= len(wanted) <= calls:
        raise Wrong(f"`calls` must be a list of 1 to {calls} calls")
    return [_read_call(one, {tool.called: tool for tool in tools}) for one in wanted]


def _read_call(given: Any, tools: Mapping[str, Tool]) -> Call:
    if not isinstance(given, dict) or set(given) != {"tool", "arguments"}:
        raise Wrong("a call has `tool` and `arguments`, nothing else")
    tool = tools.get(given["tool"]) if isinstance(given["tool"], str) else None
    if tool is None:
        raise Wrong(f"there is no tool {str(given['tool'])[:60]!r}; there are: {', '.join(tools) or 'none'}")
    if fault := _schemas.misfit(tool.schema(), given["arguments"], "arguments"):
        raise Wrong(f"{tool.called}: {fault}")
    defaults = {k: one["default"] for k, one in tool.arguments.items() if isinstance(one, dict) and "default" in one}
    return Call(tool.called, {**defaults, **given["arguments"]})
