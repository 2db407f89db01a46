"""The kernel as a process: log, signals, lock, start, wait, stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from appliance.kernel.io import STEP_THREAD
from appliance.kernel.kernel import Kernel


def main(data: Path) -> int:
    """Run the kernel of a data folder until SIGTERM or SIGINT. The caller holds the folder's kernel lock."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    logging.getLogger("huey").setLevel(logging.WARNING)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    # Threads that wait for the lock get it soon: the engine's latency is theirs.
    sys.setswitchinterval(0.0005)
    kernel = Kernel(data, queue_url=os.environ.get("FLOWORK_QUEUE_URL"))
    for handler in logging.getLogger().handlers:
        handler.addFilter(kernel.log_filter())
    kernel.start()
    gc.freeze()
    try:
        stop.wait()
    finally:
        kernel.stop()
    if steps_left():
        # A blocking step that does not let itself be ended: Python would wait for it for ever.
        logging.getLogger(__name__).warning("a step does not end; leaving it behind")
        logging.shutdown()
        os._exit(0)
    return 0


def steps_left(patience: float = 2.0) -> bool:
    """Whether a thread of a blocking step is still there after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    for thread in threading.enumerate():
        if thread.name.startswith(STEP_THREAD):
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                return True
    return False
