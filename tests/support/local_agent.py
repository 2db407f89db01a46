"""This machine's own edge agent as a process of its own, beside a kernel that a test runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

_CODE = "import sys, pathlib; from edge_agent.local import main; sys.exit(main(pathlib.Path(sys.argv[1])))"
#: Seconds that it may take to end.
PATIENCE = 20.0


class LocalAgent:
    """Runs on ``with``; what it says is in ``agent.log`` beside the data folder."""

    def __init__(self, data: Path, environ: dict[str, str] | None = None) -> None:
        self._data = data
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = data.parent / f"{data.name}-agent.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        with self._log.open("ab") as log:
            command = [sys.executable, "-c", _CODE, str(self._data)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environ)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def kill(self) -> None:
        """As if the plug were pulled."""
        self.stop(signal.SIGKILL)
