"""``flowork up`` as a person meets it: the first start, the next ones, and what is refused."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.listener import bind, listen
from appliance.security.keys import init_keys
from appliance.security.owner import show_owner
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.processes import gone

HEALTH = "/api/v1/health"


def refused(data: Path, *arguments: str) -> tuple[int, str]:
    """A start that ends by itself: its exit code, and the one line on standard error."""
    command = [sys.executable, "-m", "appliance.cli", "up", "--host", "127.0.0.1", "--port", "0", "--data", str(data)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.count("\n") == 1
    assert done.stdout.splitlines()[0] == f"flowork: data in {data}"
    return done.returncode, done.stderr


def test_the_first_start_shows_the_main_job_and_how_to_sign_in(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        assert engine.http("GET", HEALTH)[1]["status"] == "ok"
        assert "the example flow has run: succeeded" in engine.log
        assert engine.json("runs")["items"][0]["state"] == "succeeded"
        assert engine.stop() == 0
    assert engine.owner_key() == show_owner(tmp_path / "data").private_key.reveal()


def test_a_later_start_shows_no_key(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        key = engine.owner_key()
        engine.stop()
        first = len(engine.log)
        engine.start()
        assert engine.stop() == 0
        later = engine.log[first:]
    assert "PRIVATE KEY" not in later
    assert key not in later
    assert "first start" not in later
    said = [line for line in later.splitlines() if line.startswith("flowork: ")]
    assert said[-3:] == ["flowork: stopping gateway", "flowork: stopping kernel", "flowork: stopped"]


def test_all_that_it_writes_is_for_its_own_user(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with Appliance(tmp_path / "data"):
            paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths if path.exists()}
    finally:
        os.umask(old)
    assert not {path: oct(mode) for path, mode in modes.items() if mode & 0o077}


def test_a_second_engine_on_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as first:
        code, said = refused(tmp_path / "data")
        assert code == 4
        assert f"another engine (pid {first.pid}) is running on {tmp_path / 'data'}" in said
        assert first.http("GET", HEALTH)[0] == 200


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        code, said = refused(tmp_path / "data", "--port", str(port))
    assert code == 1
    assert re.search(rf"port {port} is in use by .*\(pid {os.getpid()}\); choose another: --port \d+$", said)
    assert not (tmp_path / "data" / "keys").exists()


def test_a_folder_that_cannot_be_written_is_said_in_one_line() -> None:
    code, said = refused(Path("/proc"))
    assert code == 1
    assert "cannot write to /proc: " in said


def test_an_engine_without_an_owner_stays_off_the_network(tmp_path: Path) -> None:
    init_keys(tmp_path)
    for name in ("owner.key", "owner.json"):
        (tmp_path / "keys" / name).unlink()
    code, said = refused(tmp_path, "--host", "0.0.0.0")
    assert code == 1
    assert "must not be on the network: make one with `flowork key recover`" in said
    with Appliance(tmp_path) as private:
        assert private.http("GET", HEALTH)[0] == 200


def test_requests_wait_for_a_gateway_that_was_killed(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        before = engine.pids()
        engine.kill("gateway", wait=False)
        assert engine.http("GET", HEALTH)[0] == 200
        assert "gateway ended (SIGKILL); starting it again in 0.1 s" in engine.log
        assert engine.pids()["kernel"] == before["kernel"]
        assert engine.stop() == 0


def test_a_kernel_that_was_killed_comes_back_and_the_gateway_stays(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        before = engine.pids()
        engine.kill("kernel")
        eventually(lambda: engine.http("GET", HEALTH)[1]["status"] == "ok", "the engine is well again")
        assert engine.pids()["gateway"] == before["gateway"]
        assert engine.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_and_it_starts_again(tmp_path: Path, number: int) -> None:
    with Appliance(tmp_path / "data") as engine:
        pids = engine.family()
        assert len(pids) >= 2
        assert engine.stop(number) == (-number if number == signal.SIGKILL else 0)
        assert all(gone(pid) for pid in pids)
        engine.start()
        assert engine.http("GET", HEALTH)[1]["status"] == "ok"
        assert engine.stop() == 0
