"""Engines joined by links that a test holds in its hand: real engines on all sides, only the wire is replaced.

``Net`` carries messages at once, in the thread that sends them. Each message (request, item, answer) is counted, and
``cut_at`` takes the link away right before or right behind the n-th. What is carried is packed and unpacked, and
blobs that it names are carried along, as the real links do.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import FlowError, Node
from appliance.contracts.peers import (
    ModelOffer,
    PeerAway,
    PeerFailed,
    PeerNotAllowed,
    PeerOffers,
    PeerRequest,
    PeerRoles,
    PeerState,
)
from appliance.engine.plan import plan_flow
from appliance.engine.trace import pack, unpack
from appliance.fleet.peers.wire import blobs_in
from appliance.kernel.hosting import TriggerHost
from appliance.kernel.peering.guest import flow_of
from appliance.kernel.recovery import Recovery
from appliance.kernel.runs import FlowSlot
from tests.support.bench_engine import Bench

ALL = PeerRoles(rights=frozenset({"run", "models", "events", "flows"}), workspaces=frozenset({"*"}))


class _Request:
    """Implements ``PeerRequest``."""

    def __init__(self, net: Net, to: End, asker: End, body: Any, future: Future[Any], on_item: Any) -> None:
        self._net, self._to, self._asker = net, to, asker
        self.body = body
        self.until = time.monotonic() + 60
        self._future = future
        self._on_item = on_item
        self._ends: list[Callable[[str], None]] = []
        self.over = ""

    @property
    def peer(self) -> PeerState:
        return self._net.state(self._to, self._asker)

    def answer(self, value: Any = None) -> None:
        self._settle(lambda: self._future.set_result(self._net.carried(value, self._to, self._asker)))

    def error(self, exc: BaseException) -> None:
        told: BaseException = PeerFailed(f"{type(exc).__name__}: {exc}", error_id="internal")
        if isinstance(exc, FlowError):
            told = PeerFailed(exc.message, error_id=exc.id, retryable=exc.retryable, detail=exc.detail)
        self._settle(lambda: self._future.set_exception(told))

    def _settle(self, deliver: Callable[[], None]) -> None:
        if self.over:
            return
        if self._net.passes("answer", self._to, self._asker):
            self.over = "answered"
            self._net.pending.discard(self)
            if not self._future.done():
                deliver()
        self._net.after_message()

    def item(self, value: Any) -> None:
        if not self.over and self._net.passes("item", self._to, self._asker) and self._on_item is not None:
            self._on_item(self._net.carried(value, self._to, self._asker))
        self._net.after_message()

    def on_end(self, callback: Callable[[str], None]) -> None:
        if self.over in ("away", "cancelled"):
            callback(self.over)
        else:
            self._ends.append(callback)

    def end(self, why: str) -> None:
        """Nobody waits any more."""
        if self.over:
            return
        self.over = why
        self._net.pending.discard(self)
        for callback in self._ends:
            callback(why)
        if why == "away" and not self._future.done():
            self._future.set_exception(PeerAway(f"{self._to.name} went away", sent=True))


class End:
    """One engine's ``Peers``."""

    def __init__(self, net: Net, name: str) -> None:
        self._net = net
        self.name = name
        self.id = f"{name}-id"
        self.offers = PeerOffers(exact=True, cores=2)
        self.methods: dict[str, tuple[Callable[[PeerRequest], None], Any]] = {}
        self.listeners: list[Callable[[PeerState], None]] = []
        self.up = True

    def states(self) -> list[PeerState]:
        me = PeerState(id=self.id, name=self.name, calls_itself=self.name, state="self", offers=self.offers)
        return [me, *(self._net.state(self, other) for other in self._net.ends.values() if other is not self)]

    def request(self, peer: str, method: str, body: Any, timeout: float, on_item: Any = None) -> Future[Any]:
        future: Future[Any] = Future()
        other = next((end for end in self._net.ends.values() if peer in (end.id, end.name)), None)
        if other is None or not self._net.joined(self, other):
            future.set_exception(PeerAway(f"{peer} is away"))
            return future
        if not self._net.passes("request", self, other):
            future.set_exception(PeerAway(f"{peer} went away", sent=True))
            return future
        handler, right = other.methods.get(method, (None, None))
        if handler is None:
            future.set_exception(PeerFailed(f"there is no {method}", error_id="not-found", retryable=False))
        elif right is not None and not self._net.roles.get((other.name, self.name), ALL).may(right):
            future.set_exception(PeerNotAllowed(f"{peer} does not let this engine do that"))
        else:
            self._net.count[method] = self._net.count.get(method, 0) + 1
            try:
                carried = self._net.carried(body, self, other)
            except FlowError as exc:
                future.set_exception(PeerFailed(f"{peer}: {exc.message}", error_id="blob"))
                return future
            request = _Request(self._net, other, self, carried, future, on_item)
            self._net.pending.add(request)
            future.add_done_callback(lambda done: request.end("cancelled") if done.cancelled() else None)
            handler(request)
            self._net.after_message()
        return future

    def serve(self, method: str, handler: Callable[[PeerRequest], None], right: Any = None) -> Callable[[], None]:
        self.methods[method] = (handler, right)
        return lambda: self.methods.pop(method, None) and None

    def on_change(self, callback: Callable[[PeerState], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback) if callback in self.listeners else None


class Net:
    """All engines and the links between them."""

    def __init__(self) -> None:
        self.ends: dict[str, End] = {}
        self.blobs: dict[str, Any] = {}
        #: What an engine (first) lets another do.
        self.roles: dict[tuple[str, str], PeerRoles] = {}
        self.cut_links: set[frozenset[str]] = set()
        self.pending: set[_Request] = set()
        self.count: dict[str, int] = {}
        self.messages = 0
        self.cut_at: tuple[int, bool] | None = None
        self._cutting: tuple[End, End] | None = None
        self._lock = threading.RLock()

    def end(self, name: str) -> End:
        return self.ends.setdefault(name, End(self, name))

    def state(self, of: End, other: End) -> PeerState:
        return PeerState(
            id=other.id,
            name=other.name,
            calls_itself=other.name,
            state="connected" if self.joined(of, other) else "away",
            roles=self.roles.get((of.name, other.name), ALL),
            allows=self.roles.get((other.name, of.name), ALL),
            offers=other.offers,
        )

    def joined(self, one: End, other: End) -> bool:
        return one.up and other.up and frozenset({one.name, other.name}) not in self.cut_links

    def passes(self, kind: str, sender: End, to: End) -> bool:
        """Count a message; False if the link is gone, or goes right before it."""
        with self._lock:
            if not self.joined(sender, to):
                return False
            self.messages += 1
            if self.cut_at is not None and self.cut_at[0] == self.messages:
                if self.cut_at[1]:
                    self._cutting = (sender, to)
                else:
                    self.cut(sender.name, to.name)
                    return False
            return True

    def after_message(self) -> None:
        if self._cutting is not None:
            (one, other), self._cutting = self._cutting, None
            self.cut(one.name, other.name)

    def carried(self, value: Any, sender: End, to: End) -> Any:
        data = pack(msgspec.to_builtins(value))
        assert len(data) < 3_000_000
        here, there = self.blobs.get(sender.name), self.blobs.get(to.name)
        if here is not None and there is not None:
            for blob in blobs_in(unpack(data)):
                there.put(here.get({"$blob": blob.digest, "size": blob.size}))
        return unpack(data)

    def cut(self, one: str, other: str) -> None:
        """Take a link away: whoever waits on it hears of it."""
        self.cut_links.add(frozenset({one, other}))
        for request in list(self.pending):
            if {request._to.name, request._asker.name} == {one, other}:
                request.end("away")
        self._tell(one, other)

    def join(self, one: str, other: str) -> None:
        self.cut_links.discard(frozenset({one, other}))
        self._tell(one, other)

    def _tell(self, one: str, other: str) -> None:
        for me, it in ((one, other), (other, one)):
            for listener in list(self.end(me).listeners):
                listener(self.state(self.end(me), self.end(it)))

    def gone(self, name: str) -> None:
        """An engine is killed."""
        end = self.end(name)
        end.up = False
        end.methods.clear()
        end.listeners.clear()
        for other in list(self.ends.values()):
            if other is not end:
                for request in list(self.pending):
                    if end in (request._to, request._asker):
                        request.end("away")
                for listener in list(other.listeners):
                    listener(self.state(other, end))

    def back(self, name: str) -> None:
        self.end(name).up = True
        for other in self.ends:
            if other != name and frozenset({other, name}) not in self.cut_links:
                self._tell(name, other)


class PeerBench(Bench):
    """A bench with links: what a kernel's ``Peering`` does, over flows that are not in any database."""

    def __init__(self, data: Path, net: Net, name: str, extra: dict[str, Node[Any]], **options: Any) -> None:
        data.mkdir(exist_ok=True)
        super().__init__(data, extra, **options)
        self.net, self.end = net, net.end(name)
        net.blobs[name] = self.services.blobs
        self.name = name
        self._guest_flows: dict[str, int] = {}
        self.recovery = Recovery(self.engine)
        self._hosts: list[TriggerHost] = []

    def link(self) -> None:
        """Let peers in, and ask them."""
        engine = self.engine
        engine.guests.versions = self._version
        engine.guests.flows_of = lambda peer: [self._number(peer.name)]
        engine.guests.kinds = lambda: self.registry.nodes
        engine.guests.restore = self.recovery.told
        engine.placement.peers = engine.outbox.peers = self.end
        self.services.peers = lambda: self.end
        engine.guests.start(self.end)
        engine.peer_events.start(self.end)
        self.end.on_change(lambda state: engine.post(lambda: engine.outbox.changed(state)))
        self.end.on_change(lambda state: engine.post(lambda: engine.placement.changed(state)))
        self.end.on_change(lambda state: engine.post(lambda: engine.guests.changed(state)))
        self.net.back(self.name)
        engine.post(engine.placement.refresh)

    def _number(self, peer: str) -> int:
        return 900 + sum(peer.encode())

    def _version(self, peer: PeerState, workspace: str, node: dict[str, Any]) -> tuple[int, int]:
        """Numbers made of what they stand for, so that another process of this engine finds the same."""
        number = self._number(peer.name)
        body = flow_of(peer.name, node)
        version = 10_000 + sum(pack(body))
        self.flows[version] = body
        (self.data / "guests").mkdir(exist_ok=True)
        (self.data / "guests" / str(version)).write_bytes(pack(body))
        return number, version

    def _plan(self, version: int) -> Any:
        kept = self.data / "guests" / str(version)
        if version not in self.flows and kept.exists():
            self.flows[version] = unpack(kept.read_bytes())
        return plan_flow(self.flows[version], self.registry)

    def know(self) -> None:
        """What ``find_flow`` of a kernel does for the flows of peers."""
        self.engine.find_flow = lambda num: FlowSlot(num, f"peer-{num}", "Work", "home", None) if num >= 900 else None

    def listen(self, num: int) -> None:
        """Attach the triggers of a flow."""
        host = TriggerHost(self.engine, self.registry, time.monotonic)
        specs = self.engine.plan(num).flow.triggers
        host.want([(self.engine.flows[num], num, specs)])
        host.start()
        assert host.settled.wait(5)
        self._hosts.append(host)

    def deaf(self) -> None:
        """Detach them all."""
        while self._hosts:
            self._hosts.pop().stop()

    def die(self) -> None:
        self.net.gone(self.name)
        self.deaf()
        super().die()


def model(name: str, task: str = "language") -> ModelOffer:
    return ModelOffer(name, task)


def turn(benches: list[PeerBench], until: Callable[[], bool], limit: float = 10.0) -> None:
    """Turn all engines until something is so."""
    deadline = time.monotonic() + limit
    while True:
        for bench in benches:
            bench.engine.pump()
        if until():
            return
        assert time.monotonic() < deadline, "the engines did not get there"
        time.sleep(0.0005)
