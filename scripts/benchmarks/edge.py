"""The edge: from a source to the first step of its run, a thousand events a second, what an agent costs, discovery.

Serial lines are pseudo terminals, processes and files are real; the remote agent is a process of its own that came in
over TLS on the loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import psutil

from appliance.kernel.client import KernelClient
from scripts.benchmarks import pins
from scripts.benchmarks.common import Engine, Row, engine, free_port
from scripts.benchmarks.edge_runs import PAUSE, ended, figures, flow, running, until

RATE = 1000


def run(quick: bool) -> list[Row]:
    """Every figure of the edge."""
    count = 50 if quick else 200
    os.environ["FLOWORK_AGENT_PORT"] = str(free_port())
    with tempfile.TemporaryDirectory() as folder, serial_port() as near, serial_port() as far:
        watched = Path(folder) / "watched"
        watched.mkdir()
        flows = {
            "serial": flow("serial", {"port": near.path, "options": {"max_rate": 5000}}),
            "process": flow("process", {"name": "fwnap", "events": ["started"]}),
            "file": flow("file", {"folder": str(watched), "events": ["created"], "settle": 0}),
            "sim": flow("device", {"driver": "sim", "config": {"press_every": PAUSE}, "entity": "button"}),
        }
        with engine(Path(folder), flows) as ours:
            running(ours, 4)
            rows = [
                *figures("serial", ours, lambda: lines(near, count), 10),
                *figures("process", ours, lambda: programs(Path(folder) / "fwnap", count), 20),
                *figures("file", ours, lambda: files(watched, count), 20),
                *figures("sim", ours, lambda: presses(count), 10),
            ]
            local = rows[0].value
            rows += sustained(ours, near, 5 if quick else 20)
            with remote(ours, Path(folder), far) as agent:
                found = figures("remote serial", ours, lambda: lines(far, count), 15)
                rows += [*found, Row("edge", "what a link adds", found[0].value - local, "ms", "<= 5")]
                rows += at_rest(agent, 10 if quick else 30)
                rows.append(discovery())
        return [*rows, *pins.rows(quick)]


# --- sources --------------------------------------------------------------------------------------------


class Port:
    """A serial line; what is written comes in at ``path``."""

    def __init__(self) -> None:
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@contextlib.contextmanager
def serial_port() -> Iterator[Port]:
    """One, closed afterwards."""
    made = Port()
    try:
        yield made
    finally:
        made.close()


def lines(port: Port, count: int) -> dict[str, float]:
    """Lines on a serial port, some milliseconds apart."""
    moments = {}
    for number in range(count):
        text = f"{os.getpid()}-{number}-{time.monotonic_ns()}"
        moments[text] = time.time()
        os.write(port.master, f"{text}\n".encode())
        time.sleep(PAUSE)
    return moments


def programs(program: Path, count: int) -> dict[str, float]:
    """Short programs, of a name that nobody else's has."""
    shutil.copy("/bin/sleep", program)
    moments = {}
    for _ in range(count):
        began = time.time()
        done = subprocess.Popen([program, "0.2"])
        moments[str(done.pid)] = began
        done.wait()
    return moments


def files(folder: Path, count: int) -> dict[str, float]:
    """Files that are written at once."""
    moments = {}
    for number in range(count):
        moments[f"f{number}"] = time.time()
        (folder / f"f{number}").write_text("x")
        time.sleep(PAUSE)
    return moments


def presses(count: int) -> dict[str, float]:
    """The simulated button presses itself; its own time counts."""
    time.sleep(count * PAUSE)
    return {}


def sustained(ours: Engine, port: Port, seconds: int) -> list[Row]:
    """A thousand lines a second from one agent, and how far the runs are behind when the last was written."""
    before = ended(ours, "serial")
    began, written = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        due = int(now * RATE) - written
        if due:
            text = b"".join(b"%d\n" % (written + each) for each in range(due))
            while text:
                text = text[os.write(port.master, text) :]
            written += due
        time.sleep(0.005)
    took = time.monotonic()
    until(lambda: ended(ours, "serial") - before >= written, "the last run")
    behind = time.monotonic() - took
    rate, lost = written / (took - began + behind), written - (ended(ours, "serial") - before)
    return [
        Row("edge", f"sustained for {seconds} s", rate, "events/s", f">= {RATE * 0.9:g}", rate >= RATE * 0.9),
        Row("edge", "sustained: lost", lost, "", "0", not lost),
    ]


# --- the agent on its own -------------------------------------------------------------------------------


@contextlib.contextmanager
def remote(ours: Engine, folder: Path, port: Port) -> Iterator[psutil.Process]:
    """A paired agent with a serial port, the process source and ten simulated boards."""
    client = KernelClient(ours.data)
    where = f"127.0.0.1:{os.environ['FLOWORK_AGENT_PORT']}"
    base = [sys.executable, "-m", "edge_agent", "--data", str(folder / "remote")]
    code = client.call("agent_pair", name="far")["code"]
    subprocess.run([*base, "pair", code, "--appliance", where], check=True, capture_output=True)
    bodies = {"far": flow("serial", {"agent": "far", "port": port.path}, "far")}
    bodies["ps"] = flow("process", {"agent": "far", "name": "nothing-is-named-so"}, "ps")
    for number in range(10):
        sim = {"name": f"board{number}", "interval": 3600}
        bodies[f"sim{number}"] = flow("device", {"agent": "far", "driver": "sim", "config": sim}, f"sim{number}")
    for name, body in bodies.items():
        file = folder / f"{name}.json"
        file.write_text(json.dumps(body))
        ours.flowork("flow", "deploy", str(file))
    # As a service has it: the place is in the environment.
    service, environ = base[:3], {**os.environ, "FLOWORK_AGENT_DATA": str(folder / "remote")}
    log = (folder / "remote.log").open("ab")
    with log, subprocess.Popen([*service, "run"], stdout=log, stderr=log, env=environ) as process:
        try:
            running(ours, 4 + len(bodies))
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            client.close()


def at_rest(agent: psutil.Process, seconds: int) -> list[Row]:
    """Memory and CPU of the agent with nothing going on."""
    time.sleep(5)  # until it has looked which drivers there are
    before = agent.cpu_times()
    threading.Event().wait(seconds)
    after = agent.cpu_times()
    cpu = (after.user + after.system - before.user - before.system) / seconds * 100
    rss = agent.memory_info().rss / 1e6
    return [
        Row("edge", "agent alone: memory (RSS)", rss, "MB", "<= 30", rss <= 30),
        Row("edge", "agent alone: CPU", cpu, "% of a core", "<= 1", cpu <= 1),
    ]


def discovery() -> Row:
    """From the start of the search (Python's own start included) to the appliance's address."""
    command = [sys.executable, "-m", "edge_agent.protocol.discovery", "browse", "10"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        took = time.monotonic() - began if line else float("inf")
        process.terminate()
    return Row("edge", "discovery by mDNS", took, "s", "<= 1", took <= 1)
