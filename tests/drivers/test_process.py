"""The process driver with real child processes, by the kernel's connector and by polling."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.base import DriverError, Observation
from drivers.process import Process, ProcessConfig
from drivers.support.connector import Connector
from drivers.support.thresholds import Limits
from tests.drivers.contract import Contract, observed
from tests.drivers.host import PATIENCE, FakeHost, Heard


def connector_works() -> bool:
    connector = Connector()
    try:
        connector.open()
    except DriverError:
        return False
    connector.close()
    return True


needs_connector = pytest.mark.skipif(not connector_works(), reason="needs root outside a container")
METHODS = [pytest.param("connector", marks=needs_connector), "poll"]


@pytest.fixture
def driver(host: FakeHost) -> Process:
    return Process(ProcessConfig(name="no-such-program"), host)


class TestContract(Contract):
    pass


@pytest.fixture
def program(tmp_path: Path) -> str:
    """A shell under a name that nothing else on this machine has."""
    path = tmp_path / f"flow{os.getpid()}"
    path.symlink_to("/bin/sh")
    return str(path)


class Watching:
    def __init__(self, host: FakeHost, **config: Any) -> None:
        self.driver = Process(ProcessConfig(**{"poll": 0.05} | config), host)
        self.heard = Heard()

    def __enter__(self) -> Heard:
        self.driver.open()
        self._stop = self.driver.events(self.heard)
        self.heard.kind("initial")
        return self.heard

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.driver.close()


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    found: list[subprocess.Popen[bytes]] = []
    yield found
    for child in found:
        child.kill()
        child.wait()
        if child.stdin:
            child.stdin.close()


def start(program: str, code: str, children: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([program, "-c", code], stdin=subprocess.PIPE)
    children.append(child)
    return child


@pytest.mark.parametrize("method", METHODS)
def test_a_process_starts_and_ends(
    method: str, program: str, host: FakeHost, children: list[subprocess.Popen[bytes]]
) -> None:
    with Watching(host, name=Path(program).name, method=method) as heard:
        assert heard.one("initial").attrs == {"method": method}
        assert heard.one("initial").value == 0
        child = start(program, "read line; exit 3", children)
        started = heard.one("started")
        child.communicate(b"go\n", timeout=PATIENCE)
        exited = heard.one("exited")
        observed(heard, host)
    assert started.value["pid"] == exited.value["pid"] == child.pid
    assert started.value["cmdline"] == f"{program} -c read line; exit 3"
    assert started.value["parent"] == os.getpid()
    assert started.at <= exited.at
    assert abs(started.value["began"] - started.at) < 1
    assert exited.value.get("code") == (3 if method == "connector" else None)


@pytest.mark.parametrize("method", METHODS)
def test_those_that_run_already_are_counted_and_their_end_is_told(
    method: str, program: str, host: FakeHost, children: list[subprocess.Popen[bytes]]
) -> None:
    child = start(program, "read line", children)
    with Watching(host, cmdline=f"*{program}*", method=method) as heard:
        assert heard.one("initial").value == 1
        child.kill()
        child.wait()
        exited = heard.one("exited")
    assert exited.value["pid"] == child.pid
    assert exited.value.get("signal") == (signal.SIGKILL if method == "connector" else None)
    assert not [each for each in heard.all if each.kind == "started"]


@needs_connector
def test_the_connector_misses_no_short_life(
    program: str, host: FakeHost, children: list[subprocess.Popen[bytes]]
) -> None:
    with Watching(host, name=Path(program).name, method="connector") as heard:
        for _ in range(10):
            start(program, "sleep 0.3; exit 0", children)
        ours = {child.pid for child in children}

        def one_of_ours(each: Observation) -> bool:
            return isinstance(each.value, dict) and each.value["pid"] in ours

        heard.until(lambda each: each.kind == "exited" and one_of_ours(each), 10)
        told = [each for each in heard.all if one_of_ours(each)]
    # On a busy machine the fork for "sleep" may count as well, before it becomes that.
    assert sorted(each.kind for each in told) == ["exited"] * 10 + ["started"] * 10
    assert {each.value["code"] for each in told if each.kind == "exited"} == {0}


@needs_connector
def test_a_fork_that_runs_nothing_new_counts_once_it_lives(
    host: FakeHost, program: str, children: list[subprocess.Popen[bytes]]
) -> None:
    with Watching(host, name=Path(program).name, method="connector") as heard:
        # Two subshells: one ends at once, one waits.
        child = start(program, "exec 3<&0; (:); (read line <&3; :) & wait; exit 0", children)
        told = heard.kind("started", 2)
        child.communicate(b"go\n", timeout=PATIENCE)
        heard.kind("exited", 2)
    assert told[0].value["pid"] == child.pid
    assert told[1].value["parent"] == child.pid
    assert len([each for each in heard.all if each.kind == "started"]) == 2


@needs_connector
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_another_filter(host: FakeHost, children: list[subprocess.Popen[bytes]]) -> None:
    mark = f"mark{os.getpid()}"
    with Watching(host, cmdline=f"*{mark}*", user="nobody", method="connector") as heard:
        start("/bin/sh", f": {mark}; sleep 0.02; exit 0", children).wait(PATIENCE)
        other = subprocess.Popen(["/bin/sh", "-c", f": {mark}; read line"], stdin=subprocess.PIPE, user=65534)
        children.append(other)
        assert heard.one("started").value["pid"] == other.pid


def test_in_a_container_it_polls_and_says_so() -> None:
    code = (
        "from drivers.process import *; from tests.drivers.host import *\n"
        "heard = Heard(); driver = Process(ProcessConfig(name='nothing'), FakeHost(None))\n"
        "driver.open(); stop = driver.events(heard)\n"
        "print(heard.one('initial').attrs['method']); stop(); driver.close()\n"
        "try: Process(ProcessConfig(method='connector'), FakeHost(None)).open()\n"
        "except DriverError as exc: print(exc)"
    )
    container = ["unshare", "--fork", "--kill-child", "--pid", "--mount-proc", "--map-root-user", "--"]
    done = subprocess.run([*container, sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    if "unshare failed" in done.stderr:
        pytest.skip("namespaces are not allowed here")
    assert done.stdout.startswith("poll\nthe process connector may not be used"), done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_a_busy_process_is_told_and_told_again_when_it_is_calm(
    method: str, program: str, host: FakeHost, children: list[subprocess.Popen[bytes]]
) -> None:
    config = {"cpu": 20.0, "hold": 0.2, "interval": 0.1}
    with Watching(host, name=Path(program).name, method=method, **config) as heard:
        child = start(program, "trap 'calm=1' USR1; while [ -z $calm ]; do :; done; read line", children)
        busy = heard.one("cpu_high")
        child.send_signal(signal.SIGUSR1)
        heard.one("cpu_normal")
    assert busy.value["cpu"] > 20
    assert busy.value["pid"] == child.pid


def test_a_large_process_is_told(host: FakeHost, children: list[subprocess.Popen[bytes]]) -> None:
    mark = f"mark{os.getpid()}"
    code = f"'{mark}'; import sys; keep = b'x' * 80_000_000; sys.stdin.read(1)"
    config = {"cmdline": f"*{mark}*", "memory": 60.0, "hold": 0.0, "interval": 0.1}
    with Watching(host, method="poll", **config) as heard:
        children.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE))
        assert heard.one("memory_high").value["memory"] > 60


@pytest.mark.parametrize("method", METHODS)
def test_a_storm_is_bounded_and_the_truth_is_told_after_it(
    method: str, program: str, host: FakeHost, children: list[subprocess.Popen[bytes]]
) -> None:
    with Watching(host, method=method, max_rate=20) as heard:
        began = time.monotonic()
        storm = subprocess.Popen(["/bin/sh", "-c", "i=0; while [ $i -lt 700 ]; do sleep 0.3 & i=$((i+1)); done; wait"])
        children.append(storm)
        storm.wait(PATIENCE)
        heard.kind("overflow")
        took = time.monotonic() - began
        last = start(program, "read line", children)
        told = heard.until(lambda each: each.kind == "started" and each.value["pid"] == last.pid)
    assert told
    assert len(heard.all) < 20 * (took + 10) + 50


# --- limits ---


def test_limits_hold_before_they_tell_and_have_hysteresis() -> None:
    limits = Limits(above=80, below=10, hysteresis=5, hold=10)
    readings = [
        (0, 85, False, "normal"),
        (9, 90, False, "normal"),
        (10, 81, True, "high"),
        (11, 79, False, "high"),
        (12, 76, False, "high"),
        (13, 75, True, "normal"),
        (20, 85, False, "normal"),
        (25, 79, False, "normal"),
        (26, 85, False, "normal"),
        (35, 85, False, "normal"),
        (36, 85, True, "high"),
        (37, 5, False, "high"),
        (46, 5, False, "high"),
        (47, 5, True, "low"),
        (48, 14, False, "low"),
        (49, 15, True, "normal"),
    ]
    for now, value, changed, zone in readings:
        assert (limits.update(value, now), limits.zone) == (changed, zone), now
