"""Drafts: what an editor asks about a flow that is not saved yet. Nothing here is kept."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from appliance.contracts import ExpressionError
from appliance.engine import expressions, trace
from appliance.engine.diff import FlowDiff, diff
from appliance.engine.steps_view import Step
from appliance.gateway import answers
from appliance.gateway.common import Body, InWorkspace, VersionNumber, one_workspace
from appliance.gateway.flow_views import shown
from appliance.gateway.nouns.steps import NodeId
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.kernel.wire import LONGEST_TRIAL
from appliance.security.secret import MASK
from appliance.store.errors import NotFound
from appliance.store.history import RunHead
from appliance.store.records import Flow
from appliance.store.runids import to_text

noun = Noun("drafts", "A flow that is being edited: how it differs, what its expressions give, what one node does.")

#: Bytes of JSON of a value that is shown beside a field.
MOST_SHOWN = 100_000
_QUIET = "changes nothing"


class Compared(Body, frozen=True):
    """A flow, and the version that it is compared with."""

    flow: dict[str, Any]
    version: Annotated[VersionNumber | None, Meta(description="The older side; left out: an empty flow")] = None


class Sample(Body, frozen=True):
    """A text with its place: ``expression`` ones are written without braces."""

    source: Annotated[str, Meta(max_length=20_000)]
    expression: bool = False
    behind: Annotated[bool, Meta(description="As on an edge that leaves the node: `payload` is what it gave")] = False


class Given(Struct, frozen=True):
    """What the text gives on the run's data, or why it fails (``error``)."""

    value: Any = None
    error: str = ""


class TryOut(Body, frozen=True):
    """A node, and what it works on; with ``effects`` it may really do what it does."""

    node: dict[str, Any]
    payload: Any = None
    event: dict[str, Any] = {}
    steps: dict[str, Any] = {}
    effects: bool = False


class Tried(Struct, frozen=True, kw_only=True):
    """What the node did.

    ``outcome``: ``done``, ``failed``, ``waits`` (for a moment, a person or an event: ``until``, ``ask``) or
    ``starts`` (so many other runs: ``items``; none was started). ``took`` is in seconds. ``state`` are the durable
    values that it would have changed.
    """

    outcome: str
    port: str = ""
    output: Any | UnsetType = UNSET
    error: Any = None
    took: float = 0.0
    config: Any = None
    saw: Any = None
    logs: list[Any] = []
    state: dict[str, Any] = {}
    until: float | None = None
    ask: Any = None
    items: int | None = None


class DryRun(Body, frozen=True):
    """A flow, the payload that its trigger would bring, and what templates see as `event`."""

    flow: dict[str, Any]
    payload: Any = None
    event: dict[str, Any] = {}


class DryStep(Tried, frozen=True, kw_only=True):
    """What one step did, or would have done.

    `outcome` is as in a try, or `held`: the step has an effect, which it did not have, and the run went on with what
    had come into it. `guess`: behind such a step, so that nobody knows whether this is what really comes.
    """

    node: str
    type: str
    input: Any = None
    guess: bool = False


class Rehearsed(Struct, frozen=True):
    """The steps in the order in which they ran; not `complete` if there were too many."""

    steps: list[DryStep]
    complete: bool


@noun.post("/flows/{flow}/compare", permission="flows:read", unaudited=_QUIET)
def compare(call: Call[Nothing, Compared], flow: Flow) -> FlowDiff:
    """How a flow that is not saved differs from one of its versions."""
    number = call.body.version
    old = {} if number is None else call.gateway.store.flows.numbered(flow.id, number).body
    before, after = (shown(call.gateway, call.identity, flow.workspace, body) for body in (old, call.body.flow))
    return diff(before, after)


@noun.post("/runs/{run}/steps/{node}/evaluate", permission="flows:write", unaudited=_QUIET)
def evaluate(call: Call[Nothing, Sample], run: RunHead, node: NodeId) -> Given:
    """What a template or an expression gives with the data that a step of a past run had.

    Variables and durable values are those that the step saw, else those of now. Secrets stay hidden.
    """
    asked = call.body
    try:
        inner = asked.source if asked.expression else expressions.single(asked.source)
        compiled = expressions.template(asked.source) if inner is None else expressions.expression(inner)
        names = _names(call, run, node)
        scope = {name: names[name]() for name in compiled.names if name in names}
        value = answers.plain(expressions.plain(compiled(scope)))
    except ExpressionError as exc:
        return Given(error=call.gateway.scrub(exc.message))
    if len(answers.encode(value)) > MOST_SHOWN:
        return Given(error="the value is too large to be shown here")
    return Given(value)


