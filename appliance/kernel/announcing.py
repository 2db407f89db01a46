"""Puts the kernel behind :class:`appliance.fleet.announce.Announcer`: which flows there are, switching, running."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.claims import DeviceClaims
from appliance.contracts import ConfigError, Event, decode
from appliance.fleet.announce import Announcer, Shown
from appliance.kernel.submission import Submission
from appliance.security.audit import AuditLog
from appliance.security.roles import DEFAULT_WORKSPACE
from appliance.store.metadata import Store

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine
    from appliance.registry import Registry

BY = "mqtt:home-assistant"
_MANUAL = "manual"
_SECRET = re.compile(r"\{\{\s*secrets\.(\w+)\s*\}\}")


class Announcing:
    """The engine's flows for Home Assistant. ``reload`` has the kernel read what was changed."""

    def __init__(
        self, store: Store, engine: Engine, registry: Registry, data: Path, reload: Callable[[], None]
    ) -> None:
        self._store = store
        self._engine = engine
        self._registry = registry
        self._data = data
        self._reload = reload

    def make(self, broker: str, prefix: str) -> Announcer:
        """Raises ``ConfigError`` for a secret that is not there."""
        services = self._engine.services
        url = _filled(broker, services.secrets.get(DEFAULT_WORKSPACE, {}))
        return Announcer(services.mqtt, url, prefix, self._flows, self.enable, self._run, services.wall)

    def _flows(self) -> Sequence[Shown]:
        return [Shown(flow.id, flow.name, flow.enabled) for flow, _ in self._store.flows.live()]

    def enable(self, flow: str, on: bool) -> None:
        """Switch a flow, as Home Assistant asks. Raises ``ConfigError`` if it wants what another one has."""
        known = self._store.flows.get(flow)
        if known.enabled == on:
            return
        if on and known.live is not None:
            self._check(flow, known.live)
        self._store.flows.enable(flow, on, BY)
        action = "flow.enable" if on else "flow.disable"
        AuditLog(self._store.audit, self._data).append(BY, action, flow, workspace=known.workspace)
        self._reload()

    def _check(self, flow: str, live: int) -> None:
        """Raises ``ConfigError`` where the flow wants a pin or port that another one has otherwise."""
        others = ((each.id, version.body) for each, version in self._store.flows.live() if each.enabled)
        for problem in DeviceClaims(self._registry).clashes(self._store.flows.version(live).body, others):
            raise ConfigError(f"the flow {flow} stays switched off: {problem.path}: {problem.message}")

    def _run(self, flow: str) -> None:
        """By the flow's manual trigger, if it has one, with nothing filled in."""
        known = self._store.flows.get(flow)
        if known.live is None:
            raise ConfigError(f"the flow {flow} is not deployed")
        trigger, payload = _MANUAL, None
        for spec in self._engine.plan(known.live).flow.triggers:
            kind = self._registry.triggers.get(spec.type)
            if spec.type == _MANUAL and not spec.disabled and kind is not None:
                trigger, payload = spec.id, kind.accept(decode(kind.Config, spec.config), None)
                break
        submission = Submission(known.num, trigger, _MANUAL, Event(payload=payload, meta={"by": BY}))
        self._engine.submit([submission])


def _filled(broker: str, secrets: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in secrets:
            raise ConfigError(f"announce_broker: there is no secret {found[1]!r} in the workspace {DEFAULT_WORKSPACE}")
        return str(secrets[found[1]])

    return _SECRET.sub(value, broker)
