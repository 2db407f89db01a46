"""What peers ask of a cluster, at the kernel with the links: handed on to the homes of the flows that it is about.

- A step goes to the home of the flow in which that peer's steps run; where that kernel dies or hands the flow over, it
  goes to the next one, under its id, under which the journal knows whether it was heard of.
- Events go to the homes of all flows that listen, and are acknowledged once each of them has them on disk. What one of
  them had before it takes no second time.
- Whether a step is still wanted is said by the kernel that has its run; of one that nobody has just now it is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.contracts import Busy, FlowError
from appliance.contracts.peers import PeerRequest
from appliance.kernel.peering import wire
from appliance.kernel.peering.between import Asking, Between, KernelGone
from appliance.kernel.peering.events import Batch
from appliance.kernel.peering.guests import Guests
from appliance.kernel.submission import Elsewhere
from appliance.sharing.members import KERNEL, Member
from appliance.store.runids import from_text
from appliance.store.shards import StoreFailure

if TYPE_CHECKING:
    from appliance.kernel.core import Core
    from appliance.kernel.homes import Homes
    from appliance.sharing.cluster import Cluster

logger = logging.getLogger(__name__)

HANDED = "handed"
#: Seconds before a flow on its way is looked for again; for kernels to bring events to the disk, or to say something.
PAUSE, EVENTS, WANTED = 0.25, 30.0, 10.0
#: Requests that are looked up in the journal at most, to see whether their run is over.
_MOST = 100


class Incoming:
    """See above. In which flow a peer's steps run its guests say."""

    def __init__(self, kernel: Core, homes: Homes, cluster: Cluster, between: Between) -> None:
        self._kernel = kernel
        self._homes = homes
        self._cluster = cluster
        self.between = between
        self._listening: tuple[int, frozenset[int]] = (-1, frozenset())
        self._lock = threading.Lock()

    def routed(self) -> dict[str, Callable[[PeerRequest], None]]:
        """What is handed on, by method; all else is answered where the links are. On the peers' thread."""
        return {"step": self._on_step, "step_wanted": self._on_wanted, "event": self._on_event}

    @property
    def guests(self) -> Guests:
        return self._kernel.engine.guests

    def aside(self, request: PeerRequest, work: Callable[[], None]) -> None:
        """Do what may block."""

        def guarded() -> None:
            try:
                work()
            except Exception as exc:
                if not isinstance(exc, FlowError):
                    logger.exception("what %s has asked cannot be handed on", request.peer.name)
                request.error(exc)

        self._kernel.engine.steps.io.call(guarded)

    def kernels(self) -> dict[int, Member]:
        """Those that live and have come up, by number."""
        return {one.writer: one for one in self._cluster.around() if one.role == KERNEL and one.works}

    def hand(
        self, member: Member, method: str, request: PeerRequest, body: Any, flows: Sequence[int], timeout: float
    ) -> Asking:
        def item(value: Any) -> None:
            with suppress(FlowError):
                request.item(value)

        handed = {"peer": msgspec.to_builtins(request.peer), "method": method, "body": body, "flows": list(flows)}
        return self.between.ask(member.box, HANDED, handed, timeout, item)

    # --- steps -----------------------------------------------------------------------------------------

    def _on_step(self, request: PeerRequest) -> None:
        if (asked := wire.asked(request, wire.StepAsked, "this is no step")) is None:
            return
        passage = _Passage(self, request, asked)
        request.on_end(passage.end)
        self.aside(request, passage.go_on)

    def homes_of(self, flows: Iterable[int]) -> dict[int, list[int]]:
        """Flows by the number of the kernel that is their home; those that nobody had are at home here then."""
        found = self._cluster.members.homes()
        by_home: dict[int, list[int]] = {}
        for flow in flows:
            if flow not in found:
                with suppress(Elsewhere):
                    self._homes.require(flow)
                found = self._cluster.members.homes()
            by_home.setdefault(found.get(flow, -1), []).append(flow)
        return by_home

    def later(self, request: PeerRequest, work: Callable[[], None]) -> None:
        """Try again in a moment."""
        self._kernel.engine.timers.after(PAUSE, lambda: self.aside(request, work))

    # --- what is still wanted --------------------------------------------------------------------------

    def _on_wanted(self, request: PeerRequest) -> None:
        if (wanted := wire.asked(request, wire.Wanted)) is None:
            return
        self.aside(request, partial(self._ask_all, request, wanted.ids))

    def _ask_all(self, request: PeerRequest, ids: list[str]) -> None:
        asked = [
            self.hand(member, "step_wanted", request, {"ids": ids}, (), WANTED).future
            for member in self.kernels().values()
        ]

        def over(answers: list[Any]) -> None:
            said = {each for answer in answers if isinstance(answer, dict) for each in answer.get("not", ())}
            rest = [each for each in ids if each not in said][:_MOST]
            self._kernel.engine.post(lambda: request.answer({"not": [*said, *filter(self._is_over, rest)]}))

        _gather(asked, over)

    def _is_over(self, request: str) -> bool:
        """Whether the run that wanted this step has ended. Engine thread only."""
        try:
            found = self._kernel.journal.load(from_text(request[:13]))
        except (ValueError, StoreFailure):
            return False
        return found is not None and found[0].finished is not None

    # --- events ----------------------------------------------------------------------------------------

    def _on_event(self, request: PeerRequest) -> None:
        if (batch := wire.asked(request, Batch, "these are no events")) is None:
            return
        self.aside(request, lambda: self._to_all(request, batch))

    def _to_all(self, request: PeerRequest, batch: Batch) -> None:
        listening, kernels = self._listeners(), self.kernels()
        homes = self._cluster.members.homes()
        by_home: dict[int, list[int]] = {}
        for flow in listening:
            by_home.setdefault(homes.get(flow, -1), []).append(flow)
        asked = [
            self.hand(kernels[writer], "event", request, request.body, flows, EVENTS).future
            for writer, flows in by_home.items()
            if writer in kernels
        ]
        _gather(asked, partial(self._taken, request, batch, listening))

    def _taken(self, request: PeerRequest, batch: Batch, listening: frozenset[int], answers: list[Any]) -> None:
        """Every kernel has said how far it came."""
        told = [answer for answer in answers if isinstance(answer, dict)]
        here = {flow for answer in told for flow in answer["flows"]}
        runs = sum(answer["runs"] for answer in told)
        if len(told) < len(answers) or not listening <= here:
            # A flow is on its way from one kernel to the next, or waits for its machine: so does its event.
            request.answer({"upto": 0, "pause": 1.0, "runs": runs})
            return
        upto = min((answer["upto"] for answer in told), default=batch.events[-1].seq)
        request.answer({"upto": upto, "pause": max((answer["pause"] for answer in told), default=0.0), "runs": runs})

    def _listeners(self) -> frozenset[int]:
        """The flows that are live and have a trigger for events of peers."""
        store = self._kernel.store
        with self._lock:
            mark = store.changes().get("deployments", 0)
            if mark != self._listening[0]:
                found = frozenset(
                    flow.num for flow, version in store.flows.live() if flow.enabled and _listens(version.body)
                )
                self._listening = (mark, found)
            return self._listening[1]


