"""What a service says to systemd, heard on a socket that stands for systemd's."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import sdnotify


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        heard.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield heard


def test_ready_comes_with_the_first_sign_of_life_and_not_before(systemd: socket.socket) -> None:
    works = threading.Event()
    stop = sdnotify.Life(lambda patience: works.wait(0.01), "port 5000").start()
    systemd.settimeout(0.3)
    with pytest.raises(TimeoutError):
        systemd.recv(200)
    systemd.settimeout(10)
    works.set()
    assert systemd.recv(200).decode().splitlines() == ["READY=1", "STATUS=port 5000"]
    stop()
    assert systemd.recv(200) == b"STOPPING=1"


def test_the_watchdog_is_fed_only_while_it_works(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    works = threading.Event()
    works.set()
    looked = threading.Semaphore(0)

    def alive(patience: float) -> bool:
        looked.release()
        return works.is_set()

    stop = sdnotify.Life(alive).start()
    try:
        assert systemd.recv(200) == b"READY=1"
        assert systemd.recv(200) == b"WATCHDOG=1"
        works.clear()
        while looked.acquire(blocking=False):
            pass
        for _ in range(3):  # it goes on looking, in vain
            assert looked.acquire(timeout=10)
        systemd.settimeout(0)
        heard = []
        try:
            while True:
                heard.append(systemd.recv(200))
        except BlockingIOError:
            pass
        assert len(heard) <= 2  # what was said before it stopped to work
    finally:
        stop()


def test_nothing_happens_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert sdnotify.notify("READY=1") is False
    before = threading.active_count()
    sdnotify.Life(lambda patience: True).start()()
    assert threading.active_count() == before


def test_a_watchdog_or_a_socket_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "5000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert sdnotify.watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert sdnotify.watchdog_seconds() == 5.0
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert sdnotify.listening_socket() is None
