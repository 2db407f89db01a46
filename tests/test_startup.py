"""``flowork up`` as a person meets it: the first start, the next ones, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import stat
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.states import RunState
from appliance.listener import bind, listen
from appliance.security.keys import init_keys
from appliance.security.owner import show_owner
from appliance.store.history import History, RunFilter
from tests.support.up import gone, running, started


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def test_the_first_start_shows_the_main_job_and_how_to_sign_in(tmp_path: Path) -> None:
    with running(tmp_path / "data") as engine:
        assert get(f"{engine.url}/api/v1/health")["status"] == "ok"
        assert engine.end() == 0
    output = "\n".join(engine.lines)
    assert output.count("PRIVATE KEY") == 1
    assert f"PRIVATE KEY {show_owner(tmp_path / 'data').private_key.reveal()}" in output
    assert "the example flow has run: succeeded" in output
    history = History(tmp_path / "data")
    run = history.page(RunFilter()).items[-1]
    history.close()
    assert run.state == RunState.SUCCEEDED


def test_a_later_start_shows_no_key(tmp_path: Path) -> None:
    for _ in range(2):
        with running(tmp_path) as engine:
            assert engine.end() == 0
    output = "\n".join(engine.lines)
    assert "PRIVATE KEY" not in output
    assert show_owner(tmp_path).private_key.reveal() not in output
    assert "first start" not in output
    assert engine.lines[-3:] == ["flowork: stopping gateway", "flowork: stopping kernel", "flowork: stopped"]


def test_all_that_it_writes_is_for_its_own_user(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with running(tmp_path / "data") as engine:
            paths = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
            engine.end()
    finally:
        os.umask(old)
    assert not {path: oct(mode) for path, mode in modes.items() if mode & 0o077}


def test_a_second_engine_on_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with running(tmp_path) as first, started(tmp_path) as second:
        second.until(rf"another engine \(pid {first.process.pid}\) is running on {tmp_path}")
        assert second.process.wait() == 4
        assert get(f"{first.url}/api/v1/health")
        assert len(second.lines) == 2


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        with started(tmp_path, port=port) as engine:
            engine.until(rf"port {port} is in use by .*\(pid {os.getpid()}\); choose another: --port \d+$")
            assert engine.process.wait() == 1
    assert len(engine.lines) == 2
    assert not (tmp_path / "keys").exists()


def test_a_folder_that_cannot_be_written_is_said_in_one_line() -> None:
    with started(Path("/proc")) as engine:
        engine.until("cannot write to /proc: ")
        assert engine.process.wait() == 1
    assert len(engine.lines) == 2


def test_requests_wait_for_a_gateway_that_was_killed(tmp_path: Path) -> None:
    with running(tmp_path) as engine:
        before = engine.children()
        os.kill(before["flowork-gateway"], signal.SIGKILL)
        assert get(f"{engine.url}/api/v1/health")["status"] == "ok"
        engine.until(r"gateway ended \(SIGKILL\); starting it again")
        after = engine.children()
        assert after["flowork-kernel"] == before["flowork-kernel"]
        assert after["flowork-gateway"] != before["flowork-gateway"]
        assert engine.end() == 0


def test_a_kernel_that_was_killed_comes_back_and_the_gateway_stays(tmp_path: Path) -> None:
    with running(tmp_path) as engine:
        before = engine.children()
        os.kill(before["flowork-kernel"], signal.SIGKILL)
        engine.until("trigger hand of first-steps: attached")
        after = engine.children()
        assert after["flowork-kernel"] != before["flowork-kernel"]
        assert after["flowork-gateway"] == before["flowork-gateway"]
        assert engine.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_and_it_starts_again(tmp_path: Path, number: int) -> None:
    with running(tmp_path) as engine:
        pids = engine.family()
        assert len(pids) >= 2
        assert engine.end(number) == (-number if number == signal.SIGKILL else 0)
        assert all(gone(pid) for pid in pids)
    with running(tmp_path) as again:
        assert get(f"{again.url}/api/v1/health")["status"] == "ok"
        assert again.end() == 0


def test_an_engine_without_an_owner_stays_off_the_network(tmp_path: Path) -> None:
    init_keys(tmp_path)
    for name in ("owner.key", "owner.json"):
        (tmp_path / "keys" / name).unlink()
    with started(tmp_path, "--host", "0.0.0.0") as public:
        public.until(r"must not be on the network: .*flowork key recover")
        assert public.process.wait() == 1
    with running(tmp_path) as engine:
        assert get(f"{engine.url}/api/v1/health")
        assert engine.end() == 0
