"""Devices on edge agents: what ``ctx.devices`` offers, and what configs that name one have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import UNSET, Meta, Struct

from appliance.contracts.errors import ConfigError
from appliance.contracts.results import Pending

Agent = Annotated[
    str, Meta(title="Agent", description="The machine it hangs on, by the agent's name; empty: this one", max_length=40)
]
Options = Annotated[
    dict[str, Any], Meta(title="Further settings", description="Other settings of the driver, by their names")
]


class DeviceEvent(Struct, frozen=True, kw_only=True):
    """One thing that a driver on an edge agent saw; ``time`` is Unix seconds (UTC) by this engine's clock.

    ``id`` is the same for every delivery. ``cursor`` (JSON) belongs into :attr:`Event.cursor`: it is how a kernel
    that comes up anew tells what already has its run. ``ack`` is safe from any thread, in any order, and long after
    the connection is gone; call it once the run is on disk (or for an event that starts none), then the agent
    forgets it.
    """

    agent: str
    driver: str
    source: str
    kind: str
    value: Any
    time: float
    attrs: dict[str, Any] = {}
    id: str
    seq: int
    cursor: Any
    ack: Callable[[], None]


class AgentUpdate(Struct, frozen=True, kw_only=True):
    """How the last update of an agent stands, or came out (``phase``: ``asked``, ``receiving`` with ``percent``,
    ``checking``, ``restarting``, ``trial``; ``updated``, ``refused``, ``rolled back``, with why in ``text``).
    """

    version: str
    phase: str
    percent: int = 0
    text: str = ""
    at: float = 0.0


class AgentState(Struct, frozen=True, kw_only=True):
    """One edge agent: ``name`` is "" for this machine. ``drivers`` has a row per running driver with its config,
    ``ok``, ``text`` and who wants it; ``offset`` is how many seconds its clock is ahead; times are Unix seconds.
    ``newer`` is the version that this engine could update it to, if it is newer than ``version``.
    """

    name: str
    id: str
    online: bool
    text: str
    since: float
    version: str = ""
    host: str = ""
    address: str = ""
    offset: float = 0.0
    latency: float = 0.0
    waiting: int = 0
    dropped: int = 0
    paired: float = 0.0
    drivers: list[dict[str, Any]] = []
    available: dict[str, str] = {}
    newer: str = ""
    update: AgentUpdate | None = None


class DeviceState(Struct, frozen=True, kw_only=True):
    """One entity of a driver that runs on an agent, with what it last said (``time`` 0: nothing yet)."""

    agent: str
    driver: str
    config: dict[str, Any]
    id: str
    name: str
    kind: str
    unit: str = ""
    writable: bool = False
    commands: dict[str, Any] = {}
    value: Any = None
    last: str = ""
    time: float = 0.0
    online: bool = False


class Devices(Protocol):
    """Edge agents and what hangs on them: ``ctx.devices``. An agent is named as at its pairing, "" is this machine."""

    def watch(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        watcher: str,
        on_events: Callable[[list[DeviceEvent]], None],
        on_status: Callable[[bool | None, str], None],
        cursor: Any = None,
    ) -> Callable[[], None]:
        """Have an agent run a driver; returns the stop (twice is fine).

        ``watcher`` (``flow/trigger``) is for ever: what the agent sees while this engine is away is kept for it and
        handed over later. ``on_events`` takes a batch whole or raises ``Busy``: then the same events are offered
        again (perhaps fewer at once) after ``retry_after`` seconds. ``cursor`` is :attr:`TriggerContext.cursor`; what
        it covers is never handed over again. With ``watcher=""`` nothing is kept: only what is seen while the agent
        is connected comes. The callbacks run on the fleet's thread. Raises ``ConfigError`` for an unknown driver or
        a config that it refuses. ``on_status`` is told as :meth:`TriggerContext.status` is.
        """

    def command(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        command: Mapping[str, Any],
        key: str,
        timeout: float,
        repeatable: bool = False,
    ) -> Pending:
        """Have a driver carry out a command; completes with its acknowledgement (JSON).

        ``key`` makes a repetition harmless: the agent remembers recent keys over its restarts, and answers as it did
        before. ``repeatable`` says that doing it twice does no harm, which spares the agent a write to its disk.
        Fails with ``NodeError`` (the driver's own words), ``TimedOut`` after ``timeout`` seconds, ``ConfigError``.
        """

    def agents(self) -> list[AgentState]:
        """This machine first, then all that are paired, by name."""

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        """The entities of the drivers that run, on one agent or on all."""

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        """The last hour of a number: ``(time, value)``, oldest first, at most one every 10 seconds."""


def driver_settings(config: Any, *names: str) -> dict[str, Any]:
    """The driver's config: those fields that were given, and ``options``. What is left out is as the driver has it."""
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not UNSET}
    if twice := sorted(given.keys() & config.options.keys()):
        raise ConfigError(f"options: {twice[0]} has a field of its own; leave it out here")
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(given | config.options))
    return found
