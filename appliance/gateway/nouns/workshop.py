"""The workshop: a flow drafted from words, its spec, and what a flow's runs have shown."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Analysis, DraftedFlow
from appliance.gateway.common import Body, InWorkspace, Query, one_workspace
from appliance.gateway.patience import patiently
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.kernel.wire import LONGEST_DRAFT
from appliance.store.errors import NotFound
from appliance.store.records import Flow

noun = Noun("workshop", "Flows drafted from words by a model, their specs, and what their runs have shown.")

_QUIET = "changes nothing"


class Wish(Body, frozen=True):
    """What is wanted, in `text` or in an edited `spec`; `flow` is what there is already, to be changed.

    `id` is any text of the caller's: live events `{"type": "stream", "draft": id, "text"}` tell the stages under it.
    """

    text: Annotated[str, Meta(max_length=20_000)] = ""
    spec: Annotated[str, Meta(max_length=200_000)] = ""
    flow: dict[str, Any] | None = None
    models: Annotated[list[str], Meta(max_length=10, description="Tried in this order; empty: the default")] = []
    repairs: Annotated[int, Meta(ge=0, le=10, description="How often the model may mend its faults")] = 3
    id: Annotated[str, Meta(max_length=64)] = ""


class Described(Body, frozen=True):
    """A flow that need not be saved."""

    flow: dict[str, Any]


class Spec(Struct, frozen=True):
    """A flow in markdown."""

    spec: str


class Look(Query, frozen=True):
    """How many of the newest runs; with `words` a model (`model`, or the default) sums up what they show."""

    runs: Annotated[int, Meta(ge=1, le=5_000, description="How many of the newest runs")] = 500
    words: Annotated[bool, Meta(description="A model sums it up")] = False
    model: Annotated[str, Meta(max_length=200, description="Which; empty: the default")] = ""


@noun.post("/drafts/describe", permission="flows:write", errors=(402, 422, 502, 503, 504), unaudited=_QUIET)
def describe(call: Call[InWorkspace, Wish]) -> DraftedFlow:
    """A flow drafted by a model. It is checked and never saved; `problems` are the faults that are left.

    It takes as long as the model needs; giving up the request ends the work.
    """
    one_workspace(call.workspace)
    wish = msgspec.to_builtins(call.body)
    told = patiently(call.gateway, "draft", LONGEST_DRAFT + 10, workspace=call.workspace, **wish)
    return msgspec.convert(told, DraftedFlow)


@noun.post("/drafts/spec", permission="flows:read", unaudited=_QUIET)
def spec(call: Call[InWorkspace, Described]) -> Spec:
    """The spec of a flow as it is, in markdown."""
    from appliance.workshop.palette import Palette
    from appliance.workshop.spec import spec_of

    return Spec(spec_of(call.body.flow, Palette(call.gateway.registry.catalog())))


@noun.get("/flows/{flow}/analysis", permission="runs:read", errors=(402, 422, 502, 503, 504))
def analysis(call: Call[Look, Nothing], flow: Flow) -> Analysis:
    """What the newest runs of a flow's live version have shown, the weightiest first, with evidence.

    `change` is the flow with the suggestion carried out: compare it, try it, save it as a draft.
    """
    if flow.live_number is None:
        raise NotFound(f"the flow {flow.id!r} is not deployed: only a live version has runs to look at")
    query = call.query
    if query.words:
        models = [query.model] if query.model else []
        asked = {"flow": flow.id, "workspace": flow.workspace, "runs": query.runs, "models": models}
        return msgspec.convert(patiently(call.gateway, "analyse", LONGEST_DRAFT, **asked), Analysis)
    from appliance.engine.plan import plan_flow
    from appliance.workshop.analyst import analyse

    version = call.gateway.store.flows.numbered(flow.id, flow.live_number)
    plan = plan_flow(version.body, call.gateway.registry)
    return analyse(call.gateway.history, flow, version, plan, query.runs)
