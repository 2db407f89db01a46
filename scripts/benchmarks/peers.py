"""Others at the same work, where they are installed: Node-RED (``node-red`` on PATH, or $NODE_RED), raw Huey."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmarks import sensor
from scripts.benchmarks.common import Row, Usage, free_port, percentile
from scripts.benchmarks.load import http_load

COUNT, CONCURRENCY = 1000, 8
HUEY_SERVER = """
import sys, flask, huey, threading
queue = huey.SqliteHuey(filename=sys.argv[1], results=True)
@queue.task()
def five(n):
    for _ in range(5):
        n += 1
    return n
if sys.argv[2] == "consume":
    queue.create_consumer(workers=4, initial_delay=0.01, max_delay=0.01).run()
app = flask.Flask("huey")
@app.post("/hooks/huey")
def hook():
    five(flask.request.get_json()["n"])
    return "{}"
from gunicorn.app.base import BaseApplication
class Server(BaseApplication):
    def load_config(self):
        for k, v in dict(bind="127.0.0.1:" + sys.argv[3], worker_class="gthread", threads=8, loglevel="error",
                         keepalive=30, control_socket_disable=True).items():
            if k in self.cfg.settings: self.cfg.set(k, v)
    def load(self): return app
Server().run()
"""


def run(quick: bool) -> list[Row]:
    """Figures of whoever is here."""
    rows = _huey()
    program = os.environ.get("NODE_RED") or shutil.which("node-red")
    if program is None:
        return rows
    with sensor.mosquitto() as port, node_red(program, port) as (http, process):
        rows += _node_red_sensor(port, process, quick)
        rows += _node_red_webhook(http, process)
    return rows


def _huey() -> list[Row]:
    """Raw Huey on SQLite: answered when the task is queued; it forgets what is in flight at a kill."""
    with tempfile.TemporaryDirectory() as folder:
        database, port = str(Path(folder) / "huey.db"), free_port()
        commands = [[sys.executable, "-c", HUEY_SERVER, database, what, str(port)] for what in ("consume", "serve")]
        processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]
        try:
            _wait_http(port, "/hooks/huey")
            before = Usage.of([psutil.Process(p.pid) for p in processes])
            took, _ = http_load(port, "/hooks/huey", b'{"n": 1}', COUNT, CONCURRENCY)
            everyone = [psutil.Process(p.pid) for p in processes]
            everyone += [child for process in everyone for child in process.children(recursive=True)]
            used = Usage.of(everyone).since(before)
        finally:
            for process in processes:
                process.terminate()
                process.wait(10)
    return [
        Row("peers", "raw Huey, W2: one task queued a request", COUNT / took, "runs/s"),
        Row("peers", "raw Huey, W2: written a run", used.written / COUNT / 1000, "kB"),
    ]


def _wait_http(port: int, path: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            http_load(port, path, b'{"n": 1}', 1, 1)
            return
        except (OSError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def node_red(program: str, broker: int) -> Iterator[tuple[int, psutil.Process]]:
    """Node-RED with the two flows, on a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        (Path(folder) / "flows.json").write_text(json.dumps(_flows(broker)))
        settings = Path(folder) / "settings.js"
        settings.write_text(
            f"module.exports={{uiPort:{port},uiHost:'127.0.0.1',flowFile:'flows.json',telemetry:{{enabled:false}},"
            "logging:{console:{level:'error'}}}"
        )
        process = subprocess.Popen([program, "-u", folder, "-s", str(settings)], stdout=subprocess.DEVNULL)
        try:
            _wait_http(port, "/hooks/node-red")
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(20)


def _flows(broker: int) -> list[dict[str, Any]]:
    steps = [
        {
            "id": f"f{i}",
            "type": "function",
            "z": "t",
            "func": "msg.payload.n += 1; return msg;",
            "wires": [[f"f{i + 1}"]],
        }
        for i in range(5)
    ]
    steps[-1]["wires"] = [["answer"]]
    return [
        {"id": "t", "type": "tab", "label": "bench"},
        {"id": "b", "type": "mqtt-broker", "broker": "127.0.0.1", "port": str(broker), "protocolVersion": "4"},
        {"id": "in", "type": "mqtt in", "z": "t", "topic": "in/#", "qos": "1", "datatype": "json", "broker": "b",
         "wires": [["hot"]]},
        {"id": "hot", "type": "switch", "z": "t", "property": "payload.t", "propertyType": "msg",
         "rules": [{"t": "gt", "v": "30", "vt": "num"}], "outputs": 1, "wires": [["say"]]},
        {"id": "say", "type": "template", "z": "t", "field": "payload", "fieldType": "msg", "syntax": "mustache",
         "template": "{{payload.n}} at {{payload.t}} °C", "output": "str", "wires": [["out"]]},
        {"id": "out", "type": "mqtt out", "z": "t", "topic": "out/x", "qos": "1", "broker": "b", "wires": []},
        {"id": "http", "type": "http in", "z": "t", "url": "/hooks/node-red", "method": "post", "wires": [["f0"]]},
        *steps,
        {"id": "answer", "type": "http response", "z": "t", "statusCode": "200", "wires": []},
    ]  # fmt: skip


def _node_red_sensor(port: int, process: psutil.Process, quick: bool) -> list[Row]:
    sensor.wait_for_flow(port)
    family = [process, *process.children(recursive=True)]  # a wrapper may have started it
    rows = []
    for rate, count in ((20, 60 if quick else 200), (200, 400 if quick else 2000)):
        before = Usage.of(family)
        times = sensor.latencies(port, rate, count)
        used = Usage.of(family).since(before)
        rows.append(Row("peers", f"Node-RED, W1 {rate}/s: p50", percentile(times, 0.5) * 1000, "ms"))
        rows.append(Row("peers", f"Node-RED, W1 {rate}/s: p99", percentile(times, 0.99) * 1000, "ms"))
    rows.append(Row("peers", "Node-RED, W1: CPU a thousand at 200/s", used.cpu / count * 1000, "s"))
    ratio, _, through, lost = sensor.bursts(port, 1 if quick else 3)
    rows.append(Row("peers", f"Node-RED, W1 burst of {sensor.BURST} (keeps nothing)", through, "1/s"))
    rows.append(Row("peers", "Node-RED, W1 burst: of Mosquitto alone", ratio, "x"))
    rows.append(Row("peers", "Node-RED, W1 burst: lost", lost, ""))
    return rows


def _node_red_webhook(port: int, process: psutil.Process) -> list[Row]:
    http_load(port, "/hooks/node-red", b'{"n": 1}', 200, CONCURRENCY)
    took, times = http_load(port, "/hooks/node-red", b'{"n": 1}', COUNT, CONCURRENCY)
    pss = Usage.of([process, *process.children(recursive=True)]).pss / 1e6
    return [
        Row("peers", "Node-RED, W2 (keeps nothing)", COUNT / took, "runs/s"),
        Row("peers", "Node-RED, W2: request p99", percentile(times, 0.99) * 1000, "ms"),
        Row("peers", "Node-RED: memory (PSS) after", pss, "MB"),
    ]