def _names(call: Call[Any, Sample], run: RunHead, node: str) -> Mapping[str, Callable[[], Any]]:
    """What a template sees, each made when it is asked for."""
    gateway = call.gateway
    detail = gateway.teller.load(run.id)
    steps = gateway.teller.story(detail).steps
    step = next((one for one in steps if one.node == node), None)
    if step is None:
        raise NotFound(f"there is no step {node!r} in this run's version")
    found = step.output if call.body.behind else step.input
    return {
        "payload": lambda: None if found is UNSET else found,
        "event": lambda: detail.event[1],
        "steps": lambda: {one.node: one.output for one in steps if one.output is not UNSET},
        "vars": lambda: {v.name: v.value for v in gateway.store.values.variables(call.workspace)} | _saw(step, "vars"),
        "state": lambda: _state(call, run) | _saw(step, "state"),
        "secrets": lambda: _hidden(call),
        "run": lambda: {"id": to_text(run.id), "flow": gateway.names.flow(run.flow).id, "attempt": 1},
        "now": lambda: lambda: _now(call),
    }


def _saw(step: Step, name: str) -> dict[str, Any]:
    """What the step looked up in a namespace: ``{"vars.city": …}`` without its prefix."""
    seen = step.saw if isinstance(step.saw, Mapping) else {}
    return {key.partition(".")[2]: value for key, value in seen.items() if key.startswith(f"{name}.")}


def _state(call: Call[Any, Any], run: RunHead) -> dict[str, Any]:
    """The flow's durable values as of their last copy to the database, which is some minutes old at most."""
    kept = call.gateway.store.values.load_state()
    return {op.key: trace.unpack(op.value) for op in kept if op.flow == run.flow and op.value is not None}


def _hidden(call: Call[Any, Any]) -> dict[str, str]:
    return {row.name: MASK for row in call.gateway.store.values.secrets.all() if row.workspace == call.workspace}


def _now(call: Call[Any, Any]) -> datetime.datetime:
    zone = call.gateway.settings.timezone
    return datetime.datetime.fromtimestamp(call.gateway.now(), ZoneInfo(zone) if zone else None).astimezone()


@noun.post("/flows/{flow}/try", permission="flows:deploy", errors=(409, 422), audit="flow.try")
def try_out(call: Call[Nothing, TryOut], flow: Flow) -> Tried:
    """What a node does with some data, without a run.

    A node with an effect is refused (409, `has-effect`) unless `effects` is true: then it really does what it does.
    One that would wait or start other runs says so instead.
    """
    from appliance.flowbook import InvalidFlow

    asked, gateway = call.body, call.gateway
    node = {**asked.node, "disabled": False}
    if problems := gateway.book.problems({"name": "trial", "nodes": [node]}, flow.id, flow.workspace):
        raise InvalidFlow(problems)
    call.note(flow.id, node=node["id"], type=node["type"], effects=asked.effects)
    given = {"payload": asked.payload, "event": asked.event, "steps": asked.steps, "effects": asked.effects}
    told = gateway.call("try", timeout=LONGEST_TRIAL + 10, flow=flow.num, node=node, **given)
    return msgspec.convert({key: answers.plain(value) for key, value in told.items()}, Tried)


@noun.post("/drafts/rehearse", permission="flows:deploy", errors=(422,), audit="flow.rehearse")
def rehearse(call: Call[InWorkspace, DryRun]) -> Rehearsed:
    """A dry run of a flow that need not be saved: steps without effect really run, the others say what they would do.

    No run is made and nothing is kept.
    """
    from appliance.flowbook import InvalidFlow

    one_workspace(call.workspace)
    asked, gateway = call.body, call.gateway
    if problems := gateway.book.problems(asked.flow, None, call.workspace):
        raise InvalidFlow(problems)
    call.note(str(asked.flow.get("name", "")), nodes=len(asked.flow["nodes"]))
    given = {"flow": asked.flow, "payload": asked.payload, "event": asked.event, "workspace": call.workspace}
    told = gateway.call("rehearse", timeout=LONGEST_TRIAL * 10, **given)
    steps = [{key: answers.plain(value) for key, value in step.items()} for step in told["steps"]]
    return msgspec.convert({"steps": steps, "complete": told["complete"]}, Rehearsed)
