"""One connection with a peer, from the greeting on. Used on the peers' thread only."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from appliance.fleet.peers import wire
from appliance.fleet.peers.transfers import BlobKeeper, Transfers
from edge_agent.protocol.channel import Channel, ChannelClosed

if TYPE_CHECKING:
    from appliance.fleet.peers.calls import Asked, Asking
    from appliance.fleet.peers.remote import Remote

#: Seconds of silence after which a peer is asked whether it is there, and after which it is not.
HEARTBEAT, SILENCE = 3.0, 9.0
#: Seconds that a connection may take to greet.
PATIENCE = 10.0
#: Seconds between two comparisons of clocks.
COMPARE = 60.0
#: Comparisons of clocks among which the best one counts.
SAMPLES = 8


class Sample(Struct, frozen=True):
    """One comparison of clocks: seconds of the round trip, and how far the peer's wall clock is ahead of ours."""

    rtt: float
    ahead: float


class PeerLink:
    """``up`` is a clock that goes on while the machine sleeps (``CLOCK_BOOTTIME``): who was not heard of meanwhile is
    gone. ``dialed``: this side made the connection. ``remote`` is set once the peer's greeting was accepted,
    ``accepted`` once it has accepted ours, ``ready`` with both.
    """

    def __init__(
        self,
        channel: Channel,
        identity: str,
        address: str,
        *,
        dialed: bool,
        wall: Callable[[], float],
        up: Callable[[], float],
        blobs: BlobKeeper,
    ) -> None:
        self.channel = channel
        self.identity = identity
        self.address = address
        self.dialed = dialed
        self.remote: Remote | None = None
        self.hello: wire.Hello | None = None
        self.accepted: wire.Ready | None = None
        self.ready = False
        #: Called when the peer answers a ping, once each.
        self.on_pong: list[Callable[[], None]] = []
        self.asking: dict[int, Asking] = {}
        self.asked: dict[int, Asked] = {}
        self.numbers = itertools.count(1)
        #: When the next of these is too late (monotonic), or earlier.
        self.expires = math.inf
        self.transfers = Transfers(blobs, self.send)
        self._handed_in, self._counting = 0, threading.Lock()
        self._wall = wall
        self._up = up
        self._heard = self._pinged = up()
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    @property
    def waiting(self) -> int:
        """Bytes that the peer has not taken yet, those that were only handed in included. From any thread."""
        return self.channel.backlog + self._handed_in

    def count(self, size: int) -> None:
        """So many more bytes (or fewer) were handed in and are not on the channel. From any thread."""
        with self._counting:
            self._handed_in += size

    def send(self, message: wire.Message) -> None:
        """Raises ``ChannelClosed``."""
        self.channel.send(wire.encode(message))

    def ping(self) -> None:
        """Compare clocks, and see whether it is still there. Raises ``ChannelClosed``."""
        self._pinged = self._up()
        self.send(wire.Ping(sent=self._pinged))

    def answer(self, ping: wire.Ping) -> None:
        """Raises ``ChannelClosed``."""
        self.send(wire.Pong(sent=ping.sent, at=self._wall()))

    def pong(self, message: wire.Pong) -> None:
        """A comparison of clocks has come back (RFC 5905, section 8, with one time stamp at the peer)."""
        rtt = max(0.0, self._up() - message.sent)
        self._samples.append(Sample(rtt, message.at - (self._wall() - rtt / 2)))
        waiting, self.on_pong = self.on_pong, []
        for call in waiting:
            call()

    @property
    def best(self) -> Sample:
        """The comparison that was disturbed least."""
        return min(self._samples, key=lambda sample: sample.rtt, default=Sample(0.0, 0.0))

    # --- what the switchboard asks for ----------------------------------------------------------------

    def heard(self) -> None:
        """Something has come."""
        self._heard = self._up()

    def flush(self) -> None:
        """All is sent at once."""

    def tick(self, now: float) -> float:
        """Do what is due by time; when there is something again. Raises ``ChannelClosed``."""
        up = self._up()
        silent = up - self._heard
        if not self.ready:
            if silent >= PATIENCE:
                raise ChannelClosed("it did not greet")
            return now + PATIENCE - silent
        if silent >= SILENCE:
            raise ChannelClosed(f"it has not been heard of for {silent:.0f} s")
        if (silent >= HEARTBEAT and up - self._pinged >= HEARTBEAT) or up - self._pinged >= COMPARE:
            self.ping()
        next_ping = min(max(self._heard, self._pinged) + HEARTBEAT, self._pinged + COMPARE)
        return now + max(0.0, min(next_ping, self._heard + SILENCE) - up)


def decode(data: bytes) -> wire.Word:
    """A message of a peer. Raises ``ChannelClosed`` for anything else."""
    try:
        return wire.decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ChannelClosed(f"what came is not of this protocol: {exc}") from None


def boottime() -> float:
    """Seconds since the boot, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
