"""A cluster of real processes: gateways and kernels with data folders of their own, on one Postgres and one Redis."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from appliance.security.keys import init_keys
from appliance.security.roles import EVERYWHERE, SCOPES, local_identity
from appliance.security.tokens import Tokens
from appliance.sharing.members import LEASE, Member, Members
from appliance.store.metadata import open_store
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Poll until something is so; returns it."""
    pause, deadline = threading.Event(), time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: it did not come to that"
        pause.wait(0.02)
    return found


class Part:
    """One kernel or gateway process."""

    def __init__(self, house: Cluster, name: str, arguments: list[str]) -> None:
        self.name = name
        self.data = house.folder / name
        self.log = house.folder / f"{name}.log"
        self._arguments = arguments
        self._environ = {**os.environ, **house.environ, "FLOWORK_MACHINE": name, "FLOWORK_SAFE_MODE_CRASHES": "0"}
        self.process: subprocess.Popen[bytes] | None = None
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            shutil.copytree(house.keys, self.data / "keys")
            nodes = self.data / "packages" / "nodes"
            nodes.mkdir(parents=True)
            shutil.copy(Path(__file__).with_name("cluster_node.py"), nodes / "mark.py")

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "appliance.cli", *self._arguments, "--data", str(self.data)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=self._environ)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """As a power cut would."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def stop(self, patience: float = 40.0) -> None:
        """Ask it to stop. Twice is fine."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        finally:
            process.kill()
            process.wait()


class Gateway(Part):
    """A gateway, and requests to it."""

    def __init__(self, house: Cluster, name: str) -> None:
        self.port = free_port()
        super().__init__(house, name, ["gateway", "--host", "127.0.0.1", "--port", str(self.port)])
        self._token = house.token

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, patience: float = 60.0
    ) -> tuple[int, Any]:
        """One request with the house's token: status and parsed body."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=patience)
        try:
            data = None if body is None else json.dumps(body).encode()
            sent = {"Authorization": f"Bearer {self._token}", **(headers or {})}
            if data is not None:
                sent["Content-Type"] = "application/json"
            link.request(method, path, data, {name: value for name, value in sent.items() if value})
            answer = link.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if "json" in (answer.getheader("Content-Type") or "") else text
        finally:
            link.close()

    def answers(self) -> bool:
        assert self.alive, self.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            return self.ask("GET", "/api/v1/health", patience=5.0)[0] == 200
        return False


class Cluster:
    """Starts parts and looks into what they share."""

    def __init__(self, folder: Path, database: str, queue: str = "") -> None:
        self.folder = folder
        self.environ = {"FLOWORK_DATABASE_URL": database, **({"FLOWORK_QUEUE_URL": queue} if queue else {})}
        self.database = database
        first = folder / "first"
        first.mkdir(mode=0o700)
        init_keys(first)
        self.keys = first / "keys"
        self.store = open_store(first, environ=self.environ)
        self.members = Members(database)
        tokens = Tokens(self.store.people.tokens)
        secret, _ = tokens.create(local_identity("test"), "test", SCOPES, workspace=EVERYWHERE)
        self.token = secret.reveal()
        self._parts: list[Part] = []

    def kernel(self, name: str) -> Part:
        """A kernel that is starting."""
        part = Part(self, name, ["kernel"])
        self._parts.append(part)
        part.start()
        return part

    def gateway(self, name: str) -> Gateway:
        """A gateway that answers."""
        part = Gateway(self, name)
        self._parts.append(part)
        part.start()
        until(part.answers, f"{name} answers")
        return part

    def living(self) -> dict[str, Member]:
        """The kernels with a lease by machine."""
        return {one.machine: one for one in self.members.all() if one.alive and one.role == "kernel"}

    def deploy(self, flow: dict[str, Any]) -> int:
        """Save and deploy a flow; its number. Kernels notice by themselves."""
        version = self.store.flows.save(None, "home", {"name": "test", **flow}, "ann", "", None)
        saved = self.store.flows.by_num(version.flow)
        self.store.flows.deploy(saved.id, version.number, "ann")
        return int(version.flow)

    def close(self) -> None:
        """Stop all parts. Twice is fine."""
        for part in self._parts:
            with contextlib.suppress(ProcessLookupError):
                part.stop()
        self._parts.clear()
        self.members.close()
        self.store.close()


def taken_after(database: str, dead: int) -> float:
    """Seconds from a dead kernel's last renewal of its lease to the moment when the last of its flows had a new home.

    By the server's own records. To be asked before flows move for another reason.
    """
    sql = """SELECT extract(epoch FROM max(flow_home.since) - (until - %s * interval '1 second'))::float8
        FROM kernel_lease, flow_home WHERE kernel_lease.writer = %s AND flow_home.since > until GROUP BY until"""
    with psycopg.connect(database, options="-c search_path=flowork") as connection:
        row = connection.execute(sql, (LEASE, dead)).fetchone()
        assert row is not None
        return float(row[0])


@contextlib.contextmanager
def cluster(folder: Path, database: str, queue: str = "") -> Iterator[Cluster]:
    """A cluster without any part yet; all that it gets is stopped behind the block."""
    house = Cluster(folder, database, queue)
    try:
        yield house
    finally:
        house.close()
