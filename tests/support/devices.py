"""A fake of :class:`appliance.contracts.Devices`: what was asked for on record, events handed over by the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from appliance.contracts import AgentState, DeviceEvent, DeviceState, Pending


@dataclass
class Watched:
    """One watch, as it was asked for."""

    agent: str
    driver: str
    config: dict[str, Any]
    watcher: str
    on_events: Callable[[list[DeviceEvent]], None]
    on_status: Callable[[bool | None, str], None]
    cursor: Any
    stopped: int = 0


@dataclass
class FakeDevices:
    """``answers`` are taken in turn by commands: a value, or an exception to fail with."""

    answers: list[Any] = field(default_factory=list)
    watches: list[Watched] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)

    # --- the contract ---

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
        made = Watched(agent, driver, dict(config), watcher, on_events, on_status, cursor)
        self.watches.append(made)

        def stop() -> None:
            made.stopped += 1

        return stop

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
        self.commands.append(
            {
                "agent": agent,
                "driver": driver,
                "config": dict(config),
                "command": dict(command),
                "key": key,
                "timeout": timeout,
                "repeatable": repeatable,
            }
        )
        answer = self.answers.pop(0) if self.answers else {"done": True}
        pending = Pending()
        if isinstance(answer, Exception):
            pending.complete(error=answer)
        else:
            pending.complete(answer)
        return pending

    def agents(self) -> list[AgentState]:
        return []

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        return []

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        return []

    # --- for the test ---

    @property
    def watched(self) -> Watched:
        """The newest watch."""
        return self.watches[-1]

    def event(self, seq: int = 1, kind: str = "changed", value: Any = True, **other: Any) -> DeviceEvent:
        """An event of the newest watch; acknowledging it notes its number in ``acked``."""
        values = {"source": "a source", "attrs": {}, "time": 1795262400.5, **other}
        return DeviceEvent(
            agent=self.watched.agent,
            driver=self.watched.driver,
            kind=kind,
            value=value,
            id=f"outbox:{seq}",
            seq=seq,
            cursor=["outbox", seq],
            ack=lambda: self.acked.append(seq),
            **values,
        )

    def happen(self, *events: DeviceEvent) -> None:
        """Hand a batch over, as the fleet does."""
        self.watched.on_events(list(events))
