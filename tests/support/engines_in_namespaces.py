"""Whole engines, each in a network namespace of its own, on one switch with real multicast; cables can be pulled.

::

    with Switch() as switch, EngineBox(tmp_path / "kitchen", switch) as kitchen:
        kitchen.call("peers")

An engine is asked over the Unix socket in its data folder, which knows no namespaces. Needs root; :data:`REASON` says
why it cannot be, for ``pytest.mark.skipif``.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from appliance.kernel.client import KernelAway, KernelClient
from appliance.security.keys import init_keys
from appliance.store.metadata import open_store

#: Seconds that anything may take before the test fails; never waited for when all is well.
PATIENCE = 60.0
_numbers = itertools.count(1)


def run(*command: str) -> str:
    """A command that has to succeed; what it says."""
    return subprocess.run(command, check=True, capture_output=True, timeout=20, text=True).stdout


def why_not() -> str:
    """Why this machine cannot have network namespaces with a switch, or nothing."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"fwtry{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.SubprocessError:
        return "network namespaces need root (CAP_SYS_ADMIN)"
    try:
        run("ip", "-n", name, "link", "add", "br0", "type", "bridge")
    except subprocess.SubprocessError:
        return "this kernel has no bridges"
    finally:
        run("ip", "netns", "del", name)
    return ""


REASON = why_not()


def until(wanted: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Look again, for a while; what was found."""
    deadline, gate = time.monotonic() + patience, threading.Event()
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"{what} did not come"
        gate.wait(0.05)
    return found


class Switch:
    """A bridge in a namespace of its own, and the cables that hang on it, each with a namespace at its end."""

    def __init__(self) -> None:
        self._name = f"fwswitch{os.getpid()}x{next(_numbers)}"
        self._ends: list[str] = []

    def __enter__(self) -> Self:
        run("ip", "netns", "add", self._name)
        run("ip", "-n", self._name, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", self._name, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._ends, self._name]:
            with contextlib.suppress(subprocess.SubprocessError):
                run("ip", "netns", "del", name)

    def cable(self) -> tuple[str, str]:
        """A new namespace with an address on the switch: its name and that address."""
        number = len(self._ends) + 1
        name = f"{self._name}n{number}"
        run("ip", "netns", "add", name)
        self._ends.append(name)
        at = ("netns", self._name)
        run("ip", "link", "add", "eth0", "netns", name, "type", "veth", "peer", "name", f"port{number}", *at)
        run("ip", "-n", self._name, "link", "set", f"port{number}", "master", "br0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        address = f"10.213.88.{number}"
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        self.plug(name)
        return name, address

    def plug(self, name: str) -> None:
        """Put a cable in (again)."""
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "replace", "224.0.0.0/4", "dev", "eth0")

    def pull(self, name: str) -> None:
        """Pull a cable out."""
        run("ip", "-n", name, "link", "set", "eth0", "down")

    def renumber(self, name: str, old: str, new: str) -> None:
        """Give a namespace another address, as a DHCP server may."""
        run("ip", "-n", name, "address", "del", f"{old}/24", "dev", "eth0")  # first: it takes others of its net along
        run("ip", "-n", name, "address", "add", f"{new}/24", "dev", "eth0")
        with contextlib.suppress(subprocess.CalledProcessError):  # while its cable is out: plugging it in does that
            run("ip", "-n", name, "route", "replace", "224.0.0.0/4", "dev", "eth0")


class EngineBox:
    """One engine with an owner, its kernel running in a namespace. ``settings`` are those of the engine."""

    def __init__(self, data: Path, switch: Switch, *, name: str = "", **settings: Any) -> None:
        self.data = data
        self.switch = switch
        self.namespace, self.address = switch.cable()
        self.settings = {"engine_name": name or data.name, "clock": "trust", **settings}
        self.log = data.parent / f"{data.name}.log"
        self.client = KernelClient(data)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not (self.data / "keys").exists():
            init_keys(self.data)
        store = open_store(self.data)
        try:
            store.settings.set(self.settings)
        finally:
            store.close()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.client.close()

    # --- its life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the kernel, and wait until it answers."""
        command = [sys.executable, "-m", "appliance.cli", "kernel", "--data", str(self.data)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command], stdout=log, stderr=log, start_new_session=True
            )
        until(self.answers, f"the kernel of {self.data.name}: {self.said[-2000:]}")

    def answers(self) -> bool:
        """Whether its kernel runs."""
        assert self.process is None or self.process.poll() is None, self.said[-3000:]
        try:
            return bool(self.client.call("ping", 5.0) == "pong")
        except KernelAway:
            return False

    def kill(self) -> None:
        """As if the power went: the kernel and all that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """As it should be. Twice is fine."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(40)
            finally:
                self.kill()

    @property
    def said(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def flowork(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, at this box."""
        command = [sys.executable, "-m", "appliance.cli", *arguments, "--data", str(self.data)]
        return subprocess.run(command, check=check, capture_output=True, timeout=120, text=True)

    def flowork_json(self, *arguments: str) -> Any:
        """What a command answers in JSON."""
        return json.loads(self.flowork(*arguments, "--json").stdout)

    # --- its peers -----------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> Any:
        """Ask the kernel."""
        return self.client.call(method, 30.0, **params)

    @property
    def id(self) -> str:
        """This engine's id."""
        return str(json.loads((self.data / "keys" / "engine.json").read_bytes())["id"])

    def peer(self, name: str) -> dict[str, Any]:
        """Another engine as this one sees it, by name or id; empty if it does not."""
        found: dict[str, Any] = next((p for p in self.call("peers") if name in (p["name"], p["id"])), {})
        return found

    def state(self, name: str) -> str:
        """How another engine stands to this one; empty if it is not known."""
        return str(self.peer(name).get("state", ""))

    def pair(self, other: EngineBox, rights: tuple[str, ...] = (), workspaces: tuple[str, ...] = ("*",)) -> None:
        """Pair with another over its address, and wait for the link; both may do the same."""
        roles = {"rights": list(rights), "workspaces": list(workspaces)}
        code = self.call("peer_pair", roles=roles)["code"]
        other.call("peer_join", code=code, address=self.address, roles=roles)
        until(lambda: self.state(other.id) == "connected", "the link")
        until(lambda: other.state(self.id) == "connected", "the link")

    def pull(self) -> None:
        """Pull its cable."""
        self.switch.pull(self.namespace)

    def plug(self) -> None:
        """Put it in again."""
        self.switch.plug(self.namespace)
