"""Debian's Firefox, driven over WebDriver BiDi on a port of its own: no driver program, nothing fetched.

Only what the panel's tests need: pages, scripts, keys, cookies, pictures, and what the page complains of. Source of the
commands: W3C, WebDriver BiDi.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from simple_websocket import Client

from tests.support.broker import eventually, free_port

PROGRAM = "/usr/bin/firefox-esr"
_PATIENCE = 60.0
#: A profile that asks nobody outside for anything, and finds the panel's name on this machine.
_PREFERENCES: dict[str, Any] = {
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.startup.homepage": "about:blank",
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.getAddons.cache.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
    "ui.prefersReducedMotion": 1,
}


class Firefox:
    """A headless Firefox with one window. ``faults`` are errors and warnings of pages; ``with`` ends it."""

    def __init__(self, local_name: str, width: int = 1360, height: int = 850) -> None:
        self.faults: list[str] = []
        self._local_name = local_name
        self._size = (width, height)
        self._folder = ""
        self._number = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="firefox-")
        preferences = {**_PREFERENCES, "network.dns.localDomains": self._local_name}
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in preferences.items()]
        (Path(self._folder) / "user.js").write_text("\n".join(lines))
        port = free_port()
        command = [PROGRAM, "--headless", "--no-remote", "--profile", self._folder, f"--remote-debugging-port={port}"]
        environ = {"HOME": self._folder, "MOZ_HEADLESS_WIDTH": str(self._size[0]), "MOZ_HEADLESS_HEIGHT": "1000"}
        self._process = subprocess.Popen(
            command, env={"PATH": "/usr/bin:/bin", **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: _listens(port), "Firefox to listen")
            self._link = _Link(f"ws://127.0.0.1:{port}/session")
            self._call("session.new", capabilities={})
            self._call("session.subscribe", events=["log.entryAdded"])
            self._window = self._call("browsingContext.getTree")["contexts"][0]["context"]
            viewport = {"width": self._size[0], "height": self._size[1]}
            self._call("browsingContext.setViewport", context=self._window, viewport=viewport)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def goto(self, url: str) -> None:
        """Open a page and wait until it is loaded."""
        self._call("browsingContext.navigate", context=self._window, url=url, wait="complete")

    def evaluate(self, script: str, *given: Any) -> Any:
        """What a function of JavaScript gives, as JSON; ``given`` are its arguments. Raises ``AssertionError``."""
        called = f"async () => JSON.stringify(await ({script})(...{json.dumps(given)}))"
        answer = self._call(
            "script.callFunction",
            functionDeclaration=called,
            awaitPromise=True,
            target={"context": self._window},
            userActivation=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        text = answer["result"].get("value")
        return None if text is None else json.loads(text)

    def wait(self, script: str, *given: Any, what: str = "") -> Any:
        """The first true value of a function of JavaScript."""
        return eventually(lambda: self.evaluate(script, *given), what or script)

    def see(self, text: str, within: str = "main") -> None:
        """Wait until a text can be seen."""
        shown = "(where, text) => [...document.querySelectorAll(where)].some((one) => one.innerText.includes(text))"
        self.wait(shown, within, text, what=f"{text!r} to be seen")

    def press(self, *keys: str) -> None:
        """Press keys one after the other: a character, or one of WebDriver's code points."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": actions})

    def drag(self, begin: tuple[float, float], end: tuple[float, float], button: int = 0) -> None:
        """Press the mouse at a point, and let it go at another."""
        middle = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
        moves = [{"type": "pointerMove", "x": round(x), "y": round(y)} for x, y in (begin, middle, end)]
        down, up = ({"type": kind, "button": button} for kind in ("pointerDown", "pointerUp"))
        self._act({"type": "pointer", "id": "mouse", "actions": [moves[0], down, moves[1], moves[2], up]})

    def _act(self, source: dict[str, Any]) -> None:
        self._call("input.performActions", context=self._window, actions=[source])

    def set_cookie(self, name: str, value: str, host: str) -> None:
        """Set a cookie of a host."""
        cookie = {"name": name, "value": {"type": "string", "value": value}, "domain": host, "path": "/"}
        self._call("storage.setCookie", cookie=cookie)

    def shot(self, file: Path) -> None:
        """A picture of the window."""
        file.parent.mkdir(parents=True, exist_ok=True)
        told = self._call("browsingContext.captureScreenshot", context=self._window)
        file.write_bytes(base64.b64decode(told["data"]))

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        self._link.send(json.dumps({"id": self._number, "method": method, "params": params}))
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            text = self._link.receive(_PATIENCE)
            assert text is not None, f"Firefox did not answer {method}"
            told = json.loads(text)
            if told.get("type") == "event":
                self._hear(told["params"])
            elif told["id"] == self._number:
                assert told["type"] == "success", f"{method}: {told}"
                return told["result"]
        raise AssertionError(f"Firefox did not answer {method}")

    def _hear(self, entry: dict[str, Any]) -> None:
        if entry.get("level") in {"error", "warn"}:
            self.faults.append(str(entry.get("text")))


class _Link(Client):
    """Names the port in its Host header, which Firefox insists on."""

    def handshake(self) -> None:
        """Called while it connects."""
        self.host = f"{self.host}:{self.port}"
        super().handshake()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
