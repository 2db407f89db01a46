"""A real engine with its real agent: what kill -9 of either, at any moment, must not lose or do twice."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.engine import trace
from appliance.store.history import RunFilter
from appliance.store.places import make_history
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.flows import compute, edges, flow
from tests.support.local_agent import LocalAgent


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with Appliance(tmp_path / "FloworkData") as running:
        yield running


#: A line for which hundreds of messages at once are nothing unusual.
QUICK = {"options": {"max_rate": 5000}}


class Port:
    """A serial line: what is written here comes in at ``path``."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.close()


def deploy(appliance: Appliance, trigger: dict[str, Any], name: str = "edge") -> None:
    body = flow(
        compute("a", "payload.value"), compute("b", "payload"), links=edges("a>b"), name=name, triggers=[trigger]
    )
    file = appliance.data.parent / f"{name}.json"
    file.write_text(json.dumps(body))
    appliance.flowork("flow", "deploy", str(file))


def well(appliance: Appliance) -> None:
    def running() -> bool:
        listed = appliance.flowork("trigger", "list", "--json", check=False)  # 1 while one is not well yet
        return any(entry["status"] == "running" for entry in json.loads(listed.stdout)["items"])

    eventually(running, "the driver runs")


def values(appliance: Appliance, count: int) -> list[str]:
    """What the runs were given, oldest first, once there are so many."""
    history = make_history(appliance.data)
    try:
        wanted = RunFilter(trigger="in")
        eventually(lambda: len(history.page(wanted, limit=1000).items) >= count, f"{count} runs")
    finally:
        history.close()
    (shard,) = (appliance.data / "runs").glob("*.db")
    with sqlite3.connect(shard) as db:
        rows = db.execute("SELECT event, trigger, accepted FROM run WHERE trigger = 'in' ORDER BY id").fetchall()
    db.close()
    return [str(trace.unpack_event(*row)[2]["value"]) for row in rows]


def test_each_line_is_one_run_in_order_over_kills_of_the_kernel(appliance: Appliance, port: Port) -> None:
    deploy(appliance, {"id": "in", "type": "serial", "config": {"port": port.path, **QUICK}})
    well(appliance)
    count = 300
    for number in range(count):
        port.write(f"line {number}\n")
        if number in {40, 130, 220}:
            appliance.kill("kernel")
    assert values(appliance, count) == [f"line {number}" for number in range(count)]


def test_what_the_agent_wrote_survives_kills_of_both(appliance: Appliance, port: Port) -> None:
    """The kernel takes nothing, so the agent writes; then both die. Every line that was on disk is one run."""
    deploy(appliance, {"id": "in", "type": "serial", "config": {"port": port.path, **QUICK}})
    well(appliance)
    pids = appliance.pids()
    os.kill(pids["kernel"], signal.SIGSTOP)
    for number in range(100):
        port.write(f"line {number}\n")
    outbox = appliance.data / "agent" / "outbox.db"
    eventually(lambda: stored(outbox) >= 100, "the lines are on disk")
    appliance.kill("agent", "kernel")
    well(appliance)
    port.write("after\n")
    assert values(appliance, 101) == [*(f"line {number}" for number in range(100)), "after"]
    eventually(lambda: stored(outbox) == 0, "the agent forgets")


def stored(outbox: Path) -> int:
    with sqlite3.connect(f"file:{outbox}?mode=ro", uri=True) as db:
        count: int = db.execute("SELECT count(*) FROM event").fetchone()[0]
    db.close()
    return count


def test_lines_come_while_the_whole_engine_but_the_agent_is_away(tmp_path: Path, port: Port) -> None:
    """An agent as a service of its own: the engine stops for a while, and hears all of it afterwards."""
    with Appliance(tmp_path / "FloworkData") as appliance:
        deploy(appliance, {"id": "in", "type": "serial", "config": {"port": port.path, **QUICK}})
        well(appliance)
        appliance.stop()
        with LocalAgent(appliance.data) as agent:
            eventually(lambda: re.search(r"serial\b.*: running", agent.log), "the driver runs")
            for number in range(500):
                port.write(f"line {number}\n")
            eventually(lambda: stored(appliance.data / "agent" / "outbox.db") >= 500, "the lines are on disk")
        appliance.start()
        assert values(appliance, 500) == [f"line {number}" for number in range(500)]
