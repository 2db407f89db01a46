"""A real fleet and real agents in one process, over real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.contracts import AgentState, Busy, DeviceEvent
from appliance.fleet.fleet import SOCKET, Fleet
from edge_agent.agent import Agent
from edge_agent.dialer import Local, Route
from tests.support.context import MemoryBlobs

PATIENCE = 20.0


class Listener:
    """What a trigger does: takes events and statuses; acknowledges at once unless told not to."""

    def __init__(self, *, acks: bool = True) -> None:
        self.acks = acks
        self.events: list[DeviceEvent] = []
        self.states: list[tuple[bool | None, str]] = []
        self.busy = False
        self._came = threading.Condition()

    def on_events(self, events: list[DeviceEvent]) -> None:
        if self.busy:
            raise Busy(retry_after=0.05)
        with self._came:
            self.events += events
            self._came.notify_all()
        if self.acks:
            for event in events:
                event.ack()

    def on_status(self, ok: bool | None, text: str) -> None:
        with self._came:
            self.states.append((ok, text))
            self._came.notify_all()

    def until(self, wanted: Callable[[], bool], what: str = "") -> None:
        with self._came:
            came = self._came.wait_for(wanted, PATIENCE)
        assert came, f"{what or 'it'} did not come: {self.states[-3:]} {self.events[-3:]}"

    def well(self) -> None:
        self.until(lambda: bool(self.states) and bool(self.states[-1][0]), "the driver's start")

    def kinds(self, source: str) -> list[Any]:
        return [event.value for event in self.events if event.source == source]


class Rig:
    """A data folder with a fleet that can be ended and begun again, and agents."""

    def __init__(self, data: Path, **options: Any) -> None:
        self.data = data
        self.options: dict[str, Any] = {"engine": "testengine", "dead_man": 0.0, **options}
        self.blobs = MemoryBlobs()
        self.told: list[dict[str, Any]] = []
        self._stops: list[Callable[[], None]] = []
        (data / "keys").mkdir(parents=True, exist_ok=True)
        self.fleet = self.begin_fleet()

    def begin_fleet(self) -> Fleet:
        self.fleet = Fleet(self.data, self.blobs, time.time, tell=self.told.append, **self.options)
        self.fleet.start()
        self.fleet.attached()
        return self.fleet

    def agent(self, folder: str = "agent", route: Route | None = None, **options: Any) -> Callable[[], None]:
        """Start one; returns its stop."""
        agent = Agent(self.data / folder, route or Local(self.data, SOCKET), **options)
        thread = threading.Thread(target=agent.run, name=f"agent {folder}")
        thread.start()
        done = [False]

        def stop() -> None:
            if not done[0]:
                done[0] = True
                agent.stop()
                thread.join(PATIENCE)
                assert not thread.is_alive()

        self._stops.append(stop)
        return stop

    def watch(
        self,
        listener: Listener,
        config: Mapping[str, Any] | None = None,
        *,
        agent: str = "",
        watcher: str = "flow/t",
        driver: str = "sim",
        cursor: Any = None,
    ) -> Callable[[], None]:
        return self.fleet.watch(
            agent, driver, config or {}, watcher, listener.on_events, listener.on_status, cursor=cursor
        )

    def command(
        self,
        command: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        *,
        agent: str = "",
        key: str = "",
        driver: str = "sim",
        timeout: float = 10.0,
        repeatable: bool = False,
    ) -> Any:
        """Its acknowledgement; raises what it failed with."""
        pending = self.fleet.command(agent, driver, config or {}, command, key, timeout, repeatable)
        done = threading.Event()
        outcome: list[Any] = []

        def came(value: Any, error: BaseException | None) -> None:
            outcome.extend((value, error))
            done.set()

        pending.then(came)
        assert done.wait(PATIENCE)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def state(self, name: str = "") -> AgentState:
        return next(agent for agent in self.fleet.agents() if agent.name == name)

    def until(self, wanted: Callable[[], bool], what: str) -> None:
        """Look again whenever something may have changed, for a while."""
        deadline = time.monotonic() + PATIENCE
        gate = threading.Event()
        while not wanted():
            assert time.monotonic() < deadline, f"{what} did not come"
            gate.wait(0.01)

    def close(self) -> None:
        for stop in self._stops:
            stop()
        self.fleet.stop()


@contextmanager
def rig(data: Path, **options: Any) -> Iterator[Rig]:
    made = Rig(data, **options)
    try:
        yield made
    finally:
        made.close()
