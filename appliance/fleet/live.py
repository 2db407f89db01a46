"""What panels are told of devices as it happens: gathered, so that a fast sensor costs no more than a slow one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from appliance.contracts import AgentState, DeviceEvent

#: Seconds between two tellings.
PACE = 0.2
#: Sources that are told of at once; beyond, a panel asks.
MOST = 500


class LiveNews:
    """Used on the fleet's thread. ``due`` is the monotonic second at which to :meth:`flush`, or 0."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._values: dict[tuple[str, str, str], tuple[str, dict[str, Any]]] = {}
        self._agents: dict[str, AgentState] = {}
        self.due = 0.0

    def value(self, agent: str, driver: str, config: Mapping[str, Any], event: DeviceEvent) -> None:
        """The newest of a source."""
        key = (agent, f"{driver} {id(config)}", event.source)
        if key in self._values or len(self._values) < MOST:
            news: dict[str, Any] = {"driver": driver, "config": config, "id": event.source}
            news |= {"value": event.value, "kind": event.kind, "time": event.time}
            self._values[key] = (agent, news)
            self._begin()

    def agent(self, state: AgentState) -> None:
        """An agent has changed."""
        self._agents[state.name] = state
        self._begin()

    def gone(self, name: str) -> None:
        """An agent was revoked."""
        self._agents.pop(name, None)
        self._tell({"type": "agent", "agent": {"name": name, "online": False, "revoked": True}})

    def flush(self, now: float) -> None:
        """Tell, if it is time."""
        if not self.due or now < self.due:
            return
        self.due = 0.0
        values, self._values = self._values, {}
        agents, self._agents = self._agents, {}
        by_agent: dict[str, list[dict[str, Any]]] = {}
        for agent, news in values.values():
            by_agent.setdefault(agent, []).append(news)
        for agent, items in by_agent.items():
            self._tell({"type": "devices", "agent": agent, "values": items})
        for state in agents.values():
            self._tell({"type": "agent", "agent": msgspec.to_builtins(state)})

    def _begin(self) -> None:
        if not self.due:
            self.due = time.monotonic() + PACE
