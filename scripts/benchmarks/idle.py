"""At rest: memory, CPU and disk of all processes with a hundred flows deployed; and starting again."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from scripts.benchmarks.common import Engine, Row, engine, percentile


def flow(number: int) -> dict[str, Any]:
    """One of a hundred small flows: a webhook or a clock, three steps."""
    trigger: dict[str, Any] = (
        {"id": "t", "type": "webhook", "config": {"path": f"benchmark-{number}"}}
        if number % 2
        else {"id": "t", "type": "schedule", "config": {"cron": "0 3 1 1 *"}}
    )
    nodes = [{"id": f"n{i}", "type": "transform", "config": {"set": {"n": "{{ payload.n }}"}}} for i in range(3)]
    edges = [{"from": "n0", "to": "n1"}, {"from": "n1", "to": "n2"}]
    return {"name": f"Flow {number}", "triggers": [trigger], "nodes": nodes, "edges": edges}


def run(quick: bool) -> list[Row]:
    """Let it lie for a while, then start it again a few times."""
    with TemporaryDirectory() as folder:
        with engine(Path(folder), {f"f{n}": flow(n) for n in range(100)}) as ours:
            time.sleep(10 if quick else 130)  # one and two minutes after its start an engine tidies up, then each hour
            before = ours.usage()
            seconds = 10 if quick else 60
            time.sleep(seconds)
            used = ours.usage().since(before)
        starts = []
        for _ in range(1 if quick else 3):
            again = Engine(Path(folder) / "FloworkData", ours.port)
            starts.append(again.start())
            again.stop()
    cpu = used.cpu / seconds * 100
    start = percentile(starts, 0.5)
    return [
        Row("idle", "memory (PSS) of all processes", used.pss / 1e6, "MB", "<= 100", used.pss <= 100e6),
        Row("idle", "CPU", cpu, "% of a core", "<= 0.5", cpu <= 0.5),
        Row("idle", "written to disk", used.written / seconds / 1000, "kB/s", "0", used.written == 0),
        Row("idle", "start again to the first answer", start, "s", "<= 1.5", start <= 1.5),
    ]
