"""Agents as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.broker import eventually


class Process:
    """A child whose standard error is kept, ended with the test."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        assert self.process.wait(20) is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def until_it_says(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.said.count(text) >= times, f"{text!r} in {self._log}")


class RemoteAgent(Process):
    """``flowork-agent``, perhaps in a network namespace."""

    def __init__(self, folder: Path, *arguments: str, within: list[str] | None = None) -> None:
        command = [*(within or []), sys.executable, "-m", "edge_agent", "--data", str(folder), *arguments]
        super().__init__(command, folder.parent / f"{folder.name}.log")
