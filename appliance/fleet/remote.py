"""One agent as the appliance sees it, connected or not: what it is to do, what it reports, what it was asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import AgentState, AgentUpdate, DeviceState, NodeError, Pending, TimedOut
from appliance.fleet.book import Paired
from appliance.fleet.delivery import Delivery
from appliance.fleet.link import Link
from appliance.fleet.values import Values
from edge_agent.protocol import messages
from edge_agent.protocol.package import Package

#: Seconds that a command waits for an agent which is away.
GRACE = 10.0


class Wanted(Struct, frozen=True):
    """What one watcher wants to be run."""

    driver: str
    config: dict[str, Any]
    key: str
    durable: bool


class Call(Struct, eq=False):
    """A command that is not answered yet; ``deadline`` and ``grace`` are monotonic."""

    message: messages.Command
    pending: Pending
    deadline: float
    grace: float
    timeout: float


class Remote:
    """Used on the fleet's thread; ``state`` and ``entities`` by any."""

    def __init__(self, name: str, paired: Paired | None, now: float) -> None:
        self.name = name
        self.paired = paired
        self.link: Link | None = None
        self.hello: messages.Hello | None = None
        self.report: messages.Report | None = None
        self.since = now
        self.text = "not connected yet"
        self.wanted: dict[str, Wanted] = {}
        self.deliveries: dict[str, Delivery] = {}
        self.calls: dict[int, Call] = {}
        self.revision = 0
        #: The version that was offered on this connection, the package, and how much of it was asked for.
        self.offered = ""
        self.package: Package | None = None
        self.percent = 0
        self._sent: Any = None

    @property
    def title(self) -> str:
        """For people."""
        return f"the agent {self.name}" if self.name else "this machine's agent"

    # --- what it is to do -----------------------------------------------------------------------

    def configure(self, dead_man: float) -> None:
        """Tell it what is wanted, if that is new to it. Raises ``ChannelClosed``."""
        link = self.link
        if link is None:
            return
        watches = [messages.Watch(name, w.driver, w.config, w.durable) for name, w in self.wanted.items()]
        now = (msgspec.to_builtins(watches), dead_man)
        if now == self._sent:
            return
        self._sent = now
        self.revision += 1
        for name in [name for name in self.deliveries if name not in self.wanted]:
            self.deliveries.pop(name).forget()
        link.send(messages.Configure(revision=self.revision, watches=watches, dead_man=dead_man))

    def connected(self, link: Link, hello: messages.Hello, now: float) -> None:
        """A connection was welcomed. Raises ``ChannelClosed``."""
        self.link, self.hello, self.since, self.text = link, hello, now, "connected"
        self.offered, self.package, self._sent = "", None, None
        if self.report is not None:
            self.report.update = None  # it is about to tell
        for delivery in self.deliveries.values():
            delivery.begin(hello.outbox)
        for call in self.calls.values():
            link.send(call.message)

    def gone(self, why: str, now: float) -> None:
        """Its connection has ended."""
        self.link, self.since, self.text = None, now, why
        self._sent = None
        grace = time.monotonic() + GRACE
        for call in self.calls.values():
            call.grace = min(call.deadline, grace)
        self.tell()

    # --- how it stands --------------------------------------------------------------------------

    def tell(self) -> None:
        """Tell each watcher how its driver stands."""
        reports = {}
        for report in self.report.drivers if self.report and self.link else []:
            for watch in report.watches:
                reports[watch] = report
        for name, delivery in self.deliveries.items():
            mine = reports.get(name)
            if self.link is None:
                coming = None if self.hello is None else False
                delivery.say(coming, f"{self.title} is away ({self.text}); it keeps what it sees")
            elif mine is not None:
                delivery.say(None if mine.text == messages.STARTING else mine.ok, mine.text)
            else:
                delivery.say(None, f"{self.title} is setting it up")

    def offer(self, package: Package, version: str) -> None:
        """It is offered a version; what it said of an earlier update is over."""
        self.offered, self.package, self.percent = version, package, 0
        if self.report is not None:
            self.report.update = None

    def update(self) -> AgentUpdate | None:
        """How its update stands, or came out."""
        told = self.report.update if self.report is not None else None
        if told is None:
            return AgentUpdate(version=self.offered, phase="asked") if self.offered else None
        percent = self.percent if told.phase == "receiving" else 0
        return AgentUpdate(version=told.version, phase=told.phase, percent=percent, text=told.text, at=told.at)

    def state(self, newer: str = "") -> AgentState:
        """For the agents' page; ``newer`` is the version that it could be updated to."""
        link, hello, paired, report = self.link, self.hello, self.paired, self.report
        best = link.best if link is not None else None
        return AgentState(
            name=self.name,
            id=paired.id if paired else "",
            online=link is not None,
            text=self.text,
            since=self.since,
            version=hello.software if hello else "",
            host=hello.host if hello else (paired.host if paired else ""),
            address=link.address if link is not None else "",
            offset=round(best.ahead, 4) if best is not None else 0.0,
            latency=round(best.rtt / 2, 5) if best is not None else 0.0,
            waiting=report.waiting if report else 0,
            dropped=report.dropped if report else 0,
            paired=paired.at if paired else 0.0,
            drivers=[
                {"driver": d.driver, "config": d.config, "ok": d.ok, "text": d.text, "watches": d.watches}
                for d in (report.drivers if report and link else [])
            ],
            available=report.available if report else {},
            newer=newer,
            update=self.update(),
        )

    def entities(self, values: Values) -> list[DeviceState]:
        """What its drivers have reported, with what each last said."""
        return [
            self._entity(values, driver, source_key(driver.driver, driver.config), entity)
            for driver in (self.report.drivers if self.report else [])
            for entity in driver.entities
        ]

    def _entity(self, values: Values, driver: messages.DriverReport, key: str, entity: dict[str, Any]) -> DeviceState:
        place = (self.name, key, entity["id"])
        last = values.last(place)
        return DeviceState(
            agent=self.name,
            driver=driver.driver,
            config=driver.config,
            id=entity["id"],
            name=entity["name"],
            kind=entity["kind"],
            unit=entity.get("unit", ""),
            writable=entity.get("writable", False),
            commands=entity.get("commands", {}),
            value=last.value if last else None,
            last=last.kind if last else "",
            time=last.time if last else 0.0,
            online=self.link is not None and driver.ok and not values.away(place),
        )

    # --- commands -------------------------------------------------------------------------------

    def call(self, call: Call) -> None:
        """Ask for a command to be carried out. Raises ``ChannelClosed``."""
        self.calls[call.message.id] = call
        if self.link is not None:
            self.link.send(call.message)

    def done(self, message: messages.Done) -> None:
        """A command was answered."""
        call = self.calls.pop(message.id, None)
        if call is None:
            return
        if message.error:
            call.pending.complete(error=NodeError(message.error, retryable=message.retryable))
        else:
            call.pending.complete(message.value)

    def expire(self, now: float) -> float | None:
        """Give up what has waited for too long; when the next one has."""
        for number, call in list(self.calls.items()):
            if now >= call.deadline:
                del self.calls[number]
                why = "" if self.link else f"; it is away ({self.text})"
                text = f"{self.title} has not answered within {call.timeout:g} s{why}"
                call.pending.complete(error=TimedOut(text, retryable=True))
            elif self.link is None and now >= call.grace:
                del self.calls[number]
                call.pending.complete(error=NodeError(f"{self.title} is away ({self.text})"))
        due = [call.deadline if self.link else min(call.deadline, call.grace) for call in self.calls.values()]
        return min(due, default=None)


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as JSON has it, so that equal ones are equal."""
    value: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(config))
    return value


def source_key(driver: str, config: Mapping[str, Any]) -> str:
    """What last values are kept under."""
    return f"{driver} {msgspec.json.encode(config, order='deterministic').decode()}"
