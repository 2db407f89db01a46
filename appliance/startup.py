"""``flowork up``: locks the data folder, makes it ready, opens the port, and hands over to the supervisor.

The children are a table in :func:`programs`: a new process of the engine is one more row there.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from appliance import herald, listener, restoring
from appliance.ai.host import door
from appliance.contracts import FlowError
from appliance.firststart import Prepared, is_prepared, prepare
from appliance.paths import EngineLock, data_folder
from appliance.safemode import SafeMode
from appliance.service import exec_models, require_owner, run_kernel, say
from appliance.store.metadata import open_store
from appliance.supervisor import Program, Supervisor

#: What runs once per data folder.
ROLES = ("kernel", "gateway")


def up(data: Path | None, host: str, port: int, models: bool | None = None) -> int:
    """Run the whole engine until it is told to stop; the exit code. Raises ``FlowError``.

    With ``models`` the kernel makes the model engine, unless somebody has decided otherwise; False decides so.
    """
    began = time.monotonic() - _age()
    os.umask(0o077)  # all that an engine writes is for its own user
    folder = data_folder(data)
    say(f"data in {folder}")
    with ExitStack() as held:
        for role in ROLES:
            held.enter_context(EngineLock(folder, role))
        sock = held.enter_context(listener.bind(host, port))
        _swap(folder)
        prepared = _prepare(folder)
        require_owner(prepared.keys, sock)
        listener.listen(sock)  # not before: nothing answers on the network before there is an owner
        if models is not None:
            _decide_on_models(folder, models)
        host_door = held.enter_context(door.listen(folder))
        say("starting the kernel and the gateway")
        code = Supervisor(programs(folder, sock, host_door, prepared, began), say).run()
    if restoring.is_anew(folder):
        say("starting anew")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # itself
    return code


def programs(
    folder: Path, sock: socket.socket, models: socket.socket, prepared: Prepared, began: float
) -> list[Program]:
    """The children in the order of their start.

    What has been imported by now they share. What only one of them uses it imports itself, after the fork: of shared
    memory about half is copied by whoever uses it (Python counts references in it), and would be paid for twice.
    """
    from appliance.gateway import process as gateway
    from edge_agent import local as agent

    host, port = sock.getsockname()[:2]
    return [
        Program("kernel", _explained(partial(run_kernel, folder)), grace=30.0, saw_end=SafeMode(folder).saw),
        Program("gateway", _explained(partial(gateway.main, folder, host, port, sock.fileno()))),
        Program("agent", partial(agent.main, folder)),
        Program("models", _explained(partial(exec_models, folder, models)), door=models),
        Program("herald", partial(herald.main, folder, sock, prepared, began, say), restart=False),
    ]


def _swap(folder: Path) -> None:
    if restoring.waits(folder):
        restoring.swap(folder)
        say(f"a backup was restored; the engine that was here is in {folder / restoring.REPLACED}")
    restoring.tidy(folder)


def _decide_on_models(folder: Path, wanted: bool) -> None:
    """``--no-models`` holds from now on; ``--models``, which scripts/run always says, only where nothing holds yet."""
    with closing(open_store(folder)) as store:
        holds = store.settings.load().models_setup
        if not wanted and holds != "off":
            store.settings.set({"models_setup": "off"})
        elif wanted and holds == "unset":
            store.settings.set({"models_setup": "on"})
            say("the model engine is made in the background; --no-models leaves it out")


def _prepare(folder: Path) -> Prepared:
    if not is_prepared(folder):
        say("first start: making the keys, the database and an example flow")
    prepared = prepare(folder)
    for note in prepared.keys.notes:
        say(note)
    if prepared.report.loss:
        say(f"WARNING: {prepared.report.message}")
    return prepared


def _explained(main: Callable[[], int]) -> Callable[[], int]:
    """An error meant for people is a line, not a traceback."""

    def child() -> int:
        try:
            return main()
        except FlowError as exc:
            say(exc.message)
            return 1

    return child


def _age() -> float:
    """Seconds since this process was made (proc(5), field 22); `scripts/run` becomes it by exec."""
    born = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - born / os.sysconf("SC_CLK_TCK")
