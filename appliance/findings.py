"""What is not well with a running engine, in words, each with what to do: for the health page and the doctor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from appliance.safemode import Rest
from appliance.strain import Strain
from appliance.wording import counted

#: ``notice``: good to know, and nothing is wrong.
Level = Literal["notice", "warning", "critical"]
#: Bytes left on the disk.
_LOW, _EMPTY = 300_000_000, 60_000_000
_FEW_FILES = 2_000
#: Share of the queue's bound, and seconds that a run may wait for its turn.
_FULL = 0.8
_LAG = 600.0
#: Seconds that a peer may be away before this is told, and that its clock may differ.
_AWAY, _OFFSET = 600.0, 5.0
#: Shares of the last minute that were spent waiting for memory, and what must be free.
_STALLED, _FROZEN, _MEMORY = 0.2, 0.1, 0.04
#: °C: most boards slow down from 80 on; tenths of a card's life.
_WARM, _HOT, _WORN = 78.0, 88.0, 9
#: Days before the end of an authority at which it is time to give devices a new one.
_ROOT_DAYS = 365


class Finding(Struct, frozen=True):
    """One thing that is not well, or to be known. ``mend`` says what to do; ``workspace`` whose it is, if anybody's."""

    id: str
    level: Level
    text: str
    mend: str
    workspace: str = ""


def overall(findings: Iterable[Finding]) -> str:
    """``ok``, ``warning`` or ``critical`` for all of them."""
    levels = {finding.level for finding in findings if finding.level != "notice"}
    return "critical" if "critical" in levels else "warning" if levels else "ok"


def of_status(status: Mapping[str, Any]) -> list[Finding]:
    """The faults in the kernel's own word (its method ``status``)."""
    return [
        *_journal(status),
        *_bus(status),
        *_load(status),
        *_backups(status),
        *_integrity(status),
        *of_plugins(status),
        *of_triggers(status),
        *_brokers(status),
        *_peers(status.get("peers") or {}),
    ]


def _bus(status: Mapping[str, Any]) -> Iterator[Finding]:
    if why := status.get("bus"):
        text = f"gateways on other machines do not reach the kernel: {why}"
        yield Finding("bus", "critical", text, "mend the server that FLOWORK_QUEUE_URL names; runs under way go on")


