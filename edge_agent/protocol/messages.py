"""The words of the protocol: msgpack maps with a tag ``t``, one frame each.

The agent makes the connection and says :class:`Hello`; the appliance answers :class:`Welcome` or :class:`Refused`.
From then on events, reports and answers go up; configuration, acknowledgements, commands and pings come down. Fields
may be added within a version, since unknown ones are skipped; what changes a meaning needs a new version.

Flow control is by acknowledgement: of each watch at most ``WINDOW`` events, and ``WINDOW_BYTES``, are on their way
without one. Times are seconds: ``at`` by the agent's wall clock (Unix, UTC), ``up`` by its boot clock
(``CLOCK_BOOTTIME``), which nobody sets, so that a time can be told from it once the two clocks were compared (RFC 5905,
section 8, over the pings).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

#: The versions that this code speaks, the best one last.
VERSIONS = (1,)
#: Unacknowledged events of one watch.
WINDOW = 256
WINDOW_BYTES = 2_000_000
#: Kinds of observation that say something of a source other than its value (``drivers.base``).
NO_VALUES = frozenset({"lost", "gap", "back", "found", "gone", "overflow", "garbage"})
#: Bytes of one event; what is larger is cut by the agent, and belongs into a blob.
LARGEST_EVENT = 1_000_000
#: Bytes of one piece of a blob, and of a whole blob.
BLOB_PART = 262_144
LARGEST_BLOB = 16_000_000


class Message(Struct, tag_field="t", kw_only=True):
    """Base of every message."""


# --- up: from the agent -------------------------------------------------------------------------


class Hello(Message, tag="hello", kw_only=True):
    """Who is there. ``agent`` is the id from its pairing ("" for the appliance's own), ``instance`` is new with each
    start of the process, ``machine`` tells hardware apart, ``outbox`` names the file that the sequence numbers are of.
    ``updates``: it can be offered another version over this connection.
    """

    versions: list[int]
    agent: str = ""
    instance: str
    machine: str = ""
    host: str = ""
    software: str = ""
    outbox: str
    boot: str = ""
    updates: bool = False


class Row(Struct, array_like=True):
    """One event. ``up`` is 0 for what was seen before the machine's last boot; ``body`` is a :class:`Body`."""

    seq: int
    at: float
    up: float
    body: msgspec.Raw


class Body(Struct, array_like=True):
    """What was seen."""

    source: str
    kind: str
    value: Any
    attrs: dict[str, Any] = {}


class Events(Message, tag="events"):
    """Events of one watch, in order."""

    watch: str
    rows: list[Row]


class BlobPart(Message, tag="blob"):
    """A piece of a large value; goes ahead of the event or answer that names it. ``last`` ends it."""

    digest: str
    type: str
    data: bytes
    last: bool


#: What a driver's report says until it has been tried.
STARTING = "starting"


class DriverReport(Struct):
    """One running driver: whether it works, and who wants it. ``entities`` as ``drivers.base.Entity``.

    ``values``, in the first report of a connection, are what entities last said: value, kind, time (this machine's).
    """

    driver: str
    config: dict[str, Any]
    ok: bool
    text: str
    watches: list[str]
    entities: list[dict[str, Any]] = []
    values: dict[str, tuple[Any, str, float]] = {}


class Update(Struct):
    """How the last update stands, or came out. ``phase``: ``receiving``, ``checking``, ``restarting``, ``trial`` (the
    new version runs, and has to show that it is well); ``updated``, ``refused``, ``rolled back``. ``at`` is by the
    agent's wall clock.
    """

    version: str
    phase: str
    text: str = ""
    at: float = 0.0


class Report(Message, tag="report"):
    """What runs, sent whole whenever it changed. ``waiting`` events are in the outbox, ``dropped`` it had to lose.

    ``available`` says of each driver why it cannot run on that machine, or nothing; empty until that is known.
    """

    drivers: list[DriverReport]
    revision: int
    waiting: int = 0
    dropped: int = 0
    available: dict[str, str] = {}
    update: Update | None = None


class Done(Message, tag="done"):
    """The answer to a command: ``error`` is empty if it was carried out."""

    id: int
    value: Any = None
    error: str = ""
    retryable: bool = True


class Want(Message, tag="want"):
    """The next piece of the package that was offered, please: from ``offset`` on."""

    digest: str
    offset: int


class Pong(Message, tag="pong"):
    """Answers a ping at once."""

    sent: float
    at: float
    up: float


# --- down: from the appliance -------------------------------------------------------------------


class Welcome(Message, tag="welcome"):
    """The agent is known. A sign of life comes at least every ``heartbeat`` seconds."""

    version: int
    name: str
    heartbeat: float


class Refused(Message, tag="refused"):
    """It is not, and the connection ends; ``id`` is ``version``, ``unknown``, ``clone`` or ``moved``."""

    id: str
    message: str


class Watch(Struct):
    """One thing to watch. ``id`` is the watcher's for ever; without ``durable`` nothing is kept while nobody hears."""

    id: str
    driver: str
    config: dict[str, Any]
    durable: bool = True


class Configure(Message, tag="configure"):
    """All that the agent is to do from now on. ``dead_man``: seconds without the appliance until outputs go to their
    safe state (0: never).
    """

    revision: int
    watches: list[Watch]
    dead_man: float


class Ack(Message, tag="ack"):
    """Of each watch named, everything up to the number is a run on disk and may be forgotten."""

    upto: dict[str, int]


class Command(Message, tag="command"):
    """Something to carry out. The same ``key`` is never carried out twice, unless it is ``repeatable``."""

    id: int
    key: str
    driver: str
    config: dict[str, Any]
    command: dict[str, Any]
    timeout: float
    repeatable: bool = False


class Offer(Message, tag="offer"):
    """Another version of the agent (:mod:`edge_agent.protocol.package`); ``digest`` is what it is known by."""

    version: str
    digest: str
    manifest: bytes
    signature: bytes


class Piece(Message, tag="piece"):
    """A piece of that package's payload, as it was asked for."""

    digest: str
    offset: int
    data: bytes


class Ping(Message, tag="ping"):
    """``sent`` is the appliance's own clock, and comes back as it is."""

    sent: float


Up = Hello | Events | BlobPart | Report | Done | Want | Pong
Down = Welcome | Refused | Configure | Ack | Command | Offer | Piece | Ping

_encoder = msgspec.msgpack.Encoder(enc_hook=str, decimal_format="string")
#: Encodes any message of either side, and the :class:`Body` of an event.
encode = _encoder.encode
decode_up = msgspec.msgpack.Decoder(Up).decode
decode_down = msgspec.msgpack.Decoder(Down).decode
decode_body = msgspec.msgpack.Decoder(Body).decode


def common_version(theirs: list[int]) -> int | None:
    """The best version that both sides speak."""
    return max(set(theirs) & set(VERSIONS), default=None)
