"""The peers: every link with another engine on one thread, and what the kernel asks of them.

Either side calls. While two are not connected each tries now and then, and at once when there is a reason: an
announcement, another address of this machine, its return from sleep.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import (
    ConfigError,
    FlowError,
    PeerAway,
    PeerOffers,
    PeerRequest,
    PeerRight,
    PeerRoles,
    PeerState,
)
from appliance.fleet.codes import MINUTES, OpenPairing
from appliance.fleet.peers import gate, wire
from appliance.fleet.peers.beacon import Beacon, Found
from appliance.fleet.peers.book import Known, PeerBook, check_id, check_name, name_from
from appliance.fleet.peers.calls import Asking, Calls, Served, pack
from appliance.fleet.peers.dialing import Dialing
from appliance.fleet.peers.found import FoundEngines, facts_of
from appliance.fleet.peers.gate import Agreement, Gate, Introduction
from appliance.fleet.peers.greeting import Greeting
from appliance.fleet.peers.link import PeerLink, boottime, decode
from appliance.fleet.peers.remote import POLITE, Remote, join, no_roles, split
from appliance.fleet.peers.transfers import BlobKeeper
from appliance.fleet.switchboard import Switchboard
from edge_agent.protocol import certificates, pairing
from edge_agent.protocol.channel import Channel, ChannelClosed, tune

logger = logging.getLogger(__name__)

#: Seconds between two looks at what this engine has to offer, while somebody listens.
OFFER_EVERY = 10.0
#: Seconds between two questions to the addresses of the setting, who is there.
ASK_EVERY = 60.0
#: Seconds for which a look at the network lasts that somebody asked for, and that a join waits for answers.
LOOK, JOIN = 30.0, 4.0
#: Seconds that the clock which goes on in sleep may gain on the other before this counts as sleep.
SLEPT = 5.0
#: Seconds that a connection has to become a link before another one is tried.
GREETING = 12.0
#: Seconds between two changes of what is announced, at least.
ANNOUNCE_EVERY = 60.0
#: Seconds for which a copy of this engine is told of after it was seen.
REMEMBER_COPY = 600.0


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the peers need to know of the engine; the callables are safe from any thread, ``offers`` may block.

    ``discovery`` is ``paired`` (announce and look only while there is somebody to find), ``always`` or ``never``;
    ``listed`` are addresses of the setting ``peers``. ``aside`` does something that blocks on another thread.
    """

    engine: str
    name: str
    software: str
    machine: str
    port: int
    discovery: str
    listed: tuple[str, ...] = ()
    owned: Callable[[], bool]
    panel: Callable[[], int] = lambda: 0
    offers: Callable[[], PeerOffers] = PeerOffers
    aside: Callable[[Callable[[], None]], Any] = lambda work: work()
    wall: Callable[[], float] = time.time
    up: Callable[[], float] = boottime
    tell: Callable[[dict[str, Any]], None] = lambda item: None
    audit: Callable[[str, str, Mapping[str, Any]], None] = lambda action, target, detail: None


