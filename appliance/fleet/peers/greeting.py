"""Who of those that greet is let in: known, of a protocol that we speak, on its own hardware, and only once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from appliance.contracts import PeerOffers
from appliance.fleet.peers import wire
from appliance.fleet.peers.hardware import is_same
from appliance.fleet.peers.link import PeerLink
from appliance.fleet.peers.remote import Remote
from edge_agent.protocol.channel import ChannelClosed

logger = logging.getLogger(__name__)

#: Seconds that a peer which is connected already has to show that it is still there.
PROOF = 2.0
UNKNOWN = "this engine is not paired with that one (any more); pair the two again"


class Greeting:
    """Used on the peers' thread. ``find`` gives the peer with a certificate, ``drop`` ends a link, ``later`` calls back
    after so many seconds, ``cloned`` is told that another machine holds this engine's own key, ``accepted`` of a link
    that was let in.
    """

    def __init__(
        self,
        engine: str,
        instance: str,
        find: Callable[[str], Remote | None],
        own: Callable[[], str],
        offers: Callable[[], tuple[PeerOffers, int]],
        wall: Callable[[], float],
        is_open: Callable[[PeerLink], bool],
        drop: Callable[[PeerLink | None, str], None],
        later: Callable[[float, Callable[[], None]], None],
        changed: Callable[[Remote], None],
        cloned: Callable[[str], None],
        accepted: Callable[[PeerLink], None],
    ) -> None:
        self._engine = engine
        self._instance = instance
        self._find = find
        self._own = own
        self._offers = offers
        self._wall = wall
        self._is_open = is_open
        self._drop = drop
        self._later = later
        self._changed = changed
        self._cloned = cloned
        self._accepted = accepted

    def greeted(self, link: PeerLink, hello: wire.Hello) -> None:
        """Let a peer in, or say why not."""
        if link.hello is not None:
            raise ChannelClosed("it greeted twice")
        link.hello = hello
        if link.identity == self._own():
            self._myself(link, hello)
            return
        remote, version = self._find(link.identity), wire.common_version(hello.versions)
        if remote is None or remote.known.id != hello.engine:
            self.refuse(link, "unknown", UNKNOWN)
        elif version is None:
            ours, theirs = (", ".join(map(str, each[:10])) for each in (wire.VERSIONS, hello.versions))
            text = f"one engine speaks the peers' protocol {theirs}, the other {ours}: bring both to the same release"
            self.refuse(link, "version", text)
        elif not is_same(remote.known.machine, hello.machine):
            self.refuse(
                link,
                "moved",
                f"the identity of {remote.known.name!r} was made on other hardware: this is a copy of its data folder, "
                f"or the folder has moved to another machine",
            )
        elif remote.link is not None and remote.link is not link and remote.link.hello is not None:
            self._second(link, remote, remote.link, hello)
        else:
            self._welcome(link, remote, hello)

    def _myself(self, link: PeerLink, hello: wire.Hello) -> None:
        """Somebody with our own key: this engine itself, over one of its addresses, or a copy of it."""
        if hello.instance != self._instance:
            self._cloned(link.address)
            self.refuse(link, "clone", "another machine runs a copy of this engine, with its identity")
        else:
            self._drop(link, "it is this engine itself")

    def _second(self, link: PeerLink, remote: Remote, old: PeerLink, hello: wire.Hello) -> None:
        """A second link with one peer: both have called at once, it has lost the first one, or there are two of it."""
        assert old.hello is not None
        same = old.hello.instance == hello.instance
        if same and self._preferred(link, remote) and not self._preferred(old, remote):
            self._drop(old, "both engines have called at once")
            self._welcome(link, remote, hello)
            return
        answered = [False]

        def alive() -> None:
            answered[0] = True
            if not self._is_open(link):
                return
            if same:
                self.refuse(link, "double", "both engines have called at once")
                return
            text = f"two machines have the identity of {remote.known.name!r}: {old.address} and {link.address}"
            self.refuse(link, "clone", text, old.address)
            remote.copied(text)
            self._changed(remote)

        def waited() -> None:
            if answered[0] or not self._is_open(link):
                return
            if remote.link not in (old, None):  # another one was quicker
                self.refuse(link, "double", "it has connected anew meanwhile")
                return
            self._drop(old, "it does not answer any more")
            self._welcome(link, remote, hello)

        old.on_pong.append(alive)
        try:
            old.ping()
        except ChannelClosed as exc:
            self._drop(old, str(exc))
        self._later(PROOF, waited)

    def _preferred(self, link: PeerLink, remote: Remote) -> bool:
        """Of two links the one counts that the engine with the lower id has made: both sides see that alike."""
        return link.dialed == (self._engine < remote.known.id)

    def refuse(self, link: PeerLink, why: str, text: str, place: str = "") -> None:
        """Say why not, and end the link. Of one that is refused because it is there already nothing is noted."""
        remote = self._find(link.identity)
        known = remote is not None and remote.text == text
        if remote is not None and remote.link is None and why not in {"double", "clone"}:
            remote.refused(why, text, self._wall())
            self._changed(remote)
        level = logging.DEBUG if known or why == "double" else logging.WARNING
        logger.log(level, "an engine at %s was refused: %s", link.address, text)
        with suppress(ChannelClosed):
            link.send(wire.Refused(id=why, text=text, place=place))
        self._drop(link, text)

    def _welcome(self, link: PeerLink, remote: Remote, hello: wire.Hello) -> None:
        version = wire.common_version(hello.versions)
        assert version is not None
        link.remote = remote
        remote.link = link
        try:
            link.ping()  # so that clocks are compared at once
            offers, panel = self._offers()
            link.send(wire.Ready(version=version, roles=remote.known.roles, offers=offers, panel=panel))
        except ChannelClosed as exc:
            self._drop(link, str(exc))
            return
        self._accepted(link)
