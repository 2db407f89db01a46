"""The door for agents from other machines: a TCP port, pairing, and who may come in.

It is open only while the engine has an owner and a pairing is open or an agent is paired. What comes in is either TLS,
in which each side has to show the certificate that the other one pinned, or a pairing. Each visitor is heard on a
thread of its own, of which there are few, and which end after some seconds; a connection that has proved who it is goes
to the fleet.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from appliance.contracts import ConfigError, FlowError
from appliance.fleet.book import Book, Paired, check_name
from appliance.fleet.codes import MINUTES, Codes, OpenPairing
from appliance.fleet.listening import Hurried, Listening, identify
from appliance.security.files import keys_folder
from edge_agent.protocol import certificates, pairing

logger = logging.getLogger(__name__)

_TLS = 0x16


class Closed(FlowError):
    """Agents from other machines cannot be let in."""

    id = "agents-closed"
    retryable = False


class Visitor(Struct, frozen=True):
    """A machine that has proved to hold the key of ``identity`` (the fingerprint of a paired certificate)."""

    connection: ssl.SSLSocket
    identity: str
    address: str


class Door:
    """Safe from any thread. ``let_in`` and ``paired`` are called from the visitors' threads; ``announce`` with the
    port that the local network is to be told of, 0 if none.
    """

    def __init__(
        self,
        data: Path,
        book: Book,
        engine: str,
        port: int,
        announce: Callable[[int], None],
        owned: Callable[[], bool],
        let_in: Callable[[Visitor], None],
        paired: Callable[[Paired], None],
    ) -> None:
        self._folder = keys_folder(data) / "agents"
        self._book = book
        self._engine = engine
        self._port = port
        self._announce = announce
        self._owned = owned
        self._let_in = let_in
        self._paired = paired
        self._lock = threading.Lock()
        self._codes: Codes[None] = Codes()
        self._listening = Listening("agents", port, self._hear)

    # --- opening and closing --------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on, or 0."""
        return self._listening.port

    def open_if_needed(self) -> None:
        """Listen if there is anybody to listen for; a port that is taken is said, and harms nothing else."""
        try:
            if self._port and self._owned() and self._book.names():
                self._open()
        except (OSError, FlowError) as exc:
            logger.error("agents from other machines cannot connect: %s", exc)

    def changed(self) -> None:
        """An agent was revoked: stop listening if it was the last one."""
        if not self._codes.all() and not self._book.names():
            self._shut()

    def close(self) -> None:
        """Twice is fine."""
        self._listening.closed = True
        self._shut()
        self._listening.close()

    def _open(self) -> None:
        with self._lock:
            certificates.ensure(self._folder, f"flowork {self._engine}")
            if self._listening.open():
                logger.info("agents may connect at port %d", self.port)
                self._announce(self.port)

    def _shut(self) -> None:
        with self._lock:
            if self.port:
                self._announce(0)
            self._listening.shut()

    # --- pairing --------------------------------------------------------------------------------

    def pair(self, name: str, minutes: float = MINUTES) -> OpenPairing[None]:
        """Open a pairing. Raises ``ConfigError``, ``Closed``, ``Busy``."""
        check_name(name)
        if not self._port:
            raise Closed("agents from other machines are turned off: set agent_port (5010 is usual) and start again")
        if not self._owned():
            raise Closed("this engine has no owner, so nothing may listen on the network: `flowork key recover`")
        if name in self._book.names():
            raise ConfigError(f"there is an agent {name!r} already; revoke it first, or choose another name")
        made = self._codes.new(name, minutes, None)
        try:
            self._open()
        except OSError as exc:
            raise Closed(f"port {self._port} cannot be listened on: {(exc.strerror or str(exc)).lower()}") from None
        return made

    def pairings(self) -> list[OpenPairing[None]]:
        """Those that are open."""
        return self._codes.all()

    def unpair(self, name: str) -> bool:
        """End a pairing that is open."""
        ended = self._codes.end(name)
        self.changed()
        return ended

    # --- visitors -------------------------------------------------------------------------------

    def _hear(self, visitor: Hurried, address: str) -> bool:
        first = visitor.recv(1, socket.MSG_PEEK)
        if first and first[0] == _TLS:
            return self._identify(visitor, address)
        if first and pairing.is_magic(visitor):
            self._pair(visitor, address)
        else:
            logger.info("a connection from %s was not of this protocol", address)
        return False

    def _identify(self, hurried: Hurried, address: str) -> bool:
        """TLS with a certificate that is known."""
        known = {agent.id: agent for agent in self._book.all()}
        secure, identity = identify(hurried, self._folder, [agent.certificate.encode() for agent in known.values()])
        if identity not in known or self._listening.closed:
            secure.close()
            return False
        self._let_in(Visitor(secure, identity, address))
        return True

    def _pair(self, link: Hurried, address: str) -> None:
        guest = pairing.Guest(link)
        number = guest.number()
        mine = self._codes.guess(number)
        if mine is None:
            guest.refuse()
            return
        try:
            asked = guest.exchange(mine.code)
        except pairing.PairingError:
            logger.warning("a wrong code for the pairing of %s came from %s", mine.name, address)
            guest.refuse()
            return
        if not self._codes.take(number, mine):
            guest.refuse()
            return
        agent = Paired(
            name=mine.name,
            id=certificates.fingerprint(asked.certificate),
            certificate=asked.certificate.decode(),
            machine=asked.machine,
            host=asked.host,
            at=time.time(),
        )
        self._book.write(agent)
        self._paired(agent)
        logger.info("%s (%s at %s) is paired as agent %s", asked.host, agent.id[:12], address, mine.name)
        certificate = certificates.ensure(self._folder, f"flowork {self._engine}")
        guest.answer(pairing.Answer(mine.name, self._engine, certificate))
