"""What is wrong with a running engine: what the kernel says of itself, and what only the gateway knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from appliance.findings import (
    Finding,
    of_agents,
    of_disk,
    of_https,
    of_safe_mode,
    of_status,
    of_strain,
    of_update,
    overall,
)
from appliance.gateway.services import Gateway
from appliance.safemode import SafeMode
from appliance.security.https.certificates import state_of
from appliance.update.request import told

__all__ = ["Finding", "findings_of", "overall"]


def findings_of(gateway: Gateway, status: Mapping[str, Any] | None) -> list[Finding]:
    """Everything that is not well; ``status`` is the kernel's own word, None if it is away."""
    found = [
        *_store(gateway),
        *_doors(gateway),
        *of_disk(gateway.data),
        *of_strain(gateway.strain()),
        *_update(gateway),
    ]
    if status is None:
        rest = SafeMode(gateway.data).on()
        if rest is not None:
            return [*found, of_safe_mode(rest)]
        text = "the kernel does not answer: webhooks are accepted and kept, nothing runs"
        return [*found, Finding("kernel-away", "critical", text, "it is started again by itself; if not, see its log")]
    return [*found, *of_status(status), *of_agents(status["agents"], gateway.now())]


def _update(gateway: Gateway) -> Iterator[Finding]:
    if gateway.settings.update_auto != "off":
        yield from of_update(*told(gateway.data))


def _doors(gateway: Gateway) -> Iterator[Finding]:
    """How the gateway is reached, beside its plain port."""
    if gateway.settings.https != "off" and (state := state_of(gateway.data)) is not None:
        yield from of_https(state.root_until, gateway.now(), gateway.certificates.problem)
    if gateway.tunnel_failure:
        text = f"no tunnel can connect: {gateway.tunnel_failure}"
        yield Finding("tunnel", "warning", text, "choose another port (setting tunnel_port), then restart the gateway")


def _store(gateway: Gateway) -> Iterator[Finding]:
    repair = gateway.store.repair()
    if repair is not None and repair.loss:
        mend = "check flows, users and tokens, then acknowledge this"
        yield Finding("repaired", "critical", repair.message, mend)
    if gateway.audit_failure:
        text = f"an action is missing from the audit log: {gateway.audit_failure}"
        yield Finding("audit", "critical", text, "mend the cause, then `flowork audit verify`")
    if gateway.owner() is None:
        yield Finding("no-owner", "critical", "the engine has no owner key", "`flowork key recover` makes one")
