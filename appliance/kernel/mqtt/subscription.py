"""One durable subscription: messages in batches to the trigger, acknowledgements back when it says so.

A message of QoS 1 or 2 is acknowledged only after the trigger has it on disk. So the broker keeps it until
then and sends it again, marked, after a crash. For QoS 2 the acknowledgement is the PUBREC: the run is
committed before the broker may forget the message, and a repeated PUBREL is always answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from appliance.contracts import Busy, Message
from appliance.kernel.mqtt import broker as addresses
from appliance.kernel.mqtt import wire
from appliance.kernel.mqtt.broker import Broker
from appliance.kernel.mqtt.link import LARGEST, Away, Bell, Connection, Link, Timing

log = logging.getLogger(__name__)

#: The most messages that are handed over at once.
MOST = 256
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_ASK_AGAIN = 60.0
_TOPICS_REMEMBERED = 10_000

OnMessages = Callable[[list[Message]], None]
OnStatus = Callable[[bool, str], None]


class Subscription:
    """A client of its own with a persistent session. Everything but :meth:`_acknowledge` runs on the loop."""

    role = "subscribe"

    def __init__(
        self,
        broker: Broker,
        filters: tuple[str, ...],
        qos: int,
        client_id: str,
        on_messages: OnMessages,
        on_status: OnStatus,
        timing: Timing,
    ) -> None:
        self.link = Link(broker, client_id, self, timing)
        self.received = 0
        self._filters = filters
        self._qos = qos
        self._on_messages = on_messages
        self._on_status = on_status
        self._matches = addresses.matcher(filters).match
        self._known: set[str] = set()
        self._connection: Connection | None = None
        #: Which connection a message came by: a packet id means nothing on the next one.
        self._epoch = 0
        self._subscribed = False
        self._mid = 0
        self._asked: dict[int, tuple[str, ...]] = {}
        self._held: list[Message] = []
        self._most = MOST
        self._wait = _FIRST_WAIT
        self._timer: asyncio.TimerHandle | None = None
        self._acks: deque[tuple[int, int, int]] = deque()

    @property
    def waiting(self) -> int:
        """Messages that were read and that the trigger has not taken yet."""
        return len(self._held)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._bell = Bell(self._loop, self._send_acks)
        self.link.start()

    def mute(self) -> None:
        """Hand nothing over any more. Safe from any thread."""
        self._on_messages = _nobody

    async def stop(self) -> None:
        """Send what was acknowledged and end the connection; the session stays at the broker."""
        self.mute()
        self._held.clear()
        self._cancel_timer()
        self._send_acks()
        await self.link.stop()
        self._connection = None

    # --- the link's side ---

    def up(self, connection: Connection, session: bool) -> None:
        self._connection = connection
        self._epoch += 1
        # What was not acknowledged comes again, marked; only QoS 0 would be lost.
        self._held = [message for message in self._held if not message.qos]
        if session and self._subscribed:
            # Not asked again without need: each time the broker would send all retained messages once more.
            self.link.say(True, "connected")
        else:
            self._subscribe(self._filters)
        if self._timer is not None:
            connection.hold()

    def down(self, away: Away) -> None:
        self._connection = None
        self._asked.clear()

    def writable(self) -> None:
        self._send_acks()

    def say(self, ok: bool, text: str) -> None:
        self._on_status(ok, text)

    def packets(self, packets: list[wire.Packet]) -> None:
        for kind, flags, body in packets:
            if kind == wire.PUBLISH:
                self._take(flags, body)
            elif kind == wire.PUBREL:
                self._send(wire.answer(wire.PUBCOMP, wire.answered(body)))
            elif kind == wire.SUBACK:
                self._granted(*wire.suback(body))
            elif kind == wire.OVERSIZED:
                self._refuse(flags, body)
        self._offer()

    # --- messages ---

    def _take(self, flags: int, body: bytes) -> None:
        topic, mid, payload = wire.published(flags, body)
        qos = flags >> 1 & 3
        key = (self._epoch, qos, mid)
        if topic not in self._known and not self._learn(topic):
            self._acks.append(key)
            self._send_acks()
            return
        self.received += 1
        ack = partial(self._acknowledge, key) if qos else _nothing
        retain, dup = bool(flags & wire.RETAIN), bool(flags & wire.DUP)
        self._held.append(Message(topic, payload, qos, retain, dup, mid, ack))

    def _learn(self, topic: str) -> bool:
        """False for a topic that nobody asks for (any more).

        The session is older than this process: the flow may have had other topics then. MQTT does not tell
        which, so every filter that could have brought this message is taken back.
        """
        if self._matches(topic) is None:
            stale = [each for each in addresses.filters_matching(topic) if each not in self._filters]
            log.info("%s sends %r, which is not asked for any more", self.link.broker, topic)
            if stale:
                self._send(wire.unsubscribe(self._next_mid(), stale))
            return False
        if len(self._known) >= _TOPICS_REMEMBERED:
            self._known.clear()
        self._known.add(topic)
        return True

    def _refuse(self, flags: int, head: bytes) -> None:
        topic, mid, _payload = wire.published(flags, head)
        text = f"a message on {topic!r} was refused: it is longer than {LARGEST // 2**20} MiB"
        log.warning("%s: %s", self.link.broker, text)
        self.link.say(self.link.ok, text)
        self._acks.append((self._epoch, flags >> 1 & 3, mid))
        self._send_acks()

    def _offer(self) -> None:
        while self._held and self._timer is None:
            batch = self._held[: self._most]
            try:
                self._on_messages(batch)
            except Busy as busy:
                # A batch that is larger than the room there ever is would be refused for ever.
                self._most = max(1, len(batch) // 2)
                self._hold(busy.retry_after)
            except Exception as exc:
                log.exception("Messages of %s could not be handed over", self.link.broker)
                self._on_status(False, f"messages wait, they could not be stored: {exc}")
                self._hold(self._wait)
                self._wait = min(self._wait * 2, _LONGEST_WAIT)
            else:
                del self._held[: len(batch)]
                self._most = min(MOST, self._most * 2)
                self._taken()

    def _taken(self) -> None:
        if self._wait != _FIRST_WAIT:
            self._wait = _FIRST_WAIT
            self._on_status(self.link.ok, self.link.text)

    def _hold(self, seconds: float) -> None:
        if self._connection is not None:
            self._connection.hold()
        self._timer = self._loop.call_later(max(0.01, seconds), self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        self._offer()
        if self._timer is None and self._connection is not None:
            self._connection.go_on()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- acknowledgements ---

    def _acknowledge(self, key: tuple[int, int, int]) -> None:
        """Called from any thread, and perhaps long after the message's connection is gone."""
        self._acks.append(key)
        self._bell.ring()

    def _send_acks(self) -> None:
        answers: list[bytes] = []
        while self._acks:
            epoch, qos, mid = self._acks.popleft()
            if epoch == self._epoch and qos:
                answers.append(wire.answer(wire.PUBACK if qos == 1 else wire.PUBREC, mid))
        if answers:
            self._send(b"".join(answers))

    def _send(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.send(data)

    # --- subscribing ---

    def _next_mid(self) -> int:
        self._mid = self._mid % 65535 + 1
        return self._mid

    def _subscribe(self, filters: tuple[str, ...]) -> None:
        mid = self._next_mid()
        self._asked[mid] = filters
        self._send(wire.subscribe(mid, filters, self._qos))

    def _granted(self, mid: int, codes: list[int]) -> None:
        filters = self._asked.pop(mid, ())
        refused = tuple(each for each, code in zip(filters, codes, strict=False) if code == wire.REFUSED)
        self._subscribed = not refused
        if refused:
            self.link.say(False, f"the broker does not let us subscribe to {', '.join(refused)}")
            self._loop.call_later(_ASK_AGAIN, self._ask_again, self._epoch, refused)
        else:
            self.link.say(True, "connected")

    def _ask_again(self, epoch: int, filters: tuple[str, ...]) -> None:
        if self._connection is not None and epoch == self._epoch:
            self._subscribe(filters)


def _nothing() -> None:
    """The acknowledgement of a message that needs none."""


def _nobody(_messages: list[Message]) -> None:
    """Takes what arrives between a stop and the end of its connection; unacknowledged, it comes again."""
