"""The door for other engines: a TCP port, pairing, and who may come in.

It is open only while the engine has an owner and there is somebody to listen for: a peer that is paired, a code that
was shown, for some minutes a peer that was revoked and could not be told (or always, if the setting says so). What
comes in is TLS, in which each side has to show the certificate that the other one pinned; a pairing; or the question
who is here, which is answered with what is announced anyway.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError, PeerRoles
from appliance.contracts.peers import PEER_PORT
from appliance.fleet.codes import MINUTES, Codes, OpenPairing
from appliance.fleet.listening import Hurried, Listening, identify
from appliance.fleet.peers.book import PeerBook, check_name
from edge_agent.protocol import pairing
from edge_agent.protocol.certificates import CERTIFICATE

logger = logging.getLogger(__name__)

_TLS = 0x16
PEERS = pairing.Ceremony(
    b"FLOWORK-PEER-1",
    b"flowork peer that joins",
    b"flowork peer that shows a code",
    "no pairing with this code is open there; make a new one: flowork peer pair",
)
#: The question who is here, as long as the other beginning.
WHO = b"FLOWORK-WHO?-1"


class PeersClosed(FlowError):
    """Other engines cannot be let in."""

    id = "peers-closed"
    retryable = False


class Introduction(Struct, kw_only=True):
    """What an engine says of itself under the key of a pairing; ``refusal`` why it does not pair after all."""

    engine: str
    certificate: bytes
    name: str = ""
    machine: str = ""
    software: str = ""
    port: int = 0
    panel: int = 0
    refusal: str = ""


class Agreement(Struct, frozen=True):
    """What the owner has said of who comes in with a code: how it is called here ("": as it calls itself), and what it
    may do.
    """

    name: str
    roles: PeerRoles


class Gate:
    """Safe from any thread. The callbacks are called on the visitors' threads: ``let_in(connection, fingerprint,
    address)`` with a peer that has proved who it is, ``paired(introduction, agreement, address)`` with one that knew a
    code (the text that it returns refuses it), ``card()`` for what strangers are told (None: nothing).
    """

    def __init__(
        self,
        book: PeerBook,
        port: int,
        owned: Callable[[], bool],
        introduce: Callable[[], Introduction],
        card: Callable[[], dict[str, Any] | None],
        let_in: Callable[[ssl.SSLSocket, str, str], None],
        paired: Callable[[Introduction, Agreement, str], str],
    ) -> None:
        self._book = book
        self._port = port
        self._owned = owned
        self._introduce = introduce
        self._card = card
        self._let_in = let_in
        self._paired = paired
        self.codes: Codes[Agreement] = Codes()
        self._listening = Listening("peers", port, self._hear)

    @property
    def port(self) -> int:
        """The port that is listened on, or 0."""
        return self._listening.port

    @property
    def allowed(self) -> bool:
        """Whether the door may be open at all."""
        return bool(self._port) and self._owned()

    def open(self) -> None:
        """Listen. Raises ``OSError``."""
        if self._listening.open():
            logger.info("other engines may connect at port %d", self.port)

    def shut(self) -> None:
        """Listen no more."""
        self._listening.shut()

    def close(self) -> None:
        """For good. Twice is fine."""
        self._listening.close()

    def pair(self, name: str, roles: PeerRoles, minutes: float = MINUTES) -> OpenPairing[Agreement]:
        """Open a pairing. Raises ``ConfigError``, ``PeersClosed``, ``Busy``."""
        if name:
            check_name(name)
        if not self._port:
            raise PeersClosed(f"other engines are not let in: set peer_port ({PEER_PORT} is usual) and start again")
        if not self._owned():
            raise PeersClosed("this engine has no owner, so nothing may listen on the network: `flowork key recover`")
        made = self.codes.new(name, minutes, Agreement(name, roles))
        try:
            self.open()
        except OSError as exc:
            self.codes.end(name)
            raise PeersClosed(
                f"port {self._port} cannot be listened on: {(exc.strerror or str(exc)).lower()}"
            ) from None
        return made

    # --- visitors -------------------------------------------------------------------------------

    def _hear(self, visitor: Hurried, address: str) -> bool:
        first = visitor.recv(1, socket.MSG_PEEK)
        if first and first[0] == _TLS:
            return self._identify(visitor, address)
        beginning = b""
        while len(beginning) < len(WHO):
            if not (piece := visitor.recv(len(WHO) - len(beginning))):
                return False
            beginning += piece
            if not (PEERS.magic.startswith(beginning) or WHO.startswith(beginning)):
                logger.info("a connection from %s was not of this protocol", address)
                return False
        if beginning == WHO:
            card = self._card()
            if card is not None:
                visitor.sendall(msgspec.json.encode(card))
        else:
            self._pair(visitor, address)
        return False

    def _identify(self, visitor: Hurried, address: str) -> bool:
        """TLS with a certificate that is known; our own too, for who holds our key is a copy of us."""
        own = self._book.folder / CERTIFICATE
        if not own.exists():  # nobody has been told yet who this engine is
            return False
        trusted = [own.read_bytes(), *(peer.certificate.encode() for peer in self._book.all())]
        secure, identity = identify(visitor, self._book.folder, trusted)
        if self._listening.closed:
            secure.close()
            return False
        self._let_in(secure, identity, address)
        return True

    def _pair(self, visitor: Hurried, address: str) -> None:
        guest = pairing.Guest(visitor, PEERS)
        number = guest.number()
        mine = self.codes.guess(number)
        if mine is None:
            guest.refuse()
            return
        try:
            theirs = guest.hear(mine.code, Introduction)
        except pairing.PairingError:
            logger.warning("a wrong code for pairing with a peer came from %s", address)
            guest.refuse()
            return
        if not self.codes.take(number, mine):
            guest.refuse()
            return
        ours = self._introduce()
        try:
            ours.refusal = self._paired(theirs, mine.about, address)
        except FlowError as exc:
            ours.refusal = exc.message
        guest.answer(ours)
