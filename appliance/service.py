"""Kernel, gateway, agent and model host as services of their own: each takes its lock, says to systemd how it is.

``flowork up`` runs the same kernel under its own supervisor.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from appliance import listener, restoring, sdnotify
from appliance.contracts import FlowError
from appliance.paths import EngineLock, find_folder
from appliance.running import answers
from appliance.safemode import Rest, SafeMode

if TYPE_CHECKING:
    from appliance.kernel.kernel import Kernel
    from appliance.security.keys import InitResult

#: Seconds between two looks whether safe mode has ended.
_LOOK = 1.0


class NoOwnerError(FlowError):
    """The engine has no owner, so nothing may listen on the network."""

    id = "no-owner"
    retryable = False


class NotPrepared(FlowError):
    """There is no engine in the data folder yet."""

    id = "no-engine"
    retryable = False


def serve_kernel(data: Path | None) -> int:
    """``flowork kernel``: run the kernel of a data folder until SIGTERM; the exit code. Raises ``FlowError``."""
    os.umask(0o077)
    folder = _folder(data)
    # A kernel that hangs is ended with SIGABRT: the log then shows where it hung.
    faulthandler.enable()
    restoring.swap_alone(folder)
    with EngineLock(folder, "kernel"):
        return run_kernel(folder)


def run_kernel(folder: Path) -> int:
    """The kernel, or its rest in safe mode, in turns until SIGTERM. The caller holds the kernel's lock."""
    safe, orders = SafeMode(folder), Orders()
    _look_at_files(folder, safe)
    while not orders.end:
        orders.stop.clear()
        rest = safe.begin()
        code = _rest(safe, rest, orders) if rest is not None else _work(folder, safe, orders)
        if code:
            return code
    return 0


def _look_at_files(folder: Path, safe: SafeMode) -> None:
    """Rest, if the installed files were changed and the policy refuses that."""
    from appliance.firststart import has_engine
    from appliance.integrity import LIST, installed_at, must_refuse
    from appliance.store.metadata import open_store

    if not (installed_at() / LIST).exists() or not has_engine(folder):
        return
    store = open_store(folder)
    try:
        policy = store.settings.load().integrity
    finally:
        store.close()
    if reason := must_refuse(policy, installed_at()):
        safe.enter(reason)


class Orders:
    """SIGTERM and SIGINT end the process; ``stop`` alone makes it look whether it is to rest."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.end = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ended)

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self.end = True
        self.stop.set()


def _work(folder: Path, safe: SafeMode, orders: Orders) -> int:
    from appliance.kernel import process

    try:
        reason = "cancelled when safe mode ended" if safe.take_cancel() else ""
        code = process.main(folder, orders.stop, partial(_watched, orders), reason)
    except FlowError as exc:
        safe.ended(exc.message)
        raise
    except Exception as exc:
        safe.ended(f"{type(exc).__name__}: {exc}")
        raise
    safe.ended("" if code == 0 else f"exit code {code}")
    return code


def _watched(orders: Orders, kernel: Kernel) -> Callable[[], None]:
    """The kernel is up: from now on its engine thread has to turn."""
    kernel.on_rest = orders.stop.set

    def alive(patience: float) -> bool:
        turned = threading.Event()
        kernel.engine.post(turned.set)
        return turned.wait(patience)

    return sdnotify.Life(alive, "runs go on").start()


def _rest(safe: SafeMode, rest: Rest, orders: Orders) -> int:
    say(f"safe mode: no trigger fires and no run goes on: {rest.reason}")
    say("mend the cause, then `flowork safe-mode off`")
    stop = sdnotify.Life(lambda patience: True, f"safe mode: {rest.reason}").start()
    try:
        while not orders.end and safe.on() is not None:
            orders.stop.clear()
            orders.stop.wait(_LOOK)
    finally:
        stop()
    return 0


def serve_gateway(data: Path | None, host: str, port: int) -> int:
    """``flowork gateway``: serve until SIGTERM; the exit code. A socket handed over by systemd goes before ``host``
    and ``port``. Raises ``FlowError``.
    """
    from appliance.gateway import process
    from appliance.security.keys import init_keys

    os.umask(0o077)
    folder = _folder(data)
    faulthandler.enable()
    restoring.swap_alone(folder)
    with EngineLock(folder, "gateway"):
        restoring.tidy(folder)
        given = sdnotify.listening_socket()
        sock = socket.socket(fileno=given) if given is not None else listener.bind(host, port)
        try:
            require_owner(init_keys(folder), sock)
            if given is None:
                listener.listen(sock)
            name, number = listener.reached_at(sock)
            stop = sdnotify.Life(lambda patience: answers(name, number, patience), f"port {number}").start()
        except BaseException:
            sock.close()
            raise
        try:
            return process.main(folder, name, number, sock.detach())
        finally:
            stop()


def serve_agent(data: Path | None) -> int:
    """``flowork local-agent``: run the agent of this machine until SIGTERM; the exit code. Raises ``FlowError``."""
    from edge_agent import local

    os.umask(0o077)
    folder = _folder(data)
    faulthandler.enable()
    with EngineLock(folder, "agent"):
        return local.main(folder)


def exec_models(data: Path | None, door: socket.socket | None = None) -> NoReturn:
    """``flowork model-host``: become the model host of a data folder. Raises ``FlowError``.

    ``door`` is its listening socket; left out: the one of systemd, else its own. A host made by exec begins with a
    memory of its own instead of that of a supervisor or of the command line.
    """
    from appliance.ai.host import door as doors
    from appliance.ai.host import process as host
    from appliance.store.metadata import open_store

    os.umask(0o077)
    folder = _folder(data)
    store = open_store(folder)
    settings = store.settings.load()
    store.close()
    if door is None:
        given = sdnotify.listening_socket()
        door = socket.socket(fileno=given) if given is not None else doors.listen(folder)
    door.set_inheritable(True)
    command = host.command(folder, door.fileno(), settings.models_memory_mb, settings.models_idle_minutes)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606  # this very Python


def require_owner(keys: InitResult, sock: socket.socket) -> None:
    """Raises ``NoOwnerError`` for an engine without an owner on anything but the loopback."""
    if keys.owner_address is None and not listener.is_loopback(sock):
        raise NoOwnerError(
            "this engine has no owner key, so it must not be on the network: make one with `flowork key "
            "recover`, or start with --host 127.0.0.1"
        )


def say(text: str) -> None:
    """A line for the person at the terminal, or for the journal."""
    try:
        sys.stdout.write(f"flowork: {text}\n")
        sys.stdout.flush()
    except OSError:
        pass  # nobody reads any more; the engine goes on


def _folder(data: Path | None) -> Path:
    from appliance.firststart import has_engine

    folder = find_folder(data)
    if not has_engine(folder) and not restoring.waits(folder):
        raise NotPrepared(
            f"there is no engine in {folder}; make one with `flowork init`, or choose another with --data"
        )
    return folder
