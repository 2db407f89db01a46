"""W2: a webhook, five steps, every snapshot kept and on disk before the answer; beside a bare Flask."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from scripts.benchmarks.common import Row, engine, free_port, percentile
from scripts.benchmarks.load import http_load

COUNT, CONCURRENCY, ROUNDS = 1000, 8, 3
PATH = "/hooks/benchmark-webhook"
FLOW: dict[str, Any] = {
    "name": "W2",
    "triggers": [
        {"id": "in", "type": "webhook", "config": {"path": "benchmark-webhook", "reply": "result", "limit": "10s"}}
    ],
    "nodes": [
        {"id": f"n{i}", "type": "transform", "config": {"set": {"n": "{{ payload.n + 1 }}", "who": f"step {i}"}}}
        for i in range(5)
    ],
    "edges": [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(4)],
    "settings": {"max_runs": 100},
}
_BARE = """
import flask
app = flask.Flask("bare")
@app.post("/hooks/benchmark-webhook")
def hello():
    return "hello"
"""


def run(quick: bool) -> list[Row]:
    """Medians of a few rounds, the two servers in turn."""
    port = free_port()
    with engine(flows={"w2": FLOW}) as ours:
        bare = _bare_flask(port)
        try:
            rates: list[float] = []
            limits: list[float] = []
            latencies: list[float] = []
            http_load(ours.port, PATH, b'{"n": 1}', 200, CONCURRENCY)
            before = ours.usage()
            rounds = 1 if quick else ROUNDS
            for _ in range(rounds):
                took, _ = http_load(port, PATH, b'{"n": 1}', COUNT, CONCURRENCY)
                limits.append(COUNT / took)
                took, mine = http_load(ours.port, PATH, b'{"n": 1}', COUNT, CONCURRENCY)
                rates.append(COUNT / took)
                latencies += mine
            used = ours.usage().since(before)
        finally:
            bare.terminate()
            bare.wait(10)
    runs = COUNT * rounds
    rate, limit = percentile(rates, 0.5), percentile(limits, 0.5)
    cpu, written = used.cpu / runs * 1000, used.written / runs / 1000
    p50, p99 = percentile(latencies, 0.5) * 1000, percentile(latencies, 0.99) * 1000
    return [
        Row("W2", "bare gunicorn + Flask hello", limit, "1/s"),
        Row("W2", "webhook to answer, five steps on disk", rate, "runs/s"),
        Row("W2", "of the bare Flask", rate / limit, "x", ">= 0.5", rate >= 0.5 * limit),
        Row("W2", "request p50", p50, "ms", "<= 5", p50 <= 5),
        Row("W2", "request p99", p99, "ms", "<= 30", p99 <= 30),
        Row("W2", "written to disk a run", written, "kB", "<= 2", written <= 2),
        Row("W2", "CPU a thousand runs", cpu, "s", "<= 1", cpu <= 1),
        Row("W2", "memory (PSS) of all processes after", used.pss / 1e6, "MB", "<= 130", used.pss <= 130e6),
    ]


def _bare_flask(port: int) -> subprocess.Popen[bytes]:
    """The limit: one gthread worker with 4 threads that answers hello."""
    code = (
        f"{_BARE}\nfrom gunicorn.app.base import BaseApplication\n"
        "class Server(BaseApplication):\n"
        "    def load_config(self):\n"
        f"        for k, v in dict(bind='127.0.0.1:{port}', worker_class='gthread', threads=4, loglevel='error',\n"
        "                         keepalive=30, control_socket_disable=True).items():\n"
        "            if k in self.cfg.settings: self.cfg.set(k, v)\n"
        "    def load(self): return app\n"
        "Server().run()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            http_load(port, PATH, b"{}", 1, 1)
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError("the bare Flask did not start")
