"""The engine's one process for multicast DNS: started while something is to be announced or looked for, else not.

Agents and peers are told of by the same announcement (``_flowork._tcp``), for each such process takes 27 MB.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

logger = logging.getLogger(__name__)

#: Seconds until a process that ended is started again, the first time and at most.
AGAIN, LONGEST = 2.0, 120.0
#: Bytes of one string of TXT (RFC 6763, 6.1), its name and "=" included.
_STRING = 250


class Found(Struct, frozen=True):
    """One announcement: ``key`` is its name on the network, ``facts`` what its TXT says."""

    key: str
    facts: dict[str, str]
    addresses: list[str]
    port: int | None


class _News(Struct, frozen=True):
    """One line of the process."""

    found: Found | None = None
    gone: str = ""
    moved: bool = False
    ready: str = ""
    error: str = ""


class Beacon:
    """Safe from any thread. ``on_found``, ``on_gone`` and ``on_moved`` are called on the beacon's thread."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.on_found: Callable[[Found], None] = lambda found: None
        self.on_gone: Callable[[str], None] = lambda key: None
        self.on_moved: Callable[[], None] = lambda: None
        #: Why nothing is announced or found at the moment, for people; empty if all is well.
        self.trouble = ""
        self._lock = threading.Condition()
        self._ports: dict[str, int] = {}
        self._facts: dict[str, str] = {}
        self._browse = False
        self._wanted: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._said: dict[str, Any] = {}
        self._closed = False

    # --- what is wished ---------------------------------------------------------------------------

    def announce(self, part: str, port: int, facts: Mapping[str, str] | None = None) -> None:
        """Tell the network that ``part`` (``agents`` or ``peers``) is reached at a port; 0: not any more."""
        with self._lock:
            self._ports[part] = port
            if facts is not None:
                self._facts = dict(facts)
        self._tell()

    def look(self, on: bool, wanted: Sequence[str] = ()) -> None:
        """Look for engines, or not; those that are ``wanted`` are told of however many others there are."""
        with self._lock:
            if (on, tuple(wanted)) == (self._browse, self._wanted):
                return
            self._browse, self._wanted = on, tuple(wanted)
        self._tell()

    def again(self) -> None:
        """Announce and ask anew: the machine has slept, or somebody wants to see who is there."""
        self._tell(again=True)

    def close(self) -> None:
        """Say goodbye to the network. Twice is fine."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
            process, thread = self._process, self._thread
        if process is not None:
            _hush(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(3.0)
            process.kill()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _wish(self) -> dict[str, Any]:
        agents, peers = self._ports.get("agents", 0), self._ports.get("peers", 0)
        announce = None
        if agents or peers:
            host = socket.gethostname().split(".")[0] or "flowork"
            # The engine's id, since two boxes of one name would otherwise both claim it.
            announce = {
                "name": f"{host[:40]} {self._engine[:8]}",
                "host": f"{host[:40]}-{self._engine[:8]}",
                "port": agents or peers,
                "facts": {
                    "engine": self._engine,
                    "version": "1",
                    "agents": "1" if agents else "0",
                    **({"peers": str(peers), **self._facts} if peers else {}),
                },
            }
        return {"announce": announce, "browse": self._browse, "wanted": list(self._wanted)}

    def _tell(self, again: bool = False) -> None:
        with self._lock:
            wish = self._wish()
            needed = bool(wish["announce"] or wish["browse"]) and not self._closed
            process = self._process
            if needed and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="beacon", daemon=True)
                self._thread.start()
            elif process is not None and (again or wish != self._said):
                self._said = wish
                _write(process, {**wish, **({"again": True} if again else {})})
                if not needed:
                    _hush(process)

    # --- the process --------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = AGAIN
        while True:
            with self._lock:
                wish = self._wish()
                if self._closed or not (wish["announce"] or wish["browse"]):
                    self._thread = None
                    return
                self._said = wish
            began = time.monotonic()
            told = self._work(wish)
            with self._lock:
                if told or self._closed:
                    continue
                self.trouble = self.trouble or "the program for mDNS has ended"
                logger.warning("looking for engines on the local network stopped: %s; tried again", self.trouble)
                pause = AGAIN if time.monotonic() - began > LONGEST else min(pause * 2, LONGEST)
                self._lock.wait(pause)

    def _work(self, wish: Mapping[str, Any]) -> bool:
        """Run the program once; whether it ended because it was told to."""
        try:
            process = _start()
        except OSError as exc:
            self.trouble = f"the program for mDNS cannot be started: {(exc.strerror or str(exc)).lower()}"
            return False
        with self._lock:
            self._process = process
            _write(process, wish)
        self._listen(process)
        _end(process)
        with self._lock:
            self._process = None
        return process.returncode == 0

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._hear(msgspec.json.decode(line, type=_News))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            except Exception:
                logger.exception("what was found on the network could not be taken")

    def _hear(self, news: _News) -> None:
        if news.found is not None:
            self.on_found(news.found)
        if news.gone:
            self.on_gone(news.gone)
        if news.moved:
            self.on_moved()
        if news.error:
            logger.info("mDNS: %s", news.error)
            self.trouble = news.error
        elif news.ready or news.found is not None:
            self.trouble = ""


def text(value: str, name: str) -> str:
    """A value that fits into one string of TXT; a list is cut behind a comma."""
    room = _STRING - len(name)
    if len(value.encode()) <= room:
        return value
    return value.encode()[:room].decode(errors="ignore").rpartition(",")[0]


def _start() -> subprocess.Popen[bytes]:
    """It ends with our end of its standard input."""
    command = [sys.executable, "-m", "appliance.fleet.peers.multicast"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    return process


def _write(process: subprocess.Popen[bytes], wish: Mapping[str, Any]) -> None:
    """One that does not read hangs: it is ended, and another one started."""
    assert process.stdin is not None
    line = json.dumps(wish).encode() + b"\n"
    try:
        if os.write(process.stdin.fileno(), line) < len(line):
            process.kill()
    except BlockingIOError:
        process.kill()
    except (OSError, ValueError):
        pass  # it has ended, or was told to


def _hush(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """It says goodbye within a moment, or is ended; its last words have been read."""
    assert process.stdout is not None
    _hush(process)
    try:
        process.wait(3.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
