"""Flows of one step behind a trigger of the edge, and how late the first steps of their runs were."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from appliance.engine import trace
from appliance.kernel.client import KernelClient
from scripts.benchmarks.common import Engine, Row, percentile

#: Seconds between two events of a source, and for which runs are waited for.
PAUSE = 0.05
PATIENCE = 60.0


def flow(trigger: str, config: dict[str, Any], name: str = "") -> dict[str, Any]:
    """One step behind a trigger."""
    nodes = [{"id": "first", "type": "transform", "config": {"set": {"v": "payload.value"}}}]
    triggers = [{"id": name or trigger, "type": trigger, "config": config}]
    return {"name": f"edge {name or trigger}", "nodes": nodes, "edges": [], "triggers": triggers}


def running(ours: Engine, count: int) -> None:
    """Wait until so many triggers have their driver."""
    client = KernelClient(ours.data)
    with contextlib.closing(client):
        until(
            lambda: sum(each["status"] == "running" for each in client.call("status")["triggers"]) >= count,
            "the drivers",
        )


def until(wanted: Callable[[], bool], what: str) -> None:
    """Look again for a while."""
    deadline = time.monotonic() + PATIENCE
    while not wanted():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come")
        time.sleep(0.05)


def runs(ours: Engine, trigger: str) -> list[tuple[dict[str, Any], float]]:
    """What each run was given, and when its first step began (Unix seconds)."""
    found = []
    for shard in sorted((ours.data / "runs").glob("*.db")):
        with contextlib.closing(sqlite3.connect(f"file:{shard}?mode=ro", uri=True)) as db:
            query = "SELECT id, event, trigger, accepted, steps FROM run WHERE trigger = ? ORDER BY id"
            for number, event, name, accepted, steps in db.execute(query, (trigger,)):
                more = [] if steps else db.execute("SELECT data FROM chunk WHERE run = ? ORDER BY seq", (number,))
                records = list(trace.records_of([steps, *(data for (data,) in more)]))
                if records:
                    payload = trace.unpack_event(event, name, accepted)[2]
                    found.append((payload, (accepted + records[0].at) / 1e6))
    return found


def ended(ours: Engine, trigger: str) -> int:
    """How many runs a trigger has started that have ended."""
    total = 0
    for shard in (ours.data / "runs").glob("*.db"):
        with contextlib.closing(sqlite3.connect(f"file:{shard}?mode=ro", uri=True)) as db:
            query = "SELECT count(*) FROM run WHERE trigger = ? AND finished IS NOT NULL"
            total += db.execute(query, (trigger,)).fetchone()[0]
    return total


def figures(name: str, ours: Engine, source: Callable[[], dict[str, float]], bound: float) -> list[Row]:
    """Median and p99 of a source: it gives when each thing was, by what tells it from the others."""
    trigger = {"serial": "serial", "remote serial": "far", "sim": "device"}.get(name, name)
    moments = source()
    late: list[float] = []

    def all_came() -> bool:
        late.clear()
        for payload, began in runs(ours, trigger):
            value = payload["value"]
            key = str(value.get("pid") or value.get("name")) if isinstance(value, dict) else str(value)
            if key in moments:
                late.append((began - moments[key]) * 1000)
            elif name == "sim":
                late.append((began - payload["time"]) * 1000)
        return len(late) >= (len(moments) or 20)

    try:
        until(all_came, f"all runs of {name}")
    except RuntimeError as exc:
        raise RuntimeError(f"{exc}: {len(late)} of {len(moments)}") from None
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    return [
        Row("edge", f"{name}: source to first step, p50", p50, "ms", f"<= {bound}", p50 <= bound),
        Row("edge", f"{name}: source to first step, p99", p99, "ms", f"<= {bound}", p99 <= bound),
    ]
