"""A sentence in, a flow out: the model chooses kinds, writes the flow under a grammar, and mends what the check finds.

Nothing is saved and nothing deployed here; what comes out is a draft for a person to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    ConfigError,
    DraftedFlow,
    DraftRequest,
    Models,
    NodeError,
    Problem,
)
from appliance.workshop.palette import Palette
from appliance.workshop.spec import spec_of

#: Tokens that an answer may have, and that are left free beside prompt and answer.
LONGEST = 2048
_CHOICE = 200
_MARGIN = 64
#: Tokens of context that are reckoned with where the model does not tell.
_CONTEXT = 4096
#: Faults that are shown to the model at once; the first ones are often the cause of the others.
_SHOWN = 12

_FORM = """\
You write flows for Flowork, an automation box. A flow is JSON with triggers, nodes and edges.
A trigger starts a run with a payload. A node is a step; it works on `payload` and gives a new payload to the next.
An edge {"from", "to", "port"} leads from a node's port to the next node; the port is "out" unless said otherwise.
The first steps are those to which no edge leads. Triggers have no edges. There are no circles.
Texts in a config are templates: {{ payload.name }}, {{ event.topic }}, {{ steps.ID.name }}, {{ vars.name }},
{{ secrets.name }}, {{ now() }}. Fields marked [expression] are written without braces: payload.t > 30.
Durations are written 90s, 5m, 1h. Addresses, passwords and tokens that you do not know are {{ secrets.NAME }}."""

#: All faults of a flow, as they are found when it is saved.
Check = Callable[[dict[str, Any]], Sequence[Problem]]


class Architect:
    """Drafts one flow. ``tell`` gets a line per stage."""

    def __init__(
        self, palette: Palette, check: Check, models: Models, request: DraftRequest, tell: Callable[[str], None]
    ) -> None:
        self._palette = palette
        self._check = check
        self._models = models
        self._request = request
        self._tell = tell
        self._replies: list[ChatReply] = []

    async def draft(self) -> DraftedFlow:
        """The draft, with the faults that are left. Raises what the model raises, ``NodeError`` for no flow, and
        ``ConfigError`` where nothing is wanted.
        """
        if not (self._request.text.strip() or self._request.spec.strip()):
            raise ConfigError("say what the flow has to do, by `text` or `spec`")
        triggers, nodes = await self._choose()
        self._tell(f"writing a flow of {', '.join([*triggers, *nodes])}")
        schema = self._palette.flow_schema(triggers, nodes)
        system = await self._system(triggers, nodes)
        ask = [{"role": "system", "content": system}, {"role": "user", "content": self._wish()}]
        answer = await self._ask(ask, schema, LONGEST)
        flow = tidy(answer)
        problems = list(self._check(flow))
        for _ in range(self._request.repairs):
            if not problems:
                break
            self._tell(f"mending {len(problems)} fault{'s'[: len(problems) != 1]}")
            answer = await self._ask([*ask, *_faults(answer, problems)], schema, LONGEST)
            mended = tidy(answer)
            found = list(self._check(mended))
            if len(found) <= len(problems):
                flow, problems = mended, found
        return self._finished(flow, answer.get("sample"), problems)

    def _finished(self, flow: dict[str, Any], sample: Any, problems: list[Problem]) -> DraftedFlow:
        spec = self._request.spec or spec_of(flow, self._palette, self._request.text)
        last = self._replies[-1]
        return DraftedFlow(
            flow={**_kept(self._request.flow), **flow, "spec": spec},
            spec=spec,
            sample=sample,
            problems=problems,
            answers=len(self._replies),
            model=last.model,
            provider=last.provider,
            tokens=sum(reply.tokens_in + reply.tokens_out for reply in self._replies),
            cost=sum(reply.cost for reply in self._replies),
        )

    async def _choose(self) -> tuple[list[str], list[str]]:
        """The kinds that the flow is made of; those of a flow that is to be changed are among them."""
        self._tell("choosing the kinds of steps")
        system = f"{_FORM}\n\n{self._palette.overview()}\n\nName the triggers and nodes that the flow needs."
        wish = {"role": "user", "content": self._wish()}
        chosen = await self._ask(
            [{"role": "system", "content": system}, wish], self._palette.choice_schema(), _CHOICE, shared=1
        )
        old = self._request.flow or {}
        triggers = [*_types(old.get("triggers")), *chosen.get("triggers", [])]
        nodes = [*_types(old.get("nodes")), *chosen.get("nodes", [])]
        return (
            [kind for kind in dict.fromkeys(triggers) if kind in self._palette.triggers],
            [kind for kind in dict.fromkeys(nodes) if kind in self._palette.nodes],
        )

    async def _system(self, triggers: list[str], nodes: list[str]) -> str:
        """What the model is told about the kinds: all of it, or without examples where its context is short."""
        model = self._request.models[0] if self._request.models else ""
        context = (await self._models.facts(model)).context or _CONTEXT
        room = context - LONGEST - _MARGIN - await self._models.count(self._wish(), model)
        full = f"{_FORM}\n\n{self._palette.details(triggers, nodes)}"
        if await self._models.count(full, model) <= room:
            return full
        return f"{_FORM}\n\n{self._palette.details(triggers, nodes, examples=False)}"

    def _wish(self) -> str:
        request = self._request
        parts = []
        if request.flow is not None:
            known = {key: request.flow[key] for key in ("name", "triggers", "nodes", "edges") if key in request.flow}
            parts.append(f"The flow as it is now:\n{_json(_without_places(known))}")
        if request.spec:
            parts.append(f"What the flow has to do:\n{request.spec}")
        if request.text:
            parts.append(f"What is wanted:\n{request.text}" if parts else request.text)
        return "\n\n".join(parts)

    async def _ask(
        self, messages: list[dict[str, Any]], schema: dict[str, Any], longest: int, *, shared: int = 0
    ) -> dict[str, Any]:
        request = ChatRequest(
            messages=messages,
            models=self._request.models,
            schema=schema,
            max_tokens=longest,
            shared=shared,
            timeout=self._request.timeout,
        )
        reply = await self._models.chat(request)
        self._replies.append(reply)
        if not isinstance(reply.data, dict):
            cut = " before the flow was complete" if reply.finish == "length" else ""
            raise NodeError(f"{reply.model} gave no flow: its answer ended{cut} (after {reply.tokens_out} tokens)")
        return reply.data


def _faults(answer: Mapping[str, Any], problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The model's own answer and what is wrong with it, as the next two messages."""
    lines = [f"- {one.path}: {one.message}" if one.path else f"- {one.message}" for one in problems[:_SHOWN]]
    text = "This flow has faults:\n" + "\n".join(lines) + "\nGive the whole answer again with all of them mended."
    return [{"role": "assistant", "content": _json(answer)}, {"role": "user", "content": text}]


def tidy(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The flow of an answer, without what says nothing: empty conditions, plain ports, a second edge of the same."""
    flow = dict(answer.get("flow") or {})
    edges: list[dict[str, Any]] = []
    for edge in flow.get("edges", []):
        kept = {key: value for key, value in edge.items() if value not in ("", None)}
        if kept.get("port") == "out":
            del kept["port"]
        if kept not in edges:
            edges.append(kept)
    flow["edges"] = edges
    return flow


def _types(entries: Any) -> list[str]:
    return [entry["type"] for entry in entries or [] if isinstance(entry, dict) and isinstance(entry.get("type"), str)]


def _without_places(flow: Mapping[str, Any]) -> dict[str, Any]:
    """Where things stand on the canvas is nothing that a model needs."""

    def bare(entry: Any) -> Any:
        return {key: value for key, value in entry.items() if key != "position"} if isinstance(entry, dict) else entry

    return {key: [bare(entry) for entry in value] if isinstance(value, list) else value for key, value in flow.items()}


def _kept(flow: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a changed flow keeps of the old one: all that the model was not asked about."""
    asked = {"name", "triggers", "nodes", "edges", "groups"}
    return {key: value for key, value in (flow or {}).items() if key not in asked}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
