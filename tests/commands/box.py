"""An engine's data folder and the command line over it, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from appliance.cli import main


class Box:
    """``flowork --data <folder>``. ``last`` is what the last call gave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: Result

    def run(self, *words: str, code: int = 0, stdin: str | bytes | None = None) -> str:
        """Call a command and check its exit code; what it wrote to standard output."""
        self.last = CliRunner().invoke(main, [*words, "--data", str(self.folder)], input=stdin)
        if self.last.exception is not None and not isinstance(self.last.exception, SystemExit):
            raise self.last.exception
        assert self.last.exit_code == code, (self.last.exit_code, self.last.stdout, self.last.stderr)
        return self.last.stdout

    def json(self, *words: str, code: int = 0, stdin: str | bytes | None = None) -> Any:
        """The same with ``--json``: the one document it answers."""
        return json.loads(self.run(*words, "--json", code=code, stdin=stdin))

    def lines(self, *words: str, code: int = 0) -> list[Any]:
        """The same for a command that answers a document a line."""
        return [json.loads(line) for line in self.run(*words, "--json", code=code).splitlines()]

    def fails(self, *words: str, code: int = 1, stdin: str | bytes | None = None) -> str:
        """The one line on standard error of a command that fails, without ``Error: ``."""
        self.run(*words, code=code, stdin=stdin)
        lines = self.last.stderr.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("Error: ")

    @contextmanager
    def process(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """The real command as a process of its own; killed at the end if it still runs."""
        with subprocess.Popen(
            [sys.executable, "-m", "appliance.cli", *words, "--data", str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def write(self, name: str, body: Any) -> str:
        """A JSON file; its path."""
        path = self.folder.parent / name
        path.write_bytes(body if isinstance(body, bytes) else msgspec.json.encode(body))
        return str(path)

    def deploy(self, body: dict[str, Any], name: str = "") -> str:
        """Deploy a flow from a file named like it; its id."""
        file = self.write(f"{name or body['name']}.json", body)
        flow_id: str = self.json("flow", "deploy", file)["id"]
        return flow_id
