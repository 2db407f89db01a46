"""The peers of a cluster: one kernel has the links, all others ask through it. Each of them sees the same.

Which kernel it is says the database (:mod:`appliance.sharing.peers`); it stays that while it lives, and the leading one
takes the links when it does not. To the peers it is one engine at another address. Why: ``docs/decisions/peers.md``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.contracts.peers import PeerAway, PeerOffers, PeerRequest, PeerRight, PeerState
from appliance.fleet.peers.book import Known
from appliance.fleet.peers.peers import EnginePeers
from appliance.kernel.params import NotNow
from appliance.kernel.peering.at_home import Handed, make_home
from appliance.kernel.peering.between import Asked, Between
from appliance.kernel.peering.incoming import HANDED, Incoming
from appliance.kernel.peering.numbering import Numbering
from appliance.kernel.peering.shared_book import SharedBook, cluster_mark
from appliance.kernel.peers_making import make_peers, offers
from appliance.kernel.submission import Elsewhere
from appliance.security.keys import read_engine
from appliance.sharing.cluster import Cluster
from appliance.sharing.members import KERNEL, Member
from appliance.sharing.peers import PeerStore

if TYPE_CHECKING:
    from appliance.fleet.peers.beacon import Beacon
    from appliance.kernel.core import Core
    from appliance.kernel.homes import Homes

logger = logging.getLogger(__name__)

#: Seconds between two tellings of all peers to the other kernels, between two looks at what this one has, and before
#: links that could not be taken are tried again.
TELL, OFFERS, AGAIN = 5.0, 10.0, 5.0
ASK, RING, STATE, STATES, HELLO = "ask", "ring", "state", "states", "hello"
NOBODY = "no kernel of this cluster has the links to other engines just now; one takes them within seconds"


class ClusterPeers:
    """Implements :class:`appliance.contracts.Peers`. ``start``, ``freeze`` and ``stop`` as of one engine's peers."""

    def __init__(self, kernel: Core, homes: Homes, cluster: Cluster, beacon: Beacon) -> None:
        self._kernel = kernel
        self._cluster = cluster
        self._beacon = beacon
        self._homes = homes
        self.store = PeerStore(cluster.members)
        self._book = SharedBook(kernel.data, self.store, cluster.cipher)
        self.between = Between(cluster.send, cluster.box)
        self.incoming = Incoming(kernel, homes, cluster, self.between)
        self._placement, self._outbox = make_home(kernel.engine, self._staying)
        self._outbox.ring = self._ring
        self.numbering = Numbering(kernel.engine, self.store, cluster, self._outbox)
        #: The links, if they are here.
        self.inner: EnginePeers | None = None
        self._served: dict[str, tuple[Callable[[PeerRequest], None], PeerRight | None]] = {}
        self._listeners: list[Callable[[PeerState], None]] = []
        #: The kernel with the links, and what it said last: the engine itself first.
        self._holder = ""
        self._told: list[PeerState] = []
        self._offers = PeerOffers()
        self._engine = read_engine(kernel.data).id
        self._name = kernel.store.settings.load().engine_name or f"cluster-{self._engine[:8]}"
        self._offers_at = self._tell_at = self._take_at = 0.0
        self._others: frozenset[str] = frozenset()
        self._paired: frozenset[str] = frozenset()
        self._stopping = self._bus_away = False

    # --- life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer the other kernels, and take the links when there is a reason to."""
        self._offers = offers(self._kernel)
        self._bring()
        # Who is paired is known before anybody has said how they stand.
        self._told = [self._myself(), *(_away(known) for known in self._book.all())]
        self.between.served.update({ASK: self._on_ask, HANDED: self._on_handed})
        self.between.heard.update({RING: self._on_ring, STATE: self._on_state, STATES: self._on_states})
        self.between.heard[HELLO] = self._on_hello
        self._homes.between, self._homes.looked = self.between, self._look
        self._homes.leave = self._placement.leave

    def freeze(self) -> None:
        """The engine begins to stop."""
        self._stopping = True
        self.numbering.stop()
        if self.inner is not None:
            self.inner.freeze()

    def stop(self) -> None:
        """End the links, if they are here. Twice is fine."""
        self.freeze()
        if self.inner is not None:
            self.inner.stop()
        self.between.close()

    # --- what the contract says ------------------------------------------------------------------------

    def states(self) -> list[PeerState]:
        """As the contract says; this engine is shown with what this kernel's machine has to offer."""
        if (inner := self.inner) is not None:
            return inner.states()
        me, *others = self._told or [self._myself()]
        if reason := self._cluster.bus_away:
            others = _all_away(others, f"the bus between the kernels cannot be used: {reason}")
        return [msgspec.structs.replace(me, offers=self._offers), *others]

    def request(
        self, peer: str, method: str, body: Any, timeout: float, on_item: Callable[[Any], None] | None = None
    ) -> Future[Any]:
        """As the contract says."""
        if (inner := self.inner) is not None:
            return inner.request(peer, method, body, timeout, on_item)
        if not self._holder:
            future: Future[Any] = Future()
            future.set_exception(PeerAway(NOBODY))
            return future
        asked = {"peer": peer, "method": method, "body": body, "timeout": timeout}
        return self.between.ask(self._holder, ASK, asked, timeout, on_item).future

    def serve(
        self, method: str, handler: Callable[[PeerRequest], None], right: PeerRight | None = None
    ) -> Callable[[], None]:
        """As the contract says: wherever the links are, what is for a flow that is at home here comes here."""
        served = self._served[method] = (handler, right)

        def stop() -> None:
            if self._served.get(method) is served:
                del self._served[method]

        return stop

    def on_change(self, callback: Callable[[PeerState], None]) -> Callable[[], None]:
        """As the contract says."""
        self._listeners.append(callback)

        def stop() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return stop

    def health(self) -> dict[str, Any]:
        """For the health page, of the kernel with the links; nothing of the others."""
        return self.inner.health() if self.inner is not None else {}

    def _myself(self) -> PeerState:
        return PeerState(id=self._engine, name=self._name, calls_itself=self._name, state="self", text="this engine")

    @property
    def here(self) -> EnginePeers:
        """What only the kernel with the links may be asked. Raises ``NotNow``."""
        if self.inner is None:
            raise NotNow("another kernel of this cluster has the links to other engines; ask again")
        return self.inner

    # --- now and then, on the cluster's thread ---------------------------------------------------------

    def _look(self, members: Sequence[Member]) -> None:
        if self._stopping:
            return
        alive = {one.box for one in members if one.alive and one.role == KERNEL}
        self.between.look(alive)
        now = time.monotonic()
        if now >= self._offers_at:
            self._offers_at = now + OFFERS
            self._kernel.engine.steps.io.call(self._look_at_offers)
        if self.inner is not None:
            self._tell_all(alive - {self.between.box}, now)
            self._ring()
            return
        held = self.store.holder()
        holder = next((one.box for one in members if one.alive and (one.writer, one.epoch) == held), "")
        if holder == self.between.box:
            holder = ""  # taken, but the links could not be begun
        if not holder and now >= self._take_at and self._homes.leads(members):
            self._take_at = now + AGAIN
            if self.store.take(self._cluster.lease):
                self._begin()
                return
        self._follow(holder)
        if self._bus_away and not self._cluster.bus_away:
            for state in self._told[1:]:
                self._call(state)
        self._bus_away = bool(self._cluster.bus_away)

    def _look_at_offers(self) -> None:
        self._offers = offers(self._kernel)

    def _follow(self, holder: str) -> None:
        if holder == self._holder:
            return
        # Nobody can be asked before the next kernel has said so.
        self._holder = holder
        self._told = _all_away(self._told, NOBODY)
        if holder:
            self.between.tell(holder, HELLO, None)

    # --- having the links ------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Take the links: be the engine that its peers know."""
        try:
            self._book.bring()
            inner = make_peers(self._kernel, self._beacon, self._book, cluster_mark(self._cluster.key), self._name)
            routed = self.incoming.routed()
            for method, (handler, right) in self._served.items():
                inner.serve(method, routed.get(method, handler), right)
            inner.on_change(self._changed)
            self.numbering.begin()
            self.inner = inner
            inner.start()
        except Exception as exc:
            self.inner = None
            self.numbering.stop()
            logger.error("the links to other engines cannot be taken: %s", exc)
            return
        logger.info("this kernel has the cluster's links to other engines")
        self._holder, self._told, self._tell_at = "", [], 0.0
        if self._stopping:
            inner.stop()

    def _changed(self, state: PeerState) -> None:
        """On the peers' thread."""
        self._call(state)
        told = msgspec.to_builtins(state)
        for box in self._others:
            self.between.tell(box, STATE, told)

    def _tell_all(self, others: set[str], now: float) -> None:
        fresh = others - self._others
        self._others = frozenset(others)
        due = now >= self._tell_at
        if due:
            self._tell_at = now + TELL
        for box in others if due else fresh:
            self._tell(box)

    def _tell(self, box: str) -> None:
        if self.inner is not None:
            self.between.tell(box, STATES, msgspec.to_builtins(self.inner.states()))

    def _on_hello(self, box: str, value: Any) -> None:
        self._tell(box)

    def _on_ask(self, asked: Asked) -> None:
        """A step of another kernel wants something of a peer."""
        inner, wanted = self.inner, asked.body
        if inner is None:
            asked.error(PeerAway(NOBODY))
            return
        future = inner.request(wanted["peer"], wanted["method"], wanted["body"], wanted["timeout"], asked.item)

        def done(future: Future[Any]) -> None:
            if future.cancelled():
                return
            exc = future.exception()
            if exc is not None:
                asked.error(exc)
            else:
                asked.answer(future.result())

        def end(why: str) -> None:
            # A kernel that is gone has not given up what it asked for: whoever takes over its run asks again.
            if why != "away":
                future.cancel()

        future.add_done_callback(done)
        asked.on_end(end)

    # --- events on their way ---------------------------------------------------------------------------

    def _on_ring(self, box: str, value: Any) -> None:
        self._ring()

    def _ring(self) -> None:
        """There may be events without a number."""
        if self.inner is not None:
            self.numbering.ring()
        elif self._holder:
            self.between.tell(self._holder, RING, None)

    # --- following the kernel with the links -------------------------------------------------------------

    def _on_handed(self, asked: Asked) -> None:
        """Something that a peer asks is about a flow of this kernel."""
        handed = Handed(asked)
        served = self._served.get(handed.method)
        if served is None:
            raise Elsewhere("this kernel is stopping")
        served[0](handed)

    def _on_states(self, box: str, told: Any) -> None:
        if self.inner is not None or self._holder not in ("", box):
            return
        self._holder = box
        before = {state.id: state for state in self._told}
        self._told = msgspec.convert(told, list[PeerState])
        paired = frozenset(state.id for state in self._told[1:] if state.paired)
        if paired != self._paired:
            self._paired = paired
            self._kernel.engine.steps.io.call(self._bring)
        for state in self._told[1:]:
            if before.get(state.id) != state:
                self._call(state)

    def _bring(self) -> None:
        """Have the pairings in this machine's folder, too: the engine may be moved there one day."""
        try:
            self._book.bring()
        except Exception as exc:
            logger.warning("the pairings cannot be copied to this machine: %s", exc)

    def _on_state(self, box: str, told: Any) -> None:
        if box != self._holder:
            return
        state = msgspec.convert(told, PeerState)
        self._told = [state if one.id == state.id else one for one in self._told]
        self._call(state)

    def _call(self, state: PeerState) -> None:
        for callback in list(self._listeners):
            try:
                callback(state)
            except Exception:
                logger.exception("telling of a peer failed")

    def _staying(self, flows: Sequence[int]) -> set[int]:
        """Those of these flows that are at home here, with their triggers attached."""
        if self._kernel.hosting.attached_flows() is None:
            return set()
        return {flow for flow in flows if self._homes.stays(flow)}


def _all_away(states: Sequence[PeerState], why: str) -> list[PeerState]:
    return [msgspec.structs.replace(state, state="away", text=why) if state.connected else state for state in states]


def _away(known: Known) -> PeerState:
    return PeerState(
        id=known.id,
        name=known.name,
        calls_itself=known.calls_itself,
        fingerprint=known.fingerprint,
        state="away",
        text=NOBODY,
        paired=known.at,
        version=known.version,
        roles=known.roles,
        allows=known.allows,
    )
