"""kill -9 of the kernel, the gateway or both at random moments, 500 accepted runs: nothing lost, nothing twice."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.benchmarks.common import Engine, Row, engine

RUNS, CONCURRENCY = 500, 8


def flow(world: Path) -> dict[str, Any]:
    """A webhook; a step that takes a second; an effect that must happen once: a line appended to a file."""
    return {
        "name": "Crash",
        "triggers": [{"id": "in", "type": "webhook", "config": {"path": "benchmark-crash"}}],
        "nodes": [
            {"id": "before", "type": "transform", "config": {"set": {"n": "{{ payload.n }}"}}},
            {"id": "pause", "type": "delay", "config": {"for": "1s"}},
            {
                "id": "act",
                "type": "command",
                "config": {"args": ["sh", "-c", "echo $0 >> " + str(world), "{{ payload.n }}"]},
            },
            {"id": "after", "type": "transform", "config": {"set": {"n": "{{ steps.before.n }}"}}},
        ],
        "edges": [
            {"from": "before", "to": "pause"},
            {"from": "pause", "to": "act"},
            {"from": "act", "to": "after"},
        ],
        "settings": {"max_runs": 2000, "on_crash": "skip"},
    }


def run(quick: bool) -> list[Row]:
    """Send, kill meanwhile, wait until all is over, count."""
    count = 100 if quick else RUNS
    with engine() as ours:
        world = ours.data / "files" / "world"
        world.parent.mkdir(exist_ok=True)
        file = ours.data.parent / "crash.json"
        file.write_text(json.dumps(flow(world)))
        ours.flowork("flow", "deploy", str(file))
        accepted, kills = _send_and_kill(ours, count)
        ended = _wait(ours, accepted)
        repeated = _repeated(ours, accepted)
        effects = Counter(world.read_text().split())
    twice = sum(times - 1 for times in effects.values())
    return [
        Row("kill -9", "kills of kernel, gateway or both", kills, ""),
        Row("kill -9", "accepted", len(accepted), "runs"),
        Row("kill -9", "lost", len(accepted) - ended, "runs", "0", ended == len(accepted)),
        Row("kill -9", "once steps done twice", twice, "", "0", twice == 0),
        Row("kill -9", "finished steps done again", repeated, "", "0", repeated == 0),
        Row("kill -9", "once steps cut off (skipped, as the flow says)", count - len(effects), ""),
    ]


def _send_and_kill(ours: Engine, count: int) -> tuple[list[str], int]:
    accepted: list[str] = []
    numbers = iter(range(count))
    lock = threading.Lock()

    def sender() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            accepted.append(_deliver(ours.port, number))
            time.sleep(0.1)

    threads = [threading.Thread(target=sender) for _ in range(CONCURRENCY)]
    for thread in threads:
        thread.start()
    kills = 0
    dice = random.Random(1)
    while any(thread.is_alive() for thread in threads):
        time.sleep(dice.uniform(0.2, 0.8))
        for name in dice.choice([["kernel"], ["gateway"], ["kernel", "gateway"]]):
            try:
                os.kill(ours.child(name).pid, signal.SIGKILL)
                kills += 1
            except LookupError:
                pass
    for thread in threads:
        thread.join()
    return accepted, kills


def _deliver(port: int, number: int) -> str:
    """POST until it is accepted, as a sender does that repeats what was not acknowledged."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"crash-{number}"}
    while True:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            link.request("POST", "/hooks/benchmark-crash", json.dumps({"n": number}), headers)
            answer = link.getresponse()
            body = answer.read()
            if answer.status in {200, 202}:
                return str(json.loads(body)["run"])
        except (OSError, http.client.HTTPException):
            pass
        finally:
            link.close()
        time.sleep(0.1)


def _wait(ours: Engine, accepted: list[str]) -> int:
    """How many of the accepted runs have succeeded in the end."""
    from appliance.engine.states import RunState
    from appliance.store.runids import from_text

    wanted = {from_text(run) for run in accepted}
    deadline = time.monotonic() + 180
    good: set[int] = set()
    while time.monotonic() < deadline and len(good) < len(wanted):
        time.sleep(0.5)
        for shard in (ours.data / "runs").glob("*.db"):
            reader = sqlite3.connect(f"file:{shard}?mode=ro", uri=True)
            rows = reader.execute("SELECT id FROM run WHERE state = ?", (int(RunState.SUCCEEDED),))
            good |= {row[0] for row in rows} & wanted
            reader.close()
    return len(good)


def _repeated(ours: Engine, accepted: list[str]) -> int:
    """How many steps of the accepted runs have ended more than once, by the journal."""
    from contextlib import closing

    from appliance.engine import trace
    from appliance.store.places import make_history
    from appliance.store.runids import from_text

    again = 0
    with closing(make_history(ours.data)) as history:
        for run in set(accepted):
            detail = history.detail(from_text(run))
            records = detail.records if detail else []
            ends = Counter(each.node for each in records if each.kind in {trace.DONE, trace.SAME})
            again += sum(times - 1 for times in ends.values())
    return again
