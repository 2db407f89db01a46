"""Peers: how soon an engine is found, and what a thousand of them cost.

Engines in network namespaces with real multicast (needs root); the crowd is simulated, its announcements are real.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from scripts.benchmarks.common import Row
from tests.support.engines_in_namespaces import REASON, EngineBox, Switch, until

PART = "peers found"
CROWD = 1000


def run(quick: bool) -> list[Row]:
    """Every figure; none where network namespaces cannot be had."""
    if REASON:
        print(f"  left out: {REASON}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder, Switch() as switch:
        return [*found(Path(folder), switch, 3 if quick else 7), *crowd(Path(folder), switch, 10 if quick else 60)]


def found(folder: Path, switch: Switch, rounds: int) -> list[Row]:
    """From the wish to look until an engine that was running is in the list; with and without starting mDNS for it."""
    looks = []
    with EngineBox(folder / "there", switch, peer_discovery="always") as there:
        for number in range(rounds):
            with EngineBox(folder / f"here{number}", switch) as here:
                time.sleep(1.0)  # its start is over
                began = time.monotonic()
                here.call("peer_look")
                until(lambda h=here, t=there: h.state(t.id) == "found", "the engine")  # type: ignore[misc]
                looks.append(time.monotonic() - began)
    took = statistics.median(looks)
    return [Row(PART, "a running engine is found", took, "s", "<= 1", took <= 1)]


def crowd(folder: Path, switch: Switch, seconds: float) -> list[Row]:
    """Memory and CPU of kernel and mDNS program, alone and with a thousand engines that announce themselves."""
    with (
        EngineBox(folder / "watcher", switch, peer_discovery="always") as watcher,
        EngineBox(folder / "friend", switch, peer_discovery="always") as friend,
    ):
        watcher.pair(friend)
        time.sleep(5.0)
        alone = cost(watcher, seconds)
        outside, _ = switch.cable()
        noise = [sys.executable, "-m", "tests.support.crowd", str(CROWD), str(seconds * 3 + 30)]
        command = ["ip", "netns", "exec", outside, *noise]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                until(lambda: len(watcher.call("peers")) >= 200, "the crowd")
                time.sleep(10.0)
                among = cost(watcher, seconds)
                later = cost(watcher, seconds)
                kept = len(watcher.call("peers")) - 1
                linked = watcher.state("friend") == "connected"
            finally:
                process.terminate()
    grown, still = among[0] - alone[0], later[0] - among[0]
    return [
        Row(PART, "memory alone (kernel and mDNS, PSS)", alone[0], "MB"),
        Row(PART, f"memory that {CROWD} announced engines add", grown, "MB", "<= 20", grown <= 20),
        Row(PART, "memory that they add with more time", still, "MB", "<= 2", still <= 2),
        Row(PART, "CPU alone", alone[1], "% of a core", "<= 1", alone[1] <= 1),
        Row(PART, f"CPU with {CROWD} that announce every 5 s", later[1], "% of a core", "<= 25", later[1] <= 25),
        Row(PART, "engines kept of the crowd", kept, "", "<= 300", kept <= 300),
        Row(PART, "the paired one stays connected", float(linked), "", "1", linked),
    ]


def cost(box: EngineBox, seconds: float) -> tuple[float, float]:
    """MB, and percent of a core over so many seconds, of the kernel's process and its children."""
    assert box.process is not None
    processes = [each for each in psutil.Process(box.process.pid).children(recursive=True) if each.is_running()]
    processes.append(psutil.Process(box.process.pid))
    before = sum(sum(each.cpu_times()[:2]) for each in processes)
    time.sleep(seconds)
    after = sum(sum(each.cpu_times()[:2]) for each in processes)
    return sum(each.memory_full_info().pss for each in processes) / 1e6, (after - before) / seconds * 100
