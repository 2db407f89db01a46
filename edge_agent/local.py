"""Running an agent as a process; and the one of an appliance's own machine, a child of ``flowork up``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from edge_agent.agent import Agent
from edge_agent.dialer import Local

SOCKET = "agent.sock"
#: Bytes of a thread's stack: each driver has a thread or two, and they need little.
STACK = 262_144
_M_ARENA_MAX = -8


def main(data: Path) -> int:
    """The agent of an appliance's own machine, as a child of ``flowork up``."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    return serve(Agent(data / "agent", Local(data, SOCKET)))


def serve(agent: Agent) -> int:
    """Run until SIGTERM or SIGINT; the exit code. For the main thread."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    threading.stack_size(STACK)
    _share_one_heap()
    return agent.run()


def _share_one_heap() -> None:
    """Keep glibc from giving each thread a heap of its own (mallopt(3)): most of them wait nearly all the time."""
    import ctypes

    with suppress(AttributeError):  # another libc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
