"""Tasks that processes of the tests share. What they did stands in the file ``log``, one line each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from appliance.queue.tasks import TaskQueue


class Jobs:
    """Declares the tasks on a queue. A job hangs while the FIFO ``gate`` exists and nobody opens it."""

    def __init__(self, queue: TaskQueue, folder: Path) -> None:
        self._log = folder / "log"
        self.gate = folder / "gate"

        def job(number: int) -> None:
            self.write(f"start {number}")
            if self.gate.exists():
                self.gate.read_bytes()
            self.write(f"end {number}")

        def die(number: int) -> None:
            self.write(f"die {number}")
            os._exit(9)

        self.job: Any = queue.task()(job)
        self.die: Any = queue.task()(die)

    def write(self, line: str) -> None:
        # One write to a file in append mode: lines of several processes do not mix.
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)

    def lines(self, kind: str) -> list[int]:
        """The numbers of the jobs of which ``kind`` (start, end, die) was written."""
        text = self._log.read_text() if self._log.exists() else ""
        words = (line.split() for line in text.splitlines())
        return [int(number) for what, number in words if what == kind]

    def close_gate(self) -> None:
        os.mkfifo(self.gate)

    def open_gate(self) -> None:
        """Let all pass that hang there, and all who come."""
        # The writer's open meets all readers that wait; none may come after it and wait for ever.
        with self.gate.open("wb"):
            self.gate.unlink()
