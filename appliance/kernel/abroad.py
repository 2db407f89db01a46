"""What carrying out steps needs of the work across engines (:mod:`appliance.kernel.peering`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from appliance.kernel.context import StepContext
from appliance.kernel.runs import LiveRun


class Placing(Protocol):
    """Where a step may be done but here."""

    def begin(self, run: LiveRun, index: int, attempt: int) -> bool:
        """True if the step is not, or not yet, for this engine."""

    def forget(self, away: Any) -> None:
        """Its run is over."""

    def recover(self, run: LiveRun, index: int, attempt: int, extra: dict[str, Any]) -> None:
        """It was away, or waited for an engine, when this process began."""

    def unwanted(self, peer: str, ids: Sequence[str]) -> list[str]:
        """Those of a peer's requests that are of no step any more."""


class Visitors(Protocol):
    """Steps that are done here for others."""

    def context(self, run: LiveRun, index: int, attempt: int, payload: Any, deadline: float) -> StepContext | None: ...


class Outgoing(Protocol):
    """Events for others."""

    def put(self, run: LiveRun, events: Sequence[tuple[str, str, Any]]) -> None: ...
