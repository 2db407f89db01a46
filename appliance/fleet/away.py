"""What flows find as ``ctx.devices`` where there is no fleet: a single run on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.contracts import AgentState, DeviceState, NodeError, Pending

_TEXT = "devices are reached by the running engine only: start it with `flowork up`, and run the flow there"


class NoDevices:
    """Implements :class:`appliance.contracts.Devices` by saying why not."""

    def watch(self, *_: Any, **__: Any) -> Callable[[], None]:
        raise NodeError(_TEXT, retryable=False)

    def command(self, *_: Any, **__: Any) -> Pending:
        raise NodeError(_TEXT, retryable=False)

    def agents(self) -> list[AgentState]:
        return []

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        return []

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        return []
