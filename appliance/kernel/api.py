"""What the kernel does for others over its socket: start, cancel, replay, answer, signal, tell its state, tell live."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Event, FlowError
from appliance.engine import trace
from appliance.engine.runner import recover
from appliance.engine.states import Letter, RunState
from appliance.engine.trace import Record, records_of
from appliance.kernel.context import judge_for
from appliance.kernel.fleet_api import fleet_methods
from appliance.kernel.maintenance import Unknown
from appliance.kernel.runs import FlowSlot, LiveRun
from appliance.kernel.server import BadRequest, Caller, Handler, Params, Reply
from appliance.kernel.submission import AlreadyRan, Submission
from appliance.kernel.trial import Asked, Trial, trial_plan
from appliance.store.runids import from_text, to_text

if TYPE_CHECKING:
    from appliance.kernel.kernel import Kernel

logger = logging.getLogger(__name__)

KEPT_LIVE = 4096
#: Seconds for which live events are still made when nobody watches any more.
LINGER = 120.0
#: Seconds that a caller may be kept waiting for a run's end.
LONGEST_WAIT = 3600.0
DECISIONS = ("retry", "skip", "fail")
T = TypeVar("T", bound=Struct)


class NotNow(FlowError):
    """The run or step is not in a state in which that can be done."""

    id = "conflict"
    retryable = False


class Start(Struct, kw_only=True):
    """The parameters of ``submit``; ``wait`` in seconds, ``time`` in Unix seconds."""

    flow: Annotated[int, Meta(ge=0, lt=1 << 62)]
    trigger: str
    kind: str
    payload: Any = None
    id: str = ""
    meta: dict[str, Any] | None = None
    time: float | None = None
    unique: bool = False
    starts_run: bool = True
    version: Annotated[int, Meta(ge=0, lt=1 << 62)] | None = None
    wait: float | None = None


class Api:
    """The kernel's methods by name. Handlers are called on the socket's thread and answer from the engine's."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._engine = kernel.engine
        self._live = Live(self._engine.post, self._set_live)

    def methods(self) -> dict[str, Handler]:
        return {
            "ping": lambda params, reply: reply.ok("pong"),
            "submit": self.submit,
            "cancel": self._on_engine(self._cancel),
            "answer": self._on_engine(self._answer),
            "decide": self._on_engine(self._decide),
            "replay": self._on_engine(self._replay),
            "signal": self._on_engine(self._signal),
            "letter": self._on_engine(self._letter),
            "waiting": self._on_engine(self._waiting),
            "reload": self._reload,
            "status": self._status,
            "live": self._live.subscribe,
            "sweep": self._sweep,
            "rest": self._rest,
            "backup": self._backup,
            **fleet_methods(self._kernel.fleet),
            "try": self._on_engine(self._try),
        }

    def _on_engine(self, work: Callable[[Params, Reply], None]) -> Handler:
        """Do it on the engine's thread, where nothing moves meanwhile."""

        def handler(params: Params, reply: Reply) -> None:
            def turn() -> None:
                try:
                    work(params, reply)
                except Exception as exc:
                    if not isinstance(exc, FlowError):
                        logger.exception("a call to the kernel failed")
                    reply.error(exc)

            self._engine.post(turn)

        return handler

    # --- starting ------------------------------------------------------------------------------------

    def submit(self, params: Params, reply: Reply) -> None:
        """Start a run: answered once it is on disk, or with ``wait`` seconds once it has ended."""
        asked = arguments(params, Start)
        event = Event(payload=asked.payload, id=asked.id, meta=asked.meta or {}, time=asked.time, unique=asked.unique)
        submission = Submission(asked.flow, asked.trigger, asked.kind, event)
        submission.starts_run = asked.starts_run
        submission.version = asked.version
        submission.refused = lambda error: self._refused(error, reply)
        if asked.wait and asked.wait > 0:
            wait, timer = min(asked.wait, LONGEST_WAIT), [0]
            submission.ended = lambda run: self._ended(run, timer, reply)
            submission.committed = lambda run: self._limit(run, wait, timer, reply)
        else:
            submission.committed = lambda run: reply.ok({"run": run})
        self._engine.submit([submission])

    def _refused(self, error: FlowError, reply: Reply) -> None:
        if isinstance(error, AlreadyRan):
            reply.ok({"run": error.message, "repeated": True})
        else:
            reply.error(error)

    def _limit(self, run: str, wait: float, timer: list[int], reply: Reply) -> None:
        """The caller waits no longer than this; the run goes on."""
        if not run:
            reply.ok({"run": ""})
        elif from_text(run) in self._engine.runs:
            answer = {"run": run, "state": "running", "timeout": True}
            timer[0] = self._engine.timers.after(wait, lambda: reply.ok(answer))

    def _ended(self, run: LiveRun, timer: list[int], reply: Reply) -> None:
        if timer[0]:
            self._engine.timers.cancel(timer[0])
        reply.ok(result_view(run))

    def _replay(self, params: Params, reply: Reply) -> None:
        """Run again from a step: what led there is taken over, ``payload`` (if given) replaces what came in."""
        replayed = Replay(self._kernel, params)
        submission = replayed.submission()
        submission.committed = lambda run: reply.ok({"run": run})
        submission.refused = reply.error
        self._engine.accept(submission)
        if replayed.letter:
            # Behind the commit of the new run: a crash in between must not take both away.
            self._engine.keeper.after_commit(
                lambda: self._set_letter(replayed.origin, Letter.REPLAYED, text(params, "by", ""), "")
            )

    def _set_letter(self, run: int, letter: Letter, who: str, reason: str) -> bool:
        clean, at = self._engine.keeper.clean, int(self._engine.services.wall() * 1e6)
        return self._engine.journal.set_letter(run, letter, clean(who), clean(reason), at)

    def _try(self, params: Params, reply: Reply) -> None:
        """One node with data that a person chose: answered with what it gives, and nothing of it kept."""
        asked = arguments(params, Asked)
        slot = self._engine.slot(asked.flow)
        if slot is None:
            raise Unknown("there is no such flow")
        Trial(self._engine, asked, reply.ok).begin(slot, trial_plan(asked.node, self._kernel.registry))

    # --- runs under way ------------------------------------------------------------------------------

    def _run(self, params: Params) -> LiveRun:
        run = self._engine.runs.get(_number(params))
        if run is None:
            raise NotNow("the run is not under way (any more)")
        return run

    def _cancel(self, params: Params, reply: Reply) -> None:
        self._engine.cancel(self._run(params), f"cancelled by {text(params, 'by', 'somebody')}")
        self._engine.keeper.after_commit(reply.ok)

    def _step(self, params: Params) -> tuple[LiveRun, int]:
        run, name = self._run(params), text(params, "node")
        node = run.plan.by_id.get(name)
        if node is None or node.index not in run.parked:
            raise NotNow(f"step {name!r} does not wait")
        return run, node.index

    def _answer(self, params: Params, reply: Reply) -> None:
        """A person's answer to an approval."""
        run, index = self._step(params)
        parked = run.parked[index]
        if parked.ask is None or parked.unverified:
            raise NotNow(f"step {params['node']!r} asks nothing")
        choices = parked.ask.get("choices", [])
        answer = text(params, "answer")
        if answer not in choices:
            raise NotNow(f"the answer must be one of {', '.join(choices)}")
        value = {"answer": answer, "by": text(params, "by", ""), "note": text(params, "note", "")}
        self._engine.steps.wake(run, index, "signal", "answer", value)
        self._engine.keeper.after_commit(reply.ok)

    def _decide(self, params: Params, reply: Reply) -> None:
        """A person's word on an unverified step."""
        run, index = self._step(params)
        if not run.parked[index].unverified:
            raise NotNow(f"step {params['node']!r} is not unverified")
        decision = text(params, "decision")
        if decision not in DECISIONS:
            raise BadRequest(f"the decision must be one of {', '.join(DECISIONS)}")
        self._engine.steps.decide(run, index, decision, text(params, "by", ""))
        self._engine.keeper.after_commit(reply.ok)

    def _waiting(self, params: Params, reply: Reply) -> None:
        """All questions that stand: approvals and unverified steps."""
        asks = [
            {
                "run": run.text,
                "flow": run.flow.id,
                "workspace": run.flow.workspace,
                "node": run.node(index).id,
                "name": run.node(index).spec.name or run.node(index).id,
                "kind": "unverified" if parked.unverified else "approval",
                "ask": parked.ask,
                "until": parked.until,
                "payload": run.walk.payload_of(index),
            }
            for run in self._engine.runs.values()
            for index, parked in run.parked.items()
            if parked.ask is not None
        ]
        reply.ok(asks)

    def _signal(self, params: Params, reply: Reply) -> None:
        """A named event for steps that wait for it, in one flow or in all of a workspace."""
        woken, name, workspace = 0, text(params, "name"), text(params, "workspace")
        for slot in list(self._engine.flows.values()):
            if slot.workspace == workspace and params.get("flow") in (None, "", slot.id):
                value = {"payload": params.get("payload"), "meta": params.get("meta") or {}}
                woken += self._engine.signal(slot, f"event:{name}", value)
        self._engine.keeper.after_commit(lambda: reply.ok({"woken": woken}))

    def _letter(self, params: Params, reply: Reply) -> None:
        self._engine.commit()
        try:
            state = Letter(params["letter"])
        except ValueError:
            raise BadRequest("the parameter 'letter' must be 0 to 3") from None
        if not self._set_letter(_number(params), state, text(params, "by"), text(params, "reason", "")):
            raise Unknown("there is no such run")
        reply.ok()

    # --- the kernel itself ---------------------------------------------------------------------------

    def _reload(self, params: Params, reply: Reply) -> None:
        self._kernel.reload(reply.ok, reply.error)

    def _status(self, params: Params, reply: Reply) -> None:
        reply.ok(self._kernel.status())

    def _rest(self, params: Params, reply: Reply) -> None:
        """Safe mode was turned on: whoever runs this kernel stops it, if it can."""
        self._kernel.on_rest()
        reply.ok()

    def _backup(self, params: Params, reply: Reply) -> None:
        self._kernel.backups.begin()
        reply.ok()

    def _sweep(self, params: Params, reply: Reply) -> None:
        self._kernel.maintenance.nudge_sweep()
        reply.ok()

    def _set_live(self, on: bool) -> None:
        self._engine.live = self._live.tell if on else None

    def tell(self, item: dict[str, Any]) -> None:
        """Something to those who watch live that is not a run (health, triggers)."""
        if self._engine.live is not None:
            self._engine.live(item)


