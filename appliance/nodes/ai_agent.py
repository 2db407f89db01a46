"""A model that works on a task by choosing tools, one turn after another, until it has the answer.

Its tools are the first nodes of its `body` (each with all that is wired behind it) and flows, as `tools` names them,
and nothing else: the model answers under a schema made from exactly these, so it can name no other tool and give no
wrong argument, whatever a text talks it into. In a tool's nodes, `payload` holds the arguments. Every call is a run
of its own, to be seen and rewound; after a crash the work goes on behind the last call. A `dangerous` tool is only
used when a person has said yes to that very call (`flowork approvals`).

Leaves by `out` with `text` (the answer; `data` where `answer` is a schema), or by `limit` if turns, tokens, time or
money are used up, too much failed, or the model asked for the same again and again; `limit` says which. Both tell
the `calls` that were made, the `turns`, tokens, cost and seconds. Use a `subflow` or `llm` where no choice is needed.

    {"task": "{{ payload.text }}", "instructions": "You look after a greenhouse.",
     "tools": [{"node": "window", "about": "Opens or closes a window.", "dangerous": true,
                "arguments": {"number": {"type": "integer", "minimum": 1, "maximum": 4},
                              "open": {"type": "boolean"}}}],
     "body": {"nodes": [{"id": "window", "type": "mqtt_publish", "config":
              {"broker": "mqtt://localhost", "topic": "window/{{ payload.number }}",
               "payload": "{{ payload.open }}"}}]}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    Config,
    Context,
    Duration,
    Effect,
    Expression,
    FlowError,
    Graph,
    Node,
    NodeError,
    Out,
    Park,
    Problem,
    Spawn,
    Wake,
    World,
    seconds,
)
from appliance.nodes import _schemas
from appliance.nodes._answers import AnswerText
from appliance.nodes._prompts import Fitter, Message, as_text, prompt_room, shortened
from appliance.nodes._tools import Answer, Call, Tool, Wrong, read_reply, reply_schema, tool_faults
from appliance.nodes._turns import EARLIER, Spent, asked_again, refuse_anew, unusable

_MAX_ERROR = 600


class AiAgentConfig(Config, frozen=True):
    task: Annotated[str, Meta(title="Task", description="What it is to do", min_length=1)]
    tools: Annotated[list[Tool], Meta(title="Tools", description="All that it may use", min_length=1, max_length=64)]
    body: Annotated[Graph | None, Meta(title="Body", description="The nodes that are its tools")] = None
    instructions: Annotated[str, Meta(title="Instructions", description="Who it is, and what it has to mind")] = ""
    models: Annotated[list[str], Meta(title="Models", description="Tried in this order; empty: the default")] = []
    history: Annotated[
        Expression | None,
        Meta(title="History", description='Gives what was said before: `[{"role": "user", "content": "…"}]`'),
    ] = None
    answer: Annotated[
        dict[str, Any] | None, Meta(title="Answer", description="JSON Schema of the answer; text if left out")
    ] = None
    calls: Annotated[int, Meta(title="Calls a turn", description="Tools used at the same time", ge=1, le=8)] = 1
    turns: Annotated[int, Meta(title="Turns", description="How often the model is asked at most", ge=1, le=200)] = 12
    tokens: Annotated[int, Meta(title="Tokens", description="In and out, of all turns; 0: no limit", ge=0)] = 0
    time: Annotated[
        Duration, Meta(title="Time", description="For everything, except waiting for people; 0: no limit")
    ] = "15m"
    money: Annotated[float, Meta(title="Money", description="US dollars of all turns; 0: no limit", ge=0)] = 0.0
    repeats: Annotated[int, Meta(title="Repeats", description="How often the very same call is made", ge=1, le=50)] = 3
    failures: Annotated[
        int, Meta(title="Failures", description="Failed calls and unusable answers in a row", ge=1, le=50)
    ] = 4
    attempts: Annotated[int, Meta(title="Attempts", description="Tries of a turn that failed", ge=1, le=20)] = 4
    approval_timeout: Annotated[
        Duration | None, Meta(title="Approval timeout", description="Then a dangerous call counts as refused")
    ] = None
    max_tokens: Annotated[int, Meta(title="Longest answer", description="Tokens of one turn", ge=16, le=32768)] = 512
    prompt_tokens: Annotated[
        int, Meta(title="Longest prompt", description="Tokens; 0: what fits the model and this machine", ge=0)
    ] = 0
    result_chars: Annotated[
        int, Meta(title="Longest result", description="Characters of a tool's result that the model sees", ge=100)
    ] = 3000
    temperature: Annotated[float, Meta(title="Temperature", description="0: always the likeliest", ge=0, le=2)] = 0.0


class Talk(Struct):
    """Where the work stands; kept with every call. ``entries`` is what was said since the task.

    ``calls`` are those that were made, ``pending`` those of this turn. ``stage`` is what the step waits for.
    """

    started: float
    entries: list[Message] = []
    calls: list[dict[str, Any]] = []
    pending: list[Call] = []
    stage: str = ""
    since: float = 0.0
    waited: float = 0.0
    spent: Spent = msgspec.field(default_factory=Spent)
    failures: int = 0


class AiAgent(Node[AiAgentConfig]):
    Config = AiAgentConfig
    title = "AI agent"
    category = "ai"
    icon = "bot"
    #: Asking a model costs, and may cost money: what led there is on disk first, so that it is asked once.
    effect = Effect.IDEMPOTENT
    ports = ("out", "limit")
    has_body = True
    model_fields = {"models": "language"}

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        yield from tool_faults(config["tools"], config.get("body"), world)
        if isinstance(answer := config.get("answer"), dict):
            yield from (Problem(f"answer.{at}".rstrip("."), text) for at, text in _schemas.faults(answer))

    def schemas(self, config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        if config.get("answer"):
            yield "answer", config["answer"]
        for index, tool in enumerate(config.get("tools", ())):
            for name, schema in tool.get("arguments", {}).items():
                yield f"tools[{index}].arguments.{name}", schema

    async def run(self, ctx: Context, config: AiAgentConfig, payload: Any) -> Any:
        refuse_anew(ctx)
        for index, tool in enumerate(config.tools):
            if fault := next(_schemas.faults(tool.schema()), None):
                raise NodeError(f"tools[{index}]: {fault[0]}: {fault[1]}", retryable=False)
        return await self._turn(ctx, config, Talk(started=ctx.now()))

    async def resume(self, ctx: Context, config: AiAgentConfig, payload: Any, wake: Wake) -> Any:
        talk = msgspec.convert(wake.memo, Talk)
        stage, talk.stage = talk.stage, ""
        if stage == "approval":
            talk.waited += ctx.now() - talk.since
            self._decide(ctx, talk, wake)
            return await self._carry_out(ctx, config, talk)
        if stage == "calls":
            self._hear(ctx, config, talk, wake.value)
        return await self._turn(ctx, config, talk)

    # --- a turn of the model ---------------------------------------------------------------------------

    async def _turn(self, ctx: Context, config: AiAgentConfig, talk: Talk) -> Any:
        """Ask the model until it wants a tool or has the answer."""
        while not (limit := _used_up(config, talk, ctx.now())):
            try:
                request, tools, text = await self._request(ctx, config, talk)
                reply = await ctx.models.chat(request, text)
            except FlowError as exc:
                if found := unusable(exc):
                    self._reject(ctx, talk, *found)
                    continue
                talk.stage = "again"
                return asked_again(ctx, talk.spent, config.attempts, exc, lambda: msgspec.to_builtins(talk))
            try:
                said = _read(reply, tools, config)
            except Wrong as exc:
                self._reject(ctx, talk, reply, str(exc))
                continue
            talk.spent.add(reply)
            if isinstance(said, Answer):
                return Out(self._told(ctx, talk, said.value, config), "out")
            talk.pending = said
            if repeated := _repeated(config, talk):
                return self._stopped(ctx, talk, "loop", f"the same call of {repeated} was wanted again and again")
            talk.entries.append({"role": "assistant", "content": _as_called(said, config)})
            return await self._carry_out(ctx, config, talk)
        return self._stopped(ctx, talk, *limit)

    def _reject(self, ctx: Context, talk: Talk, reply: ChatReply, fault: str) -> None:
        """Tell the model that its answer is of no use, and why."""
        talk.spent.add(reply)
        talk.failures += 1
        talk.entries += [
            {"role": "assistant", "content": shortened(reply.text, _MAX_ERROR)},
            {"role": "user", "content": f"That was no answer: {fault}"},
        ]
        ctx.log(f"an answer is of no use: {fault}", "warning")
        ctx.stream(f"⚠ {fault}\n")

    async def _request(
        self, ctx: Context, config: AiAgentConfig, talk: Talk
    ) -> tuple[ChatRequest, list[Tool], Callable[[str], None]]:
        """The question of a turn, the tools that it offers, and who shows the answer as it comes."""
        room = await prompt_room(ctx.models, config.models, config.prompt_tokens, config.max_tokens)
        fitter = Fitter(ctx.models, config.models[0] if config.models else "", room)
        system, count = await fitter.standing(
            config.instructions, config.tools, config.calls, config.answer is not None
        )
        tools = config.tools[:count]
        messages = await fitter.messages(system, _history(ctx, config), config.task, talk.entries)
        for note in fitter.notes:
            ctx.log(note, "warning")
        left = _time_left(config, talk, ctx.now())
        request = ChatRequest(
            messages=messages,
            models=tuple(config.models),
            schema=reply_schema(tools, config.answer, config.calls),
            temperature=config.temperature,
            max_tokens=config.max_tokens,
            shared=1,
            timeout=max(1.0, min(left, EARLIER * ctx.deadline)),
        )
        answer = AnswerText()

        def show(piece: str) -> None:
            if config.answer is None and (text := answer.feed(piece)):
                ctx.stream(text)

        return request, tools, show

    # --- what it asked for -----------------------------------------------------------------------------

    async def _carry_out(self, ctx: Context, config: AiAgentConfig, talk: Talk) -> Any:
        """Ask a person where that is needed, then run the tools."""
        tools = {tool.called: tool for tool in config.tools}
        for call in talk.pending:
            if tools[call.tool].dangerous and not call.decided:
                return self._ask(ctx, config, talk, call)
            call.decided = True
        going = [call for call in talk.pending if not call.verdict]
        if not going:
            self._hear(ctx, config, talk, [])
            return await self._turn(ctx, config, talk)
        for call in going:
            ctx.stream(f"→ {call.tool} {shortened(as_text(call.arguments), 300)}\n")
        talk.stage = "calls"
        left = _time_left(config, talk, ctx.now())
        return Spawn(
            [call.arguments for call in going],
            concurrency=len(going),
            memo=msgspec.to_builtins(talk),
            targets=[tools[call.tool].target for call in going],
            until=ctx.now() + left if left < float("inf") else None,
        )

    def _ask(self, ctx: Context, config: AiAgentConfig, talk: Talk, call: Call) -> Park:
        limit = config.approval_timeout
        talk.stage, talk.since = "approval", ctx.now()
        about = next(tool.about for tool in config.tools if tool.called == call.tool)
        ask = {
            "title": f"May the AI agent use {call.tool}?",
            "text": f"{about}\n{shortened(json.dumps(call.arguments, ensure_ascii=False, indent=1), 3000)}",
            "choices": ["yes", "no"],
            "tool": call.tool,
            "arguments": call.arguments,
        }
        ctx.stream(f"? {call.tool} {shortened(as_text(call.arguments), 300)}: a person is asked\n")
        until = None if limit is None else ctx.now() + seconds(limit)
        return Park(until=until, ask=ask, memo=msgspec.to_builtins(talk))

    def _decide(self, ctx: Context, talk: Talk, wake: Wake) -> None:
        """A person's word on the first call that waits for one."""
        call = next(call for call in talk.pending if not call.decided)
        call.decided = True
        if wake.kind == "time":
            call.verdict = "nobody allowed it in time"
        else:
            word = wake.value if isinstance(wake.value, dict) else {}
            note = f": {word['note']}" if word.get("note") else ""
            if word.get("answer") != "yes":
                call.verdict = f"a person said no{note}"
            ctx.log(f"{word.get('by', 'somebody')} answered {word.get('answer')} to {call.tool}{note}")

    def _hear(self, ctx: Context, config: AiAgentConfig, talk: Talk, results: list[dict[str, Any]]) -> None:
        """Tell the model what came of its calls."""
        rest, told, failed = iter(results), [], False
        for call in talk.pending:
            refused: dict[str, Any] = {"ok": False, "error": {"message": call.verdict}}
            result = refused if call.verdict else next(rest)
            kept = {"tool": call.tool, "arguments": call.arguments, "ok": result["ok"]}
            if result["ok"]:
                text = shortened(as_text(result.get("output")), config.result_chars)
                told.append(f"Result of {call.tool}:\n{text}")
            else:
                error = shortened(str((result.get("error") or {}).get("message", "it failed")), _MAX_ERROR)
                what = "was not used" if call.verdict else "failed"
                told.append(f"{call.tool} {what}: {error}")
                kept["error"] = error
                failed = failed or not call.verdict
            talk.calls.append(kept | ({"run": result["run"]} if "run" in result else {}))
            ctx.stream(f"← {call.tool}: {'done' if result['ok'] else kept['error']}\n")
        talk.failures = talk.failures + 1 if failed else 0
        talk.entries.append({"role": "user", "content": "\n\n".join(told)})
        talk.pending = []

    # --- endings ---------------------------------------------------------------------------------------

    def _told(self, ctx: Context, talk: Talk, answer: Any, config: AiAgentConfig) -> dict[str, Any]:
        data = {} if config.answer is None else {"data": answer}
        return {"text": as_text(answer), **data, **_usage(talk, ctx.now())}

    def _stopped(self, ctx: Context, talk: Talk, limit: str, why: str) -> Out:
        ctx.log(f"stopped: {why}", "warning")
        ctx.stream(f"⚠ stopped: {why}\n")
        return Out({"text": f"I stopped before I was done: {why}.", "limit": limit, **_usage(talk, ctx.now())}, "limit")


