"""What is not well with a running engine, in words, each with what to do: for the health page and the doctor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

Level = Literal["warning", "critical"]
#: Bytes left on the disk.
_LOW, _EMPTY = 300_000_000, 60_000_000
_FEW_FILES = 2_000
#: Share of the queue's bound.
_FULL = 0.8


class Finding(Struct, frozen=True):
    """One thing that is not well. ``mend`` says what to do; ``workspace`` whose it is, if it is anybody's."""

    id: str
    level: Level
    text: str
    mend: str
    workspace: str = ""


def overall(findings: Iterable[Finding]) -> str:
    """``ok``, ``warning`` or ``critical`` for all of them."""
    levels = {finding.level for finding in findings}
    return "critical" if "critical" in levels else "warning" if levels else "ok"


def of_status(status: Mapping[str, Any]) -> list[Finding]:
    """The faults in the kernel's own word (its method ``status``)."""
    return [*_journal(status), *_load(status), *of_plugins(status), *_triggers(status), *_brokers(status)]


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
    yield from of_clock(bool(status["clock"]["ok"]), str(status["clock"]["text"]))


def of_clock(ok: bool, why: str) -> Iterator[Finding]:
    """``Clock.trusted()`` in words."""
    if not ok:
        text = f"schedules wait until the clock is known to be right: {why}"
        yield Finding("clock", "warning", text, "connect to a time server, or set the setting clock to trust")


def _load(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["queue"] >= status["queue_bound"] * _FULL:
        text = f"{status['queue']:,} of at most {status['queue_bound']:,} runs wait for their turn"
        yield Finding("queue", "warning", text, "more comes in than can be done; past the bound senders are refused")


def of_plugins(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What is in ``status["broken"]``: plug-ins by kind, type and error."""
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


def of_disk(data: Path) -> Iterator[Finding]:
    """Room on the data folder's disk: bytes, and files that may still be made."""
    disk = os.statvfs(data)
    free = disk.f_bavail * disk.f_frsize
    mend = "free some space, or lower max_history_bytes and keep_days in the settings"
    if free < _LOW:
        level: Level = "critical" if free < _EMPTY else "warning"
        yield Finding("disk", level, f"{free / 1e6:.0f} MB are left on the disk of the data folder", mend)
    if disk.f_files and disk.f_favail < _FEW_FILES:
        text = f"only {disk.f_favail} more files fit on the disk of the data folder"
        yield Finding("files", "warning", text, "delete files there that nobody needs")