class Live:
    """Live events: numbered, the newest kept, so that a watcher who was cut off goes on where it stopped."""

    def __init__(self, post: Callable[[Callable[[], None]], None], switch: Callable[[bool], None]) -> None:
        self._post = post
        self._switch = switch
        self._watchers: dict[Caller, Reply] = {}
        self._kept: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT_LIVE)
        self._number = 0
        self._alone_since = 0.0

    def subscribe(self, params: Params, reply: Reply) -> None:
        """Items ``{"id", …}`` from behind ``after`` on; ``{"type": "reset"}`` first if those are gone."""
        after = params.get("after")
        if after is not None and not isinstance(after, int):
            raise BadRequest("the parameter 'after' must be a number")
        self._post(lambda: self._begin(after, reply))
        reply.caller.on_close.append(lambda: self._post(lambda: self._end(reply.caller)))

    def _begin(self, after: int | None, reply: Reply) -> None:
        oldest = self._kept[0][0] if self._kept else self._number + 1
        if after is not None and (after > self._number or after < oldest - 1):
            reply.item({"type": "reset", "id": self._number})
        elif after is not None:
            for number, item in self._kept:
                if number > after:
                    reply.item(item)
        else:
            reply.item({"type": "hello", "id": self._number})
        self._watchers[reply.caller] = reply
        self._switch(True)

    def _end(self, caller: Caller) -> None:
        self._watchers.pop(caller, None)
        self._alone_since = time.monotonic()

    def tell(self, item: dict[str, Any]) -> None:
        """Number an item, keep it, send it. Goes on for a while without watchers, for those who were cut off."""
        self._number += 1
        if not self._watchers and time.monotonic() - self._alone_since > LINGER:
            # Whoever comes back after this finds its number too old, and begins anew.
            self._kept.clear()
            self._switch(False)
            return
        item["id"] = self._number
        self._kept.append((self._number, item))
        for reply in list(self._watchers.values()):
            reply.item(item)