class _Passage:
    """One step of a peer on its way to a home, and to the next one, until it is answered or nobody waits for it."""

    def __init__(self, incoming: Incoming, request: PeerRequest, asked: wire.StepAsked) -> None:
        self._incoming = incoming
        self._request = request
        self._asked = asked
        self._lock = threading.Lock()
        self._asking: Asking | None = None
        self._over = ""
        #: A home may have taken it, and is gone.
        self._taken = False
        #: The flows in which it never was, as their homes say.
        self._not_in: set[int] = set()

    def go_on(self) -> None:
        """Hand it to a home, or try again in a moment. May block."""
        incoming, request = self._incoming, self._request
        if self._over:
            return
        try:
            by_home = incoming.homes_of(self._flows())
            kernels = incoming.kernels()
        except FlowError as exc:
            if not exc.retryable:
                raise
            logger.warning("a step of %s waits: %s", request.peer.name, exc.message)
            incoming.later(request, self.go_on)
            return
        home, flows = next(iter(by_home.items()), (-1, []))
        if not flows:
            request.answer(msgspec.to_builtins(wire.Outcome(state=wire.UNKNOWN)))
        elif home not in kernels:
            incoming.later(request, self.go_on)
        else:
            self._ask(kernels[home], flows)

    def _flows(self) -> list[int]:
        asked, peer, guests = self._asked, self._request.peer, self._incoming.guests
        if asked.ask:
            return sorted(set(guests.flows_of(peer)) - self._not_in)
        return [guests.versions(peer, asked.workspace, asked.node)[0]]

    def _ask(self, member: Member, flows: list[int]) -> None:
        request = self._request
        left = max(0.1, request.until - time.monotonic())
        with self._lock:
            if self._over:
                return
            asking = self._incoming.hand(member, "step", request, request.body, flows, left)
            self._asking = asking
        asking.future.add_done_callback(partial(self._answered, flows))

    def _answered(self, flows: list[int], done: Future[Any]) -> None:
        if self._over or done.cancelled():
            return
        exc = done.exception()
        self._taken = self._taken or (isinstance(exc, KernelGone) and exc.sent)
        # One that was taken must not look as if nobody had it, or the peer would have it done elsewhere.
        if isinstance(exc, KernelGone | Elsewhere) or (self._taken and getattr(exc, "retryable", False)):
            self._incoming.later(self._request, self.go_on)
        elif exc is not None:
            self._request.error(exc)
        elif self._asked.ask and isinstance(answer := done.result(), dict) and answer.get("state") == wire.UNKNOWN:
            self._not_in.update(flows)
            self._incoming.aside(self._request, self.go_on)
        else:
            self._request.answer(done.result())

    def end(self, why: str) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._over, asking = why, self._asking
        if asking is not None:
            self._incoming.between.end(asking, why)


def _listens(body: dict[str, Any]) -> bool:
    triggers = body.get("triggers", [])
    return any(one.get("type") == "peer_event" and not one.get("disabled") for one in triggers)


def _gather(asked: list[Future[Any]], over: Callable[[list[Any]], None]) -> None:
    """Call back once with all answers; with what went wrong in the place of one that there is not."""
    left, lock = [len(asked)], threading.Lock()
    if not asked:
        over([])
        return

    def settled(done: Future[Any]) -> None:
        with lock:
            left[0] -= 1
            last = not left[0]
        if last:
            over([_answer(each) for each in asked])

    for each in asked:
        each.add_done_callback(settled)


def _answer(done: Future[Any]) -> Any:
    if done.cancelled():
        return Busy("it was cancelled")
    return done.exception() or done.result()
