"""A step at a paired engine: what that costs over the same step at home, one at a time and many at once.

Two real kernels in processes of their own, paired over loopback; every run is durable on both sides.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from appliance.kernel.client import KernelAway, KernelClient
from appliance.security.keys import init_keys
from appliance.store.metadata import open_store
from scripts.benchmarks.common import Row, free_port, percentile

EVERYTHING = {"rights": ["run", "models", "events", "flows"], "workspaces": ["*"]}
CONCURRENCY = 16
#: What may be spent on the way there and back, in milliseconds.
LIMIT = 10.0


def run(quick: bool) -> list[Row]:
    """The overhead of a remote step."""
    count = 100 if quick else 400
    with tempfile.TemporaryDirectory() as folder, box(Path(folder) / "pi") as pi, box(Path(folder) / "laptop") as other:
        made = other.call("peer_pair", roles=EVERYTHING)
        address = f"127.0.0.1:{made['port']}"
        pi.call("peer_join", 30.0, code=made["code"], address=address, roles=EVERYTHING)
        home, away = deploy(Path(folder) / "pi", ""), deploy(Path(folder) / "pi", "engine:laptop")
        pi.call("reload")
        for flow in (home, away):
            times(pi, flow, 20)
        # Taking turns, so that whatever else the machine does slows both.
        here: list[float] = []
        there: list[float] = []
        for _ in range(count // 20):
            here += times(pi, home, 20)
            there += times(pi, away, 20)
        rate = [many(pi, flow, count * 2) for flow in (home, away)]
    overhead = statistics.median(there) - statistics.median(here)
    return [
        Row("placement", "a run of one step here, p50", statistics.median(here), "ms"),
        Row("placement", "the same at a peer, p50", statistics.median(there), "ms"),
        Row("placement", "the same at a peer, p99", percentile(there, 0.99), "ms"),
        Row("placement", "overhead of a remote step, p50", overhead, "ms", f"< {LIMIT:g}", overhead < LIMIT),
        Row("placement", f"runs here, {CONCURRENCY} at once", rate[0], "runs/s"),
        Row("placement", f"the same at a peer, {CONCURRENCY} at once", rate[1], "runs/s"),
    ]


@contextlib.contextmanager
def box(data: Path) -> Iterator[KernelClient]:
    """A kernel in a process of its own, on a folder of its own, that lets peers in."""
    data.mkdir()
    init_keys(data)
    store = open_store(data)
    store.settings.set({"engine_name": data.name, "peer_port": free_port(), "peer_discovery": "never"})
    store.close()
    command = [sys.executable, "-m", "appliance.cli", "kernel", "--data", str(data)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    client = KernelClient(data)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                client.call("ping", 5)
                break
            except KernelAway:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(30)


def deploy(data: Path, needs: str) -> int:
    """A flow of one step; returns its number."""
    body: dict[str, Any] = {
        "name": f"step {needs}",
        "nodes": [{"id": "a", "type": "transform", "config": {"set": {"n": "{{ payload.n + 1 }}"}}, "needs": needs}],
        "settings": {"max_runs": 1000},
    }
    store = open_store(data)
    try:
        version = store.flows.save(None, "default", body, "bench", "", None)
        store.flows.deploy(store.flows.by_num(version.flow).id, version.number, "bench")
        return int(version.flow)
    finally:
        store.close()


def times(client: KernelClient, flow: int, count: int) -> list[float]:
    """Milliseconds of so many runs, one after the other, each waited for."""
    found = []
    for number in range(count):
        began = time.perf_counter()
        one(client, flow, number)
        found.append((time.perf_counter() - began) * 1000)
    return found


def many(client: KernelClient, flow: int, count: int) -> float:
    """Runs a second, so many at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda number: one(client, flow, number), range(count)))
    return count / (time.perf_counter() - began)


def one(client: KernelClient, flow: int, number: int) -> None:
    """One run to its end."""
    payload = {"n": number}
    ended = client.call("submit", 60.0, flow=flow, trigger="bench", kind="manual", payload=payload, wait=30.0)
    if ended.get("output") != {"n": number + 1}:
        raise RuntimeError(f"a run ended as {ended}")