def _read(reply: ChatReply, tools: list[Tool], config: AiAgentConfig) -> list[Call] | Answer:
    """A reply as calls or answer. Raises ``Wrong``."""
    if reply.finish == "length":
        raise Wrong(f"it was cut off at {config.max_tokens} tokens; be shorter")
    return read_reply(reply.data, tools, config.answer, config.calls)


def _as_called(calls: list[Call], config: AiAgentConfig) -> str:
    """What the model said, as it is told to it from then on."""
    said = [{"tool": call.tool, "arguments": call.arguments} for call in calls]
    return json.dumps({"calls": said} if config.calls > 1 else said[0], ensure_ascii=False)


def _usage(talk: Talk, now: float) -> dict[str, Any]:
    return {"calls": talk.calls, **talk.spent.view(), "seconds": round(now - talk.started, 3)}


def _time_left(config: AiAgentConfig, talk: Talk, now: float) -> float:
    limit = seconds(config.time)
    return limit - (now - talk.started - talk.waited) if limit else float("inf")


def _used_up(config: AiAgentConfig, talk: Talk, now: float) -> tuple[str, str] | None:
    """The limit that is reached, and how that is said."""
    spent = talk.spent
    used = spent.tokens_in + spent.tokens_out
    if spent.turns >= config.turns:
        return "turns", "its one turn is used" if config.turns == 1 else f"all {config.turns} turns are used"
    if config.tokens and used >= config.tokens:
        return "tokens", f"{used:,} of {config.tokens:,} tokens are used"
    if config.money and spent.cost >= config.money:
        return "money", f"${spent.cost:.4f} of ${config.money:g} are spent"
    if _time_left(config, talk, now) <= 0:
        return "time", f"the time of {seconds(config.time):g} s is over"
    if talk.failures >= config.failures:
        return "failures", "a turn failed" if talk.failures == 1 else f"{talk.failures} turns in a row failed"
    return None


def _repeated(config: AiAgentConfig, talk: Talk) -> str:
    """The tool that would be called with the same arguments once more than is allowed."""
    for call in talk.pending:
        same = [one for one in talk.calls if one["tool"] == call.tool and one["arguments"] == call.arguments]
        if len(same) >= config.repeats:
            return call.tool
    return ""


def _history(ctx: Context, config: AiAgentConfig) -> list[Message]:
    """What was said before, as far as it is in the form of messages."""
    given = ctx.eval(config.history) if config.history else None
    if given is None:
        return []
    if not isinstance(given, list):
        raise NodeError(f"`history` must give a list of messages, not {type(given).__name__}", retryable=False)
    fit = [one for one in given if isinstance(one, dict) and one.get("role") in {"user", "assistant"}]
    return [{"role": one["role"], "content": as_text(one.get("content", ""))} for one in fit]
