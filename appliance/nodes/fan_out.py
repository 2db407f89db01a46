"""Give one task to several engines at once, and gather what they say.

`to` names engines: paired ones by name, `here`, `all` that can be asked now (this one included), `others`, or all that
have something (`model:qwen`, `device:camera`). The task is the `body` (nodes and edges drawn inside this node) or
another flow of this workspace (`flow`); its steps run on the branch's engine, conditions and the like here. In it,
`payload` is `input` and `event.on` the engine's name. Each branch is a run of its own.

`gather` says when it is enough: `all` branches, `any` one (the first success ends the others at once), or a `quorum` of
so many. Behind the `deadline` the rest is ended. `reduce` makes one value of the answers: a `list` of `{engine,
output}` or `{engine, error}`, the `first` one, `merge` of objects, the `vote` of the majority, or an `expression`, in
which `payload` is the list. Branches that failed fail the step if it is not enough without them, and are told in its
log.

    {"to": ["all"], "gather": "quorum", "quorum": 2, "deadline": "30s", "reduce": "vote",
     "body": {"nodes": [{"id": "look", "type": "llm", "config": {"prompt": "A person? {{ payload }}"}}]}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from appliance.contracts import (
    Config,
    Context,
    Duration,
    Expression,
    Graph,
    Node,
    NodeError,
    Problem,
    Spawn,
    Target,
    TimedOut,
    Wake,
    World,
    seconds,
)
from appliance.nodes._bodies import check_body, is_cause

_Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: Branches at most; each is a run of its own.
_MOST = 1000


class FanOutConfig(Config, frozen=True):
    to: Annotated[
        list[_Name],
        Meta(title="To", description="Names of engines; all, others, here, model:NAME, device:NAME", min_length=1),
    ] = field(default_factory=lambda: ["all"])
    body: Annotated[Graph | None, Meta(description="Nodes and edges that each engine runs")] = None
    flow: Annotated[str, Meta(title="Flow", description="Or the id of a flow of this workspace")] = ""
    input: Annotated[Any, Meta(title="Input", description="The payload of each branch; what came in, if left out")] = (
        None
    )
    gather: Annotated[Literal["all", "any", "quorum"], Meta(title="Gather", description="How many are enough")] = "all"
    quorum: Annotated[int, Meta(title="Quorum", description="So many, with gather: quorum", ge=0, le=_MOST)] = 0
    deadline: Annotated[Duration | None, Meta(title="Deadline", description="Behind it nobody is waited for")] = None
    reduce: Annotated[
        Literal["list", "first", "merge", "vote", "expression"], Meta(title="Reduce", description="What it comes to")
    ] = "list"
    expression: Annotated[Expression, Meta(title="Expression", description="With reduce: expression")] = ""
    on_error: Annotated[
        Literal["fail", "collect"],
        Meta(title="On error", description="With gather: all, what branches that failed do: fail the step, or be told"),
    ] = "fail"


class FanOut(Node[FanOutConfig]):
    Config = FanOutConfig
    title = "Fan out"
    category = "logic"
    icon = "git-branch"
    inline = True
    has_body = True

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        yield from check_body(config, world)
        if (config.get("gather") == "quorum") != bool(config.get("quorum")):
            yield Problem("quorum", "`gather: quorum` and a `quorum` of 1 or more belong together")
        if (config.get("reduce") == "expression") != bool(config.get("expression")):
            yield Problem("expression", "`reduce: expression` and an `expression` belong together")

    def run(self, ctx: Context, config: FanOutConfig, payload: Any) -> Any:
        engines = ctx.engines.called(config.to)
        if len(engines) > _MOST:
            raise NodeError(f"{len(engines):,} engines; at most {_MOST:,}", retryable=False)
        enough = {"all": 0, "any": 1, "quorum": config.quorum}[config.gather]
        if len(engines) < max(1, enough):
            known = ", ".join(engines) or "none"
            raise NodeError(f"{max(1, enough)} engines are needed, and there are {len(engines)} now: {known}")
        task = payload if config.input is None else config.input
        return Spawn(
            [task] * len(engines),
            concurrency=len(engines),
            stop_on_error=config.gather == "all" and config.on_error == "fail",
            memo={"engines": engines},
            targets=[Target(flow=config.flow, engine=name) for name in engines],
            until=None if config.deadline is None else ctx.now() + seconds(config.deadline),
            enough=enough,
        )

    def resume(self, ctx: Context, config: FanOutConfig, payload: Any, wake: Wake) -> Any:
        told = [_told(name, result) for name, result in zip(wake.memo["engines"], wake.value, strict=True)]
        good = [each for each in told if "error" not in each]
        bad = [each for each in told if "error" in each and each["error"].get("id") != "not-needed"]
        for each in bad:
            ctx.log(f"{each['engine']}: {each['error'].get('message', 'failed')}", "warning")
        enough = {"all": len(told) if config.on_error == "fail" else 0, "any": 1, "quorum": config.quorum}[
            config.gather
        ]
        if len(good) < enough:
            raise _too_few(told, good, bad, enough)
        return _reduced(ctx, config, good, [each for each in told if each in good or each in bad])


def _told(engine: str, result: Mapping[str, Any]) -> dict[str, Any]:
    if result["ok"]:
        return {"engine": engine, "output": result.get("output"), "run": result.get("run")}
    return {"engine": engine, "error": dict(result.get("error") or {"message": "failed"}), "run": result.get("run")}


def _too_few(
    told: Sequence[Any], good: Sequence[Any], bad: Sequence[dict[str, Any]], enough: int
) -> NodeError | TimedOut:
    real = [each for each in bad if is_cause(each)] or bad
    reasons = "; ".join(f"{each['engine']}: {each['error'].get('message', 'failed')}" for each in real[:5])
    message = f"{len(good)} of {len(told)} engines did it, {enough} are needed: {reasons}"
    if bad and all(each["error"].get("id") == "timed-out" for each in bad):
        return TimedOut(message)
    return NodeError(message, retryable=False, detail={"failed": list(bad)})


def _reduced(ctx: Context, config: FanOutConfig, good: list[dict[str, Any]], all_: list[dict[str, Any]]) -> Any:
    outputs = [each["output"] for each in good]
    if config.reduce == "list":
        return all_
    if config.reduce == "first":
        return outputs[0]
    if config.reduce == "expression":
        return ctx.eval(config.expression, all_)
    if config.reduce == "vote":
        return _vote(outputs)
    merged: dict[str, Any] = {}
    for each in good:
        merged |= each["output"] if isinstance(each["output"], dict) else {each["engine"]: each["output"]}
    return merged


def _vote(outputs: Sequence[Any]) -> Any:
    """What more than half say. Raises ``NodeError`` if there is no such thing."""
    keys = [json.dumps(output, sort_keys=True, default=str) for output in outputs]
    best = max(keys, key=keys.count)
    if keys.count(best) * 2 <= len(keys):
        shown = ", ".join(f"{keys.count(key)} × {key[:80]}" for key in dict.fromkeys(keys))
        raise NodeError(f"there is no majority: {shown}", retryable=False, detail={"answers": list(outputs)})
    return outputs[keys.index(best)]
