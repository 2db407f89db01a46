"""One MQTT connection that comes back: TCP, TLS, sign-in, keepalive, and reconnecting with backoff.

All of it runs on the hub's event loop. What is sent and what the packets mean is the owner's business
(:mod:`.publisher`, :mod:`.subscription`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import ssl
import time
from collections.abc import Callable
from typing import Protocol, cast

from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.kernel.mqtt import wire
from appliance.kernel.mqtt.broker import Broker, tls_context
from appliance.kernel.mqtt.dial import dial

log = logging.getLogger(__name__)

#: The longest message that is taken in, in bytes.
LARGEST = 32 * 1024 * 1024

_PATIENCE = 10.0
_FIRST_PAUSE = 0.25
#: A connection that lasted so many seconds was a good one: the next pause is a short one again.
_STEADY = 10.0
_WRITE_AHEAD = 1024 * 1024
_CODES = {
    1: "the broker does not speak MQTT 3.1.1",
    2: "the broker refuses this client id",
    3: "the broker says that it is unavailable",
    4: "the broker refuses this user name or password",
    5: "the broker does not let this user in",
}
_NO_QUICKACK = -1


class Away(Exception):
    """Why there is no connection; ``refused``: the broker has answered, and the answer was no."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Timing(Struct, frozen=True):
    """Seconds: between signs of life, and the longest pause between two attempts to connect."""

    keepalive: float = 30.0
    longest_pause: float = 60.0


class Owner(Protocol):
    """Who uses a link. Everything is called on the hub's loop."""

    def up(self, connection: Connection, session: bool) -> None:
        """Signed in; ``session``: the broker has kept what it knew of this client. Says when all is well."""

    def packets(self, packets: list[wire.Packet]) -> None:
        """All that could be read at once."""

    def writable(self) -> None:
        """The connection takes more again after :attr:`Connection.full`."""

    def down(self, away: Away) -> None:
        """No connection (any more), or not yet: called after every failed attempt."""

    def say(self, ok: bool, text: str) -> None:
        """The link's state changed."""


