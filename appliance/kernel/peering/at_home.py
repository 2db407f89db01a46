"""A kernel's part in the work with peers, in a cluster: only for the flows that are at home here.

The kernel with the links hands on what peers ask (:mod:`appliance.kernel.peering.incoming`); a flow that is at home
elsewhere by now is said to be, and is asked for again where it is. Nothing is said of a flow that is on its way.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.contracts import FlowError
from appliance.contracts.peers import PeerRequest, PeerState
from appliance.kernel.peering import wire
from appliance.kernel.peering.between import Asked
from appliance.kernel.peering.events import Batch, PeerEvents
from appliance.kernel.peering.guests import Guests
from appliance.kernel.peering.outbox import FRESH, Outbox, Waiting
from appliance.kernel.peering.placement import Placement
from appliance.kernel.state import GONE, OUTBOX
from appliance.sharing.peers import Numbered
from appliance.store.runids import from_text

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine
    from appliance.kernel.peered_engine import PeeredEngine
    from appliance.kernel.runs import LiveRun


class Handed:
    """Implements :class:`appliance.contracts.PeerRequest` for what the kernel with the links handed on; ``flows`` are
    the numbers of the flows that it is about.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self.peer: PeerState = msgspec.convert(asked.body["peer"], PeerState)
        self.method: str = asked.body["method"]
        self.body: Any = asked.body["body"]
        self.flows: list[int] = asked.body["flows"]

    @property
    def until(self) -> float:
        return self._asked.until

    def answer(self, value: Any = None) -> None:
        self._asked.answer(value)

    def error(self, exc: BaseException) -> None:
        self._asked.error(exc)

    def item(self, value: Any) -> None:
        self._asked.item(value)

    def on_end(self, callback: Callable[[str], None]) -> None:
        self._asked.on_end(callback)


class HomeGuests(Guests):
    """The steps of peers whose flows are at home here."""

    def _told(self, request: PeerRequest, asked: str) -> None:
        try:
            for flow in request.flows if isinstance(request, Handed) else ():
                self._engine.require_home(flow)
        except FlowError as exc:
            request.error(exc)
            return
        super()._told(request, asked)

    def _flows_here(self, peer: PeerState) -> Iterable[int]:
        return [flow for flow in super()._flows_here(peer) if self._at_home(flow)]

    def _at_home(self, flow: int) -> bool:
        try:
            self._engine.require_home(flow)
        except FlowError:
            return False
        return True

    def _on_wanted(self, request: PeerRequest) -> None:
        """Only what is certain: a run that is under way here, and has no step that wants it."""
        if (wanted := wire.asked(request, wire.Wanted)) is None:
            return
        unwanted = self._engine.placement.unwanted(request.peer.id, wanted.ids)
        request.answer({"not": [each for each in unwanted if _run_of(each) in self._engine.runs]})


def _run_of(request: str) -> int:
    """The run that a request of ours belongs to (see :meth:`appliance.kernel.peering.away.Away.assign`), or 0."""
    try:
        return from_text(request[:13])
    except ValueError:
        return 0


class HomePlacement(Placement):
    """The steps of the flows that are at home here."""

    def leave(self, run: LiveRun) -> None:
        """The run goes to another kernel, with its steps that are away: the peers go on with them."""
        for parked in run.parked.values():
            away, parked.away = parked.away, None
            if away is not None:
                away.future = None
                self.forget(away)


class HomeEvents(PeerEvents):
    """The triggers of the flows that are at home here. ``stays(flow)``: it is, and its triggers are attached."""

    def __init__(self, engine: Engine, stays: Callable[[Sequence[int]], set[int]]) -> None:
        super().__init__(engine)
        self._stays = stays

    def _take(self, request: PeerRequest, batch: Batch) -> None:
        flows = request.flows if isinstance(request, Handed) else []
        hand, engine = super()._take, self._engine

        def turn() -> None:
            # On the engine's thread, where no flow comes or goes meanwhile.
            before = self._stays(flows)
            told = _Told(request, lambda answer: {**answer, "flows": sorted(before & self._stays(flows))})
            engine.steps.io.call(partial(hand, told, batch))

        engine.post(turn)


class _Told:
    """A request whose answer says also for which flows it holds: those that were here before and behind it."""

    def __init__(self, request: PeerRequest, more: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._request = request
        self._more = more
        self.peer = request.peer
        self.body = request.body
        self.until = request.until
        self.error = request.error
        self.item = request.item
        self.on_end = request.on_end

    def answer(self, value: Any = None) -> None:
        self._request.answer(self._more(value))


class HomeOutbox(Outbox):
    """Events are kept with the step that sends them, at their flow's home; the kernel with the links numbers them.

    ``ring`` tells that kernel that there are some. ``holds``: this is it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.holds = False
        self.ring: Callable[[], None] = lambda: None
        self._life = secrets.token_hex(3)
        self._count_fresh = itertools.count(1)

    def put(self, run: LiveRun, events: Sequence[tuple[str, str, Any]]) -> None:
        services, changes = self._engine.services, dict[str, Any]()
        now = services.wall()
        for peer, topic, payload in events:
            key = f"{FRESH}{int(now * 1e6):017d} {self._life} {next(self._count_fresh):09d}"
            light = wire.light(payload, services.blobs)
            changes[key] = {"topic": topic, "payload": light, "at": now, "run": run.text, "peer": peer}
        self._engine.keeper.state_ops(run, changes, OUTBOX)
        self._engine.keeper.after_commit(partial(self._kept, list(changes)))

    def _kept(self, keys: list[str]) -> None:
        """They are on disk: whoever numbers them reads them there."""
        self._engine.services.states.know(OUTBOX, dict.fromkeys(keys, GONE))
        self.ring()

    def _number_fresh(self) -> None:
        """The database does, for all kernels."""

    def take_over(self, values: dict[str, Any]) -> None:
        """This kernel has the links from now on; ``values`` are what the database has. Engine thread only."""
        kept = {key: value for key, value in values.items() if not key.startswith(FRESH)}
        self._engine.services.states.replace(OUTBOX, kept)
        self._queues, self._bytes, self._count = None, 0, 0
        self.holds = True
        self._bound()
        self.send()

    def leave(self) -> None:
        """The links could not be taken."""
        self.holds = False

    def numbered(self, heads: dict[str, Any], events: list[Numbered]) -> None:
        """These have their numbers, and are on disk with them. Engine thread only."""
        self._all()
        self._engine.services.states.know(OUTBOX, {**heads, **{event.key: event.value for event in events}})
        for event in events:
            number = int(event.key.rpartition(" ")[2])
            size = len(msgspec.msgpack.encode(event.value))
            self._add(event.peer, Waiting(number, event.key, size, event.value["at"]))
        self._bound()
        self.send()

    def send(self) -> None:
        if self.holds:
            super().send()

    def changed(self, state: PeerState) -> None:
        if self.holds:
            super().changed(state)

    def view(self) -> dict[str, Any]:
        return super().view() if self.holds else {}


def make_home(engine: PeeredEngine, stays: Callable[[Sequence[int]], set[int]]) -> tuple[HomePlacement, HomeOutbox]:
    """Give an engine of a cluster these parts; to be called before it runs."""
    placement, outbox = HomePlacement(engine), HomeOutbox(engine)
    engine.placement, engine.outbox = placement, outbox
    engine.guests, engine.peer_events = HomeGuests(engine), HomeEvents(engine, stays)
    return placement, outbox