def _journal(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["degraded"]:
        text = f"runs leave no history, for it cannot be written: {status['degraded']}"
        yield Finding("no-history", "critical", text, "free some space, or mend the disk; it goes on by itself then")
    if status["lost_history"]:
        text = f"{counted(status['lost_history'], 'run')} since the start left no history"
        yield Finding("lost-history", "warning", text, "their effects happened; look at the disk")
    for shard in status["damaged"]:
        mend = "it was moved into corrupt/; runs of that day are lost unless a backup has them"
        yield Finding("damaged-day", "critical", f"a day of history was damaged: {shard}", mend)
    if status["wear"]["thrifty"]:
        text = "the hour's share of the write budget is spent: runs without effects come into the history once a minute"
        mend = "have fewer events, or raise write_budget_mb if the disk can bear it"
        yield Finding("write-budget", "warning", text, mend)
    yield from of_clock(bool(status["clock"]["ok"]), str(status["clock"]["text"]))


def _backups(status: Mapping[str, Any]) -> Iterator[Finding]:
    backups = status["backups"]
    if backups["error"]:
        mend = "it is tried again every hour; see the settings of the group Backups"
        yield Finding("backup", "warning", f"the last backup failed: {backups['error']}", mend)


def _integrity(status: Mapping[str, Any]) -> Iterator[Finding]:
    if text := status["integrity"]["text"]:
        mend = "was it you: sudo flowork-updater seal; else install this version again, and look at the disk"
        yield Finding("integrity", "critical", f"the installed files are not as they were installed: {text}", mend)


def of_clock(ok: bool, why: str) -> Iterator[Finding]:
    """``Clock.trusted()`` in words."""
    if not ok:
        text = f"schedules wait until the clock is known to be right: {why}"
        yield Finding("clock", "warning", text, "connect to a time server, or set the setting clock to trust")


def _load(status: Mapping[str, Any]) -> Iterator[Finding]:
    if status["queue"] >= status["queue_bound"] * _FULL:
        text = f"{status['queue']:,} of at most {status['queue_bound']:,} runs wait for their turn"
        yield Finding("queue", "warning", text, "more comes in than can be done; past the bound senders are refused")
    lag = float(status.get("lag") or 0.0)
    if lag > _LAG:
        text = f"a run waits for its turn since {lag / 60:.0f} minutes"
        mend = "its flow's mode lets only so many run at once: look at its runs under way, or raise max_runs"
        yield Finding("queue-lag", "warning", text, mend)


def of_https(root_until: float, now: float, problem: str) -> Iterator[Finding]:
    """The certificate authority that ends at ``root_until``, and why a certificate could not be made (Unix seconds)."""
    if problem:
        text = f"the certificate for HTTPS could not be made anew: {problem}"
        yield Finding("https", "warning", text, "mend that; it is tried again at the next connection")
    if (left := (root_until - now) / 86_400) < _ROOT_DAYS:
        text = f"the certificate authority that your devices trust ends in {counted(round(max(0.0, left)), 'day')}"
        mend = "make a new one and install it on each device: `flowork https renew --authority`"
        yield Finding("https-authority", "warning", text, mend)


def of_safe_mode(rest: Rest) -> Finding:
    """The kernel rests."""
    text = f"safe mode: no trigger fires and no run goes on, webhooks are kept; {rest.reason}"
    mend = "mend the cause (see the log of the kernel), then end it here or with `flowork safe-mode off`"
    return Finding("safe-mode", "critical", text, mend)


def of_strain(strain: Strain) -> Iterator[Finding]:
    """The machine under the engine."""
    yield from _wear(strain)
    if strain.read_only:
        text = "the disk of the data folder is read-only: the system has found it damaged, or it is worn out"
        yield Finding("read-only", "critical", text, "back up what can be read, then check or replace the card or disk")
    if (strain.frozen or 0.0) >= _FROZEN:
        text = f"everything stood still for {strain.frozen:.0%} of the last minute, for lack of memory"
        yield Finding("memory", "critical", text, "end other programs, run fewer things at once, or add memory (zram)")
    elif (strain.stalled or 0.0) >= _STALLED:
        text = f"programs waited for memory for {strain.stalled:.0%} of the last minute"
        yield Finding("memory", "warning", text, "end other programs, run fewer things at once, or add memory (zram)")
    elif strain.memory_free is not None and strain.memory_free < _MEMORY:
        text = f"only {strain.memory_free:.0%} of the memory are free"
        yield Finding("memory", "warning", text, "end other programs, or lower the memory bounds of scripts and models")
    yield from _warmth(strain)
    if strain.under_voltage:
        text = "the power supply gives too little voltage at this moment: the machine may crash and damage its card"
        yield Finding("power", "critical", text, "use the board's own power supply and a short, thick cable")
    elif strain.under_voltage_before:
        text = "the power supply has given too little voltage since the boot"
        yield Finding("power", "warning", text, "use the board's own power supply and a short, thick cable")
    if strain.usb_cut:
        times = counted(strain.usb_cut, "time")
        text = f"USB ports were switched off since the boot, for a device drew too much current ({times})"
        yield Finding("usb", "warning", text, "give that device a hub with a power supply of its own, or another cable")


def _wear(strain: Strain) -> Iterator[Finding]:
    if strain.worn is not None and strain.worn >= _WORN:
        text = f"{min(strain.worn, 10) * 10} % of the memory card's life are used up, by its own account"
        level: Level = "critical" if strain.worn > _WORN + 1 else "warning"
        yield Finding("wear", level, text, "make a backup now, and replace it soon")
    if strain.disk_errors:
        text = f"the file system of the data folder was found inconsistent ({counted(strain.disk_errors, 'time')})"
        mend = "make a backup now, then have it checked: start once with fsck.mode=force, or replace the card or disk"
        yield Finding("disk-errors", "critical", text, mend)


def _warmth(strain: Strain) -> Iterator[Finding]:
    mend = "give it air or a heat sink, or move it to a cooler place"
    warm = strain.temperature
    if warm is not None and warm >= _WARM:
        level: Level = "critical" if warm >= _HOT else "warning"
        yield Finding("temperature", level, f"the machine is at {warm:.0f} °C", mend)
    elif strain.throttled:
        yield Finding("throttled", "warning", "the machine has slowed itself down (heat or power)", mend)


def of_plugins(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What is in ``status["broken"]``: plug-ins by kind, type and error."""
    for broken in status["broken"]:
        text = f"the {broken['kind']} {broken['type']!r} cannot be loaded: {broken['error']}"
        yield Finding("broken-plugin", "warning", text, "mend its file, then start again")


def of_triggers(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Those in ``status["triggers"]`` that do not listen; ``status["agents"]``, if it is known, says which are away."""
    away = {agent["name"] for agent in status.get("agents", ()) if not agent["online"]}
    for trigger in status["triggers"]:
        if not trigger["ok"]:
            text = f"trigger {trigger['id']} of flow {trigger['flow']}: {trigger['status']}"
            mend = "it is tried again by itself; see the trigger's settings"
            if trigger.get("agent") in away:
                mend = _mend_of_agent(trigger["agent"])
            yield Finding("trigger", "warning", text, mend, trigger["workspace"])


def _brokers(status: Mapping[str, Any]) -> Iterator[Finding]:
    for link in status["mqtt"]:
        if not link["ok"]:
            text = f"the MQTT broker {link['broker']} ({link['role']}): {link['text']}"
            yield Finding("mqtt", "warning", text, "it is tried again by itself; is the broker up, is the login right?")


def of_agents(agents: Iterable[Mapping[str, Any]], now: float) -> Iterator[Finding]:
    """The kernel's method ``agents`` in words: machines with devices ("" is this one) and the drivers on them."""
    for agent in agents:
        where = f"the agent {agent['name']}" if agent["name"] else "this machine"
        away = now - agent["since"]
        if agent["name"] and not agent["online"] and away > _AWAY:
            text = f"{where} is away since {away / 60:.0f} minutes: {agent['text']}"
            mend = f"{_mend_of_agent(agent['name'])}; `flowork agent revoke {agent['name']}` ends what is not needed"
            yield Finding("agent-away", "warning", text, mend)
        for driver in agent["drivers"] if agent["online"] else ():
            if not driver["ok"]:
                text = f"the driver {driver['driver']} of {where}: {driver['text']}"
                mend = "is the device plugged in (USB) and switched on? it is tried again by itself"
                yield Finding("driver", "warning", text, mend)


def _mend_of_agent(name: str) -> str:
    """What to do about an agent that is away ("": this machine's own)."""
    if not name:
        return "it is started again by itself; if not: `systemctl status flowork-agent`, or start `flowork up` again"
    return (
        "is its machine on, and on this network? There `systemctl status flowork-agent` says whether it runs, and "
        "`flowork-agent find` whether it sees this engine; what it sees meanwhile comes later"
    )


def of_update(version: str, tried: bool, error: str) -> Iterator[Finding]:
    """What looking for updates has found: a newer ``version`` ("": none), which was ``tried`` by itself and is not what
    runs, or why the source could not be read.
    """
    if version and tried:
        text = f"version {version} was brought in by itself, and did not stay"
        yield Finding("update", "warning", text, "the page Updates and `flowork update` say why; it is not tried again")
    elif version:
        text = f"version {version} of Flowork is to be had; this box runs an older one"
        yield Finding(
            "update", "notice", text, "bring it in when it suits: on the page Updates, or by `flowork update`"
        )
    elif error:
        text = f"it could not be looked for updates: {error}"
        yield Finding("update", "warning", text, "see the setting update_from; it is tried again tomorrow")


def of_name(installed: bool, avahi: bool) -> Iterator[Finding]:
    """Whether the box is found by its name (``flowork.local``), for which the system's avahi answers."""
    if installed and not avahi:
        text = "this box is not found by its name (….local): avahi, which answers for it, does not run"
        yield Finding("mdns-name", "warning", text, "sudo apt install avahi-daemon, or use the box's address")


def _peers(peers: Mapping[str, Any]) -> Iterator[Finding]:
    """``EnginePeers.health()`` in words."""
    if text := peers.get("port"):
        yield Finding("peers-port", "warning", f"other engines cannot connect: {text}", "see the setting peer_port")
    if text := peers.get("mdns"):
        mend = "give addresses in the setting peers, or look whether the network lets multicast through"
        yield Finding("mdns", "warning", f"engines are not found by themselves: {text}", mend)
    for peer in peers.get("states", ()):
        name, state = peer["name"], peer["state"]
        if state == "self" and peer["hint"]:
            yield Finding("peer-clone", "critical", peer["text"], peer["hint"])
        elif state in {"refused", "clone"} or (state == "connected" and peer["hint"]):
            yield Finding("peer-refused", "warning", f"the peer {name}: {peer['text']}", peer["hint"])
        elif state == "away" and peer["for"] > _AWAY:
            text = f"the peer {name} is away since {peer['for'] / 60:.0f} minutes: {peer['text']}"
            mend = "is it on, and on this network? `flowork peer revoke` ends what is not needed any more"
            yield Finding("peer-away", "warning", text, mend)
        if abs(peer["offset"]) > _OFFSET:
            ahead = "ahead of" if peer["offset"] > 0 else "behind"
            text = f"the clock of the peer {name} is {abs(peer['offset']):.0f} s {ahead} this one's"
            yield Finding("peer-clock", "warning", text, "connect both machines to a time server")


def of_disk(data: Path) -> Iterator[Finding]:
    """Room on the data folder's disk: bytes, and files that may still be made."""
    disk = os.statvfs(data)
    free = disk.f_bavail * disk.f_frsize
    mend = "free some space, or lower max_history_bytes and keep_days in the settings"
    if free < _LOW:
        level: Level = "critical" if free < _EMPTY else "warning"
        yield Finding("disk", level, f"{free / 1e6:.0f} MB are left on the disk of the data folder", mend)
    if disk.f_files and disk.f_favail < _FEW_FILES:
        text = f"there is room for only {counted(disk.f_favail, 'file')} more on the disk of the data folder"
        yield Finding("files", "warning", text, "delete files there that nobody needs")
