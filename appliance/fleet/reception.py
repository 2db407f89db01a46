"""Who of those that greet is let in: known, of a protocol that we speak, on its own hardware, and only once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress

from appliance.fleet.link import Link
from appliance.fleet.remote import Remote
from edge_agent.protocol import messages
from edge_agent.protocol.channel import ChannelClosed

logger = logging.getLogger(__name__)

#: Seconds that an agent which is connected already has to show that it is still there.
PROOF = 2.0


class Reception:
    """Used on the fleet's thread. ``remotes`` are all agents by name, ``is_open`` says whether a connection stands,
    ``drop`` ends one; ``later`` calls back after so many seconds.
    """

    def __init__(
        self,
        remotes: Mapping[str, Remote],
        wall: Callable[[], float],
        is_open: Callable[[Link], bool],
        drop: Callable[[Link, str], None],
        later: Callable[[float, Callable[[], None]], None],
        let_in: Callable[[Remote], None],
        changed: Callable[[Remote], None],
    ) -> None:
        self._remotes = remotes
        self._wall = wall
        self._is_open = is_open
        self._drop = drop
        self._later = later
        self._let_in = let_in
        self._changed = changed

    def greeted(self, link: Link, hello: messages.Hello) -> None:
        """Welcome an agent, or say why not."""
        version = messages.common_version(hello.versions)
        remote = self._remote_of(link)
        if version is None:
            ours = ", ".join(map(str, messages.VERSIONS))
            theirs = ", ".join(map(str, hello.versions[:10]))
            text = f"the agent speaks protocol {theirs}, this appliance {ours}: bring both to the same release"
            self._refuse(link, "version", text)
        elif remote is None:
            self._refuse(link, "unknown", "this agent is not paired with this appliance (any more); pair it again")
        elif self._moved(remote, hello):
            text = (
                f"the identity of agent {remote.name!r} was made on other hardware: this looks like a copy of its SD "
                f"card. Pair this machine under a name of its own, or, if the card has moved for good, revoke "
                f"{remote.name!r} and pair it again"
            )
            self._refuse(link, "moved", text)
        elif remote.link is not None and remote.link.hello is not None:
            self._challenge(link, remote, remote.link, hello, version)
        else:
            self._welcome(link, remote, hello, version)

    def _remote_of(self, link: Link) -> Remote | None:
        if not link.identity:
            return self._remotes[""]
        return next((r for r in self._remotes.values() if r.paired and r.paired.id == link.identity), None)

    def _moved(self, remote: Remote, hello: messages.Hello) -> bool:
        known = remote.paired.machine if remote.paired else ""
        return bool(known and hello.machine and known != hello.machine)

    def _challenge(self, link: Link, remote: Remote, old: Link, hello: messages.Hello, version: int) -> None:
        """Two connections with one identity: if the older one is alive, there are two agents with it."""
        if old.hello is not None and old.hello.instance == hello.instance:
            self._drop(old, "it has connected anew")
            self._welcome(link, remote, hello, version)
            return
        answered = [False]

        def alive() -> None:
            answered[0] = True
            text = (
                f"another machine ({old.address}) is connected as agent {remote.name!r} now: two agents have "
                f"one identity, as after copying an SD card. Pair this machine under a name of its own"
            )
            if self._is_open(link):
                self._refuse(link, "clone", text if link.identity else "another agent of this machine is connected")

        def waited() -> None:
            if not answered[0] and self._is_open(link):
                self._drop(old, "it does not answer any more")
                self._welcome(link, remote, hello, version)

        old.on_pong.append(alive)
        try:
            old.ping()
        except ChannelClosed as exc:
            self._drop(old, str(exc))
            self._welcome(link, remote, hello, version)
            return
        self._later(PROOF, waited)

    def _refuse(self, link: Link, why: str, text: str) -> None:
        remote = self._remote_of(link)
        if remote is not None and remote.link is None:
            remote.text, remote.since = f"refused: {text}", self._wall()
            self._changed(remote)
        logger.warning("an agent from %s was refused: %s", link.address, text)
        with suppress(ChannelClosed):
            link.send(messages.Refused(id=why, message=text))
        self._drop(link, text)

    def _welcome(self, link: Link, remote: Remote, hello: messages.Hello, version: int) -> None:
        link.hello, link.remote = hello, remote
        try:
            link.ping()  # ahead of the welcome, so that clocks are compared before the first event
            link.send(messages.Welcome(version=version, name=remote.name, heartbeat=link.heartbeat))
            remote.connected(link, hello, self._wall())
        except ChannelClosed as exc:
            self._drop(link, str(exc))
            return
        logger.info("%s is connected from %s", remote.title, link.address)
        self._let_in(remote)
