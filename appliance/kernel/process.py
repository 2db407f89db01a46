"""The kernel as a process: log, start, wait, stop."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from appliance.kernel.io import STEP_THREAD
from appliance.kernel.kernel import Kernel
from appliance.store.places import database_url

#: Containers that may be made and kept before Python looks for circles among them. Runs under way are many and hold
#: none, and Python's own 700 would look through them some ten times for each commit: a tenth of all time under load.
GARBAGE = 20_000


def main(
    data: Path, stop: threading.Event, started: Callable[[Kernel], Callable[[], None]], cancel_under_way: str = ""
) -> int:
    """Run the kernel of a data folder until ``stop`` is set. The caller holds the folder's kernel lock.

    ``started`` is called once it is up, and what that returns before it is stopped. ``cancel_under_way`` is why runs
    that were under way are to end instead of going on.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    logging.getLogger("huey").setLevel(logging.WARNING)
    # Threads that wait for the lock get it soon: the engine's latency is theirs.
    sys.setswitchinterval(0.0005)
    if database_url():
        from appliance.sharing.cluster import wait_for_database

        if not wait_for_database(stop):
            return 0
    kernel = Kernel(data, queue_url=os.environ.get("FLOWORK_QUEUE_URL"))
    kernel.cancel_under_way = cancel_under_way
    for handler in logging.getLogger().handlers:
        handler.addFilter(kernel.log_filter())
    kernel.start()
    _settle()
    watched = started(kernel)
    try:
        stop.wait()
    finally:
        watched()
        kernel.stop()
    if steps_left():
        # A blocking step that does not let itself be ended: Python would wait for it for ever.
        logging.getLogger(__name__).warning("a step does not end; leaving it behind")
        logging.shutdown()
        os._exit(0)
    return 0


def _settle() -> None:
    """What the start has left is given back, what it has made stays, and garbage is looked for less often."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # a C library that is not glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.set_threshold(GARBAGE, 10, 10)


def steps_left(patience: float = 2.0) -> bool:
    """Whether a thread of a blocking step is still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    for thread in threading.enumerate():
        if thread.name.startswith(STEP_THREAD):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return True
    return False
