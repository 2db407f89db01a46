"""The links with peers: made, kept, given up, and made again. All on one thread, which others post to."""

from __future__ import annotations

import logging
import math
import socket
import ssl
import time
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from appliance.contracts import PeerOffers, PeerState
from appliance.fleet.peers import wire
from appliance.fleet.peers.calls import Calls, Served
from appliance.fleet.peers.circle import Circle
from appliance.fleet.peers.dialing import Dialing
from appliance.fleet.peers.greeting import Greeting
from appliance.fleet.peers.link import PeerLink, decode
from appliance.fleet.peers.presence import Presence
from appliance.fleet.peers.remote import POLITE, Remote, join
from appliance.fleet.peers.transfers import BlobKeeper
from appliance.fleet.switchboard import Switchboard
from edge_agent.protocol.channel import Channel, ChannelClosed, tune

logger = logging.getLogger(__name__)

#: Seconds that a connection has to become a link before another one is tried.
GREETING = 12.0
#: Seconds after which who should call first does, when a link has ended.
PROMPT = 0.2
#: Seconds that the clock which goes on in sleep may gain on the other before this counts as sleep.
SLEPT = 5.0


class Links:
    """``board`` is the thread; all is used on it, unless a method says otherwise. ``presence`` is set before that."""

    presence: Presence

    def __init__(self, circle: Circle, dialing: Dialing, blobs: BlobKeeper) -> None:
        self._circle = circle
        self._about = circle.about
        self._dialing = dialing
        self._blobs = blobs
        self.board = Switchboard("peers", self._link, self._take, self._ended, self._turned, self._due)
        self.served: dict[str, Served] = {}
        self.calls = Calls(self.served, self._state_of, self.board.post)
        self.greeting = Greeting(
            circle.about.engine,
            circle.instance,
            circle.holder,
            lambda: circle.fingerprint,
            lambda: (self.presence.offers, self.presence.panel),
            circle.about.wall,
            self.board.is_open,
            self.board.drop,
            self.board.later,
            circle.changed,
            lambda where: self.presence.cloned(where),
            self._ready,
        )
        #: Connections that this side has made, on their way to the thread.
        self._dialed: set[socket.socket] = set()
        self.frozen = False
        self._ahead = 0.0

    def begin(self) -> None:
        """Try to reach everybody."""
        up = self._about.up()
        self._ahead = up - time.monotonic()
        for remote in self._circle.all:
            remote.try_now(up, self._politely(remote, 0.0))

    def hurry(self) -> None:
        """This machine's addresses have changed, or it has slept: try all that are not there."""
        up = self._about.up()
        for remote in self._circle.all:
            remote.try_now(up)

    def say_goodbye(self) -> None:
        """The engine stops."""
        for remote in self._circle.all:
            self.tell(remote, wire.Refused(id="stops", text="it stops"))

    def tell(self, remote: Remote, message: wire.Message) -> None:
        """Say something to a peer that is connected."""
        if remote.link is not None and remote.link.ready:
            try:
                remote.link.send(message)
            except ChannelClosed as exc:
                self.board.drop(remote.link, str(exc))

    def offered(self, offers: PeerOffers, panel: int) -> None:
        """This engine has something else to offer."""
        for remote in self._circle.all:
            self.tell(remote, wire.Offers(offers=offers, panel=panel))

    def connect(self, connection: socket.socket, fingerprint: str, address: str, *, dialed: bool) -> None:
        """A connection with somebody who has proved to hold a key that is known. Safe from any thread."""

        def begin() -> None:
            if dialed:
                self._dialed.add(connection)
            self.board.connect(connection, fingerprint, address)
            self._dialed.discard(connection)

        self.board.post(begin)

    def _politely(self, remote: Remote, delay: float) -> float:
        """Who should call first does so after ``delay`` seconds, the other one later: two need not call at once."""
        return delay if self._about.engine < remote.known.id else POLITE

    # --- for the switchboard ----------------------------------------------------------------------------

    def _link(self, connection: socket.socket, identity: str, address: str) -> PeerLink:
        """A link that has greeted: what the other side says may have come already, and is read next."""
        about, dialed = self._about, connection in self._dialed
        link = PeerLink(
            Channel(connection), identity, address, dialed=dialed, wall=about.wall, up=about.up, blobs=self._blobs
        )
        hello = wire.Hello(
            versions=list(wire.VERSIONS),
            engine=about.engine,
            instance=self._circle.instance,
            machine=about.machine,
            name=about.name,
            software=about.software,
            port=self.presence.gate.port,
        )
        with suppress(ChannelClosed):  # which will be seen when it is read
            link.send(hello)
        return link

    def _ended(self, link: PeerLink, why: str) -> None:
        self.calls.gone(link, why)
        remote = link.remote
        if remote is None:
            self._never_began(link, why)
        elif remote.link is link:
            if remote.connected:
                logger.info("%s is gone: %s", remote.title, why)
            remote.went(why, self._about.wall())
            up = self._about.up()
            if remote.standing_down:
                remote.tried(up)
            else:
                remote.try_now(up, self._politely(remote, PROMPT))
            self._circle.changed(remote)

    def _never_began(self, link: PeerLink, why: str) -> None:
        remote = self._circle.holder(link.identity)
        if remote is not None and remote.link is None:
            remote.tried(self._about.up())
            if "does not know this machine" in why:
                remote.refused("unknown", "it does not know this engine (any more)", self._about.wall())
            self._circle.changed(remote)

    def _due(self, now: float) -> Iterable[float]:
        ahead = self._about.up() - now
        due = [at - ahead for at in self.presence.due()]
        for remote in self._circle.all:
            if remote.link is not None:
                due.append(remote.link.expires)
            elif not remote.dialing:
                due.append(remote.next_try - ahead)
        return [max(now, at) for at in due if at < math.inf]

    def _turned(self, now: float) -> None:
        up = self._about.up()
        if up - now - self._ahead > SLEPT:
            logger.info("the machine has slept for %.0f s", up - now - self._ahead)
            self._ahead = up - now
            self.hurry()
            self.presence.look_again()
        for remote in self._circle.all:
            if remote.link is not None:
                try:
                    self.calls.expire(remote.link, now)
                except ChannelClosed as exc:
                    self.board.drop(remote.link, str(exc))
            elif up >= remote.next_try and not (remote.dialing or self.frozen) and self._dialing.free:
                self.call(remote)
        if not self.frozen:
            self.presence.turn(up)

    # --- what comes in ----------------------------------------------------------------------------------

    def _take(self, link: PeerLink, data: bytes) -> None:
        message = decode(data)
        if isinstance(message, wire.Ping):
            link.answer(message)
        elif isinstance(message, wire.Pong):
            link.pong(message)
        elif isinstance(message, wire.Hello):
            self.greeting.greeted(link, message)
        elif isinstance(message, wire.Refused):
            self._was_refused(link, message)
        elif isinstance(message, wire.Ready) and link.hello is not None:
            link.accepted = message
            self._ready(link)
        elif link.remote is None or not link.ready:
            raise ChannelClosed("it spoke before it was welcome")
        else:
            self._take_word(link, link.remote, message)

    def _take_word(self, link: PeerLink, remote: Remote, message: wire.Message) -> None:
        if isinstance(message, wire.Ask):
            self.calls.asked(link, message)
        elif isinstance(message, wire.Item | wire.Answer):
            self.calls.answered(link, message)
        elif isinstance(message, wire.Failed):
            self.calls.failed(link, message)
        elif isinstance(message, wire.Cancel):
            if (request := link.asked.get(message.id)) is not None:
                request.end("cancelled")
        elif isinstance(message, wire.Want):
            link.transfers.wanted(message)
        elif isinstance(message, wire.Piece):
            link.transfers.came(message)
        elif isinstance(message, wire.Roles):
            remote.known.allows = message.roles
            self._circle.note(remote)
            self._circle.changed(remote)
        elif isinstance(message, wire.Offers):
            remote.offered(message.offers)
            if remote.known.panel != message.panel:
                remote.known.panel = message.panel
                self._circle.note(remote)
            self._circle.changed(remote)

    def _ready(self, link: PeerLink) -> None:
        """Once each side has let the other in, the link is up."""
        hello, remote, message = link.hello, link.remote, link.accepted
        if hello is None or remote is None or message is None or link.ready:
            return
        link.ready = True
        remote.came(self._about.wall())
        remote.offered(message.offers)
        known = remote.known
        before = msgspec.json.encode(known)
        known.allows, known.calls_itself, known.version = message.roles, hello.name[:60], hello.software[:40]
        known.panel, known.machine = message.panel, hello.machine[:200] or known.machine
        if hello.port:
            remote.remember(join(link.address, hello.port))
        if msgspec.json.encode(known) != before:
            self._circle.note(remote)
        logger.info("%s is connected (%s)", remote.title, link.address)
        self._circle.changed(remote)
        self.presence.refresh_offers()

    def _was_refused(self, link: PeerLink, message: wire.Refused) -> None:
        remote = link.remote or self._circle.holder(link.identity)
        if link.identity == self._circle.fingerprint and message.id == "clone":
            self.presence.cloned(link.address)
        elif remote is not None and message.id not in {"double", "stops"} and remote.link in {link, None}:
            remote.refused(
                "moved-here" if message.id == "moved" else message.id,
                f"it says: {message.text[:500]}",
                self._about.wall(),
            )
            if message.id == "clone":
                self.presence.cloned(message.place or link.address)
            self._circle.changed(remote)
        self.board.drop(link, message.text[:500] or "it has refused")

    def _state_of(self, link: PeerLink) -> PeerState:
        assert link.remote is not None
        return self._circle.state(link.remote)

    # --- calling ----------------------------------------------------------------------------------------

    def call(self, remote: Remote) -> None:
        """Try to reach a peer: where it was last, where it says that it is, where it was before, as listed."""
        last, announced = remote.known.addresses, self._circle.found.addresses(remote.known.id)
        addresses = list(dict.fromkeys([*last[:1], *announced, *last[1:], *self._about.listed]))
        if not addresses:
            remote.tried(self._about.up())
            return
        remote.dialing = True
        want = remote.known.fingerprint

        def connected(connection: ssl.SSLSocket, fingerprint: str, reached: str, address: str) -> bool:
            if fingerprint != want:
                connection.close()
                return False
            with suppress(OSError):
                tune(connection)
            self.connect(connection, fingerprint, reached, dialed=True)
            return True

        self._dialing.call(
            addresses,
            [remote.known.certificate.encode()],
            connected,
            lambda why: self.board.post(lambda: self._called(remote, why)),
        )

    def _called(self, remote: Remote, why: str) -> None:
        remote.dialing = False
        if not why:
            remote.next_try = self._about.up() + GREETING
            return
        remote.tried(self._about.up())
        if remote.link is None and not remote.standing_down and remote.text != why:
            remote.text = why
            self._circle.changed(remote)
