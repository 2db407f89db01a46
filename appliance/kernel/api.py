"""What the kernel does for others over its socket: start, cancel, replay, answer, signal, tell its state, tell live."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.contracts import Event, FlowError
from appliance.engine.plan import plan_flow
from appliance.engine.states import Letter, RunState
from appliance.kernel.core import Core
from appliance.kernel.fleet_api import fleet_methods
from appliance.kernel.live import Live
from appliance.kernel.maintenance import Unknown
from appliance.kernel.model_api import ModelApi
from appliance.kernel.params import NotNow, arguments, run_number, text
from appliance.kernel.peering.api import PeeringApi
from appliance.kernel.peering.peering import Peering
from appliance.kernel.peers_api import peers_methods
from appliance.kernel.rehearsal import Asking, Rehearsal
from appliance.kernel.replay import Replay
from appliance.kernel.runs import LiveRun
from appliance.kernel.server import BadRequest, Handler, Params, Reply
from appliance.kernel.submission import AlreadyRan, Submission
from appliance.kernel.trial import Asked, Trial, trial_plan
from appliance.kernel.workshop import KernelWorkshop
from appliance.store.runids import from_text

logger = logging.getLogger(__name__)

#: Seconds that a caller may be kept waiting for a run's end.
LONGEST_WAIT = 3600.0
DECISIONS = ("retry", "skip", "fail")


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

    def __init__(self, kernel: Core, workshop: KernelWorkshop, peering: Peering) -> None:
        self._kernel = kernel
        self._workshop = workshop
        self._peering = peering
        self._engine = kernel.engine
        self.live = Live(self._engine.post, self._set_live)

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
            "live": self.live.subscribe,
            "sweep": self._sweep,
            "rest": self._rest,
            "backup": self._backup,
            **fleet_methods(self._kernel.fleet),
            **peers_methods(self._kernel.peers),
            **PeeringApi(self._peering).methods(),
            **ModelApi(self._kernel).methods(),
            **self._kernel.model_jobs.methods(),
            **self._kernel.memory.methods(self._engine.steps.io.spawn),
            "try": self._on_engine(self._try),
            "rehearse": self._on_engine(self._rehearse),
            "draft": self._workshop.draft,
            "analyse": self._workshop.words,
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
        self._kernel.open_to(asked.flow)
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

    def _rehearse(self, params: Params, reply: Reply) -> None:
        """A dry run of a flow that is not saved: answered with what each step does, or would do."""
        asked, registry = arguments(params, Asking), self._kernel.registry
        Rehearsal(self._engine, registry, plan_flow(asked.flow, registry), asked, reply.ok).begin()

    # --- runs under way ------------------------------------------------------------------------------

    def _run(self, params: Params) -> LiveRun:
        run = self._engine.runs.get(run_number(params))
        if run is None:
            if kept := self._engine.journal.load(run_number(params)):
                self._engine.require_home(kept[0].flow)
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
        self._engine.steps.waits.wake(run, index, "signal", "answer", value)
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
        if not self._set_letter(run_number(params), state, text(params, "by"), text(params, "reason", "")):
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
        self._engine.chronicle.live = self.live.tell if on else None


def result_view(run: LiveRun) -> dict[str, Any]:
    """A run that has ended, for who waited for it."""
    view: dict[str, Any] = {"run": run.text, "state": run.state.label}
    if run.state is RunState.SUCCEEDED:
        view["output"] = run.output()
    else:
        view["error"] = run.error
    return view