class Replay:
    """A new run that takes over what another did before a step."""

    def __init__(self, kernel: Kernel, params: Params) -> None:
        self._kernel = kernel
        self._engine = kernel.engine
        self._params = params
        self.origin = _number(params)
        if self.origin in self._engine.runs:
            self._engine.commit()
        loaded = self._engine.journal.load(self.origin)
        if loaded is None:
            raise Unknown("there is no such run")
        self._row, chunks = loaded
        self.letter = self._row.letter == Letter.OPEN
        row = self._row
        self._event_id, self._view, payload, self._item = trace.unpack_event(row.event, row.trigger, row.accepted)
        self._payload = self._engine.keeper.unpack(payload)
        self._records = [kernel.recovery.whole(record) for record in records_of([self._row.steps, *chunks])]

    def submission(self) -> Submission:
        """Ready to be accepted. Raises ``Unknown`` for a step that the flow does not have."""
        flow = self._engine.slot(self._row.flow)
        if flow is None:
            raise Unknown("the flow of this run does not exist any more")
        live = self._params.get("version") == "live"
        version = flow.live if live else self._row.version
        if version is None:
            raise NotNow(f"flow {flow.id!r} is not deployed")
        plan = self._engine.plan(version)
        if self._row.place not in plan.graphs:
            raise Unknown("the live version has no such part any more")
        original = self._view.get("replay_payload", self._payload)
        meta = {key: value for key, value in self._view.items() if key not in _OWN}
        meta["replay_of"] = to_text(self.origin)
        start = text(self._params, "from", "")
        given = "payload" in self._params
        payload = self._params["payload"] if given else (self._input_of(start) if start else original)
        if start:
            meta |= {"replay_from": start, "replay_payload": original}
        submission = Submission(flow.num, self._row.trigger, "replay", Event(payload=payload, meta=meta))
        submission.version, submission.place, submission.origin = version, self._row.place, self.origin
        submission.bypass_mode = True
        if start:
            if start not in plan.graphs[self._row.place].by_id:
                raise Unknown(f"there is no step {start!r} in this version")
            submission.prepare = lambda run: self._prepare(run, start, original)
        return submission

    def _original(self) -> LiveRun:
        """The original run's state, folded from its journal."""
        flow = self._engine.slot(self._row.flow) or FlowSlot(self._row.flow, "", "", "", None)
        plan = self._engine.plan(self._row.version)
        run = LiveRun(self._row.id, flow, self._row.version, plan, self._row.place)
        run.event, run.origin = self._view, self._row.origin
        run.walk.payload = self._payload
        self._kernel.recovery.overrides(run, self._view)
        recover(run.walk, self._records, judge_for(self._engine.services, run, 0))
        return run

    def _input_of(self, start: str) -> Any:
        run = self._original()
        node = run.plan.by_id.get(start)
        if node is None:
            raise Unknown(f"there is no step {start!r} in that run's version")
        return run.walk.payload_of(node.index)

    def _prepare(self, run: LiveRun, start: str, original: Any) -> None:
        node = run.plan.by_id[start]
        old = self._original()
        same = run.version == self._row.version
        settled: dict[int, Record] = {}
        for record in self._records:
            if record.kind not in {trace.DONE, trace.SAME, trace.SEEDED}:
                continue
            now = run.plan.by_id.get(old.node(record.node).id)
            if now is not None:
                extra = {"fired": record.extra["fired"]} if same and record.extra and "fired" in record.extra else None
                value = old.walk.outputs.get(record.node)
                settled[now.index] = Record(trace.SEEDED, now.index, record.attempt, 0, 0, record.port, value, extra)
        run.walk.overrides[node.index] = run.walk.payload
        run.walk.payload = original
        run.seeds = run.walk.kept_before(settled, node.index)


_OWN = {"id", "time", "type", "trigger", "replay_of", "replay_from", "replay_payload"}


def arguments(params: Params, form: type[T]) -> T:
    """The parameters of a call, checked. Raises ``BadRequest``."""
    try:
        return msgspec.convert(params, form)
    except msgspec.ValidationError as exc:
        raise BadRequest(str(exc)) from None


def text(params: Params, name: str, default: str | None = None) -> str:
    """A parameter that is text. Raises ``BadRequest``."""
    value = params[name] if default is None else params.get(name) or default
    if not isinstance(value, str):
        raise BadRequest(f"the parameter {name!r} must be text")
    return value


def _number(params: Params) -> int:
    try:
        return from_text(text(params, "run"))
    except ValueError as exc:
        raise Unknown(str(exc)) from None


def result_view(run: LiveRun) -> dict[str, Any]:
    """A run that has ended, for who waited for it."""
    view: dict[str, Any] = {"run": run.text, "state": run.state.label}
    if run.state is RunState.SUCCEEDED:
        view["output"] = run.output()
    else:
        view["error"] = run.error
    return view
