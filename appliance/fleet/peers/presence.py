"""This engine on the network: when it listens and announces itself, what it says, and whom it sees.

Used on the peers' thread, unless a method says otherwise.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from appliance.contracts import PeerOffers, PeerState
from appliance.fleet.peers.beacon import Beacon, Found
from appliance.fleet.peers.circle import Circle
from appliance.fleet.peers.dialing import Dialing
from appliance.fleet.peers.found import facts_of
from appliance.fleet.peers.gate import Gate
from appliance.fleet.peers.outgoing import who
from appliance.fleet.peers.remote import POLITE, split

logger = logging.getLogger(__name__)

#: Seconds between two looks at what this engine has to offer, while somebody listens.
OFFER_EVERY = 10.0
#: Seconds between two questions to one address, who is there.
ASK_EVERY = 60.0
#: Seconds for which a look at the network lasts that somebody asked for.
LOOK = 30.0
#: Seconds between two changes of what is announced, at least.
ANNOUNCE_EVERY = 60.0
#: Seconds for which who was revoked unheard may still come to hear of it.
PARTING = 600.0
#: Seconds for which a copy of this engine is told of after it was seen.
REMEMBER_COPY = 600.0


class Presence:
    """``connect(connection, fingerprint, address)`` takes a connection that was made to see who is there; ``offered``
    is told when this engine has something else to offer, or its panel another port. ``gate`` is set before it begins.
    """

    gate: Gate

    def __init__(
        self,
        circle: Circle,
        beacon: Beacon,
        dialing: Dialing,
        post: Callable[[Callable[[], None]], None],
        connect: Callable[[ssl.SSLSocket, str, str], None],
        offered: Callable[[PeerOffers, int], None],
    ) -> None:
        self._circle = circle
        self._about = circle.about
        self._beacon = beacon
        self._dialing = dialing
        self._post = post
        self._connect = connect
        self._offered = offered
        self.offers = PeerOffers()
        self.panel = 0
        #: Why other engines cannot connect, for people; empty if they can, or need not.
        self.trouble = ""
        self.frozen = False
        self._settle_at = math.inf
        self._offer_at = self._ask_at = self._look_until = self._announced_at = 0.0
        self._parting_until = 0.0
        self._announced: dict[str, str] = {}
        self._gathering = False
        self._copy: tuple[float, str] = (0.0, "")
        self._probed: dict[str, float] = {}
        self._began = self._about.wall()

    def me(self) -> PeerState:
        """This engine, as others are shown. Safe from any thread."""
        about, (seen, where) = self._about, self._copy
        copied = bool(seen) and about.up() - seen < REMEMBER_COPY
        return PeerState(
            id=about.engine,
            name=about.name,
            calls_itself=about.name,
            fingerprint=self._circle.shown_fingerprint,
            state="self",
            text=f"a machine at {where} runs a copy of this engine, with its identity" if copied else "this engine",
            hint="stop one of the two, and run `flowork peer new-identity` there" if copied else "",
            since=self._began,
            version=about.software,
            offers=self.offers,
        )

    # --- listening, announcing, looking -----------------------------------------------------------------

    def begin(self) -> None:
        """Watch the network."""
        self._beacon.on_found = lambda found: self._post(lambda: self.saw(found))
        self._beacon.on_gone = lambda key: self._post(lambda: self._lost(key))
        self.settle()

    def look(self) -> None:
        """See who is there, for a while."""
        self._look_until = self._about.up() + LOOK
        self._ask_at = 0.0
        self.settle()
        self._beacon.again()

    def look_again(self) -> None:
        """The machine has slept: what was seen may be gone, and nobody has been told of it for long."""
        self._beacon.again()

    def await_parting(self) -> None:
        """Somebody was revoked who cannot be told now: it hears of it when it calls."""
        self._parting_until = self._about.up() + PARTING

    def settle(self) -> None:
        """Listen, announce and look as far as there is a reason to."""
        about, up = self._about, self._about.up()
        codes, remotes = self.gate.codes.all(), self._circle.remotes
        if up >= self._look_until:
            self._look_until = 0.0
        if up >= self._parting_until:
            self._parting_until = 0.0
        always = about.discovery == "always"
        self._listen(self.gate.allowed and not self.frozen and bool(remotes or codes or always or self._parting_until))
        if about.discovery != "never":
            if self.gate.port and (up >= self._announced_at + ANNOUNCE_EVERY or not self._announced):
                self._announced, self._announced_at = self.facts(), up
            self._beacon.announce("peers", self.gate.port, self._announced)
            self._beacon.look(not self.frozen and bool(remotes or self._look_until or always), sorted(remotes))
        for engine in self._circle.found.expire():
            self._circle.seen(engine)
        ends = [up + max(0.0, each.expires - time.monotonic()) for each in codes]
        ends += [until for until in (self._look_until, self._parting_until) if until]
        self._settle_at = min([*ends, self._circle.found.next_expiry()])

    def _listen(self, wanted: bool) -> None:
        if wanted and not self.gate.port:
            try:
                self._circle.have_certificate()
                self.gate.open()
                self.trouble = ""
            except OSError as exc:
                text = f"port {self._about.port} cannot be listened on: {(exc.strerror or str(exc)).lower()}"
                if self.trouble != text:
                    self.trouble = text
                    logger.error("other engines cannot connect: %s", text)
        elif not wanted and self.gate.port:
            self.gate.shut()

    def due(self) -> Iterator[float]:
        """When something is to be done, by the clock that goes on in sleep."""
        yield self._settle_at
        if self.gate.port or self._is_heard:
            yield self._offer_at
        if self._asks:
            yield self._ask_at

    def turn(self, up: float) -> None:
        """Do what is due."""
        if up >= self._settle_at:
            self.settle()
        if up >= self._offer_at and (self.gate.port or self._is_heard):
            self.refresh_offers()
        if self._asks and up >= self._ask_at:
            self._ask_listed()

    @property
    def _is_heard(self) -> bool:
        return any(remote.connected for remote in self._circle.remotes.values())

    @property
    def _asks(self) -> bool:
        return bool(self._about.listed and self._look_until)

    # --- what is told of this engine --------------------------------------------------------------------

    def facts(self) -> dict[str, str]:
        """What is announced."""
        return {
            "instance": self._circle.instance,
            "place": self._about.machine,
            "name": self._about.name[:60],
            "fp": self._circle.fingerprint,
            "software": self._about.software,
            "panel": str(self.panel),
            **facts_of(self.offers),
        }

    def card(self) -> dict[str, Any] | None:
        """What a stranger is told who asks who is here: what is announced anyway. Safe from any thread."""
        if self._about.discovery == "never":
            return None
        return {"engine": self._about.engine, "peers": str(self.gate.port), **self.facts()}

    def refresh_offers(self) -> None:
        """See anew what this engine has to offer."""
        self._offer_at = self._about.up() + (OFFER_EVERY if self._is_heard else ANNOUNCE_EVERY)
        if self._gathering or self.frozen:
            return
        self._gathering = True

        def work() -> None:
            offers, panel = self.offers, self.panel
            try:
                offers, panel = self._about.offers(), self._about.panel(self.panel)
            except Exception:
                logger.exception("what this engine has to offer cannot be told")
            self._post(lambda: self._offer(offers, panel))

        self._about.aside(work)

    def _offer(self, offers: PeerOffers, panel: int) -> None:
        self._gathering = False
        if (offers, panel) == (self.offers, self.panel):
            return
        self.offers, self.panel = offers, panel
        if self._about.up() >= self._announced_at + ANNOUNCE_EVERY:
            self.settle()
        self._offered(offers, panel)

    # --- what is seen of others -------------------------------------------------------------------------

    def saw(self, found: Found) -> None:
        """An announcement has come."""
        port = found.facts.get("peers", "")
        self._sighted(found.key, "mdns", found.facts, found.addresses, int(port) if port.isdigit() else 0)

    def _sighted(self, key: str, how: str, facts: Mapping[str, str], addresses: list[str], port: int) -> None:
        sighting = self._circle.found.saw(key, how, facts, addresses, port)
        if sighting is None:
            return
        if sighting.engine == self._about.engine:
            if sighting.instance and sighting.instance != self._circle.instance:
                self._probe(sighting.addresses)
            self._circle.found.gone(key)
            return
        remote = self._circle.remotes.get(sighting.engine)
        if remote is not None and remote.link is None:
            remote.try_now(self._about.up(), 0.0 if self._about.engine < sighting.engine else POLITE / 2)
        self._circle.seen(sighting.engine)

    def _lost(self, key: str) -> None:
        if engine := self._circle.found.gone(key):
            self._circle.seen(engine)

    def _ask_listed(self) -> None:
        """Who is at the addresses of the setting? Multicast does not get through everywhere."""
        self._ask_at = self._about.up() + ASK_EVERY

        def ask(address: str) -> None:
            host, port = split(address)
            facts = {str(name): str(value) for name, value in who(self._dialing.lines, host, port).items()}
            self._post(lambda: self._sighted(f"list {address}", "list", facts, [host], port))

        def work() -> None:
            for each in self._about.listed:
                with suppress(OSError, ValueError):
                    ask(each)

        self._dialing.ask(work)

    # --- copies of this engine --------------------------------------------------------------------------

    def _probe(self, addresses: tuple[str, ...]) -> None:
        """Somebody announces this engine's id: see whether it holds the key, too. It is refused either way."""
        up = self._about.up()
        self._probed = {address: at for address, at in self._probed.items() if up - at < ASK_EVERY}
        fresh = [address for address in addresses if address not in self._probed]
        self._probed |= dict.fromkeys(fresh, up)

        def connected(connection: ssl.SSLSocket, fingerprint: str, reached: str, address: str) -> bool:
            self._connect(connection, fingerprint, reached)
            return True

        if fresh:
            self._dialing.call(fresh, [self._circle.certificate], connected, lambda why: None)

    def cloned(self, where: str) -> None:
        """Another machine holds this engine's key."""
        (seen, before), up = self._copy, self._about.up()
        self._copy = (up, where)
        if before != where or up - seen >= REMEMBER_COPY:
            logger.error("a machine at %s runs a copy of this engine, with its identity", where)
            self._about.audit("peer.clone", self._about.engine, {"address": where})
            self._circle.show(self.me())
