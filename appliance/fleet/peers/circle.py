"""The paired engines, as long as this one runs, and who is told when one of them changes."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import msgspec

from appliance.contracts import ConfigError, PeerState
from appliance.fleet.peers.book import Known, PeerBook, name_from
from appliance.fleet.peers.found import FoundEngines
from appliance.fleet.peers.remote import Remote
from appliance.fleet.peers.surroundings import Surroundings
from edge_agent.protocol import certificates

logger = logging.getLogger(__name__)


class Circle:
    """``instance`` is new with each start. Methods are safe from any thread unless they say otherwise."""

    def __init__(self, book: PeerBook, about: Surroundings) -> None:
        self.about = about
        self.book = book
        self.instance = secrets.token_hex(8)
        self.remotes: dict[str, Remote] = {}
        self.found = FoundEngines(about.up, about.wall, self.remotes)
        self.listeners: list[Callable[[PeerState], None]] = []
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._told: dict[str, PeerState] = {}

    def open(self) -> None:
        """Read who is paired. Raises ``OSError``."""
        for known in self.book.all():
            self.remotes[known.id] = Remote(known, self.about.wall())

    @cached_property
    def certificate(self) -> bytes:
        """This engine's, PEM; made when it is first wanted, for what makes it takes 15 MB. Raises ``OSError``."""
        with self._making:
            return self.book.certificate(f"flowork {self.about.engine}")

    def have_certificate(self) -> None:
        """Others may call from now on. Raises ``OSError``."""
        assert self.certificate

    @cached_property
    def fingerprint(self) -> str:
        """That of :attr:`certificate`."""
        return certificates.fingerprint(self.certificate)

    @property
    def shown_fingerprint(self) -> str:
        """:attr:`fingerprint`; nothing as long as no certificate was wanted."""
        return self.fingerprint if (self.book.folder / certificates.CERTIFICATE).exists() else ""

    @property
    def all(self) -> list[Remote]:
        """The paired engines at this moment."""
        return list(self.remotes.values())

    def find(self, peer: str) -> Remote:
        """A paired engine by id or name. Raises ``ConfigError``."""
        for remote in self.all:
            if peer in (remote.known.id, remote.known.name):
                return remote
        names = ", ".join(sorted(remote.known.name for remote in self.all)) or "none"
        raise ConfigError(f"there is no peer {peer!r} (paired are: {names}); pair one with: flowork peer pair")

    def holder(self, fingerprint: str) -> Remote | None:
        """The paired engine with that certificate."""
        return next((remote for remote in self.all if remote.known.fingerprint == fingerprint), None)

    def is_taken(self, name: str, by_other_than: Remote | None = None) -> bool:
        """Whether a paired engine is called so."""
        return any(remote.known.name == name for remote in self.all if remote is not by_other_than)

    def state(self, remote: Remote) -> PeerState:
        """One paired engine as others see it."""
        return remote.state(self.found.state(remote.known.id))

    # --- changes ------------------------------------------------------------------------------------

    def admit(self, known: Known, name: str) -> tuple[Remote | None, str]:
        """Keep an engine that was just paired, under a name if one was given: what it was before, and why not.

        Raises ``OSError``.
        """
        with self._lock:
            before = self.remotes.get(known.id)
            if before is not None and before.known.fingerprint != known.fingerprint:
                return before, (
                    f"an engine with this id is paired already, with another key; revoke {before.known.name!r} first"
                )
            known.name = name or (before.known.name if before is not None else self._free_name(known))
            self.book.write(known)
            self.remotes[known.id] = Remote(known, self.about.wall())
        return before, ""

    def _free_name(self, known: Known) -> str:
        base = name_from(known.calls_itself) or known.id[:8]
        names = (base, *(f"{base[:36]}-{number}" for number in range(2, 1000)))
        return next(name for name in names if not self.is_taken(name))

    def keep(self, remote: Remote) -> None:
        """Write down what was changed. Raises ``OSError``."""
        self.book.write(remote.known)

    def note(self, remote: Remote) -> None:
        """The same for what can be learnt again: a full disk is no reason to give up a link."""
        try:
            self.book.write(remote.known)
        except OSError as exc:
            logger.warning("what %s has said of itself cannot be kept: %s", remote.title, exc.strerror)

    def forget(self, remote: Remote) -> None:
        """It is paired no more. On the peers' thread."""
        if self.remotes.get(remote.known.id) is remote:
            del self.remotes[remote.known.id]
        self._told.pop(remote.known.id, None)
        gone = {"id": remote.known.id, "name": remote.known.name, "state": "revoked"}
        self.about.tell({"type": "peer", "peer": gone})

    # --- news, on the peers' thread -------------------------------------------------------------------

    def changed(self, remote: Remote) -> None:
        """Tell those who listen, and those who watch."""
        if self.remotes.get(remote.known.id) is remote:
            state = self.state(remote)
            self.call(state)
            self.show(state)

    def call(self, state: PeerState) -> None:
        """Tell those who listen."""
        for callback in list(self.listeners):
            try:
                callback(state)
            except Exception:
                logger.exception("telling of a peer failed")

    def show(self, state: PeerState) -> None:
        """Tell those who watch, if it is news."""
        if self._told.get(state.id) != state:
            self._told[state.id] = state
            self.about.tell({"type": "peer", "peer": msgspec.to_builtins(state)})

    def seen(self, engine: str) -> None:
        """What is announced of an engine has changed."""
        if (remote := self.remotes.get(engine)) is not None:
            self.changed(remote)
            return
        state = self.found.state(engine)
        if state is not None:
            self.show(state)
        elif self._told.pop(engine, None) is not None:
            gone: dict[str, Any] = {"id": engine, "state": "gone"}
            self.about.tell({"type": "peer", "peer": gone})
