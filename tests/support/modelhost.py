"""A real model host on a data folder of its own, as ``flowork up`` starts it, and requests over its real socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from appliance.ai.host import door
from appliance.ai.host.process import command


class Link(http.client.HTTPConnection):
    """HTTP over the host's Unix socket."""

    def __init__(self, data: Path, timeout: float = 50.0) -> None:
        super().__init__("models", timeout=timeout)
        self._data = data

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with door.address(self._data) as address:
            self.sock.connect(address)


class ModelHost:
    """Starts on ``with``; nothing of it is left afterwards. ``log`` is what it printed."""

    def __init__(
        self,
        data: Path,
        *,
        memory_mb: int = 2048,
        idle_minutes: float = 0.0,
        models: Any = (),
        environ: dict[str, str] | None = None,
    ) -> None:
        self.data = data
        self.folder = data / "models"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._memory_mb = memory_mb
        self._idle = idle_minutes
        self._environ = {**os.environ, **(environ or {})}
        self._log = data.parent / f"{data.name}-models.log"
        self.door = door.listen(data)
        self.process: subprocess.Popen[bytes] | None = None
        for name, path in dict(models).items():
            self.put(name, path)

    def put(self, name: str, path: Path) -> None:
        """A model of that name: a GGUF file, or a folder with an ONNX graph."""
        if path.is_dir():
            shutil.copytree(path, self.folder / name)
        else:
            shutil.copy(path, self.folder / f"{name}.gguf")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.door.close()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start it; connections wait in the socket until it takes them."""
        arguments = command(self.data, self.door.fileno(), self._memory_mb, self._idle)
        self.door.set_inheritable(True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments, stdout=log, stderr=log, env=self._environ, pass_fds=[self.door.fileno()]
            )

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        """A signal, and the exit code. Twice is fine."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        return process.wait(30)

    # --- requests ----------------------------------------------------------------------------------

    def ask(
        self, path: str, body: Any = None, *, method: str = "", kind: str = "application/json"
    ) -> tuple[int, Any, dict[str, str]]:
        """One request: (status, body, headers in lower case). Bodies are JSON unless they are bytes."""
        link = Link(self.data)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            link.request(method or ("GET" if body is None else "POST"), path, data, {"Content-Type": kind})
            answer = link.getresponse()
            text = answer.read()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, json.loads(text) if "json" in headers["content-type"] else text, headers
        finally:
            link.close()

    def error(self, path: str, body: Any = None, **how: Any) -> tuple[int, str, str]:
        """The status, id and message of an answer that is an error."""
        status, found, _ = self.ask(path, body, **how)
        return status, found["error"]["code"], found["error"]["message"]

    def chat(self, model: str, text: str = "Hello", **more: Any) -> dict[str, Any]:
        """One chat's whole answer; it must succeed."""
        status, found, _ = self.ask("/v1/chat/completions", chat(model, text, **more))
        assert status == 200, found
        return dict(found)

    @contextlib.contextmanager
    def stream(self, model: str, text: str = "Hello", **more: Any) -> Iterator[Iterator[Any]]:
        """The events of a streamed chat, as they come; leaving early hangs up."""
        link = Link(self.data)
        try:
            link.request("POST", "/v1/chat/completions", json.dumps(chat(model, text, stream=True, **more)))
            answer = link.getresponse()
            assert answer.status == 200, answer.read()
            yield events(answer)
        finally:
            if link.sock is not None:
                link.sock.close()
            link.close()

    def stats(self) -> dict[str, Any]:
        return dict(self.ask("/stats")[1])

    def loaded(self) -> set[str]:
        """The names of the models in memory."""
        return {model["model"] for model in self.stats()["models"]}


def chat(model: str, text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def events(answer: http.client.HTTPResponse) -> Iterator[Any]:
    """Server-sent events: JSON values, and the text ``[DONE]``."""
    for line in answer:
        if line.startswith(b"data: "):
            text = line[6:].strip().decode()
            yield text if text == "[DONE]" else json.loads(text)
