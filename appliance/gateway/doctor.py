"""What is wrong with a running engine, in words, each with what to do about it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from appliance.gateway.services import Gateway

Level = Literal["warning", "critical"]
_LOW, _EMPTY = 300_000_000, 60_000_000
_FULL = 0.8


class Finding(Struct, frozen=True):
    """One thing that is not well. ``mend`` says what to do; ``workspace`` whose it is, if it is anybody's."""

    id: str
    level: Level
    text: str
    mend: str
    workspace: str = ""


def overall(findings: list[Finding]) -> str:
    """One word for all of them."""
    levels = {finding.level for finding in findings}
    return "critical" if "critical" in levels else "warning" if levels else "ok"


def findings_of(gateway: Gateway, status: Mapping[str, Any] | None) -> list[Finding]:
    """Everything that is not well; ``status`` is the kernel's own word, None if it is away."""
    found = [*_store(gateway), *_disk(gateway)]
    if status is None:
        text = "the kernel does not answer: webhooks are accepted and kept, nothing runs"
        found.append(Finding("kernel-away", "critical", text, "it is started again by itself; if not, see its log"))
    else:
        found += [*_journal(status), *_load(status), *_plugins(status), *_triggers(status), *_brokers(status)]
    return found


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


def _disk(gateway: Gateway) -> Iterator[Finding]:
    free = shutil.disk_usage(gateway.data).free
    if free < _LOW:
        level: Level = "critical" if free < _EMPTY else "warning"
        mend = "free some space, or lower max_history_bytes and keep_days in the settings"
        yield Finding("disk", level, f"{free / 1e6:.0f} MB are left on the disk of the data folder", mend)


def _journal(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["degraded"]:
        text = f"runs leave no history, for it cannot be written: {status['degraded']}"
        yield Finding("no-history", "critical", text, "free some space, or mend the disk; it goes on by itself then")
    if status["lost_history"]:
        text = f"{status['lost_history']} runs since the start have left no history"
        yield Finding("lost-history", "warning", text, "their effects happened; look at the disk")
    for shard in status["damaged"]:
        mend = "it was moved into corrupt/; runs of that day are lost unless a backup has them"
        yield Finding("damaged-day", "critical", f"a day of history was damaged: {shard}", mend)
    if not status["clock"]["ok"]:
        text = f"schedules wait until the clock is known to be right: {status['clock']['text']}"
        yield Finding("clock", "warning", text, "connect to a time server, or set the setting clock to trust")


def _load(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["queue"] >= status["queue_bound"] * _FULL:
        text = f"{status['queue']:,} of at most {status['queue_bound']:,} runs wait for their turn"
        yield Finding("queue", "warning", text, "more comes in than can be done; past the bound senders are refused")


def _plugins(status: Mapping[str, Any]) -> Iterator[Finding]:
    for broken in status["broken"]:
        text = f"the {broken['kind']} {broken['type']!r} cannot be loaded: {broken['error']}"
        yield Finding("broken-plugin", "warning", text, "mend its file, then start again")


def _triggers(status: Mapping[str, Any]) -> Iterator[Finding]:
    for trigger in status["triggers"]:
        if not trigger["ok"]:
            text = f"trigger {trigger['id']} of flow {trigger['flow']}: {trigger['status']}"
            mend = "it is tried again by itself; see the trigger's settings"
            yield Finding("trigger", "warning", text, mend, trigger["workspace"])


def _brokers(status: Mapping[str, Any]) -> Iterator[Finding]:
    for link in status["mqtt"]:
        if not link["ok"]:
            text = f"the MQTT broker {link['broker']} ({link['role']}): {link['text']}"
            yield Finding("mqtt", "warning", text, "it is tried again by itself; is the broker up, is the login right?")
