"""Two machines, as network namespaces: finding each other, pairing, cuts of the link, and what comes after them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.engine import trace
from appliance.kernel.client import KernelClient
from tests.edge.standalone import Process, RemoteAgent
from tests.edge.test_kills import deploy, values
from tests.support.broker import eventually

BOX, BOARD = "10.213.77.1", "10.213.77.2"
PORT = 5010


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def why_not() -> str:
    """Why this machine cannot have network namespaces, or nothing."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"fw{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.SubprocessError:
        return "network namespaces need root (CAP_SYS_ADMIN)"
    run("ip", "netns", "del", name)
    return ""


REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


class Lan:
    """Two namespaces with a cable between them that can be pulled."""

    def __init__(self) -> None:
        self.box, self.board = f"fwbox{os.getpid()}", f"fwboard{os.getpid()}"

    def open(self) -> None:
        for name in (self.box, self.board):
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "eth0", "netns", self.box, "type", "veth", "peer", "name", "eth0", "netns", self.board)
        for name, address in ((self.box, BOX), (self.board, BOARD)):
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            self.plug(name)

    def plug(self, name: str) -> None:
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "replace", "224.0.0.0/4", "dev", "eth0")

    def pull(self, name: str) -> None:
        run("ip", "-n", name, "link", "set", "eth0", "down")

    def close(self) -> None:
        for name in (self.box, self.board):
            with contextlib.suppress(subprocess.SubprocessError):
                run("ip", "netns", "del", name)

    def within(self, name: str) -> list[str]:
        return ["ip", "netns", "exec", name]


@pytest.fixture
def lan() -> Iterator[Lan]:
    made = Lan()
    try:
        made.open()
        yield made
    finally:
        made.close()


class Box(Process):
    """A whole engine in the box's namespace; asked over its Unix socket, which knows no namespaces."""

    def __init__(self, data: Path, lan: Lan) -> None:
        command = [sys.executable, "-m", "appliance.cli", "up", "--host", "127.0.0.1", "--port", "5000"]
        super().__init__([*lan.within(lan.box), *command, "--data", str(data)], data.parent / "box.log")
        self.data = data
        self.client = KernelClient(data)

    def ready(self) -> None:
        self.until_it_says("panel: http")

    def call(self, method: str, **params: Any) -> Any:
        return self.client.call(method, 20.0, **params)

    def agent(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next((agent for agent in self.call("agents") if agent["name"] == name), {})
        return found

    def flowork(self, *arguments: str) -> None:
        environ = {**os.environ, "FLOWORK_DATA": str(self.data)}
        run_ = [sys.executable, "-m", "appliance.cli", *arguments]
        subprocess.run(run_, check=True, capture_output=True, timeout=60, env=environ)


@pytest.fixture
def box(tmp_path: Path, lan: Lan) -> Iterator[Box]:
    with Box(tmp_path / "FloworkData", lan) as running:
        running.ready()
        yield running
        running.client.close()


def test_an_agent_finds_its_appliance_is_paired_and_a_pulled_cable_loses_nothing(
    tmp_path: Path, lan: Lan, box: Box
) -> None:
    """From a card with nothing on it but a code: found over mDNS, paired, cut off under ten events a second."""
    code = box.call("agent_pair", name="greenhouse")["code"]
    folder = tmp_path / "board"
    folder.mkdir()
    (folder / "flowork-agent.toml").write_text(f'code = "{code}"\n')
    with RemoteAgent(folder, within=lan.within(lan.board)) as agent:
        eventually(lambda: box.agent("greenhouse").get("online"), "the agent")
        assert box.agent("greenhouse")["address"] == BOARD
        sim = {"name": "board", "interval": 0.1}
        deploy(box, {"id": "in", "type": "device", "config": {"agent": "greenhouse", "driver": "sim", "config": sim,
                                                              "entity": "temperature"}})  # fmt: skip
        before = len(values(box, 10))
        lan.pull(lan.board)
        outbox = folder / "outbox.db"
        eventually(lambda: waiting(outbox) >= 60, "events that wait on the board")
        lan.plug(lan.board)
        told = agent.said.count("connected to the appliance")
        eventually(lambda: agent.said.count("connected to the appliance") > told or waiting(outbox) == 0, "the link")
        count = before + 60 + 20
        values(box, count)
        times = event_times(box)
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert times == sorted(times), "in order"
        assert max(gaps) < 1.0, f"nothing was lost, though nothing was heard for {max(gaps):.1f} s"
        assert len(set(times)) == len(times), "nothing came twice"


def waiting(outbox: Path) -> int:
    with sqlite3.connect(f"file:{outbox}?mode=ro", uri=True) as db:
        count: int = db.execute("SELECT count(*) FROM event").fetchone()[0]
    db.close()
    return count


def event_times(box: Box) -> list[float]:
    (shard,) = (box.data / "runs").glob("*.db")
    with sqlite3.connect(shard) as db:
        rows = db.execute("SELECT event, trigger, accepted FROM run WHERE trigger = 'in' ORDER BY id").fetchall()
    db.close()
    return [float(trace.unpack_event(*row)[2]["time"]) for row in rows]


def test_an_appliance_is_found_within_a_second(tmp_path: Path, lan: Lan, box: Box) -> None:
    box.call("agent_pair", name="greenhouse")
    command = [*lan.within(lan.board), sys.executable, "-m", "edge_agent.protocol.discovery", "browse", "10"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        took = time.monotonic() - began
        process.terminate()
    assert line["port"] == PORT
    assert BOX in line["addresses"]
    assert took < 10.0, f"it took {took:.1f} s"


def test_without_mdns_the_address_is_enough_and_the_last_one_is_remembered(tmp_path: Path, lan: Lan, box: Box) -> None:
    code = box.call("agent_pair", name="attic")["code"]
    folder = tmp_path / "attic"
    folder.mkdir()
    (folder / "flowork-agent.toml").write_text("discovery = false\n")
    with RemoteAgent(folder, "pair", code, "--appliance", BOX, within=lan.within(lan.board)) as pairing:
        assert pairing.process.wait(30) == 0, pairing.said
    with RemoteAgent(folder, within=lan.within(lan.board)) as agent:
        agent.until_it_says(f"connected to the appliance as attic over {BOX}")
