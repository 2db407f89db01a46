"""The agent: one loop that joins the link to the appliance, the outbox and the drivers.

Everything that another thread learns comes to the loop as a call to be made there (:meth:`Agent.post`). Without an
appliance the agent goes on with the configuration it had last, for as long as it takes.
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import socket
import sqlite3
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from edge_agent import __version__, kept
from edge_agent.blobs import BlobFolder, references
from edge_agent.clocks import Clocks, system_clocks
from edge_agent.dialer import Dialer, Route
from edge_agent.kept import Kept
from edge_agent.launcher import AGAIN
from edge_agent.loop import Loop
from edge_agent.machine import LOCK, machine_id
from edge_agent.memory import CommandMemory, Outcome
from edge_agent.notify import Systemd
from edge_agent.outbox import Outbox
from edge_agent.protocol import messages
from edge_agent.protocol.channel import Channel, ChannelClosed
from edge_agent.protocol.messages import Body, Configure, Done, Events, Hello, Watch, encode
from edge_agent.survey import Survey
from edge_agent.updating import Updating
from edge_agent.works import Works

logger = logging.getLogger(__name__)

#: Seconds that reports wait for more changes.
SETTLE = 0.05
#: Heartbeats that may be missed before the appliance counts as away.
MISSED = 2.5
#: Bytes of a report; beyond, it leaves out what can be done without.
MAX_REPORT = 2_000_000
#: Seconds to wait after having been refused.
REFUSED_PAUSE = 15.0
#: Seconds until the next try when a connection ended as soon as it was made.
UNWELCOME_PAUSE = 2.0


class Agent:
    """One agent. ``run`` until ``stop``, which any thread and a signal handler may call."""

    def __init__(
        self,
        folder: Path,
        route: Route,
        *,
        identity: str = "",
        max_bytes: int = 64_000_000,
        max_age: float = 7 * 86400.0,
        well_for: float = 60.0,
        no_updates: str = "it comes with Flowork itself, and is updated with it",
        clocks: Clocks | None = None,
    ) -> None:
        """``no_updates`` is why the appliance may not replace this agent's code; ``""``: it may."""
        self._folder = folder
        self._identity = identity
        self._clocks = clocks or system_clocks()
        self._route = route
        self._instance = os.urandom(8).hex()
        self._loop = Loop()
        self.post = self._loop.post
        self._outbox = Outbox(folder / "outbox.db", self._loop.ring, self._clocks, max_bytes=max_bytes, max_age=max_age)
        self._memory = CommandMemory(folder / "commands.db", self._clocks.wall)
        self._blobs = BlobFolder(folder / "blobs")
        self._works = Works(folder, self._memory, self._blobs, self._outbox.put, self.post, self._changed, self._answer)
        self._kept = Kept()
        self._revision = 0
        self._channel: Channel | None = None
        self._way = ""
        self._welcome: messages.Welcome | None = None
        self._welcomed_at = 0.0
        self._values_due = False
        #: The appliance has said on this connection what it wants.
        self._told_wants = False
        self._dialer: Dialer | None = None
        self._heard_at = 0.0
        self._gone_since = 0.0
        self._safe = False
        self._report_at = 0.0
        self._tick_at = 0.0
        self._updating = Updating(
            folder, well_for, no_updates, self._send, self.post, self._report, self._restart, self._works.standing
        )
        self._survey = Survey(lambda: self.post(self._report))
        self._systemd = Systemd()
        self._beat_at = 0.0
        self._stopping = False
        self._again = False

    # --- life -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until stopped; the exit code, :data:`edge_agent.launcher.AGAIN` to be started anew."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                logger.error("another agent runs on %s", self._folder)
                return 1
            return self._run()

    def _run(self) -> int:
        try:
            self._outbox.open()
        except sqlite3.Error as exc:
            logger.error("the outbox in %s cannot be opened: %s", self._folder, exc)
            return 1
        self._gone_since = time.monotonic()
        try:
            self._works.make_safe_after_crash()
            self._load_config()
            self._updating.start()
            self._dial(0.0)
            self._systemd.tell("READY=1")
            while not self._stopping:
                self._turn()
        finally:
            if not self._again:
                self._systemd.tell("STOPPING=1")
            self._close()
        return AGAIN if self._again else 0

    def stop(self) -> None:
        """Ask for the end."""
        self._stopping = True
        self._loop.ring()

    def _restart(self) -> None:
        self._again = True
        self.stop()
        with suppress(ChannelClosed):
            self._send_report()

    def _turn(self) -> None:
        if ready := self._loop.wait(self._channel, self._until_next()):
            self._attend(ready)
        for call in self._loop.calls():
            try:
                call()
            except ChannelClosed as exc:
                self._lost(str(exc))
        try:
            self._tick(time.monotonic())
            self._send_events()
        except ChannelClosed as exc:
            self._lost(str(exc))

    def _until_next(self) -> float | None:
        """Seconds until something is due by time alone."""
        due = [self._tick_at] if self._tick_at else []
        if self._report_at:
            due.append(self._report_at)
        if self._systemd.beat:
            due.append(self._beat_at)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _tick(self, now: float) -> None:
        if self._systemd.beat and now >= self._beat_at:
            self._beat_at = now + self._systemd.beat
            self._systemd.tell("WATCHDOG=1")
        if self._report_at and now >= self._report_at:
            self._report_at = 0.0
            self._send_report()
        if self._tick_at and now < self._tick_at:
            return
        waits = [*self._works.tick(now), *self._updating.tick(now)]
        if self._channel is not None and self._welcome is not None:
            limit = self._heard_at + self._welcome.heartbeat * MISSED
            if now >= limit:
                raise ChannelClosed("the appliance has not been heard of")
            waits.append(limit)
        dead_man = self._kept.dead_man
        if self._welcome is None and dead_man and self._works.has_outputs and not self._safe:
            if now >= self._gone_since + dead_man:
                self._make_safe(f"the appliance has been away for {dead_man:g} s")
            else:
                waits.append(self._gone_since + dead_man)
        self._tick_at = max(now + 0.01, min(waits)) if waits else 0.0

    def _soon(self) -> None:
        """Something may be due by time: look at the next turn."""
        self._tick_at = time.monotonic()

    def _close(self) -> None:
        self._survey.stop()
        self._updating.stop()
        if self._dialer is not None:
            self._dialer.stop()
        self._works.close()
        if self._channel is not None:
            self._channel.close()
        self._outbox.close()
        self._memory.close()
        self._loop.close()

    # --- the link -------------------------------------------------------------------------------

    def _dial(self, wait: float) -> None:
        self._dialer = Dialer(self._route, lambda link, way: self.post(partial(self._connected, link, way)))
        self._dialer.begin(wait)

    def _connected(self, link: socket.socket, way: str) -> None:
        self._channel, self._way = Channel(link), way
        self._heard_at = time.monotonic()
        hello = Hello(
            versions=list(messages.VERSIONS),
            agent=self._identity,
            instance=self._instance,
            machine=machine_id(),
            host=socket.gethostname(),
            software=__version__,
            outbox=self._outbox.name,
            boot=self._clocks.boot,
            updates=bool(self._identity),
        )
        self._channel.send(encode(hello))

    def _lost(self, why: str, wait: float = 0.0) -> None:
        if self._channel is None:
            return
        stood = self._welcome is not None and time.monotonic() - self._welcomed_at > UNWELCOME_PAUSE
        logger.log(logging.WARNING if self._welcome else logging.INFO, "the link to the appliance is down: %s", why)
        self._channel.close()
        self._channel = None
        if self._welcome is not None:
            self._welcome, self._gone_since = None, time.monotonic()
        self._outbox.linked(False)
        self._updating.linked(False)
        self._told_wants = False
        self._soon()
        self._dial(max(wait, 0.0 if stood else UNWELCOME_PAUSE))

    def _attend(self, events: int) -> None:
        channel = self._channel
        assert channel is not None
        try:
            if events & selectors.EVENT_WRITE:
                channel.flush()
            for data in channel.receive():
                self._heard_at = time.monotonic()
                self._take(data)
                if self._channel is not channel:
                    return
        except ChannelClosed as exc:
            self._lost(str(exc))

    def _take(self, data: bytes) -> None:
        try:
            message = messages.decode_down(data)
        except msgspec.DecodeError as exc:
            raise ChannelClosed(f"the appliance said what cannot be understood: {exc}") from None
        match message:
            case messages.Ack():
                self._acknowledged(message.upto)
            case messages.Ping():
                self._send(messages.Pong(sent=message.sent, at=self._clocks.wall(), up=self._clocks.up()))
            case messages.Command():
                self._works.command(message)
                self._soon()
            case messages.Configure():
                self._configure(message)
            case messages.Offer():
                self._updating.offered(message)
            case messages.Piece():
                self._updating.piece(message)
            case messages.Welcome():
                self._welcomed(message)
            case messages.Refused():
                logger.error("the appliance refuses this agent: %s", message.message)
                self._systemd.tell(f"STATUS=refused: {message.message}")
                self._lost(message.message, REFUSED_PAUSE)

    def _send(self, message: messages.Message) -> None:
        if self._channel is not None:
            self._channel.send(encode(message))

    def _welcomed(self, message: messages.Welcome) -> None:
        logger.info("connected to the appliance as %s over %s", message.name or "its own agent", self._way)
        self._welcome, self._welcomed_at = message, time.monotonic()
        self._safe = False
        self._route.worked(self._way)
        self._systemd.tell(f"STATUS=connected over {self._way}")
        self._values_due = True
        self._report()
        self._survey.begin()
        self._soon()

    def _send_events(self) -> None:
        channel = self._channel
        if channel is None or self._welcome is None or channel.backlog > messages.WINDOW_BYTES:
            return
        for watch, rows in self._outbox.take():
            for row in rows:
                for part in self._blobs.parts(bytes(row.body)):
                    channel.send(part)
            start, size = 0, 0
            for index, row in enumerate(rows):
                size += len(bytes(row.body))
                if size > messages.WINDOW_BYTES // 2:  # well within a frame
                    channel.send(encode(Events(watch=watch, rows=rows[start : index + 1])))
                    start, size = index + 1, 0
            if rows[start:]:
                channel.send(encode(Events(watch=watch, rows=rows[start:])))

    def _acknowledged(self, upto: dict[str, int]) -> None:
        bodies = self._outbox.ack(upto)
        digests = {digest for body in bodies for digest, _ in references(body)}
        self._blobs.forget({digest for digest in digests if not self._outbox.mentions(digest)})

    # --- configuration --------------------------------------------------------------------------

    def _load_config(self) -> None:
        self._kept = kept.load(self._folder)
        self._apply(self._kept.watches)

    def _configure(self, message: Configure) -> None:
        self._revision = message.revision
        given = Kept(message.watches, message.dead_man)
        if msgspec.to_builtins(given) != msgspec.to_builtins(self._kept):
            self._kept = given
            kept.save(self._folder, given)
        self._apply(message.watches)
        if not self._told_wants:
            # Not before: what nobody wants yet is not taken, and would not be offered again on this connection.
            self._told_wants = True
            self._outbox.linked(True)
            self._updating.linked(True)
        self._report()

    def _apply(self, watches: list[Watch]) -> None:
        self._outbox.keep({watch.id: watch.durable for watch in watches})
        self._works.apply(watches)
        self._soon()

    def _changed(self) -> None:
        self._report()
        self._soon()

    def _report(self) -> None:
        if not self._report_at:
            self._report_at = time.monotonic() + SETTLE

    def _send_report(self) -> None:
        if self._welcome is None:
            return
        report = messages.Report(
            drivers=self._works.report(values=self._values_due),
            revision=self._revision,
            waiting=self._outbox.waiting,
            dropped=self._outbox.dropped,
            available=self._survey.found,
            update=self._updating.update,
        )
        self._values_due = False
        for strip in ("values", "entities"):
            if len(encode(report)) > MAX_REPORT:
                for driver in report.drivers:
                    setattr(driver, strip, type(getattr(driver, strip))())
                logger.warning("the report is too large: it goes without %s", strip)
        self._send(report)

    # --- commands -------------------------------------------------------------------------------

    def _answer(self, numbers: list[int], outcome: Outcome) -> None:
        if self._channel is None or self._welcome is None:
            return  # it will be asked again
        for number in numbers:
            answer = encode(Done(id=number, value=outcome.value, error=outcome.error, retryable=outcome.retryable))
            for part in self._blobs.parts(answer):
                self._channel.send(part)
            self._channel.send(answer)

    def _make_safe(self, why: str) -> None:
        self._safe = True
        logger.warning("%s: the outputs go to their safe state", why)
        for watches in self._works.make_safe():
            self._outbox.put(watches, Body("agent", "safe_state", why), self._clocks.wall(), 100)