class Bell:
    """Has ``answer`` called on the loop, once however often it is rung before that. Rung from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[], None]) -> None:
        self._loop = loop
        self._answer = answer
        self._rung = False

    def ring(self) -> bool:
        """False when the loop is gone."""
        if not self._rung:
            self._rung = True
            try:
                self._loop.call_soon_threadsafe(self._ringing)
            except RuntimeError:
                return False
        return True

    def _ringing(self) -> None:
        # Cleared first: whoever puts something down after this rings again.
        self._rung = False
        self._answer()


class Connection(asyncio.Protocol):
    """One TCP connection, from the CONNECT packet to its end.

    ``welcome`` settles with None once the broker has let us in, else with why not; ``closed`` with why it
    ended.
    """

    def __init__(self, owner: Owner, hello: bytes, keepalive: float) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[Away] = loop.create_future()
        self.welcome: asyncio.Future[Away | None] = loop.create_future()
        self.full = False
        self._now = loop.time
        self._owner = owner
        self._hello = hello
        self._keepalive = keepalive
        self._parser = wire.Parser(LARGEST)
        self._reason: Away | None = None
        self._paused = self._begun = self._leaving = False
        self._heard = self._spoke = loop.time()
        self._quickack = getattr(socket, "TCP_QUICKACK", _NO_QUICKACK)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_AHEAD)
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._tick()
        self.send(self._hello)

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            return
        self._heard = self._now()
        if self._quickack != _NO_QUICKACK:
            # A broker that leaves Nagle's algorithm on holds its next packet back until our TCP ACK, which
            # Linux delays by up to 40 ms. The option clears itself (tcp(7)), hence every time.
            self._socket.setsockopt(socket.IPPROTO_TCP, self._quickack, 1)
        try:
            if not self._begun:
                self._begin(data)
            packets = self._parser.feed(data)
            if not self.welcome.done() and packets:
                self._greet(packets.pop(0))
            if packets:
                self._owner.packets(packets)
        except wire.Malformed as exc:
            self.abort(Away(f"the broker sent no MQTT: {exc}"))

    def _begin(self, data: bytes) -> None:
        """Seen at the first byte: the length that other protocols seem to announce may never come."""
        self._begun = True
        if data[0] >> 4 != wire.CONNACK:
            raise wire.Malformed("its first packet is no CONNACK")

    def _greet(self, packet: wire.Packet) -> None:
        _kind, _flags, body = packet
        session, code = wire.connack(body)
        if code:
            self.abort(Away(_CODES.get(code, f"the broker refuses us with code {code}"), refused=True))
        else:
            self.welcome.set_result(None)
            self._owner.up(self, session)

    def send(self, data: bytes) -> None:
        """Write all of it, or keep it until the socket takes it."""
        self._spoke = self._now()
        self._transport.write(data)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._owner.writable()

    def hold(self) -> None:
        """Read nothing more until :meth:`go_on`; the broker still hears from us."""
        self._paused = True
        self._transport.pause_reading()

    def go_on(self) -> None:
        self._paused = False
        self._heard = self._now()
        self._transport.resume_reading()

    def _tick(self) -> None:
        now = self._now()
        if not self._paused and now - self._heard > 1.5 * self._keepalive:
            self.abort(Away(f"the broker has been silent for {now - self._heard:.0f} s"))
            return
        if self.welcome.done() and now - min(self._heard, self._spoke) >= self._keepalive / 2:
            self.send(wire.PINGREQ)
        self._timer = asyncio.get_running_loop().call_later(self._keepalive / 4, self._tick)

    def abort(self, reason: Away) -> None:
        """End it now; what was not yet written is lost."""
        self._reason = self._reason or reason
        self._transport.abort()

    async def close(self) -> None:
        """Write what waits, say goodbye (the broker keeps the session) and end within about a second.

        It is the broker that hangs up: one that answers what came before the goodbye, and finds nobody there, leaves
        the rest unread, and would send again what was acknowledged.
        """
        if not self._transport.is_closing():
            self._reason = Away("closed")
            self.send(wire.DISCONNECT)
            self._leaving = True
            if self._paused:
                self._transport.resume_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await asyncio.shield(self.closed)
        self._transport.abort()
        await self.closed

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        reason = self._reason or Away(_plainly(exc) if exc else "the broker closed the connection")
        if not self.welcome.done():
            self.welcome.set_result(reason)
        self.closed.set_result(reason)


class Link:
    """Keeps one client id connected to one broker until it is stopped.

    With ``fresh`` whatever the broker had kept of this client id is thrown away on the first connect.
    """

    def __init__(self, broker: Broker, client_id: str, owner: Owner, timing: Timing, fresh: bool = False) -> None:
        self.broker = broker
        self.client_id = client_id
        self.ok = False
        self.text = "connecting"
        self.since = time.time()
        self._owner = owner
        self._timing = timing
        self._fresh = fresh
        self._tls: ssl.SSLContext | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect; called on the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Sign off and end. Calling it twice is fine."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self.say(False, "stopped")

    def say(self, ok: bool, text: str) -> None:
        """Tell the owner if this is news."""
        if (ok, text) != (self.ok, self.text):
            self.ok, self.text, self.since = ok, text, time.time()
            self._owner.say(ok, text)

    async def _run(self) -> None:
        pause, hasty = _FIRST_PAUSE, 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                away = await self._stay()
            except Away as exc:
                away, hasty = exc, 0
            except Exception:
                log.exception("The link to %s failed", self.broker)
                away, hasty = Away("an error of ours; see the log"), 0
            else:
                steady = asyncio.get_running_loop().time() - began >= _STEADY
                pause, hasty = (_FIRST_PAUSE, 0) if steady else (pause, hasty + 1)
            if hasty > 2:
                away = Away(f"{away}, again and again: is another client using the id {self.client_id!r}?")
            self._owner.down(away)
            self.say(False, str(away))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, self._timing.longest_pause)

    async def _stay(self) -> Away:
        """Connect and stay until the connection ends, with the reason. Raises ``Away``: it never began."""
        if self._fresh:
            await (await self._open(_Nobody(), clean=True)).close()
            self._fresh = False
        connection = await self._open(self._owner, clean=False)
        try:
            return await asyncio.shield(connection.closed)
        finally:
            await connection.close()

    async def _open(self, owner: Owner, clean: bool) -> Connection:
        try:
            async with asyncio.timeout(_PATIENCE):
                connection = await self._dial(owner, self._hello(clean))
                try:
                    away = await asyncio.shield(connection.welcome)
                except asyncio.CancelledError:
                    connection.abort(Away("not connected"))
                    raise
        except TimeoutError:
            raise Away(f"{self.broker} does not answer within {_PATIENCE:g} s") from None
        except (OSError, ValueError, ConfigError) as exc:
            raise Away(_plainly(exc, str(self.broker))) from None
        if away is not None:
            raise away
        return connection

    def _hello(self, clean: bool) -> bytes:
        return wire.connect(
            self.client_id,
            clean=clean,
            keepalive=max(1, round(self._timing.keepalive)),
            user=self.broker.user,
            password=self.broker.password,
        )

    async def _dial(self, owner: Owner, hello: bytes) -> Connection:
        self._tls = self._tls or tls_context(self.broker)
        sock = await dial(self.broker.host, self.broker.port)
        _transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(owner, hello, self._timing.keepalive),
            sock=sock,
            ssl=self._tls,
            server_hostname=self.broker.host if self._tls else None,
            ssl_shutdown_timeout=1.0 if self._tls else None,
        )
        return connection


class _Nobody:
    """The owner of the connection that only makes the broker forget an old session."""

    def up(self, connection: Connection, session: bool) -> None: ...
    def packets(self, packets: list[wire.Packet]) -> None: ...
    def writable(self) -> None: ...
    def down(self, away: Away) -> None: ...
    def say(self, ok: bool, text: str) -> None: ...


def _plainly(exc: BaseException, where: str = "the broker") -> str:
    """The reason in words a person can act on."""
    if isinstance(exc, ConnectionRefusedError):
        return f"nothing listens on {where}"
    if isinstance(exc, socket.gaierror):
        return f"the name in {where} cannot be found ({exc.strerror})"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate of {where} is not trusted: {exc.verify_message}"
    if isinstance(exc, ssl.SSLError):
        return f"TLS with {where} failed: {exc.reason or exc}"
    if isinstance(exc, ConnectionResetError | BrokenPipeError):
        return "the broker closed the connection"
    if isinstance(exc, OSError) and exc.errno:
        return f"{where} cannot be reached: {os.strerror(exc.errno)}"
    return str(exc) or type(exc).__name__
