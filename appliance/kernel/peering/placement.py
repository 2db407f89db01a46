"""Where a step runs: here, at a peer that has what it needs, or nowhere yet; and those that are away.

A step that is placed at a peer is a record in its run, on disk before the peer is asked, with the id of the request.
The peer has that id on its own disk before it begins. So whatever is cut off, the same id is asked for again, and says
whether the work was done: nothing is lost, and what must happen once happens once.

- A peer that never heard of it: the step is placed anew.
- A peer that went away in the middle: after a while of patience a ``pure`` or ``idempotent`` step is placed elsewhere,
  the latter under the same idempotency key. A ``once`` step stays with the peer that may have done it, until that peer
  is back or the step's time is over; then it is unverified, as after a crash.

Everything here runs on the engine's thread; what peers say is posted to it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from appliance.contracts import Busy, Effect, NodeError, TimedOut
from appliance.contracts.peers import PeerAway, PeerFailed, Peers, PeerState
from appliance.engine import trace
from appliance.engine.needs import ANY, ENGINE, Need
from appliance.engine.trace import Record
from appliance.kernel.flights import DEFAULT_TIMEOUT, Flight
from appliance.kernel.peering import wire
from appliance.kernel.peering.away import BOUND, CUT, WAITING, Away
from appliance.kernel.peering.choice import HERE, choose, why_nobody
from appliance.kernel.peering.requests import request_for
from appliance.kernel.runs import LiveRun, Parked

if TYPE_CHECKING:
    from appliance.engine.plan import PlannedNode
    from appliance.kernel.engine import Engine

logger = logging.getLogger(__name__)

#: Seconds that a peer which went away is waited for, before its work is given to another.
PATIENCE = 15.0
#: Seconds before a link that broke and is there again is asked anew, if nobody tells of it.
SOON = 0.25
#: Seconds for which a peer that is busy or refuses is passed over.
PASS_OVER = 10.0
#: Seconds for which a peer is sure to know what it was asked: it looks its requests up in the newest two days.
REMEMBERED = 23 * 3600.0


class Known(NamedTuple):
    """What is known at a moment: the engines, and the steps that each has of this one."""

    states: list[PeerState]
    mine: Counter[str]


class Placement:
    """All steps of this engine that are away, or wait for an engine that has what they need."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: The links to peers; None in a kernel that has none.
        self.peers: Peers | None = None
        self._away: dict[tuple[int, int], Away] = {}

    # --- beginning ---------------------------------------------------------------------------------

    def begin(self, run: LiveRun, index: int, attempt: int) -> bool:
        """Place a step that is ready. False: it is to run here."""
        node = run.node(index)
        needs = needs_in(run, node)
        pinned = [need for need in needs if need.kind == ENGINE]
        if not needs or (self.peers is None and not pinned):
            return False
        away = self._new(run, index, attempt, needs)
        if self.peers is None:
            message = f"it needs {pinned[0]}, and this kernel has no links to other engines"
            self._engine.steps.failed(away.flight, NodeError(message, retryable=False))
            return True
        found = self._choose(away, self._known())
        if found is HERE:
            return False
        try:
            away.render(self._engine.steps)
        except Exception as exc:
            self._engine.steps.failed(away.flight, exc)
            return True
        self._away[away.place] = away
        if isinstance(found, PeerState):
            away.assign(found)
        self._park(away)
        return True

    def _new(self, run: LiveRun, index: int, attempt: int, needs: Sequence[Need]) -> Away:
        limit = run.node(index).timeout
        now = self._engine.services.wall()
        flight = Flight(run, index, attempt, self._engine.keeper.since(run))
        flight.payload = run.walk.payload_of(index)
        return Away(flight, tuple(needs), now, now + (DEFAULT_TIMEOUT if limit is None else limit))

    def _known(self) -> Known:
        """The engines, and how many steps each of them has by now."""
        assert self.peers is not None
        mine = Counter(away.peer for away in self._away.values())
        return Known(self.peers.states(), mine)

    def _choose(self, away: Away, known: Known) -> PeerState | Any | None:
        """The engine to ask, ``HERE``, or None if there is none now."""
        now = self._engine.services.wall()
        passed_over = {peer for peer, until in away.passed_over.items() if until > now}
        return choose(known.states, away.needs, away.run.node(away.index).spec.type, known.mine, passed_over)

    def _park(self, away: Away) -> None:
        """Keep where the step is; a peer is asked once that is on disk."""
        run, index, keeper = away.run, away.index, self._engine.keeper
        extra: dict[str, Any] = {"until": away.until, "away": away.kept()}
        if away.flight.rendered:
            extra["config"] = away.flight.rendered
        parked = Record(trace.PARKED, index, away.attempt, keeper.since(run), 0, "", None, extra)
        self._engine.chronicle.record(run, parked)
        away.flight.rendered = None  # it is kept now, and need not be with the step's end again
        self._hold(away)
        if away.peer:
            keeper.after_commit(partial(self._send, away, away.number))

    def _hold(self, away: Away) -> None:
        """Park the step: it holds nothing but this record and a timer."""
        run, timers = away.run, self._engine.timers
        before = run.parked.get(away.index)
        if before is not None and before.token:
            timers.cancel(before.token)
        parked = run.parked[away.index] = Parked(away.index, away.attempt)
        parked.away, parked.until = away, away.until
        parked.token = timers.at(away.until, partial(self._due, away))
        self._engine.steps.waits.settle_state(run)

    def recover(self, run: LiveRun, index: int, attempt: int, extra: dict[str, Any]) -> None:
        """Take up a step that was away, or waited, when the process ended."""
        away = self._new(run, index, attempt, needs_in(run, run.node(index)))
        away.restore(extra)
        away.flight.ctx = self._engine.steps.context(run, index, attempt, away.flight.payload)
        self._away[away.place] = away
        self._hold(away)
        if away.peer:
            self._wait_for(away)

    # --- asking ------------------------------------------------------------------------------------

    def _send(self, away: Away, number: int) -> None:
        """Ask the peer for the step, with all that it needs."""
        if not self._current(away, number):
            return
        try:
            away.render(self._engine.steps)
            body = request_for(self._engine, away)
        except Exception as exc:
            self._over(away)
            self._engine.steps.failed(away.flight, exc)
            return
        self._request(away, body)

    def _ask_again(self, away: Away) -> None:
        away.number += 1
        self._request(away, {"id": away.request, "ask": True})

    def _request(self, away: Away, body: dict[str, Any]) -> None:
        assert self.peers is not None
        away.state, post, number = BOUND, self._engine.post, away.number
        left = max(1.0, away.until - self._engine.services.wall())
        try:
            future = self.peers.request(away.peer, "step", body, left, partial(self._item, away))
        except Exception as exc:
            future = Future()
            future.set_exception(exc)
        away.future = future
        future.add_done_callback(lambda done: post(lambda: self._answered(away, number, done)))

    # --- what comes back -----------------------------------------------------------------------------

    def _item(self, away: Away, item: Any) -> None:
        """From the peers' thread: the step has a run there, or shows something."""
        ctx = away.flight.ctx
        if not isinstance(item, dict) or ctx is None:
            return
        if isinstance(item.get("run"), str):
            away.there = item["run"]
        elif isinstance(item.get("text"), str):
            ctx.stream(item["text"])
        elif item.get("anew"):
            ctx.anew()

    def _answered(self, away: Away, number: int, done: Future[Any]) -> None:
        if not self._current(away, number) or done.cancelled():
            return
        away.future = None
        exc = done.exception()
        if exc is None:
            away.sent = True
            self._outcome(away, done.result())
        elif isinstance(exc, PeerAway):
            away.sent = away.sent or exc.sent
            self._wait_for(away)
        elif isinstance(exc, TimedOut):
            self._due(away)
        elif isinstance(exc, PeerFailed) and exc.error_id not in ("busy", "peer-not-allowed"):
            error = {"id": exc.error_id, "message": exc.message, "retryable": exc.retryable, "detail": exc.detail}
            self._over(away)
            self._engine.steps.failed(away.flight, wire.AtPeer(error, away.name))
        else:
            # It is busy, or does not let this engine in (any more): whatever it has not begun may go elsewhere.
            pause = exc.retry_after if isinstance(exc, Busy) else PASS_OVER
            away.passed_over[away.peer] = self._engine.services.wall() + pause
            if away.sent:
                self._engine.timers.after(pause, partial(self._try_again, away, away.number))
            else:
                self._elsewhere(away, "")
                self._engine.timers.after(pause + SOON, self.refresh)

    def _outcome(self, away: Away, raw: Any) -> None:
        steps, flight = self._engine.steps, away.flight
        try:
            found = msgspec.convert(raw, wire.Outcome)
            value = wire.whole(found.value, self._engine.services.blobs)
        except Exception as exc:
            self._over(away)
            steps.failed(flight, NodeError(f"{away.name} gave an answer that cannot be read: {exc}"))
            return
        if found.state == wire.AGAIN:
            away.number += 1
            self._send(away, away.number)
        elif found.state == wire.UNKNOWN and not (self._once(away) and self._old(away)):
            away.sent = False
            self._elsewhere(away, "")
        elif found.state in (wire.UNKNOWN, wire.GONE):
            if self._once(away):
                self._unverified(away)
            else:
                self._elsewhere(away, f"{away.name} does not know any more how it ended there")
        else:
            flight.where = {"engine": away.name, "id": away.peer, "run": found.run, "took": found.took}
            if flight.ctx is not None:
                flight.ctx.logs = found.logs
            if found.state == wire.DONE:
                self._over(away)
                steps.done(flight, found.port, value)
            elif found.error.get("id") == "unverified":
                self._unverified(away)
            else:
                self._over(away)
                steps.failed(flight, wire.AtPeer(found.error, away.name))

    # --- peers that come and go ------------------------------------------------------------------------

    def changed(self, state: PeerState) -> None:
        """A peer has come or gone, or offers something else."""
        if not state.connected:
            return
        self._place_waiting()
        for away in list(self._away.values()):
            if away.state == CUT and away.peer == state.id:
                self._ask_again(away)

    def refresh(self) -> None:
        """Look for all that wait."""
        if self.peers is None:
            return
        self._place_waiting()
        for away in list(self._away.values()):
            if away.state == CUT and self._is_there(away):
                self._ask_again(away)

    def _is_there(self, away: Away) -> bool:
        return self.peers is not None and any(one.id == away.peer and one.connected for one in self.peers.states())

    def _place_waiting(self) -> None:
        """Give the steps that wait to engines that have what they need now."""
        waiting = [away for away in self._away.values() if away.state == WAITING]
        known = self._known() if waiting else None
        for away in waiting:
            assert known is not None
            found = self._choose(away, known)
            if found is HERE:
                self._over(away)
                self._engine.steps.here(away.run, away.index, away.attempt)
            elif isinstance(found, PeerState):
                known.mine[found.id] += 1
                away.assign(found)
                self._park(away)

    def _wait_for(self, away: Away) -> None:
        """The link is gone: the peer may be back in a moment."""
        if not away.sent and away.future is None and away.state == BOUND:
            self._elsewhere(away, "")
            return
        away.state = CUT
        timers, number = self._engine.timers, away.number
        timers.after(SOON, partial(self._try_again, away, number))
        if not self._once(away):
            timers.after(PATIENCE, partial(self._lost, away, number))

    def _try_again(self, away: Away, number: int) -> None:
        if self._current(away, number) and self._is_there(away):
            self._ask_again(away)

    def _lost(self, away: Away, number: int) -> None:
        """Patience is over. Doing it again does no harm, so another engine may."""
        if self._current(away, number) and away.state == CUT:
            self._elsewhere(away, f"{away.name} went away in the middle of it")

    def _elsewhere(self, away: Away, why: str) -> None:
        """Place it anew. With a reason, what came before counts as an attempt that failed, and is shown as one."""
        steps, run = self._engine.steps, away.run
        if why:
            logger.warning("step %s of run %s: %s", run.node(away.index).id, run.text, why)
            error = {"id": "peer-away", "message": why, "node": run.node(away.index).id}
            now = self._engine.services.wall()
            at = self._engine.keeper.since(run)
            again = Record(trace.RETRY, away.index, away.attempt, at, 0, "", error, {"again": now})
            self._engine.chronicle.record(run, again)
        away.drop()
        found = self._choose(away, self._known())
        if found is HERE:
            self._over(away)
            steps.here(run, away.index, away.attempt)
            return
        if isinstance(found, PeerState):
            away.assign(found)
        self._park(away)

    # --- ending ------------------------------------------------------------------------------------

    def _due(self, away: Away) -> None:
        """Its time is over, wherever it is."""
        if not self._current(away, away.number):
            return
        seconds = away.until - away.since
        if away.state == WAITING:
            states = self.peers.states() if self.peers is not None else []
            reason = why_nobody(states, away.needs, away.run.node(away.index).spec.type)
            error: Exception = TimedOut(f"no engine could run it within {seconds:g} s: {reason}")
        elif self._once(away) and away.state == CUT and away.sent:
            self._unverified(away)
            return
        else:
            error = TimedOut(f"the step took longer than {seconds:g} s at {away.name} and was ended")
        self._over(away)
        self._engine.steps.failed(away.flight, error)

    def _unverified(self, away: Away) -> None:
        """The peer may have done it, and cannot tell."""
        self._over(away)
        self._engine.steps.unverified(away.run, away.index, away.attempt)

    def _over(self, away: Away) -> None:
        """It is away no more."""
        self.forget(away)
        parked = away.run.parked.get(away.index)
        if parked is not None and parked.away is away:
            if parked.token:
                self._engine.timers.cancel(parked.token)
            del away.run.parked[away.index]
            self._engine.steps.waits.settle_state(away.run)

    def forget(self, away: Away) -> None:
        """Nobody wants it any more: the peer is told to end it."""
        self._away.pop(away.place, None)
        away.number += 1
        future, away.future = away.future, None
        if future is not None:
            future.cancel()

    # --- asked by others ---------------------------------------------------------------------------

    def unwanted(self, peer: str, ids: Sequence[str]) -> list[str]:
        """Those of a peer's requests that this engine wants no more."""
        wanted = {away.request for away in self._away.values() if away.peer == peer}
        return [each for each in ids if each not in wanted]

    def views(self) -> list[dict[str, Any]]:
        """Every step that is away or waits, for the panel."""
        return [away.view() for away in self._away.values()]

    def _current(self, away: Away, number: int) -> bool:
        return self._away.get(away.place) is away and away.number == number and not away.run.ended

    def _once(self, away: Away) -> bool:
        return away.run.node(away.index).effect is Effect.ONCE

    def _old(self, away: Away) -> bool:
        return self._engine.services.wall() - away.since > REMEMBERED


def needs_in(run: LiveRun, node: PlannedNode) -> tuple[Need, ...]:
    """What a step needs: what its node says, and the engine that its branch of a ``fan_out`` belongs to.

    In such a branch what takes microseconds and touches nothing (conditions, delays, lists) is not sent about.
    """
    chosen = run.event.get("on") if run.parent is not None else None
    if not isinstance(chosen, str) or (node.kind.inline and node.kind.category not in ("devices", "network")):
        return node.needs
    return (Need(ENGINE, chosen), *(need for need in node.needs if need.kind != ANY))
