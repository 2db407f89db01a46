"""Safe mode: what counts as a crash, when the kernel rests, how it comes back; then for real, under `flowork up`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from appliance.safemode import CRASHES, END, FIRST_PAUSE, STATE, WINDOW, SafeMode, in_words
from tests.support.appliance import Appliance
from tests.support.broker import eventually


def health(engine: Appliance) -> str:
    return str(engine.http("GET", "/api/v1/health")[1]["status"])


class Box:
    """A data folder on a machine whose clocks and boots the test decides."""

    def __init__(self, data: Path) -> None:
        self.now = 1000.0
        self.boot = "one"
        self.oom_kills = 7
        self.safe = SafeMode(
            data,
            now=lambda: 1.7e9 + self.now,
            since_boot=lambda: self.now,
            boot=lambda: self.boot,
            oom_kills=lambda: self.oom_kills,
            crashes=CRASHES,
        )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def crashes_in_a_row(box: Box, count: int) -> None:
    box.safe.begin()
    for _ in range(count):
        box.safe.saw("SIGSEGV")
        box.now += 1.0
        box.safe.begin()


def test_it_rests_after_so_many_crashes_and_says_why(box: Box) -> None:
    crashes_in_a_row(box, CRASHES - 1)
    assert box.safe.on() is None
    box.safe.saw("SIGBUS")
    box.safe.begin()
    rest = box.safe.on()
    assert rest is not None
    assert rest.reason == f"the kernel ended unexpectedly {CRASHES} times within 10 minutes, at last: SIGBUS"
    assert rest.until == rest.since + FIRST_PAUSE


def test_clean_ends_power_cuts_and_old_crashes_do_not_count(box: Box) -> None:
    for _ in range(CRASHES * 2):
        box.safe.begin()
        box.safe.ended()
        box.safe.begin()
        box.safe.saw("success exited 0")
        box.safe.begin()
        box.boot += "+"  # the power was cut
    assert box.safe.begin() is None
    for _ in range(CRASHES * 2):
        box.safe.saw("SIGSEGV")
        box.now += WINDOW / (CRASHES - 2)
        assert box.safe.begin() is None


def test_a_kernel_that_somebody_kills_has_not_crashed_but_one_without_memory_has(box: Box) -> None:
    box.safe.begin()
    for how in ("SIGKILL", "") * CRASHES:  # and with its supervisor, so that nobody saw it
        if how:
            box.safe.saw(how)
        box.now += 1.0
        assert box.safe.begin() is None
    for _ in range(CRASHES):
        box.oom_kills += 1
        box.safe.saw("SIGKILL")
        box.now += 1.0
        box.safe.begin()
    rest = box.safe.on()
    assert rest is not None
    assert rest.reason.endswith("at last: ended by the system for lack of memory")


def test_a_kernel_that_says_itself_why_it_cannot_start_counts_once(box: Box) -> None:
    for _ in range(CRASHES):
        assert box.safe.begin() is None
        box.safe.ended("the database is of a newer Flowork")
        box.safe.saw("exit-code exited 1")
        box.now += 1.0
    rest = box.safe.begin()
    assert rest is not None
    assert rest.reason.endswith("at last: the database is of a newer Flowork")


def test_it_tries_again_by_itself_after_pauses_that_grow(box: Box) -> None:
    crashes_in_a_row(box, CRASHES)
    box.now += FIRST_PAUSE - 1
    assert box.safe.begin() is not None
    box.now += 1
    assert box.safe.on() is None
    crashes_in_a_row(box, 1)  # one is enough now
    rest = box.safe.on()
    assert rest is not None
    assert rest.until == rest.since + 2 * FIRST_PAUSE
    box.now += 2 * FIRST_PAUSE
    assert box.safe.begin() is None
    box.now += WINDOW + 1  # this time it lived
    crashes_in_a_row(box, 1)
    assert box.safe.on() is None


def test_a_reboot_ends_what_began_by_itself_and_not_what_was_asked_for(box: Box) -> None:
    crashes_in_a_row(box, CRASHES)
    box.boot = "two"
    assert box.safe.begin() is None
    box.safe.enter("the pump is being repaired")
    box.boot = "three"
    rest = box.safe.begin()
    assert rest is not None
    assert (rest.reason, rest.until) == ("the pump is being repaired", None)
    assert box.safe.leave() is True
    assert box.safe.leave() is False
    assert box.safe.begin() is None


@pytest.mark.parametrize("text", ["", "{", '{"crashes": 7}'])
def test_a_damaged_file_keeps_nothing_from_starting(box: Box, tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    (tmp_path / END).write_bytes(b"\xff\xfe")
    assert box.safe.begin() is None
    assert box.safe.on() is None


def test_never_means_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWORK_SAFE_MODE_CRASHES", "0")
    safe = SafeMode(tmp_path)
    for _ in range(20):
        safe.begin()
        safe.saw("SIGSEGV")
    assert safe.begin() is None


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ("signal killed KILL", "SIGKILL"),
        ("oom-kill killed KILL", "ended by the system for lack of memory"),
        ("watchdog dumped ABRT", "it hung (the watchdog ended it)"),
        ("exit-code exited 1", "exit code 1"),
        ("success exited 0", "success"),
        ("SIGSEGV", "SIGSEGV"),
    ],
)
def test_what_systemd_saw_is_said_in_words(seen: str, words: str) -> None:
    assert in_words(seen) == words


def test_an_engine_whose_kernel_crashes_again_and_again_rests_and_comes_back(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        for _ in range(CRASHES):
            eventually(lambda: health(engine) == "ok", "the kernel works")
            engine.kill("kernel", number=signal.SIGSEGV)
        eventually(lambda: engine.json("safe-mode")["on"], "the kernel rests")
        assert "at last: SIGSEGV" in engine.json("safe-mode")["reason"]
        eventually(lambda: health(engine) == "critical", "the health page says so")
        found = json.loads(engine.flowork("doctor", "--json", check=False).stdout)["findings"]
        assert {finding["id"] for finding in found} & {"safe-mode", "kernel-away", "stopped"} == {"safe-mode"}
        assert engine.flowork("safe-mode", "off").stdout == "the kernel works again\n"
        eventually(lambda: health(engine) == "ok", "the engine is well again")


def test_it_is_turned_on_and_off_while_a_run_waits(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        kernel = engine.pids()["kernel"]
        engine.flowork("safe-mode", "on", "--reason", "the pump is being repaired")
        eventually(lambda: "safe mode: no trigger fires" in engine.log, "the kernel rests")
        assert engine.pids()["kernel"] == kernel
        engine.flowork("safe-mode", "off")
        eventually(lambda: health(engine) == "ok", "the engine is well again")
        assert engine.pids()["kernel"] == kernel
        engine.flowork("safe-mode", "on")
        assert engine.stop(signal.SIGTERM) == 0
        engine.start()
        assert "ready in safe mode" in engine.log


def test_runs_that_were_under_way_end_if_that_is_asked_for(tmp_path: Path) -> None:
    flow = {
        "name": "Slow",
        "triggers": [{"id": "go", "type": "manual"}],
        "nodes": [{"id": "wait", "type": "delay", "config": {"for": "1h"}}],
        "edges": [],
    }
    (tmp_path / "slow.json").write_text(json.dumps(flow))
    with Appliance(tmp_path / "data") as engine:
        engine.flowork("flow", "deploy", str(tmp_path / "slow.json"))
        runs = [engine.json("run", "slow", "--detach")["run"] for _ in range(2)]
        engine.flowork("safe-mode", "on")
        eventually(lambda: "safe mode: no trigger fires" in engine.log, "the kernel rests")
        engine.flowork("safe-mode", "off", "--cancel-runs")
        eventually(lambda: health(engine) == "ok", "the engine is well again")
        assert {engine.json("show", run)["state"] for run in runs} == {"cancelled"}
        later = engine.json("run", "slow", "--detach")["run"]
        engine.flowork("safe-mode", "on")
        eventually(lambda: engine.log.count("safe mode: no trigger fires") == 2, "the kernel rests")
        engine.flowork("safe-mode", "off")
        eventually(lambda: health(engine) == "ok", "the engine is well again")
        assert engine.json("show", later)["state"] == "waiting"
