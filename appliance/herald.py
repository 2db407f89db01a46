"""The short-lived child of ``flowork up`` that waits until the engine answers, says how to meet it, and ends.

A process of its own, so that waiting needs neither a thread nor a timer in the supervisor.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from shutil import which

from appliance import listener
from appliance.engine.states import RunState
from appliance.firststart import Prepared, example_lines, key_lines
from appliance.kernel import wire
from appliance.safemode import SafeMode
from appliance.store.history import RunFilter, RunHead
from appliance.store.metadata import open_store
from appliance.store.places import make_history

Say = Callable[[str], None]

_HEALTH = b"GET /api/v1/health HTTP/1.0\r\nHost: localhost\r\n\r\n"
#: Seconds between two looks.
_PACE = 0.01
#: Seconds after which a slow start is explained, again and again.
_REMIND = 10.0
#: Seconds that the example flow's first run may take before it is left to itself.
_PATIENCE = 10.0


def main(folder: Path, sock: socket.socket, prepared: Prepared, began: float, say: Say) -> int:
    """Wait for kernel and gateway, then say where the panel is and how to sign in. ``began`` is monotonic."""
    safe = SafeMode(folder)
    _wait("kernel", lambda: _kernel_answers(folder) or safe.on() is not None, say)
    _wait("gateway", partial(_gateway_answers, sock), say)
    resting = " in safe mode" if safe.on() is not None else ""
    say(f"ready{resting} {time.monotonic() - began:.1f} s after the command")
    if prepared.example:
        _tell_example(folder, prepared.example, say)
    say("panel: " + "  or  ".join(listener.addresses(sock, _scheme(folder))))
    for line in key_lines(prepared.keys):
        say(line)
    command = Path(sys.executable).with_name("flowork")
    if which("flowork") is None and command.exists():
        say(f"`flowork` is {command}")
    return 0


def _scheme(folder: Path) -> str:
    """What browsers are to use. (On this machine itself http is answered whatever the setting says.)"""
    with closing(open_store(folder)) as store:
        return "http" if store.settings.load().https == "off" else "https"


def _wait(name: str, answers: Callable[[], bool], say: Say) -> None:
    remind = time.monotonic() + _REMIND
    while not answers():
        if time.monotonic() > remind:
            say(f"still waiting for the {name} to answer")
            remind += _REMIND
        time.sleep(_PACE)


def _kernel_answers(folder: Path) -> bool:
    try:
        wire.connect(folder, _REMIND).close()
    except OSError:
        return False
    return True


def _gateway_answers(sock: socket.socket) -> bool:
    """The port listens already, so the question waits there until a gateway takes it."""
    try:
        with socket.create_connection(listener.reached_at(sock), _REMIND) as client:
            client.sendall(_HEALTH)
            return client.recv(5) == b"HTTP/"
    except OSError:
        return False


def _tell_example(folder: Path, example: str, say: Say) -> None:
    """The newcomer sees the main job done: a run from its event to its last step."""
    run = _first_run(folder)
    if run is not None and run.finished is not None:
        took = (run.finished - run.accepted) / 1000
        say(f"the example flow has run: {RunState(run.state).label}, {took:.1f} ms from its event to its last step")
    for line in example_lines(example):
        say(line)


def _first_run(folder: Path) -> RunHead | None:
    deadline = time.monotonic() + _PATIENCE
    with closing(make_history(folder)) as history:
        while time.monotonic() < deadline:
            newest = history.page(RunFilter(), limit=1).items
            if newest and not RunState(newest[0].state).under_way:
                return newest[0]
            time.sleep(_PACE)
    return None
