"""The shared publish connection of one broker: many threads in, few writes out.

Nothing is kept here for a broker that stays away: a message that is not acknowledged in time fails, its step
is tried again, and the journal is the outbox. Within that time a lost connection is taken up where it was:
QoS 1 is sent again, QoS 2 goes on with the packet ids that the broker remembers.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from appliance.contracts import NodeError, Pending
from appliance.kernel.mqtt import wire
from appliance.kernel.mqtt.broker import Broker
from appliance.kernel.mqtt.link import Away, Bell, Connection, Link, Timing

#: The most unacknowledged messages for each QoS. Mosquitto closes the connection of a client that has more
#: than its ``max_inflight_messages`` (20 by default) QoS 2 messages under way; QoS 1 it does not count.
_WINDOW = {1: 256, 2: 16}
#: The most messages and bytes that wait for the broker.
_MOST, _MOST_BYTES = 10_000, 64 * 1024 * 1024
_SWEEP = 0.5


class Letter:
    """One message on its way. ``released``: the broker has it (PUBREC), and our PUBREL is out.

    ``given_up``: it has failed, but the broker may remember its packet id, which therefore stays taken.
    """

    __slots__ = ("deadline", "given_up", "payload", "pending", "qos", "released", "retain", "sent", "topic")

    def __init__(self, topic: bytes, payload: bytes, qos: int, retain: bool, deadline: float) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.deadline = deadline
        self.sent = False
        self.released = False
        self.given_up = False
        self.pending = Pending()

    def packet(self, mid: int, again: bool) -> bytes:
        if self.released:
            return wire.answer(wire.PUBREL, mid)
        return wire.publish(self.topic, self.payload, self.qos, self.retain, again, mid)

    def done(self) -> None:
        topic = self.topic[2:].decode()
        self.pending.complete({"topic": topic, "qos": self.qos, "bytes": len(self.payload)})

    def fail(self, broker: Broker, reason: str) -> None:
        """Settle with an error that says whether the message may have arrived."""
        if self.qos == 2 and self.sent:
            text = f"it is not known whether {broker} has the message: {reason}"
            self.pending.complete(error=NodeError(text, retryable=False))
        else:
            self.pending.complete(error=NodeError(f"{broker} did not take the message: {reason}"))


class Publisher:
    """One connection, made for the first message and closed when idle. Only :meth:`publish` is for any thread.

    ``patience``: seconds until an unacknowledged message fails. ``idle``: seconds without a message until
    the connection is closed.
    """

    role = "publish"
    received = 0

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        loop: asyncio.AbstractEventLoop,
        *,
        patience: float,
        idle: float,
        keepalive: float,
    ) -> None:
        self.broker = broker
        self.link = Link(broker, client_id, self, Timing(keepalive, patience / 2), fresh=True)
        self._loop = loop
        self._patience = patience
        self._idle = idle
        self._bell = Bell(loop, self._collect)
        self._inbox: deque[Letter] = deque()
        #: Bytes of messages ever given to us and ever settled: each has one side that counts it.
        self._bytes_in = self._bytes_out = 0
        self._lock = threading.Lock()
        self._queues: dict[int, deque[Letter]] = {0: deque(), 1: deque(), 2: deque()}
        self._flying: dict[int, Letter] = {}
        self._counts = {1: 0, 2: 0}
        self._given_up = 0
        self._mid = 0
        self._connection: Connection | None = None
        self._running = self._closed = False
        self._used = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._why = "the connection is not made yet"

    @property
    def waiting(self) -> int:
        """Messages that are not acknowledged yet."""
        return len(self._inbox) + sum(map(len, self._queues.values())) + len(self._flying) - self._given_up

    @property
    def active(self) -> bool:
        """Whether there is, or should be, a connection."""
        return self._running

    def publish(self, topic: bytes, payload: bytes, qos: int, retain: bool) -> Pending:
        """Send soon; ``topic`` as :func:`.wire.text` makes it. Safe from any thread."""
        letter = Letter(topic, payload, qos, retain, self._loop.time() + self._patience)
        if self._closed:
            letter.fail(self.broker, "the engine is stopping")
        elif self.waiting >= _MOST or self._bytes_in - self._bytes_out > _MOST_BYTES:
            letter.fail(self.broker, "too many messages wait for it already")
        else:
            with self._lock:
                self._bytes_in += len(payload)
            self._inbox.append(letter)
            # Looked at again: a stop may have come between, and would not have seen this letter.
            if not self._bell.ring() or self._closed:
                self._fail_all("the engine is stopping")
        return letter.pending

    async def stop(self) -> None:
        """End the connection; what is not acknowledged yet fails."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.link.stop()
        self._connection = None
        self._fail_all("the engine is stopping")

    # --- the link's side ---

    def up(self, connection: Connection, session: bool) -> None:
        self._connection = connection
        if not session:
            self._forget_unsure()
        connection.send(b"".join(letter.packet(mid, True) for mid, letter in self._flying.items()))
        self._send()
        self.link.say(True, "connected")

    def down(self, away: Away) -> None:
        self._connection = None
        self._why = str(away)
        if away.refused:
            self._fail_all(self._why)

    def writable(self) -> None:
        self._send()

    def say(self, ok: bool, text: str) -> None:
        """Nobody to tell: the health page asks, and each message has its own answer."""

    def packets(self, packets: list[wire.Packet]) -> None:
        answers: list[bytes] = []
        for kind, _flags, body in packets:
            if kind == wire.PUBACK or kind == wire.PUBCOMP:
                self._arrived(wire.answered(body), 1 if kind == wire.PUBACK else 2)
            elif kind == wire.PUBREC:
                mid = wire.answered(body)
                if mid in self._flying:
                    self._flying[mid].released = True
                answers.append(wire.answer(wire.PUBREL, mid))
        if answers and self._connection is not None:
            self._connection.send(b"".join(answers))
        self._send()

    # --- sending ---

    def _collect(self) -> None:
        """Take what other threads have put down."""
        while self._inbox:
            letter = self._inbox.popleft()
            self._queues[letter.qos].append(letter)
        if self._closed:
            self._fail_all("the engine is stopping")
            return
        self._used = self._loop.time()
        if not self._running:
            self._running = True
            self.link.start()
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP, self._sweep)
        self._send()

    def _send(self) -> None:
        connection = self._connection
        if connection is None or connection.full:
            return
        out: list[bytes] = []
        plain = self._queues[0]
        for letter in plain:
            out.append(letter.packet(0, False))
        for qos in (1, 2):
            queue = self._queues[qos]
            while queue and self._counts[qos] < _WINDOW[qos]:
                out.append(self._launch(queue.popleft()))
        if out:
            connection.send(b"".join(out))
        while plain:
            self._settle(plain.popleft())

    def _launch(self, letter: Letter) -> bytes:
        mid = self._mid % 65535 + 1
        while mid in self._flying:
            mid = mid % 65535 + 1
        self._mid = mid
        self._flying[mid] = letter
        self._counts[letter.qos] += 1
        letter.sent = True
        return letter.packet(mid, False)

    def _arrived(self, mid: int, qos: int) -> None:
        letter = self._flying.get(mid)
        if letter is not None and letter.qos == qos:
            self._land(mid)
            if not letter.given_up:
                self._settle(letter)

    def _land(self, mid: int) -> None:
        letter = self._flying.pop(mid)
        self._counts[letter.qos] -= 1
        self._given_up -= letter.given_up

    def _settle(self, letter: Letter) -> None:
        self._bytes_out += len(letter.payload)
        letter.done()

    # --- failing ---

    def _sweep(self) -> None:
        """Fail what has waited too long; close the connection when there is nothing left to do."""
        now = self._loop.time()
        self._timer = None
        self._fail_late(now)
        if self.waiting:
            self._timer = self._loop.call_later(_SWEEP, self._sweep)
        elif now - self._used >= self._idle:
            self._connection = None
            self._task = self._loop.create_task(self._rest())
        else:
            self._timer = self._loop.call_at(self._used + self._idle, self._sweep)

    async def _rest(self) -> None:
        """Close the unused connection, and open it again if a message came meanwhile."""
        await self.link.stop()
        self._running = False
        if self.waiting:
            self._collect()

    def _fail_late(self, now: float) -> None:
        silent = f"no acknowledgement within {self._patience:g} s"
        reason = self._why if self._connection is None else silent
        for queue in self._queues.values():
            while queue and queue[0].deadline <= now:
                self._fail(queue.popleft(), reason)
        for mid in [mid for mid, each in self._flying.items() if each.deadline <= now]:
            self._give_up(mid, reason)

    def _give_up(self, mid: int, reason: str) -> None:
        """Fail what has been sent. Of QoS 2 the packet id stays taken until the broker is done with it."""
        letter = self._flying[mid]
        self._fail(letter, reason)
        if letter.qos == 1:
            self._land(mid)
        elif not letter.given_up:
            letter.given_up = True
            self._given_up += 1

    def _fail(self, letter: Letter, reason: str) -> None:
        if not letter.given_up:
            self._bytes_out += len(letter.payload)
            letter.fail(self.broker, reason)

    def _forget_unsure(self) -> None:
        """The broker has lost the session: what it already had of QoS 2 cannot be told apart any more."""
        unsure = [mid for mid, letter in self._flying.items() if letter.qos == 2]
        for mid in unsure:
            self._fail(self._flying[mid], "it has lost our session")
            self._land(mid)

    def _fail_all(self, reason: str) -> None:
        for queue in (self._inbox, *self._queues.values()):
            while queue:
                self._fail(queue.popleft(), reason)
        for mid in list(self._flying):
            self._give_up(mid, reason)
