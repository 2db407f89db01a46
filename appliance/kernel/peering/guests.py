"""Steps that this engine does for its peers: each is a run of a flow of one node, whose event's id is the request's id.

So the journal knows of every request whether it was heard of, is under way, or how it ended, over any crash of this
engine and for at least a day. The run is shown with all others, in the flow "Work for …" of the workspace that the
pairing names. A request's secrets are kept nowhere: where a crash took them, the peer is asked for them again before
the step begins.

Everything but the preparation (which reads and writes ``flowork.db``) runs on the engine's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.contracts import Busy, Event, FlowError, Node, NodeError, Park
from appliance.contracts.peers import PeerFailed, PeerRequest, Peers, PeerState
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.engine.trace import records_of
from appliance.kernel.peering import wire
from appliance.kernel.peering.guest import GuestContext
from appliance.kernel.runs import GUEST, LiveRun, key_of
from appliance.kernel.submission import AlreadyRan, Submission
from appliance.store.journal import RunRow, ended
from appliance.store.runids import from_text, to_text

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine

logger = logging.getLogger(__name__)

#: The flow (its number) and the version that a step of a peer runs as, in one workspace. Raises ``FlowError``.
Versions = Callable[[PeerState, str, dict[str, Any]], tuple[int, int]]


class Visit:
    """One step of a peer that is under way here."""

    __slots__ = ("asked", "ctx", "held", "peer", "request", "run")

    def __init__(self, peer: str) -> None:
        self.peer = peer
        #: All that was sent, secrets included; None after a crash.
        self.asked: wire.StepAsked | None = None
        #: Who waits for the answer at the moment.
        self.request: PeerRequest | None = None
        self.run: LiveRun | None = None
        self.ctx: GuestContext | None = None
        #: The step and the attempt that cannot begin before the peer has sent all of it again.
        self.held: tuple[int, int] | None = None


class Guests:
    """All steps of peers on this engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._visits: dict[str, Visit] = {}
        self._peers: Peers | None = None
        self._stops: list[Callable[[], None]] = []
        self.versions: Versions = _nowhere
        #: Hides further secrets from everything that is kept.
        self.hide: Callable[[Iterable[str]], None] = lambda values: None
        #: A run as the journal has it, for how it ended.
        self.restore: Callable[[RunRow, list[bytes]], LiveRun] | None = None
        self.kinds: Callable[[], Mapping[str, Node[Any]]] = dict

    def start(self, peers: Peers) -> None:
        """Let peers in."""
        self._peers = peers
        post = self._engine.post
        self._stops = [
            peers.serve("step", self._on_step, right="run"),
            peers.serve("step_wanted", lambda request: post(partial(self._on_wanted, request))),
        ]

    def stop(self) -> None:
        """Let nobody in any more. Twice is fine."""
        while self._stops:
            self._stops.pop()()

    # --- being asked: on the peers' thread, and on one that may block ----------------------------------

    def _on_step(self, request: PeerRequest) -> None:
        if (asked := wire.asked(request, wire.StepAsked, "this is no step")) is None:
            return
        if asked.ask:
            self._engine.post(partial(self._told, request, asked.id))
        else:
            self._engine.steps.io.call(partial(self._prepare, request, asked))

    def _prepare(self, request: PeerRequest, asked: wire.StepAsked) -> None:
        try:
            blobs = self._engine.services.blobs
            asked.payload = wire.whole(asked.payload, blobs)
            asked.names = wire.whole(asked.names, blobs)
            kind = self.kinds().get(str(asked.node.get("type")))
            if kind is None:
                raise NodeError(f"this engine has no node type {asked.node.get('type')!r}", retryable=False)
            if kind.has_body:
                # Its inner templates would be filled in here, with the secrets of this engine's workspace.
                raise NodeError(f"a {asked.node['type']!r} runs where its flow is", retryable=False)
            flow, version = self.versions(request.peer, asked.workspace, asked.node)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("a step of %s cannot begin", request.peer.name)
            request.error(exc)
            return
        self._engine.post(partial(self._begin, request, asked, flow, version))

    # --- beginning: on the engine's thread -------------------------------------------------------------

    def _begin(self, request: PeerRequest, asked: wire.StepAsked, flow: int, version: int) -> None:
        try:
            self._check_room()
            self.hide(asked.hide)
            visit = self._visits.setdefault(asked.id, Visit(request.peer.id))
            if visit.asked is None:
                visit.asked = asked
            self._attend(visit, request)
            self._engine.accept(self._submission(visit, request, asked, flow, version))
            if visit.run is None:
                found = self._engine.keeper.run_of_key(key_of(flow, GUEST, asked.id))
                visit.run = None if found is None else self._engine.runs.get(found)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("a step of %s cannot begin", request.peer.name)
            if asked.id in self._visits and self._visits[asked.id].run is None:
                del self._visits[asked.id]
            request.error(exc)
            return
        self._go_on(visit)

    def _check_room(self) -> None:
        engine = self._engine
        if engine.draining or engine.closed:
            raise Busy("the engine is stopping", retry_after=5.0)
        if engine.load() >= engine.queue_bound:
            raise Busy(f"more than {engine.queue_bound:,} runs are waiting for their turn", retry_after=2.0)

    def _submission(
        self, visit: Visit, request: PeerRequest, asked: wire.StepAsked, flow: int, version: int
    ) -> Submission:
        peer = request.peer
        meta: dict[str, Any] = {
            "peer": {"id": peer.id, "name": peer.name},
            "asked": {"flow": asked.flow, "run": asked.run, "node": asked.node.get("id"), "attempt": asked.attempt},
            "guest": {
                "key": asked.key,
                "sources": asked.sources,
                "event": asked.event,
                "config": asked.config,
                "names": asked.names,
                "whole": not (asked.hide or asked.secrets),
            },
        }
        sub = Submission(flow, GUEST, "peer", Event(payload=asked.payload, id=asked.id, unique=True, meta=meta))
        sub.version = version
        sub.prepare = partial(self._began, visit)
        sub.committed = lambda run: self._say(request, {"run": run})
        sub.ended = partial(self._ended, visit, asked.id, request)
        sub.refused = partial(self._refused, asked.id, request)
        return sub

    def _began(self, visit: Visit, run: LiveRun) -> None:
        visit.run = run

    def _attend(self, visit: Visit, request: PeerRequest) -> None:
        """Answers go to this request from now on; its end ends the work if that is what the peer wants."""
        visit.request = request
        request.on_end(lambda why: self._engine.post(partial(self._left, visit, request, why)))

    def _left(self, visit: Visit, request: PeerRequest, why: str) -> None:
        if why == "away" or visit.request is not request or visit.run is None:
            return
        reason = "it took too long there" if why == "late" else "nobody wants it any more"
        self._engine.cancel(visit.run, f"{request.peer.name}: {reason}")

    def _go_on(self, visit: Visit) -> None:
        """What was missing is there now."""
        held, visit.held = visit.held, None
        if held is None or visit.run is None or visit.run.ended:
            return
        index, attempt = held
        if visit.run.parked.pop(index, None) is not None:
            self._engine.steps.waits.settle_state(visit.run)
            self._engine.steps.here(visit.run, index, attempt)

    # --- running ---------------------------------------------------------------------------------------

    def context(self, run: LiveRun, index: int, attempt: int, payload: Any, deadline: float) -> GuestContext | None:
        """What the step receives; None if the peer has to send its secrets first, which the run then waits for."""
        view = run.event
        visit = self._visits.get(str(view.get("id")))
        if visit is None:
            # Taken up behind a crash (or replayed by a person).
            visit = self._visits[str(view.get("id"))] = Visit(str(view.get("peer", {}).get("id", "")))
            run.on_end.append(partial(self._forget, visit, str(view.get("id"))))
        visit.run = run
        kept = view.get("guest", {})
        if visit.asked is None and not kept.get("whole", True):
            visit.held = (index, attempt)
            self._engine.steps.waits.park(run, index, attempt, Park())
            return None
        ctx = GuestContext(self._engine.services, run, index, attempt, payload, deadline)
        ctx.be_guest(kept, visit.asked, partial(self._show, visit))
        visit.ctx = ctx
        return ctx

    def _show(self, visit: Visit, item: dict[str, Any]) -> None:
        """A piece of output to the peer, from any thread; one that it does not take now is left out."""
        if visit.request is not None:
            self._say(visit.request, item)

    def _say(self, request: PeerRequest, item: dict[str, Any]) -> None:
        try:
            request.item(item)
        except FlowError:
            logger.debug("%s does not take what is shown", request.peer.name)

    # --- how it stands, and how it ended ---------------------------------------------------------------

    def _told(self, request: PeerRequest, asked: str) -> None:
        """A peer asks again, over a new link mostly."""
        visit = self._visits.get(asked)
        run = visit.run if visit is not None else None
        if visit is not None and run is not None and not run.ended:
            if visit.held is not None:
                request.answer(msgspec.to_builtins(wire.Outcome(state=wire.AGAIN, run=run.text)))
                return
            self._attend(visit, request)
            run.on_end.append(partial(self._ended, visit, asked, request))
            self._say(request, {"run": run.text})
            return
        number = self._find(request.peer, asked)
        live = self._engine.runs.get(number) if number is not None else None
        if live is not None:
            # Taken up behind a crash, and its step is not at its turn yet.
            visit = self._visits.setdefault(asked, Visit(request.peer.id))
            visit.run = live
            self._attend(visit, request)
            live.on_end.append(partial(self._ended, visit, asked, request))
            return
        outcome = wire.Outcome(state=wire.UNKNOWN) if number is None else self._journaled(number)
        request.answer(msgspec.to_builtins(outcome))

    def _find(self, peer: PeerState, asked: str) -> int | None:
        """The run of a request, in whichever workspace it is: one that is under way, however old, or of these days."""
        for run in self._engine.runs.values():
            if run.trigger == GUEST and run.event.get("id") == asked and run.origin is None:
                return run.id
        for num in self._flows_here(peer):
            found = self._engine.keeper.run_of_key(key_of(num, GUEST, asked))
            if found is not None:
                return found
        return None

    #: The numbers of the flows that a peer's steps run in.
    flows_of: Callable[[PeerState], Iterable[int]] = staticmethod(lambda peer: ())

    def _flows_here(self, peer: PeerState) -> Iterable[int]:
        return self.flows_of(peer)

    def _refused(self, asked: str, request: PeerRequest, error: FlowError) -> None:
        self._visits.pop(asked, None)
        if isinstance(error, AlreadyRan):
            request.answer(msgspec.to_builtins(self._journaled(from_text(error.message))))
        else:
            request.error(error)

    def _ended(self, visit: Visit, asked: str, request: PeerRequest, run: LiveRun) -> None:
        self._forget(visit, asked, run)
        logs = visit.ctx.logs if visit.ctx is not None else []
        request.answer(msgspec.to_builtins(self._outcome(run, logs)))

    def _forget(self, visit: Visit, asked: str, run: LiveRun) -> None:
        if self._visits.get(asked) is visit:
            del self._visits[asked]

    def _journaled(self, number: int) -> wire.Outcome:
        """How a run ended that is not in memory any more."""
        found = self._engine.journal.load(number)
        if found is None or self.restore is None:
            return wire.Outcome(state=wire.GONE, run=to_text(number))
        row, chunks = found
        if not ended(row.state):
            return wire.Outcome(state=wire.GONE, run=to_text(number))
        try:
            run = self.restore(row, chunks)
        except Exception as exc:
            logger.warning("how the run %s of a peer ended cannot be read: %s", to_text(number), exc)
            return wire.Outcome(state=wire.GONE, run=to_text(number))
        logs: list[list[Any]] = []
        for record in records_of([row.steps, *chunks]):
            if record.kind in (trace.DONE, trace.SAME, trace.FAILED):
                logs = (record.extra or {}).get("logs", [])
        return self._outcome(run, logs)

    def _outcome(self, run: LiveRun, logs: list[list[Any]]) -> wire.Outcome:
        took = (run.finished or run.accepted) - run.accepted
        if run.state is RunState.SUCCEEDED:
            value = wire.light(run.walk.outputs.get(0), self._engine.services.blobs)
            return wire.Outcome(
                state=wire.DONE, port=run.walk.last_port, value=value, logs=logs, run=run.text, took=took
            )
        error = dict(run.error) if isinstance(run.error, Mapping) else {"id": "node-failed", "message": str(run.error)}
        state = wire.CANCELLED if run.state is RunState.CANCELLED else wire.FAILED
        return wire.Outcome(state=state, error=error, logs=logs, run=run.text, took=took)

    # --- what nobody wants any more --------------------------------------------------------------------

    def changed(self, state: PeerState) -> None:
        """A peer is back: what it gave up while it was away is not gone on with."""
        if not state.connected or self._peers is None:
            return
        ids = [
            str(run.event.get("id"))
            for run in self._engine.runs.values()
            if run.trigger == GUEST and run.event.get("peer", {}).get("id") == state.id and run.origin is None
        ]
        if ids:
            post = self._engine.post
            future = self._peers.request(state.id, "step_wanted", {"ids": ids[:10_000]}, 30.0)
            future.add_done_callback(lambda done: post(partial(self._give_up, state, done)))

    def _give_up(self, state: PeerState, done: Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            if isinstance(done.exception(), PeerFailed):
                logger.warning("%s does not say what it still wants: %s", state.name, done.exception())
            return
        answer = done.result()
        unwanted = set(answer.get("not", [])) if isinstance(answer, dict) else set()
        for run in list(self._engine.runs.values()):
            if run.trigger == GUEST and run.event.get("id") in unwanted and run.origin is None:
                self._engine.cancel(run, f"{state.name}: nobody wants it any more")

    def _on_wanted(self, request: PeerRequest) -> None:
        if (wanted := wire.asked(request, wire.Wanted)) is None:
            return
        request.answer({"not": self._engine.placement.unwanted(request.peer.id, wanted.ids)})


def _nowhere(peer: PeerState, workspace: str, node: dict[str, Any]) -> tuple[int, int]:
    raise NodeError("this engine takes no steps of others")