class EnginePeers:
    """Implements :class:`appliance.contracts.Peers`."""

    def __init__(self, data: Path, blobs: BlobKeeper, beacon: Beacon, about: Surroundings) -> None:
        self._about = about
        self._blobs = blobs
        self._beacon = beacon
        self._book = PeerBook(data)
        self.instance = secrets.token_hex(8)
        self._remotes: dict[str, Remote] = {}
        self.gate = Gate(
            self._book, about.port, about.owned, self._introduction, self._card, self._visited, self._joined
        )
        self._board = Switchboard("peers", self._link, self._take, self._ended, self._turned, self._due)
        self._dialing = Dialing(self._book.folder, about.port or gate.DEFAULT_PORT)
        self._served: dict[str, Served] = {}
        self._calls = Calls(self._served, self._state_of, self.post)
        self._found = FoundEngines(about.up, about.wall, self._remotes)
        self._greeting = Greeting(
            about.engine,
            self.instance,
            self._by_fingerprint,
            lambda: self._fingerprint,
            lambda: self._offers,
            about.wall,
            self._board.is_open,
            self._board.drop,
            self._board.later,
            self._changed,
            self._cloned,
            self._ready,
        )
        self._offers = PeerOffers()
        self._listeners: list[Callable[[PeerState], None]] = []
        self._lock = threading.Lock()
        self._fingerprint = ""
        self._certificate = b""
        self._dialed: set[socket.socket] = set()
        self._offer_at = self._ask_at = self._look_until = self._announced_at = 0.0
        self._settle_at = math.inf
        self._announced: dict[str, str] = {}
        self._panel = 0
        self._gathering = self._frozen = False
        self._slept = 0.0
        self._copy: tuple[float, str] = (0.0, "")
        self._probed: dict[str, float] = {}
        self._told: dict[str, PeerState] = {}
        #: Why other engines cannot connect, for people; empty if they can, or need not.
        self.trouble = ""
        self._began = about.wall()

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Call and be called, if there is a peer. Raises ``OSError`` if the keys cannot be written."""
        self._certificate = certificates.ensure(self._book.folder, f"flowork {self._about.engine}")
        self._fingerprint = certificates.fingerprint(self._certificate)
        for known in self._book.all():
            self._remotes[known.id] = Remote(known, self._about.wall())
        self._slept = self._about.up() - time.monotonic()
        self._beacon.on_found = lambda found: self.post(lambda: self._saw(found))
        self._beacon.on_gone = lambda key: self.post(lambda: self._lost(key))
        self._beacon.on_moved = lambda: self.post(self._moved)
        self._board.start()
        self.post(self._begin)

    def _begin(self) -> None:
        up = self._about.up()
        for remote in self._remotes.values():
            remote.try_now(up, 0.0 if self._about.engine < remote.known.id else POLITE)
        self._settle()
        if self.gate.port:
            self._refresh_offers()

    def freeze(self) -> None:
        """The engine begins to stop: nothing new is begun, and what goes on is answered."""
        self._frozen = True

    def stop(self) -> None:
        """Say goodbye and end every link. Twice is fine."""
        self._frozen = True
        self.gate.close()
        self.post(self._say_goodbye)
        self._board.stop()
        self._dialing.close()

    def _say_goodbye(self) -> None:
        for remote in self._remotes.values():
            if remote.link is not None:
                with suppress(ChannelClosed):
                    remote.link.send(wire.Refused(id="stops", text="it stops"))

    def post(self, call: Callable[[], None]) -> None:
        """Do something on the peers' thread. Safe from any."""
        self._board.post(call)

    # --- what the contract says -------------------------------------------------------------------

    def states(self) -> list[PeerState]:
        """As the contract says."""
        paired = [self._state(remote) for remote in list(self._remotes.values())]
        known = {state.id for state in paired} | {self._about.engine}
        found = [self._found.state(engine) for engine in sorted(self._found.engines() - known)]
        return [
            self.me(),
            *sorted(paired, key=lambda state: state.name),
            *sorted((state for state in found if state is not None), key=lambda state: (state.name, state.id)),
        ]

    def me(self) -> PeerState:
        """This engine."""
        about, (seen, where) = self._about, self._copy
        copied = bool(seen) and about.up() - seen < REMEMBER_COPY
        return PeerState(
            id=about.engine,
            name=about.name,
            calls_itself=about.name,
            fingerprint=self._fingerprint,
            state="self",
            text=f"a machine at {where} runs a copy of this engine, with its identity" if copied else "this engine",
            hint="stop one of the two, and run `flowork peer new-identity` there" if copied else "",
            since=self._began,
            version=about.software,
            offers=self._offers,
        )

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
            for state in self.states()
            if state.paired or state.state == "self"
        ]
        wanted = bool(self._remotes) and self._about.discovery != "never"
        return {"port": self.trouble, "mdns": self._beacon.trouble if wanted else "", "states": rows}

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
            remote, packed = self._find(peer), pack(body)
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
                self._calls.ask(link, asking, packed)
            except ChannelClosed as exc:
                self._board.drop(link, str(exc))

        self.post(send)
        return future

    def serve(
        self, method: str, handler: Callable[[PeerRequest], None], right: PeerRight | None = None
    ) -> Callable[[], None]:
        """As the contract says."""
        served = self._served[method] = Served(handler, right)

        def stop() -> None:
            if self._served.get(method) is served:
                del self._served[method]

        return stop

    def on_change(self, callback: Callable[[PeerState], None]) -> Callable[[], None]:
        """As the contract says."""
        self._listeners.append(callback)

        def stop() -> None:
            with suppress(ValueError):
                self._listeners.remove(callback)

        return stop

    # --- what the owner says ------------------------------------------------------------------------

    def pair(self, name: str, roles: PeerRoles | None, minutes: float = MINUTES) -> OpenPairing[Agreement]:
        """Show a code for one engine. Raises ``ConfigError``, ``PeersClosed``, ``Busy``."""
        if name and any(remote.known.name == name for remote in list(self._remotes.values())):
            raise ConfigError(f"there is a peer {name!r} already; revoke it first, or choose another name")
        made = self.gate.pair(name, roles if roles is not None else no_roles(), minutes)
        self.post(self._settle)
        return made

    def unpair(self, name: str) -> bool:
        """End a pairing that is open."""
        ended = self.gate.codes.end(name)
        self.post(self._settle)
        return ended

    def look(self) -> None:
        """See who is on the network, for half a minute."""

        def begin() -> None:
            self._look_until = self._about.up() + LOOK
            self._ask_at = 0.0
            self._settle()
            self._beacon.again()

        self.post(begin)

    def join(self, code: str, address: str, name: str, roles: PeerRoles | None) -> Future[PeerState]:
        """Pair with the engine that shows ``code``: at an address, or wherever it is found.

        Raises ``ConfigError``, ``PeersClosed``; the future fails with these, too, and with ``PeerAway``.
        """
        future: Future[PeerState] = Future()
        if name:
            check_name(name)
        try:
            pairing.split(code)
            given = [join(*split(address, self._about.port or gate.DEFAULT_PORT))] if address else []
        except (pairing.PairingError, ValueError) as exc:
            raise ConfigError(str(exc)) from None
        if not self._about.owned():
            raise gate.PeersClosed("this engine has no owner yet: `flowork key recover`")
        agreement = Agreement(name, roles if roles is not None else no_roles())
        if not given:
            self.look()

        def work() -> None:
            try:
                future.set_result(self._join(code, given, agreement))
            except Exception as exc:
                future.set_exception(exc)

        self._dialing.ask(work)
        return future

    def revoke(self, peer: str) -> PeerState:
        """Take a peer's access away, at once, and tell it. Raises ``ConfigError``."""
        remote = self._find(peer)
        state = self._state(remote)
        self._book.remove(remote.known.id)

        def cut() -> None:
            if self._remotes.get(remote.known.id) is remote:
                del self._remotes[remote.known.id]
            if remote.link is not None:
                self._greeting.refuse(remote.link, "revoked", "the pairing was ended by its owner")
            self._told.pop(remote.known.id, None)
            self._about.tell({"type": "peer", "peer": {"id": state.id, "name": state.name, "state": "revoked"}})
            gone = msgspec.structs.replace(state, state="found", text="its access was taken away", roles=PeerRoles())
            self._call_listeners(gone)
            self._settle()

        self.post(cut)
        return state

    def rename(self, peer: str, name: str) -> PeerState:
        """Call a peer otherwise. Raises ``ConfigError``."""
        remote = self._find(peer)
        check_name(name)
        if any(other is not remote and other.known.name == name for other in list(self._remotes.values())):
            raise ConfigError(f"there is a peer {name!r} already; choose another name")
        remote.known.name = name
        return self._kept(remote)

    def allow(self, peer: str, roles: PeerRoles) -> PeerState:
        """Say what a peer may do here, from this moment on. Raises ``ConfigError``."""
        remote = self._find(peer)
        remote.known.roles = roles

        def tell() -> None:
            if remote.link is not None and remote.link.ready:
                with suppress(ChannelClosed):
                    remote.link.send(wire.Roles(roles=roles))

        state = self._kept(remote)
        self.post(tell)
        return state

    def moved(self, peer: str) -> PeerState:
        """A peer's data folder was moved to another machine for good: let it in from there. Raises ``ConfigError``."""
        remote = self._find(peer)
        remote.known.machine = ""  # that of its next greeting
        self.post(lambda: remote.try_now(self._about.up()))
        return self._kept(remote)

    def _kept(self, remote: Remote) -> PeerState:
        self._book.write(remote.known)
        self.post(lambda: self._changed(remote))
        return self._state(remote)

    # --- pairing ------------------------------------------------------------------------------------

    def _introduction(self) -> Introduction:
        about = self._about
        return Introduction(
            engine=about.engine,
            certificate=self._certificate,
            name=about.name,
            machine=about.machine,
            software=about.software,
            port=about.port,
            panel=self._panel,
        )

    def _join(self, code: str, given: list[str], agreement: Agreement) -> PeerState:
        """On a thread of its own. Raises ``ConfigError``, ``PeerAway``."""
        tried: set[str] = set()
        why = "no engine was found that shows this code; name its address"
        until = time.monotonic() + (JOIN if not given else 0.0)
        while True:
            for address in given or self._all_addresses():
                if address in tried:
                    continue
                tried.add(address)
                host, port = split(address, 0)
                try:
                    theirs, reached = gate.join(host, port, code, self._introduction())
                except pairing.WrongCode:
                    raise ConfigError(f"{address}: the code is not right; make a new one if in doubt") from None
                except (OSError, pairing.PairingError) as exc:
                    why = f"{address}: {(getattr(exc, 'strerror', None) or str(exc)).lower()}"
                    continue
                if refusal := self._joined(theirs, agreement, reached):
                    raise ConfigError(refusal)
                return self._state(self._remotes[theirs.engine])
            if time.monotonic() >= until or self._frozen:
                raise PeerAway(why)
            time.sleep(0.1)

    def _all_addresses(self) -> list[str]:
        port = self._about.port or gate.DEFAULT_PORT
        found = [each for engine in sorted(self._found.engines()) for each in self._found.addresses(engine)]
        return [*found, *(join(*split(each, port)) for each in self._about.listed)]

    def _joined(self, theirs: Introduction, agreement: Agreement, address: str) -> str:
        """An engine that knew the code, or whose code we knew: keep it. Returns why not, or nothing."""
        check_id(theirs.engine)
        fingerprint = certificates.fingerprint(theirs.certificate)
        if theirs.engine == self._about.engine:
            return "both engines have one identity: one is a copy of the other; run `flowork peer new-identity` there"
        with self._lock:
            before = self._remotes.get(theirs.engine)
            if before is not None and before.known.fingerprint != fingerprint:
                return f"an engine with this id is paired already, with another key; revoke {before.known.name!r} first"
            known = Known(
                id=theirs.engine,
                name=agreement.name or (before.known.name if before else self._free_name(theirs)),
                fingerprint=fingerprint,
                certificate=theirs.certificate.decode(),
                calls_itself=theirs.name,
                machine=theirs.machine,
                at=self._about.wall(),
                version=theirs.software,
                panel=theirs.panel,
                addresses=[join(address, theirs.port)] if theirs.port else [],
                roles=agreement.roles,
            )
            self._book.write(known)
            remote = self._remotes[known.id] = Remote(known, self._about.wall())
        detail = {"name": known.name, "fingerprint": fingerprint, "address": address, **_told_roles(known.roles)}
        self._about.audit("peer.paired", known.id, detail)
        logger.info("paired with %s (%s at %s) as %s", theirs.name, known.id, address, known.name)

        def begin() -> None:
            if before is not None:
                self._board.drop(before.link, "it was paired anew")
            remote.try_now(self._about.up(), 0.0 if self._about.engine < known.id else POLITE)
            self._changed(remote)
            self._settle()

        self.post(begin)
        return ""

    def _free_name(self, theirs: Introduction) -> str:
        base = name_from(theirs.name) or theirs.engine[:8]
        taken = {remote.known.name for remote in self._remotes.values()}
        return next(name for name in (base, *(f"{base[:36]}-{n}" for n in range(2, 1000))) if name not in taken)

    # --- connections ----------------------------------------------------------------------------------

    def _visited(self, connection: ssl.SSLSocket, fingerprint: str, address: str) -> None:
        self.post(lambda: self._connect(connection, fingerprint, address, dialed=False))

    def _connect(self, connection: socket.socket, fingerprint: str, address: str, *, dialed: bool) -> None:
        if dialed:
            self._dialed.add(connection)
        self._board.connect(connection, fingerprint, address)
        self._dialed.discard(connection)

    def _link(self, connection: socket.socket, identity: str, address: str) -> PeerLink:
        """A link that has greeted: what the other side says may have come already, and is read next."""
        about = self._about
        dialed = connection in self._dialed
        link = PeerLink(
            Channel(connection), identity, address, dialed=dialed, wall=about.wall, up=about.up, blobs=self._blobs
        )
        hello = wire.Hello(
            versions=list(wire.VERSIONS),
            engine=about.engine,
            instance=self.instance,
            machine=about.machine,
            name=about.name,
            software=about.software,
            port=self.gate.port,
            panel=self._panel,
        )
        with suppress(ChannelClosed):  # which will be seen when it is read
            link.send(hello)
        return link

    def _by_fingerprint(self, fingerprint: str) -> Remote | None:
        return next((r for r in self._remotes.values() if r.known.fingerprint == fingerprint), None)

    def _ended(self, link: PeerLink, why: str) -> None:
        self._calls.gone(link, why)
        remote = link.remote
        if remote is None:
            other = self._by_fingerprint(link.identity)
            if other is not None and other.link is None:
                other.tried(self._about.up())
                if "does not know this machine" in why:
                    other.refused("unknown", "it does not know this engine (any more)", self._about.wall())
                self._changed(other)
            return
        if remote.link is not link:
            return
        if remote.connected:
            logger.info("%s is gone: %s", remote.title, why)
        remote.went(why, self._about.wall())
        up = self._about.up()
        if remote.standing_down:
            remote.tried(up)
        else:
            # Who calls first should, so that two do not call at once.
            remote.try_now(up, 0.2 if self._about.engine < remote.known.id else POLITE)
        self._changed(remote)

    def _take(self, link: PeerLink, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, wire.Ping):
            link.answer(message)
        elif isinstance(message, wire.Pong):
            link.pong(message)
        elif isinstance(message, wire.Hello):
            self._greeting.greeted(link, message)
        elif isinstance(message, wire.Refused):
            self._was_refused(link, message)
        elif isinstance(message, wire.Ready) and link.hello is not None:
            link.accepted = message
            self._ready(link)
        elif link.remote is None:
            raise ChannelClosed("it spoke before it was welcome")
        elif not link.ready:
            raise ChannelClosed("it spoke before it was ready")
        else:
            self._take_word(link, link.remote, message)

    def _take_word(self, link: PeerLink, remote: Remote, message: wire.Message) -> None:
        if isinstance(message, wire.Ask):
            self._calls.asked(link, message)
        elif isinstance(message, wire.Item | wire.Answer):
            self._calls.answered(link, message)
        elif isinstance(message, wire.Failed):
            self._calls.failed(link, message)
        elif isinstance(message, wire.Cancel):
            if (request := link.asked.get(message.id)) is not None:
                request.end("cancelled")
        elif isinstance(message, wire.Want):
            link.transfers.wanted(message)
        elif isinstance(message, wire.Piece):
            link.transfers.came(message)
        elif isinstance(message, wire.Roles):
            remote.known.allows = message.roles
            self._kept(remote)
        elif isinstance(message, wire.Offers):
            remote.offers = msgspec.structs.replace(message.offers, exact=True)
            self._changed(remote)

    def _ready(self, link: PeerLink) -> None:
        """Once each side has let the other in, the link is up."""
        hello, remote, message = link.hello, link.remote, link.accepted
        if hello is None or remote is None or message is None or link.ready:
            return
        link.ready = True
        remote.came(self._about.wall())
        remote.offers = msgspec.structs.replace(message.offers, exact=True)
        known = remote.known
        before = msgspec.json.encode(known)
        known.allows, known.calls_itself, known.version = message.roles, hello.name, hello.software
        known.panel, known.machine = hello.panel, known.machine or hello.machine
        if hello.port:
            remote.remember(join(link.address, hello.port))
        if msgspec.json.encode(known) != before:
            self._book.write(known)
        logger.info("%s is connected (%s)", remote.title, link.address)
        self._changed(remote)
        self._refresh_offers()

    def _was_refused(self, link: PeerLink, message: wire.Refused) -> None:
        remote = link.remote or self._by_fingerprint(link.identity)
        if link.identity == self._fingerprint and message.id == "clone":
            self._cloned(link.address)
        elif remote is not None and message.id not in {"double", "stops"} and remote.link in {link, None}:
            remote.refused(message.id, f"it says: {message.text[:500]}", self._about.wall())
            if message.id == "clone":
                self._cloned(message.place or link.address)
            self._changed(remote)
        self._board.drop(link, message.text[:500] or "it has refused")

    # --- by time, on the peers' thread ------------------------------------------------------------------

    def _due(self, now: float) -> Iterable[float]:
        for remote in self._remotes.values():
            if remote.link is not None:
                try:
                    self._calls.expire(remote.link, now)
                except ChannelClosed as exc:
                    self._board.drop(remote.link, str(exc))
        up, due = self._about.up(), []
        for remote in self._remotes.values():
            if remote.link is not None:
                due.append(remote.link.expires)
            elif not remote.dialing:
                due.append(now + max(0.0, remote.next_try - up))
        if self._listening_peers:
            due.append(now + max(0.0, self._offer_at - up))
        if self._asks_listed:
            due.append(now + max(0.0, self._ask_at - up))
        due.append(now + max(0.0, self._settle_at - up))
        return [at for at in due if at < math.inf]

    def _turned(self, now: float) -> None:
        if self._frozen:
            return
        up = self._about.up()
        slept = up - now
        if slept - self._slept > SLEPT:
            logger.info("the machine has slept for %.0f s", slept - self._slept)
            self._slept = slept
            self._moved()
            self._beacon.again()
        for remote in list(self._remotes.values()):
            if remote.link is None and not remote.dialing and up >= remote.next_try and self._dialing.free:
                self._call(remote)
        if self._listening_peers and up >= self._offer_at:
            self._refresh_offers()
        if self._asks_listed and up >= self._ask_at:
            self._ask_listed()
        if up >= self._settle_at:
            self._settle()

    @property
    def _listening_peers(self) -> bool:
        return any(remote.connected for remote in self._remotes.values())

    @property
    def _asks_listed(self) -> bool:
        return bool(self._about.listed) and bool(self._look_until)

    def _settle(self) -> None:
        """Listen, announce and look as far as there is a reason to."""
        about, up = self._about, self._about.up()
        codes = self.gate.codes.all()
        if up >= self._look_until:
            self._look_until = 0.0
        open_ = self.gate.allowed and not self._frozen and bool(self._remotes or codes or about.discovery == "always")
        if open_ and not self.gate.port:
            try:
                self.gate.open()
                self.trouble = ""
            except OSError as exc:
                self._trouble(f"port {about.port} cannot be listened on: {(exc.strerror or str(exc)).lower()}")
        elif not open_ and self.gate.port:
            self.gate.shut()
        if about.discovery != "never":
            if up >= self._announced_at + ANNOUNCE_EVERY or not self._announced:
                self._announced, self._announced_at = self._facts(), up
            self._beacon.announce("peers", self.gate.port, self._announced)
            looking = bool(self._remotes or self._look_until or about.discovery == "always")
            self._beacon.look(looking and not self._frozen, sorted(self._remotes))
        for engine in self._found.expire():
            self._tell_found(engine)
        ends = [up + max(0.0, each.expires - time.monotonic()) for each in codes]
        self._settle_at = min([*ends, self._look_until or math.inf, self._found.next_expiry()])

    def _trouble(self, text: str) -> None:
        if self.trouble != text:
            self.trouble = text
            logger.error("other engines cannot connect: %s", text)

    # --- calling ------------------------------------------------------------------------------------------

    def _call(self, remote: Remote) -> None:
        """Try to reach a peer, on a thread."""
        announced = self._found.addresses(remote.known.id)
        known = remote.known.addresses
        addresses = list(dict.fromkeys([*known[:1], *announced, *known[1:], *self._about.listed]))
        up = self._about.up()
        if not addresses:
            remote.tried(up)
            return
        remote.dialing = True
        want = remote.known.fingerprint

        def connected(connection: ssl.SSLSocket, fingerprint: str, reached: str, address: str) -> bool:
            if fingerprint != want:
                connection.close()
                return False
            with suppress(OSError):
                tune(connection)
            self.post(lambda: self._connect(connection, fingerprint, reached, dialed=True))
            return True

        def done(why: str) -> None:
            self.post(lambda: self._called(remote, why))

        self._dialing.call(addresses, [remote.known.certificate.encode()], connected, done)

    def _called(self, remote: Remote, why: str) -> None:
        remote.dialing = False
        if why:
            remote.tried(self._about.up())
        else:
            remote.next_try = self._about.up() + GREETING
        if why and remote.link is None and not remote.standing_down and remote.text != why:
            remote.text = why
            self._changed(remote)

    # --- what is seen of others -------------------------------------------------------------------------

    def _saw(self, found: Found) -> None:
        port = found.facts.get("peers", "")
        self._sighted(found.key, "mdns", found.facts, found.addresses, int(port) if port.isdigit() else 0)

    def _sighted(self, key: str, how: str, facts: Mapping[str, str], addresses: list[str], port: int) -> None:
        sighting = self._found.saw(key, how, facts, addresses, port)
        if sighting is None:
            return
        if sighting.engine == self._about.engine:
            if sighting.instance and sighting.instance != self.instance:
                self._probe(sighting.addresses)
            self._found.gone(key)
            return
        remote = self._remotes.get(sighting.engine)
        if remote is not None and remote.link is None:
            remote.try_now(self._about.up(), 0.0 if self._about.engine < sighting.engine else POLITE / 2)
        self._tell_found(sighting.engine)

    def _lost(self, key: str) -> None:
        if engine := self._found.gone(key):
            self._tell_found(engine)

    def _tell_found(self, engine: str) -> None:
        if (remote := self._remotes.get(engine)) is not None:
            self._changed(remote)
            return
        state = self._found.state(engine)
        if state is not None:
            self._news(state)
        elif self._told.pop(engine, None) is not None:
            self._about.tell({"type": "peer", "peer": {"id": engine, "state": "gone"}})

    def _probe(self, addresses: tuple[str, ...]) -> None:
        """Somebody announces this engine's id: see whether it holds the key, too. It is refused either way."""
        up = self._about.up()
        fresh = [address for address in addresses if up - self._probed.get(address, -ASK_EVERY) >= ASK_EVERY]
        self._probed = {address: at for address, at in self._probed.items() if up - at < ASK_EVERY}
        self._probed |= dict.fromkeys(fresh, up)

        def connected(connection: ssl.SSLSocket, fingerprint: str, reached: str, address: str) -> bool:
            self.post(lambda: self._connect(connection, fingerprint, reached, dialed=True))
            return True

        if fresh:
            self._dialing.call(fresh, [self._certificate], connected, lambda why: None)

    def _cloned(self, where: str) -> None:
        """Another machine holds this engine's key."""
        before = self._copy
        self._copy = (self._about.up(), where)
        if before[1] != where or self._about.up() - before[0] >= REMEMBER_COPY:
            logger.error("a machine at %s runs a copy of this engine, with its identity", where)
            self._about.audit("peer.clone", self._about.engine, {"address": where})
            self._news(self.me())

    def _ask_listed(self) -> None:
        """Who is at the addresses of the setting? Multicast does not get through everywhere."""
        self._ask_at = self._about.up() + ASK_EVERY

        def work() -> None:
            for each in self._about.listed:
                with suppress(OSError, ValueError):
                    host, port = split(each, self._about.port or gate.DEFAULT_PORT)
                    card = gate.who(host, port)
                    facts = {str(name): str(value) for name, value in card.items()}
                    self.post(lambda f=facts, h=host, p=port, k=f"list {each}": self._sighted(k, "list", f, [h], p))  # type: ignore[misc]

        self._dialing.ask(work)

    def _moved(self) -> None:
        """This machine's addresses have changed, or it has slept: try all that are not there."""
        up = self._about.up()
        for remote in self._remotes.values():
            remote.try_now(up)

    # --- what is told of this engine --------------------------------------------------------------------

    def _facts(self) -> dict[str, str]:
        about = self._about
        return {
            "instance": self.instance,
            "place": about.machine,
            "name": about.name[:60],
            "fp": self._fingerprint,
            "software": about.software,
            "panel": str(self._panel),
            **facts_of(self._offers),
        }

    def _card(self) -> dict[str, Any] | None:
        """What a stranger is told who asks who is here: what is announced anyway."""
        if self._about.discovery == "never":
            return None
        return {"engine": self._about.engine, "peers": str(self.gate.port), **self._facts()}

    def _refresh_offers(self) -> None:
        self._offer_at = self._about.up() + OFFER_EVERY
        if self._gathering or self._frozen:
            return
        self._gathering = True

        def work() -> None:
            offers, panel = self._offers, self._panel
            try:
                offers, panel = self._about.offers(), self._about.panel()
            except Exception:
                logger.exception("what this engine has to offer cannot be told")
            self.post(lambda: self._offer(offers, panel))

        self._about.aside(work)

    def _offer(self, offers: PeerOffers, panel: int) -> None:
        self._gathering = False
        changed, self._panel = (offers, panel) != (self._offers, self._panel), panel
        if not changed:
            return
        self._offers = offers
        if not self._announced_at or self._about.up() >= self._announced_at + ANNOUNCE_EVERY:
            self._settle()
        for remote in self._remotes.values():
            if remote.link is not None and remote.link.ready:
                try:
                    remote.link.send(wire.Offers(offers=offers))
                except ChannelClosed as exc:
                    self._board.drop(remote.link, str(exc))

    def _changed(self, remote: Remote) -> None:
        """A peer has changed: tell those who listen, and those who watch."""
        if self._remotes.get(remote.known.id) is remote:
            state = self._state(remote)
            self._call_listeners(state)
            self._news(state)

    def _call_listeners(self, state: PeerState) -> None:
        for callback in list(self._listeners):
            try:
                callback(state)
            except Exception:
                logger.exception("telling of a peer failed")

    def _news(self, state: PeerState) -> None:
        if self._told.get(state.id) != state:
            self._told[state.id] = state
            self._about.tell({"type": "peer", "peer": msgspec.to_builtins(state)})

    def _state(self, remote: Remote) -> PeerState:
        return remote.state(self._found.state(remote.known.id))

    def _state_of(self, link: PeerLink) -> PeerState:
        assert link.remote is not None
        return self._state(link.remote)

    def _find(self, peer: str) -> Remote:
        """A paired peer by id or name. Raises ``ConfigError``."""
        remotes = list(self._remotes.values())
        for remote in remotes:
            if peer in (remote.known.id, remote.known.name):
                return remote
        names = ", ".join(sorted(remote.known.name for remote in remotes)) or "none"
        raise ConfigError(f"there is no peer {peer!r} (paired are: {names}); pair one with: flowork peer pair")


def _told_roles(roles: PeerRoles) -> dict[str, Any]:
    return {"rights": sorted(roles.rights), "workspaces": sorted(roles.workspaces)}
