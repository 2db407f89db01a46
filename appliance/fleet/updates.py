"""Updates of agents to this engine's own release: who can have it, and how it gets there.

The package (:mod:`edge_agent.protocol.package`) is made of the code that is installed here, when it is first needed,
and signed with the key whose certificate every paired agent has pinned. An agent asks for it piece by piece; what was
cut off is offered again when the agent is back. Nothing is updated unasked, but for the setting ``agent_updates``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path

from appliance.contracts import FlowError, Pending
from appliance.fleet.link import Link
from appliance.fleet.remote import Remote
from appliance.security.files import keys_folder
from edge_agent.protocol import certificates, messages, package
from edge_agent.protocol.channel import ChannelClosed
from edge_agent.protocol.package import Package, PackageError

logger = logging.getLogger(__name__)

#: How far an update is while it is not over, and how it can have come to nothing.
UNDER_WAY = frozenset({"receiving", "checking", "restarting", "trial"})
CUT_OFF = frozenset({"receiving", "checking"})
FAILED = frozenset({"refused", "rolled back"})


class NotUpdated(FlowError):
    """An agent cannot be updated, or not now; the text says why."""

    id = "agent-not-updated"
    retryable = False


class Release:
    """The agent's code that is installed here. Safe from any thread. ``root`` is where it lies."""

    def __init__(self, data: Path, root: Path) -> None:
        self._keys = keys_folder(data) / "agents"
        self._root = root
        self._lock = threading.Lock()
        self._package: Package | None = None

    @cached_property
    def version(self) -> str:
        """Its version; "" if it cannot be read, which is logged."""
        try:
            return package.version_of(self._root)
        except PackageError as exc:
            logger.error("agents cannot be updated: %s", exc)
            return ""

    def package(self) -> Package:
        """Signed and ready. Raises ``NotUpdated``."""
        with self._lock:
            if self._package is None:
                try:
                    self._package = self._made()
                except (PackageError, OSError, metadata.PackageNotFoundError) as exc:
                    raise NotUpdated(f"the package for agents cannot be made: {exc}") from None
            return self._package

    def _made(self) -> Package:
        about = metadata.metadata("flowork")
        least = about["Requires-Python"].removeprefix(">=").split(".")
        return package.make(
            self._root,
            (self._keys / certificates.KEY).read_bytes(),
            python=(int(least[0]), int(least[1])),
            requires=package.requirements(about.get_all("Requires-Dist") or []),
        )


class Updates:
    """Used on the fleet's thread, but for ``begin`` and ``stop``. ``changed`` is called when a state is another one."""

    def __init__(
        self,
        release: Release,
        automatic: bool,
        post: Callable[[Callable[[], None]], None],
        changed: Callable[[Remote], None],
    ) -> None:
        self.release = release
        self._automatic = automatic
        self._post = post
        self._changed = changed
        self._makers: set[threading.Thread] = set()

    def newer(self, remote: Remote) -> str:
        """The version that an agent can have, if it is newer than its own. Any thread."""
        hello = remote.hello
        if remote.paired is None or hello is None or not package.is_newer(self.release.version, hello.software):
            return ""
        return self.release.version

    def begin(self, remote: Remote) -> Pending:
        """Update an agent; completes with the version once it is offered. Any thread. Raises ``NotUpdated``."""
        hello = remote.hello
        if remote.paired is None:
            raise NotUpdated("this machine's own agent comes with Flowork, and is updated with it")
        if remote.link is None or hello is None:
            raise NotUpdated(f"{remote.title} is away ({remote.text}): it can be updated when it is connected")
        if not self.newer(remote):
            raise NotUpdated(
                f"{remote.title} has version {hello.software}, and this engine's is {self.release.version}"
            )
        if not hello.updates:
            raise NotUpdated(
                f"{remote.title} has version {hello.software}, which cannot be updated from here: "
                "install it anew on its machine, this once"
            )
        pending = Pending()
        self._make(remote, pending)
        return pending

    def stop(self) -> None:
        """Twice is fine."""
        for thread in list(self._makers):
            thread.join()

    def heard(self, remote: Remote) -> None:
        """An agent has said how it stands: go on with what was cut off, or begin, if that is wanted."""
        hello, told = remote.hello, remote.report.update if remote.report is not None else None
        if remote.link is None or hello is None or not hello.updates or remote.offered or not self.newer(remote):
            return
        phase = told.phase if told is not None else ""
        failed = told is not None and phase in FAILED and told.version == self.release.version
        if phase in CUT_OFF or (self._automatic and not failed and phase not in UNDER_WAY):
            remote.offered = self.release.version
            self._make(remote, Pending())

    def want(self, remote: Remote, link: Link, wanted: messages.Want) -> None:
        """The next piece. Raises ``ChannelClosed``."""
        if remote.package is None or wanted.digest != remote.package.digest:
            raise ChannelClosed("it asked for what was not offered")
        payload = remote.package.payload
        if not 0 <= wanted.offset < len(payload):
            raise ChannelClosed("it asked for more than there is")
        data = payload[wanted.offset : wanted.offset + package.PIECE]
        link.send(messages.Piece(digest=wanted.digest, offset=wanted.offset, data=data))
        remote.percent = wanted.offset * 100 // len(payload)
        self._changed(remote)

    def _make(self, remote: Remote, pending: Pending) -> None:
        """Packing and signing take a moment: not on the threads that others wait for."""
        thread = threading.Thread(target=self._work, args=(remote, pending), name="update")
        self._makers.add(thread)
        thread.start()

    def _work(self, remote: Remote, pending: Pending) -> None:
        try:
            made = self.release.package()
        except NotUpdated as exc:
            logger.error("%s", exc.message)
            pending.complete(error=exc)
        else:
            self._post(partial(self._offer, remote, made, pending))
        finally:
            self._makers.discard(threading.current_thread())

    def _offer(self, remote: Remote, made: Package, pending: Pending) -> None:
        link = remote.link
        if link is None:
            pending.complete(error=NotUpdated(f"{remote.title} is away ({remote.text})"))
            return
        remote.offer(made, self.release.version)
        logger.info("%s is offered version %s", remote.title, self.release.version)
        offer = messages.Offer(
            version=self.release.version, digest=made.digest, manifest=made.manifest, signature=made.signature
        )
        try:
            link.send(offer)
        except ChannelClosed as exc:
            pending.complete(error=NotUpdated(f"{remote.title} is away ({exc})"))
            return
        self._changed(remote)
        pending.complete(self.release.version)
