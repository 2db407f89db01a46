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
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from appliance.contracts import Busy, ConfigError, FlowError
from appliance.fleet.book import Book, Paired, check_name
from appliance.security.files import keys_folder
from edge_agent.protocol import certificates, pairing
from edge_agent.protocol.channel import tune

logger = logging.getLogger(__name__)

#: Visitors that are heard at one time, and seconds that each has in all, however slowly it speaks.
VISITORS, PATIENCE = 8, 10.0
#: Wrong codes until a pairing ends.
GUESSES = 5
#: Pairings that may be open.
OPEN = 20
#: Minutes for which a pairing is open, at most and if nothing is said.
LONGEST, MINUTES = 7 * 1440.0, 30.0
_TLS = 0x16


class Closed(FlowError):
    """Agents from other machines cannot be let in."""

    id = "agents-closed"
    retryable = False


class OpenPairing(Struct):
    """A code that was shown and not used yet; ``expires`` is monotonic."""

    name: str
    code: str
    expires: float
    guesses: int = 0


class Hurried:
    """A connection that has to be done with by ``until`` (monotonic): each wait is only as long as what is left.

    Implements :class:`edge_agent.protocol.pairing.Connection`. Raises ``TimeoutError``.
    """

    def __init__(self, link: socket.socket, until: float) -> None:
        self.link = link
        self._until = until

    def wait(self) -> None:
        """Let the next operation, and its parts together, take what is left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        self.link.settimeout(left)

    def recv(self, count: int, flags: int = 0, /) -> bytes:
        self.wait()
        return self.link.recv(count, flags)

    def sendall(self, data: bytes, /) -> None:
        self.wait()
        self.link.sendall(data)


class Visitor(Struct, frozen=True):
    """A machine that has proved to hold the key of ``identity`` (the fingerprint of a paired certificate)."""

    connection: ssl.SSLSocket
    identity: str
    address: str


class Door:
    """Safe from any thread. ``let_in`` and ``paired`` are called from the visitors' threads."""

    def __init__(
        self,
        data: Path,
        book: Book,
        engine: str,
        port: int,
        announce: bool,
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
        self._pairings: dict[str, OpenPairing] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._announcer: subprocess.Popen[bytes] | None = None
        self._seats = threading.BoundedSemaphore(VISITORS)
        self._visitors: set[socket.socket] = set()
        self._hearing: set[threading.Thread] = set()
        self._closed = False

    # --- opening and closing --------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on, or 0."""
        listener = self._listener
        return int(listener.getsockname()[1]) if listener is not None else 0

    def open_if_needed(self) -> None:
        """Listen if there is anybody to listen for; a port that is taken is said, and harms nothing else."""
        try:
            if self._port and self._owned() and self._book.names():
                self._open()
        except (OSError, FlowError) as exc:
            logger.error("agents from other machines cannot connect: %s", exc)

    def changed(self) -> None:
        """An agent was revoked: stop listening if it was the last one."""
        with self._lock:
            self._expire()
            idle = not self._pairings and not self._book.names()
        if idle:
            self._shut()

    def close(self) -> None:
        """Twice is fine."""
        self._closed = True
        self._shut()
        with self._lock:
            visitors, hearing = list(self._visitors), list(self._hearing)
        for visitor in visitors:
            with suppress(OSError):
                visitor.shutdown(socket.SHUT_RDWR)
        for thread in hearing:
            thread.join(PATIENCE)

    def _open(self) -> None:
        with self._lock:
            if self._listener is not None or self._closed:
                return
            certificates.ensure(self._folder, f"flowork {self._engine}")
            listener = _bind(self._port)
            self._listener = listener
            self._thread = threading.Thread(target=self._serve, args=(listener,), name="agents", daemon=True)
            self._thread.start()
            port = listener.getsockname()[1]
            logger.info("agents may connect at port %d", port)
            if self._announce:
                self._announcer = _announcer(self._engine, port)

    def _shut(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
            thread, self._thread = self._thread, None
            announcer, self._announcer = self._announcer, None
        if announcer is not None:
            announcer.terminate()
            with suppress(subprocess.TimeoutExpired):
                announcer.wait(3.0)
            announcer.kill()
            announcer.wait()
            if announcer.stdin is not None:
                announcer.stdin.close()
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # --- pairing --------------------------------------------------------------------------------

    def pair(self, name: str, minutes: float = MINUTES) -> OpenPairing:
        """Open a pairing. Raises ``ConfigError``, ``Closed``, ``Busy``."""
        check_name(name)
        if not 0 < minutes <= LONGEST:
            raise ConfigError(f"a pairing may be open for up to {LONGEST / 1440:g} days, not {minutes:g} minutes")
        if not self._port:
            raise Closed("agents from other machines are turned off: set agent_port (5010 is usual) and start again")
        if not self._owned():
            raise Closed("this engine has no owner, so nothing may listen on the network: `flowork key recover`")
        if name in self._book.names():
            raise ConfigError(f"there is an agent {name!r} already; revoke it first, or choose another name")
        with self._lock:
            self._expire()
            if len(self._pairings) >= OPEN:
                raise Busy(f"{OPEN} pairings are open already", retry_after=60.0)
            self._pairings = {number: each for number, each in self._pairings.items() if each.name != name}
            number = next(str(each) for each in range(1, OPEN + 2) if str(each) not in self._pairings)
            made = OpenPairing(name, pairing.new_code(int(number)), time.monotonic() + minutes * 60)
            self._pairings[number] = made
        try:
            self._open()
        except OSError as exc:
            raise Closed(f"port {self._port} cannot be listened on: {(exc.strerror or str(exc)).lower()}") from None
        return made

    def pairings(self) -> list[OpenPairing]:
        """Those that are open."""
        with self._lock:
            self._expire()
            return list(self._pairings.values())

    def unpair(self, name: str) -> bool:
        """End a pairing that is open."""
        with self._lock:
            before = len(self._pairings)
            self._pairings = {number: each for number, each in self._pairings.items() if each.name != name}
            ended = len(self._pairings) != before
        self.changed()
        return ended

    def _expire(self) -> None:
        now = time.monotonic()
        self._pairings = {number: each for number, each in self._pairings.items() if each.expires > now}

    # --- visitors -------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                link, address = listener.accept()
            except OSError:
                return  # closed
            if not self._seats.acquire(blocking=False):
                link.close()
                continue
            thread = threading.Thread(
                target=self._hear, args=(link, str(address[0]).removeprefix("::ffff:")), name="visitor", daemon=True
            )
            with self._lock:
                self._visitors.add(link)
                self._hearing.add(thread)
            thread.start()

    def _hear(self, link: socket.socket, address: str) -> None:
        handed = False
        try:
            tune(link)
            hurried = Hurried(link, time.monotonic() + PATIENCE)
            first = hurried.recv(1, socket.MSG_PEEK)
            if first and first[0] == _TLS:
                handed = self._identify(hurried, address)
            elif first and pairing.is_magic(hurried):
                self._pair(hurried, address)
            else:
                logger.info("a connection from %s was not of this protocol", address)
        except (OSError, pairing.PairingError) as exc:
            logger.info("a connection from %s was not let in: %s", address, exc)
        except Exception:
            logger.exception("a connection from %s failed", address)
        finally:
            with self._lock:
                self._visitors.discard(link)
                self._hearing.discard(threading.current_thread())
            if not handed:
                link.close()
            self._seats.release()

    def _identify(self, hurried: Hurried, address: str) -> bool:
        """TLS with a certificate that is known."""
        known = {agent.id: agent for agent in self._book.all()}
        trusted = [agent.certificate.encode() for agent in known.values()]
        context = certificates.context(self._folder, server=True, trusted=trusted)
        hurried.wait()
        secure = context.wrap_socket(hurried.link, server_side=True)
        identity = certificates.fingerprint_of(secure.getpeercert(binary_form=True) or b"")
        if identity not in known or self._closed:
            secure.close()
            return False
        self._let_in(Visitor(secure, identity, address))
        return True

    def _pair(self, link: Hurried, address: str) -> None:
        guest = pairing.Guest(link)
        number = guest.number()
        with self._lock:
            self._expire()
            mine = self._pairings.get(number)
            if mine is not None:
                mine.guesses += 1  # counted before it is known to be right: so many tries at once are no way around
                if mine.guesses > GUESSES:
                    del self._pairings[number]
                    logger.warning("the pairing of %s has ended: its code was guessed at too often", mine.name)
                    mine = None
        if mine is None:
            guest.refuse()
            return
        try:
            asked = guest.exchange(mine.code)
        except pairing.PairingError:
            logger.warning("a wrong code for the pairing of %s came from %s", mine.name, address)
            guest.refuse()
            return
        with self._lock:
            if self._pairings.get(number) is not mine:
                guest.refuse()
                return
            del self._pairings[number]
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


def _bind(port: int) -> socket.socket:
    """All addresses, of both families if the machine has them."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=16)
    return socket.create_server(("0.0.0.0", port), backlog=16)  # noqa: S104 the door to other machines


def _announcer(engine: str, port: int) -> subprocess.Popen[bytes]:
    """The process that tells the local network of this port; it ends with our end of its standard input."""
    command = [sys.executable, "-m", "edge_agent.protocol.discovery", "announce", engine, str(port)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
