"""One paired engine as this one sees it, connected or not. Used on the peers' thread; ``state`` by any."""

from __future__ import annotations

import random

import msgspec

from appliance.contracts import PeerOffers, PeerRoles, PeerState
from appliance.contracts.peers import PEER_PORT
from appliance.fleet.peers.book import Known
from appliance.fleet.peers.link import PeerLink

#: Seconds between two tries to reach a peer: the first time and at most. Each wait is varied by a half.
FIRST, LONGEST = 0.5, 30.0
#: Seconds that the engine with the higher id leaves the other one to call first.
POLITE = 1.0
#: Addresses that are remembered of a peer, and things of one kind that it may offer.
MOST_ADDRESSES, MOST_OFFERED = 8, 1000


class Remote:
    """``allows`` is what the peer lets this engine do, as it said last."""

    def __init__(self, known: Known, now: float) -> None:
        self.known = known
        self.link: PeerLink | None = None
        self.since = now
        self.standing_down = ""
        self.text = "not connected yet"
        self.why = ""
        self.hint = ""
        #: What was seen of a copy of it, as long as this link stands.
        self.copy = ""
        self.offers = PeerOffers()
        self.dialing = False
        #: When to try again (by the clock that goes on in sleep), and how long the wait was.
        self.next_try = 0.0
        self.pause = 0.0

    @property
    def title(self) -> str:
        """For people."""
        return f"the peer {self.known.name}"

    @property
    def connected(self) -> bool:
        """Whether it can be asked something."""
        return self.link is not None and self.link.ready

    def tried(self, up: float) -> None:
        """It could not be reached: wait, longer each time, and not in step with others."""
        self.pause = min(LONGEST, max(FIRST, self.pause * 2))
        self.next_try = up + self.pause * random.uniform(0.5, 1.5)

    def try_now(self, up: float, delay: float = 0.0) -> None:
        """Something has changed: there is a reason to try again."""
        self.pause = 0.0
        self.next_try = up + delay

    def refused(self, why: str, text: str, now: float) -> None:
        """One side does not let the other in; ``why`` as in :class:`appliance.fleet.peers.wire.Refused`."""
        standing = "clone" if why == "clone" else "refused"
        if (self.standing_down, self.text) != (standing, text):
            self.standing_down, self.text, self.since = standing, text, now
        self.why, self.hint = why, _HINTS.get(why, "").replace("NAME", self.known.name)

    def came(self, now: float) -> None:
        """Each side has let the other in."""
        self.standing_down, self.text, self.since = "", "connected", now
        self.why, self.hint, self.copy, self.pause = "", "", "", 0.0

    def went(self, why: str, now: float) -> None:
        """Its link has ended."""
        ready = self.connected
        self.link, self.copy = None, ""
        if ready and not self.standing_down:
            self.text, self.since, self.why, self.hint = why, now, "", ""

    def copied(self, text: str) -> None:
        """Another machine has come with its identity, and was refused."""
        self.copy, self.why, self.hint = text, "clone", _HINTS["clone"]

    def remember(self, address: str) -> None:
        """An address has worked."""
        others = [each for each in self.known.addresses if each != address]
        self.known.addresses = [address, *others][:MOST_ADDRESSES]

    def offered(self, offers: PeerOffers) -> None:
        """What it has, as it says over its link; so much of it as anybody would read."""
        self.offers = msgspec.structs.replace(
            offers,
            models=offers.models[:MOST_OFFERED],
            devices=offers.devices[:MOST_OFFERED],
            nodes=offers.nodes[:MOST_OFFERED],
            exact=True,
        )

    def state(self, found: PeerState | None) -> PeerState:
        """As others see it. ``found`` is its announcement."""
        known, link = self.known, self.link if self.connected else None
        addresses = [*known.addresses, *(found.addresses if found else ())]
        seen = [*(["link"] if link else []), *(found.seen if found else ()), *(["last"] if known.addresses else [])]
        best = link.best if link is not None else None
        offers = self.offers if link is not None or found is None or not found.offers.models else found.offers
        return PeerState(
            id=known.id,
            name=known.name,
            calls_itself=known.calls_itself,
            fingerprint=known.fingerprint,
            state="connected" if link is not None else self.standing_down or "away",  # type: ignore[arg-type]
            text=f"{self.text}; {self.copy}" if self.copy else self.text,
            why=self.why,
            hint=self.hint,
            since=self.since,
            paired=known.at,
            addresses=tuple(dict.fromkeys(addresses)),
            address=link.address if link is not None else "",
            seen=tuple(dict.fromkeys(seen)),
            version=known.version,
            url=panel_url(link.address if link is not None else next(iter(addresses), ""), known.panel),
            offset=round(best.ahead, 4) if best is not None else 0.0,
            latency=round(best.rtt / 2, 5) if best is not None else 0.0,
            roles=known.roles,
            allows=known.allows,
            offers=offers,
        )


def panel_url(address: str, port: int) -> str:
    """Where the panel of an engine is that was reached at ``host`` or ``host:port``; empty if nowhere."""
    if not (address and port):
        return ""
    host = split(address, 0)[0]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def join(host: str, port: int) -> str:
    """``host:port``, as an address is written."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str, port: int = PEER_PORT) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[::1]:port``; ``port`` where none is named. Raises ``ValueError``."""
    host, colon, tail = address.strip().rpartition(":")
    if not colon or tail.endswith("]") or (":" in host and not host.startswith("[")):
        host, tail = address.strip(), str(port)
    host = host.strip("[]")
    if not host or not tail.isdigit() or not 0 <= int(tail) < 65536:
        raise ValueError(f"{address!r} is not an address; write host, host:port or [::1]:port")
    return host, int(tail)


def no_roles() -> PeerRoles:
    """What a peer may do if nobody says: ask models of this machine, which shows it nothing of what is here."""
    return PeerRoles(rights=frozenset({"models"}))


_ANEW = (
    "on the page Engines remove it here too (`flowork peer revoke NAME`), or pair the two again (`flowork peer pair`, "
    "`… join`)"
)
_HINTS = {
    "unknown": _ANEW,
    "revoked": _ANEW,
    "version": "bring both engines to the same release",
    "clone": "give the copy an identity of its own: stop it, and run `flowork peer new-identity` there",
    "moved": "if its data folder was moved for good, say so on the page Engines (`flowork peer moved NAME`); if this "
    "is a copy: `flowork peer new-identity` there",
    "moved-here": "if this engine's data folder was moved for good, say so on that engine's page Engines (`flowork "
    "peer moved`); if this is a copy: `flowork peer new-identity` here",
}
