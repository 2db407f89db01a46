"""Health: is everything well, and if not, what can be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from appliance.gateway.answers import plain
from appliance.gateway.doctor import Finding, findings_of, overall
from appliance.gateway.guard import allowed_somewhere
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.version import VERSION
from appliance.security.roles import EVERYWHERE, allowed
from appliance.strain import view

noun = Noun("health", "Is everything well? What is not comes with what to do about it.")

_ELSEWHERE = {"triggers", "agents"}


class Health(Struct, frozen=True, kw_only=True):
    """``ok``, ``warning`` or ``critical``. All but ``status`` is for those who may read it."""

    status: str
    version: str | UnsetType = UNSET
    findings: list[Finding] | UnsetType = UNSET
    kernel: Any | UnsetType = UNSET
    gateway: Mapping[str, Any] | UnsetType = UNSET
    history: Mapping[str, Any] | UnsetType = UNSET
    strain: Mapping[str, Any] | UnsetType = UNSET


@noun.get("/health", public="it says in a word whether the engine is well")
def show(call: Call[Nothing, Nothing]) -> Health:
    """How the engine is. Without an identity: one word."""
    gateway = call.gateway
    status = gateway.kernel_status()
    findings = findings_of(gateway, status)
    level = overall(findings)
    if not allowed_somewhere(call.identity, "health:read"):
        return Health(status=level)
    everything = allowed(call.identity, "health:read", EVERYWHERE)
    if not everything:
        findings = [finding for finding in findings if not finding.workspace or _sees(call, finding.workspace)]
    # They are nouns of their own; the status of triggers tells the secret paths of webhooks.
    kernel = None if status is None else {key: value for key, value in status.items() if key not in _ELSEWHERE}
    return Health(
        status=level,
        version=VERSION,
        findings=findings,
        kernel=plain(kernel),
        gateway={"uptime": round(gateway.monotonic() - gateway.began, 1), "sockets": gateway.sockets()},
        history=gateway.history_view(),
        strain=view(gateway.strain()),
    )


@noun.post("/health/repair", permission="engine:control", audit="health.repair", atomic=True)
def acknowledge(call: Call[Nothing, Nothing]) -> None:
    """Say that the report of a repaired database was read; it is not shown any more."""
    call.gateway.store.acknowledge_repair()


def _sees(call: Call[Nothing, Nothing], workspace: str) -> bool:
    return allowed(call.identity, "health:read", workspace)
