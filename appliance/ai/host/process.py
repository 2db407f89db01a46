"""The model host as a process: what it takes from itself, its event loop, its signals, its end."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from appliance.ai.host import memory
from appliance.ai.host.confine import confine
from appliance.ai.host.loaders import loaders
from appliance.ai.host.routes import Routes
from appliance.ai.host.server import Server
from appliance.ai.host.shelf import Shelf, mb

logger = logging.getLogger(__name__)


def command(data: Path, door: int, memory_mb: int, idle_minutes: float) -> list[str]:
    """The command line of a host of its own; ``door`` is the listening socket that it inherits."""
    here = [sys.executable, "-m", "appliance.ai.host"]
    return [
        *here,
        *("--data", str(data)),
        *("--door", str(door)),
        *("--memory-mb", str(memory_mb)),
        *("--idle-minutes", str(idle_minutes)),
    ]


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or idle; the exit code."""
    parser = argparse.ArgumentParser(prog="flowork model-host")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--door", type=int, required=True)
    parser.add_argument("--memory-mb", type=int, default=0)
    parser.add_argument("--idle-minutes", type=float, default=5.0)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    faulthandler.enable()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    bound = options.memory_mb * 1_000_000 or memory.default_bound()
    for line in confine(bound):
        logger.warning("this machine does not let the model host be locked away: %s", line)
    # Held until the end: who wants to know whether a host runs must not ask it, which would start one.
    running = os.open(options.data / "models.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with suppress(BlockingIOError):
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    door = socket.socket(fileno=options.door)
    asyncio.run(_serve(options.data, door, bound, options.idle_minutes * 60))
    return 0


async def _serve(data: Path, door: socket.socket, bound: int, idle: float) -> None:
    shelf = Shelf(data, bound, loaders(data, bound), memory.available, time.monotonic)
    routes = Routes(data, shelf, time.time())
    server = Server(routes.handle, shelf, idle, time.monotonic)
    routes.leave = server.leave
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    logger.info("the model host is up; models may use %s", mb(bound))
    clean = await server.run(door)
    logger.info("the model host ends")
    if not clean:
        os._exit(0)  # a load that is under way cannot be cut short, and asyncio would wait for its thread
