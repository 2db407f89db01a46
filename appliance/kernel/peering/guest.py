"""What a step of a peer receives: its context is that of the step there, with the services of this engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import UNSET

from appliance.kernel.context import StepContext
from appliance.kernel.peering.wire import StepAsked


class GuestContext(StepContext):
    """One attempt at a peer's step. Its key, event and names are the peer's; its state is that of the run here."""

    __slots__ = ("_key", "_names", "_show", "_sources", "_their_event", "_value")

    def be_guest(
        self, kept: Mapping[str, Any], asked: StepAsked | None, show: Callable[[dict[str, Any]], None]
    ) -> None:
        """Take up what was asked; what the journal kept of it, where that is all there is."""
        self._show = show
        self._value = self._payload
        self._key = str(asked.key if asked else kept.get("key", ""))
        self._sources: list[str] = list(asked.sources if asked else kept.get("sources", []))
        self._their_event: dict[str, Any] = asked.event if asked else kept.get("event", {})
        secrets = {"secrets": asked.secrets} if asked else {}
        self._names: dict[str, Any] = {**(asked.names if asked else kept.get("names", {})), **secrets}
        self.given = dict(asked.config if asked else kept.get("config", {}))

    @property
    def idempotency_key(self) -> str:
        """The step's own: the same at whatever engine it is tried."""
        return self._key or super().idempotency_key

    @property
    def event(self) -> Mapping[str, Any]:
        return self._their_event

    @property
    def inputs(self) -> Mapping[str, Any]:
        if self._sources and isinstance(self._value, dict):
            return {name: self._value.get(name) for name in self._sources}
        return {}

    def scope(
        self, names: frozenset[str], payload: Any = UNSET, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """As for any step, with the peer's values."""
        theirs = {"event": self._their_event, "steps": {}, "vars": {}, "state": {}, "secrets": {}} | self._names
        value = self._value if payload is UNSET else payload
        return super().scope(names & {"now", "run"}, value, {**_only(theirs, names), **(extra or {})})

    def stream(self, text: str) -> None:
        super().stream(text)
        self._show({"text": text})

    def anew(self) -> None:
        super().anew()
        self._show({"anew": True})


def _only(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def flow_of(peer: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The flow of one node that a peer's step runs as."""
    spec = {name: node[name] for name in ("id", "type", "name", "config", "timeout") if node.get(name) is not None}
    return {
        "name": f"Work for {peer}",
        "description": f"Steps that {peer} has this engine do. Each of its versions is one of them; none is live.",
        "tags": ["peer"],
        "nodes": [spec],
        "settings": {
            "max_runs": MOST_AT_ONCE,
            # What it comes to is for the engine to decide whose step it is.
            "on_crash": "fail",
            "timeout": "1d",
            "history": {"days": KEPT_DAYS, "failed_days": KEPT_DAYS},
        },
    }


MOST_AT_ONCE = 64
#: Days for which results are kept for a peer that comes back for them.
KEPT_DAYS = 3
