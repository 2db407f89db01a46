"""Which webhook is at which path: the web triggers of all live flows, their configs rendered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from appliance.contracts import WebTrigger
from appliance.engine.configs import ConfigPlan
from appliance.gateway.services import Gateway
from appliance.store.records import Flow, Version

logger = logging.getLogger(__name__)


class Hook:
    """One webhook, ready to receive."""

    __slots__ = ("config", "flow", "kind", "receive", "starts_run", "trigger", "version", "wait")

    def __init__(self, flow: int, version: int, spec: Mapping[str, Any], kind: WebTrigger[Any], config: Any) -> None:
        self.flow = flow
        self.version = version
        self.trigger = str(spec["id"])
        self.kind = str(spec["type"])
        self.starts_run = bool(spec.get("starts_runs", True))
        self.config = config
        self.receive: Callable[[Any, Any], Any] = kind.receive
        self.wait = kind.wait(config)


class HookTable:
    """The webhooks by path; made anew when flows, variables or secrets have changed. Safe from any thread."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._mark: tuple[int, int] | None = None
        self._hooks: dict[str, Hook] = {}
        self._lock = threading.Lock()

    def find(self, path: str) -> Hook | None:
        """The webhook at a path; before there is none, it is looked whether another process has just deployed one."""
        found = self._find(path)
        if found is None:
            self._gateway.changes.forget()
            found = self._find(path)
        return found

    def _find(self, path: str) -> Hook | None:
        mark = self._gateway.changes.pair("deployments", "values")
        if mark != self._mark:
            with self._lock:
                if mark != self._mark:
                    self._hooks = dict(self._all())
                    self._mark = mark
        return self._hooks.get(path)

    def _all(self) -> Iterator[tuple[str, Hook]]:
        secrets: dict[str, dict[str, str]] | None = None
        for flow, version in self._gateway.store.flows.live():
            specs = list(self._specs(flow, version))
            if specs and secrets is None:
                secrets = self._gateway.know_secrets()
            for spec, kind in specs:
                try:
                    config = self._config(flow, spec, kind, secrets or {})
                    yield kind.path(config), Hook(flow.num, version.id, spec, kind, config)
                except Exception as exc:  # the kernel says so too, and tries again; the others must go on
                    logger.warning("webhook %s of flow %s cannot listen: %s", spec.get("id"), flow.id, exc)

    def _specs(self, flow: Flow, version: Version) -> Iterator[tuple[dict[str, Any], WebTrigger[Any]]]:
        if not flow.enabled:
            return
        for spec in version.body.get("triggers", []):
            kind = self._gateway.registry.triggers.get(spec.get("type"))
            if isinstance(kind, WebTrigger) and not spec.get("disabled"):
                yield spec, kind

    def _config(
        self, flow: Flow, spec: dict[str, Any], kind: WebTrigger[Any], secrets: Mapping[str, Mapping[str, str]]
    ) -> Any:
        plan = ConfigPlan(kind.Config, spec.get("config", {}))
        if plan.constant is not None:
            return plan.constant
        variables = self._gateway.store.values.variables(flow.workspace)
        scope = {
            "vars": {variable.name: variable.value for variable in variables},
            "secrets": secrets.get(flow.workspace, {}),
        }
        return plan.decode(plan.rendered(scope))
