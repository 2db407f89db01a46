"""The agent as the only thing installed: what it loads, how it says what is wrong, systemd, one at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent import config, dialer
from edge_agent.config import SettingsError
from edge_agent.notify import Systemd
from edge_agent.protocol import certificates
from tests.edge.standalone import RemoteAgent
from tests.support.broker import eventually, free_port

#: What belongs to the engine, and what the agent loads only where it is used, in processes of their own.
HEAVY = ("appliance", "flask", "huey", "peewee", "numpy", "jinja2", "zeroconf", "cryptography", "spake2", "asyncio")


def flowork_agent(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environ})


def test_a_running_agent_has_loaded_nothing_heavy() -> None:
    code = (
        "import sys, json; import edge_agent.main, edge_agent.network; from drivers.base import names, find\n"
        "for name in names(): find(name)\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_an_agent_that_is_not_paired_says_what_to_do(tmp_path: Path) -> None:
    done = flowork_agent("--data", str(tmp_path))
    assert done.returncode == 1
    assert "not paired yet" in done.stderr
    assert "flowork agent pair NAME" in done.stderr


def test_pairing_with_nobody_there_says_so(tmp_path: Path) -> None:
    (tmp_path / config.FILE).write_text("discovery = false\n")
    done = flowork_agent("--data", str(tmp_path), "pair", "1-234-567", "--appliance", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "connection refused" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [("appliance = 5", "appliance"), ("nonsense = 1", "nonsense"), ("code = ", "flowork-agent.toml"), ("\x00", "toml")],
)
def test_settings_that_are_wrong_are_told_with_the_file(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / config.FILE).write_text(text)
    done = flowork_agent("--data", str(tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("192.168.1.20", ("192.168.1.20", 5010)),
        ("box.local:81", ("box.local", 81)),
        ("[::1]:7", ("::1", 7)),
        ("fd00::2", ("fd00::2", 5010)),
    ],
)
def test_addresses(text: str, meant: tuple[str, int]) -> None:
    assert config.address(text) == meant


@pytest.mark.parametrize("text", ["", ":80", "host:port", "host:0", "host:99999"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingsError, match="is not an address"):
        config.address(text)


def test_certificates_are_made_once_and_readable_for_their_owner_only(tmp_path: Path) -> None:
    first = certificates.ensure(tmp_path / "keys", "agent")
    assert certificates.ensure(tmp_path / "keys", "agent") == first
    assert (tmp_path / "keys" / certificates.KEY).stat().st_mode & 0o777 == 0o600
    assert len(certificates.fingerprint(first)) == 64


def test_systemd_is_told(tmp_path: Path) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(place)
        ear.settimeout(10.0)
        systemd = Systemd({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())})
        assert systemd.beat == 2.0
        systemd.tell("READY=1")
        assert ear.recv(100) == b"READY=1"
    systemd.tell("WATCHDOG=1")  # nobody listens any more
    assert Systemd({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}).beat == 0.0


def paired(folder: Path) -> None:
    """As after a pairing with an appliance that is away."""
    certificate = certificates.ensure(folder, "agent")
    there = {"name": "a", "engine": "e", "certificate": certificate.decode(), "address": f"127.0.0.1:{free_port()}"}
    (folder / "paired.json").write_text(json.dumps(there))
    (folder / config.FILE).write_text("discovery = false\n")


def test_a_real_agent_tells_systemd_that_it_is_alive_and_ends_when_told(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    paired(folder)
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(place)
        ear.settimeout(20.0)
        within = ["env", f"NOTIFY_SOCKET={place}", "WATCHDOG_USEC=400000"]
        with RemoteAgent(folder, within=within) as agent:
            heard = [ear.recv(200) for _ in range(3)]
            assert heard[0] == b"READY=1"
            assert heard[1:] == [b"WATCHDOG=1", b"WATCHDOG=1"]
            agent.process.terminate()
            assert agent.process.wait(20) == 0
            while ear.recv(200) != b"STOPPING=1":
                pass


def test_one_agent_works_on_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    paired(folder)
    with RemoteAgent(folder):
        eventually(lambda: (folder / "outbox.db").exists(), "the first agent")
        done = flowork_agent("--data", str(folder))
        assert done.returncode == 1
        assert f"another agent runs on {folder}" in done.stderr


class Nowhere:
    """A route with one way, which fails."""

    first, longest = 0.01, 0.01

    def __init__(self) -> None:
        self.tries = 0

    def ways(self) -> Iterator[tuple[str, dialer.Dial]]:
        self.tries += 1
        yield "nowhere", self._dial

    def worked(self, name: str) -> None:
        raise AssertionError(name)

    def _dial(self) -> socket.socket:
        raise OSError("nobody there")


def test_an_appliance_that_is_not_up_yet_is_not_news(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(dialer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    caplog.set_level("INFO", "edge_agent.dialer")
    route = Nowhere()
    dialling = dialer.Dialer(route, lambda *_: None)
    dialling.begin(0.0)
    try:
        eventually(lambda: route.tries > 3, "tries")
        assert not caplog.messages
        now[0] = dialer.SILENCE + 1
        tries = route.tries
        eventually(lambda: route.tries > tries + 3, "more tries")
    finally:
        dialling.stop()
    assert caplog.messages == ["no connection to the appliance yet; nowhere: nobody there"]
