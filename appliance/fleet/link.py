"""One connection of an agent, from its greeting on. Used on the fleet's thread only."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from appliance.contracts import Blobs
from edge_agent.protocol import messages
from edge_agent.protocol.channel import Channel, ChannelClosed
from edge_agent.protocol.messages import encode

if TYPE_CHECKING:
    from appliance.fleet.remote import Remote

logger = logging.getLogger(__name__)

#: Seconds between two pings, on this machine and over a network, and how many may be missed.
LOCAL_HEARTBEAT, HEARTBEAT, MISSED = 60.0, 10.0, 2.5
#: Seconds that a connection may take to greet.
PATIENCE = 10.0
#: Comparisons of clocks among which the best one counts.
SAMPLES = 8
#: A wall clock before this (in 2023) has not been set since the machine was switched on.
CLOCK_SET = 1_700_000_000.0


class Sample(Struct, frozen=True):
    """One comparison of clocks: the round trip took ``rtt`` seconds; ``ahead`` is the agent's wall clock minus ours;
    ``booted`` is the Unix second, by our clock, at which its boot clock was 0.
    """

    rtt: float
    ahead: float
    booted: float


class Link:
    """``remote`` is set once the agent is welcome; ``identity`` is its certificate's fingerprint, "" if local."""

    def __init__(self, channel: Channel, identity: str, address: str, wall: Callable[[], float], blobs: Blobs) -> None:
        self.channel = channel
        self.identity = identity
        self.address = address
        self.remote: Remote | None = None
        self.hello: messages.Hello | None = None
        self.heard_at = time.monotonic()
        self.pinged_at = 0.0
        self.heartbeat = HEARTBEAT if identity else LOCAL_HEARTBEAT
        self.acks: dict[str, int] = {}
        #: Called once with whether the agent answered a ping, when somebody asks if it is still there.
        self.on_pong: list[Callable[[], None]] = []
        self._wall = wall
        self._blobs = blobs
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._parts: dict[str, bytearray] = {}

    def heard(self) -> None:
        """Something has come."""
        self.heard_at = time.monotonic()

    # --- out ------------------------------------------------------------------------------------

    def send(self, message: messages.Message) -> None:
        """Raises ``ChannelClosed``."""
        self.channel.send(encode(message))

    def ack(self, watch: str, seq: int) -> None:
        """To be told at the end of this turn."""
        self.acks[watch] = max(seq, self.acks.get(watch, 0))

    def flush(self) -> None:
        """Tell what was acknowledged. Raises ``ChannelClosed``."""
        if self.acks:
            acks, self.acks = self.acks, {}
            self.send(messages.Ack(upto=acks))

    def ping(self) -> None:
        """Compare clocks, and see whether it is still there. Raises ``ChannelClosed``."""
        self.pinged_at = time.monotonic()
        self.send(messages.Ping(sent=self.pinged_at))

    def tick(self, now: float) -> float:
        """Do what is due by time; when there is something again. Raises ``ChannelClosed``."""
        if self.remote is None:
            if now >= self.heard_at + PATIENCE:
                raise ChannelClosed("it did not greet")
            return self.heard_at + PATIENCE
        if now >= self.heard_at + self.heartbeat * MISSED:
            raise ChannelClosed("it has not been heard of")
        if now >= self.pinged_at + self.heartbeat:
            self.ping()
        return min(self.pinged_at + self.heartbeat, self.heard_at + self.heartbeat * MISSED)

    # --- in -------------------------------------------------------------------------------------

    def pong(self, message: messages.Pong) -> None:
        """A comparison of clocks has come back (RFC 5905, section 8, with one time stamp at the agent)."""
        rtt = max(0.0, time.monotonic() - message.sent)
        middle = self._wall() - rtt / 2
        self._samples.append(Sample(rtt, message.at - middle, middle - message.up))
        waiting, self.on_pong = self.on_pong, []
        for call in waiting:
            call()

    @property
    def best(self) -> Sample:
        """The comparison that was disturbed least."""
        return min(self._samples, key=lambda sample: sample.rtt, default=Sample(0.0, 0.0, 0.0))

    def time_of(self, row: messages.Row) -> float:
        """When an event was, by our clock."""
        if not self.identity or not self._samples:
            return row.at
        best = self.best
        if row.up:
            return row.up + best.booted
        # Before its last boot: by its wall clock, if that had been set then.
        return min(row.at, self._wall()) if row.at > CLOCK_SET else self._wall()

    def blob(self, part: messages.BlobPart) -> None:
        """A piece of a large value; the whole is kept when the last has come. Raises ``ChannelClosed``."""
        buffer = self._parts.setdefault(part.digest, bytearray())
        buffer += part.data
        if len(buffer) > messages.LARGEST_BLOB or len(self._parts) > 4:
            raise ChannelClosed("it sent more than a blob may have")
        if part.last:
            data = bytes(self._parts.pop(part.digest))
            if hashlib.sha256(data).hexdigest() != part.digest:
                raise ChannelClosed("a blob was not what it was said to be")
            self._blobs.put(data, part.type)


def decode(data: bytes) -> Any:
    """A message of an agent. Raises ``ChannelClosed`` for anything else."""
    try:
        return messages.decode_up(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelClosed(f"what came is not of this protocol: {exc}") from None
