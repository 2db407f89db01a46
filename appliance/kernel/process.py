"""The kernel as a process: log, signals, lock, start, wait, stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

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
    return 0
