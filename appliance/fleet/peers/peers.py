"""The peers of an engine: what the kernel asks of them, and what the owner says of them.

Either of two engines calls. While they are not connected each tries now and then, and at once when there is a reason:
an announcement, another address of this machine, its return from sleep.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import msgspec

from appliance.contracts import (
    ConfigError,
    FlowError,
    PeerAway,
    PeerRequest,
    PeerRight,
    PeerRoles,
    PeerState,
)
from appliance.fleet.codes import MINUTES, OpenPairing
from appliance.fleet.peers import gate, wire
from appliance.fleet.peers.beacon import Beacon
from appliance.fleet.peers.book import PeerBook, check_name
from appliance.fleet.peers.calls import Asking, Served, pack
from appliance.fleet.peers.circle import Circle
from appliance.fleet.peers.dialing import Dialing
from appliance.fleet.peers.gate import Agreement, Gate
from appliance.fleet.peers.joining import Joining
from appliance.fleet.peers.links import Links
from appliance.fleet.peers.presence import Presence
from appliance.fleet.peers.remote import POLITE, Remote, join, no_roles, split
from appliance.fleet.peers.surroundings import Surroundings
from appliance.fleet.peers.transfers import BlobKeeper
from edge_agent.protocol import pairing
from edge_agent.protocol.channel import ChannelClosed


class EnginePeers:
    """Implements :class:`appliance.contracts.Peers`. Safe from any thread."""

    def __init__(self, book: PeerBook, blobs: BlobKeeper, beacon: Beacon, about: Surroundings) -> None:
        self._about = about
        self._beacon = beacon
        self.circle = Circle(book, about)
        self.dialing = Dialing(self.circle.book.folder)
        self.links = Links(self.circle, self.dialing, blobs)
        self.presence = Presence(
            self.circle,
            beacon,
            self.dialing,
            self.post,
            lambda connection, fingerprint, address: self.links.connect(connection, fingerprint, address, dialed=True),
            self.links.offered,
        )
        self._joining = Joining(self.circle, self.dialing.lines, lambda: self.presence.panel, self._begun)
        self.gate = Gate(
            self.circle.book,
            about.port,
            about.owned,
            self._joining.introduction,
            self.presence.card,
            lambda connection, fingerprint, address: self.links.connect(connection, fingerprint, address, dialed=False),
            self._joining.joined,
        )
        self.presence.gate = self.gate
        self.links.presence = self.presence

    @property
    def here(self) -> EnginePeers:
        """What the owner says goes here; in a cluster one of the kernels has the links."""
        return self

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Call and be called, if there is a peer. Raises ``OSError`` if it cannot be read who is paired."""
        self.circle.open()
        self._beacon.on_moved = lambda: self.post(self.links.hurry)
        self.links.board.start()
        self.post(self.links.begin)
        self.post(self.presence.begin)

    def freeze(self) -> None:
        """The engine begins to stop: nothing new is begun, and what goes on is answered."""
        self.links.frozen = self.presence.frozen = self._joining.over = True

    def stop(self) -> None:
        """Say goodbye and end every link. Twice is fine."""
        self.freeze()
        self.gate.close()
        self.post(self.links.say_goodbye)
        self.links.board.stop()
        self.dialing.close()

    def post(self, call: Callable[[], None]) -> None:
        """Do something on the peers' thread."""
        self.links.board.post(call)

    # --- what the contract says -------------------------------------------------------------------

    def states(self) -> list[PeerState]:
        """As the contract says."""
        circle = self.circle
        paired = [circle.state(remote) for remote in circle.all]
        others = circle.found.engines() - {state.id for state in paired} - {self._about.engine}
        found = [state for engine in others if (state := circle.found.state(engine)) is not None]
        return told_apart(
            [
                self.presence.me(),
                *sorted(paired, key=lambda state: state.name),
                *sorted(found, key=lambda state: (state.name, state.id)),
            ]
        )

    def request(
        self,
        peer: str,
        method: str,
        body: Any,
        timeout: float,
        on_item: Callable[[Any], None] | None = None,
    ) -> Future[Any]:
        """As the contract says."""
        future: Future[Any] = Future()
        try:
            remote, packed = self.circle.find(peer), pack(body)
        except FlowError as exc:
            future.set_exception(exc)
            return future
        asking = Asking(future, method, time.monotonic() + timeout, timeout, remote.title, on_item)

        def send() -> None:
            link = remote.link
            if link is None or not link.ready:
                asking.fail(PeerAway(f"{remote.title} is away ({remote.text})"))
                return
            try:
                self.links.calls.ask(link, asking, packed)
            except ChannelClosed as exc:
                self.links.board.drop(link, str(exc))

        self.post(send)
        return future

    def serve(
        self, method: str, handler: Callable[[PeerRequest], None], right: PeerRight | None = None
    ) -> Callable[[], None]:
        """As the contract says."""
        methods = self.links.served
        served = methods[method] = Served(handler, right)

        def stop() -> None:
            if methods.get(method) is served:
                del methods[method]

        return stop

    def on_change(self, callback: Callable[[PeerState], None]) -> Callable[[], None]:
        """As the contract says."""
        self.circle.listeners.append(callback)

        def stop() -> None:
            with suppress(ValueError):
                self.circle.listeners.remove(callback)

        return stop

    def health(self) -> dict[str, Any]:
        """For the health page: what keeps engines from each other, and how the paired ones stand."""
        now = self._about.wall()
        rows = [
            {
                "name": state.name,
                "state": state.state,
                "text": state.text,
                "hint": state.hint,
                "for": max(0.0, now - state.since),
                "offset": state.offset,
            }
            for state in (self.presence.me(), *(self.circle.state(remote) for remote in self.circle.all))
        ]
        wanted = bool(self.circle.remotes) and self._about.discovery != "never"
        return {"port": self.presence.trouble, "mdns": self._beacon.trouble if wanted else "", "states": rows}

    # --- what the owner says: pairing -----------------------------------------------------------------

    def pair(self, name: str, roles: PeerRoles | None, minutes: float = MINUTES) -> OpenPairing[Agreement]:
        """Show a code for one engine. Raises ``ConfigError``, ``PeersClosed``, ``Busy``, ``OSError``."""
        if name and self.circle.is_taken(name):
            raise ConfigError(f"there is a peer {name!r} already; revoke it first, or choose another name")
        self.circle.have_certificate()
        made = self.gate.pair(name, roles if roles is not None else no_roles(), minutes)
        self.post(self.presence.settle)
        return made

    def unpair(self, name: str) -> bool:
        """End a pairing that is open."""
        ended = self.gate.codes.end(name)
        self.post(self.presence.settle)
        return ended

    def look(self) -> None:
        """See who is on the network, for half a minute."""
        self.post(self.presence.look)

    def join(self, code: str, address: str, name: str, roles: PeerRoles | None) -> Future[PeerState]:
        """Pair with the engine that shows ``code``: at an address, or wherever it is found.

        Raises ``ConfigError``, ``PeersClosed``; the future fails with ``ConfigError``, ``PeerAway``, ``OSError``.
        """
        future: Future[PeerState] = Future()
        if name:
            check_name(name)
            if self.circle.is_taken(name):
                raise ConfigError(f"there is a peer {name!r} already; choose another name")
        try:
            pairing.split(code)
            given = join(*split(address)) if address else ""
        except (pairing.PairingError, ValueError) as exc:
            raise ConfigError(str(exc)) from None
        if not self._about.owned():
            raise gate.PeersClosed("this engine has no owner yet: `flowork key recover`")
        agreement = Agreement(name, roles if roles is not None else no_roles())
        if not given:
            self.look()

        def work() -> None:
            try:
                future.set_result(self._joining.join(code, given, agreement))
            except Exception as exc:
                future.set_exception(exc)

        self.dialing.ask(work)
        return future

    def _begun(self, remote: Remote, before: Remote | None) -> None:
        """An engine was paired."""

        def begin() -> None:
            if before is not None:
                self.links.board.drop(before.link, "it was paired anew")
            remote.try_now(self._about.up(), 0.0 if self._about.engine < remote.known.id else POLITE)
            self.circle.changed(remote)
            self.presence.settle()

        self.post(begin)

    # --- what the owner says: of one peer -------------------------------------------------------------

    def revoke(self, peer: str) -> PeerState:
        """Take a peer's access away, at once, and tell it. Raises ``ConfigError``."""
        remote = self.circle.find(peer)
        state = self.circle.state(remote)
        self.circle.book.remove(remote.known.id)

        def cut() -> None:
            self.circle.forget(remote)
            if remote.link is not None:
                self.links.greeting.refuse(remote.link, "revoked", "the pairing was ended by its owner")
            else:
                self.presence.await_parting()
            text = "its access was taken away"
            self.circle.call(msgspec.structs.replace(state, state="found", text=text, roles=PeerRoles()))
            self.presence.settle()

        self.post(cut)
        return state

    def rename(self, peer: str, name: str) -> PeerState:
        """Call a peer otherwise. Raises ``ConfigError``."""
        remote = self.circle.find(peer)
        if self.circle.is_taken(check_name(name), by_other_than=remote):
            raise ConfigError(f"there is a peer {name!r} already; choose another name")
        remote.known.name = name
        return self._kept(remote)

    def allow(self, peer: str, roles: PeerRoles) -> PeerState:
        """Say what a peer may do here, from this moment on. Raises ``ConfigError``."""
        remote = self.circle.find(peer)
        remote.known.roles = roles
        self.post(lambda: self.links.tell(remote, wire.Roles(roles=roles)))
        return self._kept(remote)

    def moved(self, peer: str) -> PeerState:
        """A peer's data folder was moved to another machine for good: let it in from there. Raises ``ConfigError``."""
        remote = self.circle.find(peer)
        remote.known.machine = ""  # that of its next greeting
        self.post(lambda: remote.try_now(self._about.up()))
        return self._kept(remote)

    def _kept(self, remote: Remote) -> PeerState:
        self.circle.keep(remote)
        self.post(lambda: self.circle.changed(remote))
        return self.circle.state(remote)


def told_apart(states: list[PeerState]) -> list[PeerState]:
    """Those that have one name between them say so: their ids tell them apart, and their owners can."""
    names = Counter(state.calls_itself for state in states)
    hint = (
        "another engine calls itself that, too: set engine_name on one of the two, or rename it on the page Engines "
        "(`flowork peer rename`)"
    )
    return [
        msgspec.structs.replace(state, hint=hint) if names[state.calls_itself] > 1 and not state.hint else state
        for state in states
    ]
