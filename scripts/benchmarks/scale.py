"""W2 on SQLite, and on Postgres + Redis with one kernel and with three, in one run; then kernels killed under load.

All of it on this one machine: the servers, gateways and kernels share its cores, so more kernels show what sharing
costs, not what more machines bring. The figures that count are the ratios.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from appliance.engine.states import RunState
from appliance.store.places import make_history
from appliance.store.runids import from_text
from scripts.benchmarks.common import Row, engine, percentile
from scripts.benchmarks.load import http_load
from scripts.benchmarks.webhook import FLOW
from tests.queue.support import free_port, redis_server
from tests.support.cluster import Cluster, Gateway, cluster, taken_after, until
from tests.support.servers import postgres_server

COUNT, FLOWS, ROUNDS = 800, 8, 3
KILLS, PAUSE = 5, 6.0
_BODY = b'{"n": 1}'


def run(quick: bool) -> list[Row]:
    """First the speed, all three engines in turn; then the chaos."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="flowork-scale-")))
        flows = {f"w2-{number}": _flow(number) for number in range(FLOWS)}
        alone = held.enter_context(engine(flows=flows))
        one = held.enter_context(_cluster(folder / "one", kernels=1, gateways=1))
        three = held.enter_context(_cluster(folder / "three", kernels=3, gateways=2))
        rows = _speed(alone.port, one, three, 1 if quick else ROUNDS)
        return rows + _chaos(three, 2 if quick else KILLS)


def _flow(number: int) -> dict[str, Any]:
    hook = {"path": _path(number).rpartition("/")[2], "reply": "result", "limit": "20s"}
    return {**FLOW, "name": f"w2-{number}", "triggers": [{"id": "in", "type": "webhook", "config": hook}]}


def _path(number: int) -> str:
    return f"/hooks/benchmark-webhook-{number}"


class Running:
    """A cluster with its gateways, and its kernels by machine."""

    def __init__(self, house: Cluster, kernels: int, gateways: int) -> None:
        self.house = house
        self.flows = [house.deploy(_flow(number)) for number in range(FLOWS)]
        self.kernels = {f"kernel-{number}": house.kernel(f"kernel-{number}") for number in range(kernels)}
        self.gateways = [house.gateway(f"gateway-{number}") for number in range(gateways)]

    def settled(self) -> None:
        """Wait until every kernel lives and the flows are spread over all of them."""

        def spread() -> bool:
            homes = self.house.members.homes()
            living = {one.writer for one in self.house.living().values() if one.works}
            return len(living) == len(self.kernels) and {homes.get(flow) for flow in self.flows} == living

        until(spread, "the flows are spread over the kernels", 120)

    def ports(self) -> list[int]:
        return [gateway.port for gateway in self.gateways]

    def usage(self) -> tuple[float, int]:
        """CPU seconds of kernels and gateways so far, and their memory (PSS)."""
        parts = [psutil.Process(part.process.pid) for part in self._processes() if part.process is not None]
        cpu = sum(sum(one.cpu_times()[:2]) for one in parts)
        return cpu, sum(one.memory_full_info().pss for one in parts)

    def _processes(self) -> list[Any]:
        return [*self.kernels.values(), *self.gateways]


@contextlib.contextmanager
def _cluster(folder: Path, kernels: int, gateways: int) -> Iterator[Running]:
    folder.mkdir()
    with (
        postgres_server(durable=True) as database,
        redis_server(folder, free_port()) as queue,
        cluster(folder, database, queue) as house,
    ):
        made = Running(house, kernels, gateways)
        made.settled()
        yield made


def _load(ports: list[int], count: int) -> tuple[float, list[float]]:
    """One caller a flow, the gateways in turn: seconds in all, latencies."""
    began = time.perf_counter()
    with ThreadPoolExecutor(FLOWS) as callers:
        shares = [
            callers.submit(http_load, ports[number % len(ports)], _path(number), _BODY, count // FLOWS, 1)
            for number in range(FLOWS)
        ]
        latencies = [latency for share in shares for latency in share.result()[1]]
    return time.perf_counter() - began, latencies


def _speed(port: int, one: Running, three: Running, rounds: int) -> list[Row]:
    engines = {"SQLite": [port], "1 kernel": one.ports(), "3 kernels": three.ports()}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    latencies: dict[str, list[float]] = {name: [] for name in engines}
    for ports in engines.values():
        _load(ports, 10 * FLOWS)
    before = one.usage()[0]
    for _ in range(rounds):
        for name, ports in engines.items():
            took, mine = _load(ports, COUNT)
            rates[name].append(COUNT / took)
            latencies[name] += mine
    cpu, pss = one.usage()
    rows = []
    for name, found in rates.items():
        where = name if name == "SQLite" else f"Postgres + Redis, {name}"
        rows.append(Row("scale", f"W2 on {where}", statistics.median(found), "runs/s"))
        rows.append(Row("scale", f"W2 on {where}, request p50", percentile(latencies[name], 0.5) * 1000, "ms"))
        rows.append(Row("scale", f"W2 on {where}, request p99", percentile(latencies[name], 0.99) * 1000, "ms"))
    alone = statistics.median(rates["SQLite"])
    for name in ("1 kernel", "3 kernels"):
        rows.append(Row("scale", f"{name} beside SQLite", statistics.median(rates[name]) / alone, "x"))
    runs = COUNT * rounds / 1000
    rows.append(Row("scale", "CPU of kernel and gateway a thousand runs, 1 kernel", (cpu - before) / runs, "s"))
    rows.append(Row("scale", "memory (PSS) of kernel and gateway, 1 kernel", pss / 1e6, "MB"))
    return rows


# --- chaos ---------------------------------------------------------------------------------------------


def _chaos(running: Running, kills: int) -> list[Row]:
    house = running.house
    world = house.folder / "world"
    flows = [house.deploy(_marked(number, world)) for number in range(FLOWS)]
    until(lambda: set(flows) <= house.members.homes().keys(), "the flows are at home")
    accepted: dict[int, str] = {}
    over, refused = threading.Event(), Counter[int]()
    with ThreadPoolExecutor(FLOWS) as callers:
        sending = [callers.submit(_send, running.gateways, lane, accepted, refused, over) for lane in range(FLOWS)]
        takeovers = [_kill_one(running, flows) for _ in range(kills)]
        over.set()
        for one in sending:
            one.result()
    until(lambda: _ended(house, accepted), "every run has ended", 180)
    done = Counter(world.read_text().splitlines())
    lost = _lost(house, accepted)
    twice = sum(times - 1 for times in done.values())
    return [
        Row("scale", "kernels killed with -9 under load", len(takeovers), "kills"),
        Row("scale", "runs accepted meanwhile", len(accepted), "runs"),
        Row("scale", "requests refused meanwhile", refused.total(), ""),
        Row("scale", "accepted runs lost", lost, "runs", "= 0", lost == 0),
        Row("scale", "once effects doubled", twice, "", "= 0", twice == 0),
        Row("scale", "longest takeover", max(takeovers), "s", "<= 15", max(takeovers) <= 15),
    ]


def _marked(number: int, world: Path) -> dict[str, Any]:
    hook = {"id": "in", "type": "webhook", "config": {"path": f"benchmark-chaos-{number}"}}
    config = {"file": str(world), "text": "{{ payload.n }}"}
    nodes = [
        {"id": "before", "type": "transform", "config": {"set": {"n": "{{ payload.n }}"}}},
        {"id": "pause", "type": "delay", "config": {"for": "500ms"}},
        {"id": "act", "type": "mark", "config": config},
    ]
    edges = [{"from": "before", "to": "pause"}, {"from": "pause", "to": "act"}]
    settings = {"max_runs": 1000, "on_crash": "skip"}
    return {"name": f"chaos-{number}", "triggers": [hook], "nodes": nodes, "edges": edges, "settings": settings}


def _send(
    gateways: list[Gateway], lane: int, accepted: dict[int, str], refused: Counter[int], over: threading.Event
) -> None:
    number = lane
    while not over.wait(0.05):
        gateway = gateways[(number // FLOWS) % len(gateways)]
        status, answer = gateway.ask("POST", f"/hooks/benchmark-chaos-{lane}", {"n": number})
        if status == 202:
            accepted[number] = answer["run"]
        else:
            refused[status] += 1
        number += FLOWS


def _kill_one(running: Running, flows: list[int]) -> float:
    """Kill a kernel that has work, wait until all of it is elsewhere, start it again; seconds without a sign of life.

    From the server's own records: from the last renewal of its lease to the moment its last flow had a new home.
    """
    threading.Event().wait(PAUSE)
    house = running.house
    homes, living = house.members.homes(), house.living()
    busy = [one for one in living.values() if one.writer in {homes[flow] for flow in flows}]
    victim = random.choice(busy)  # who dies need be no secret
    running.kernels[victim.machine].kill()
    until(lambda: victim.writer not in house.members.homes().values(), "its flows go on elsewhere", 60)
    took = taken_after(house.database, victim.writer)
    running.kernels[victim.machine].start()
    until(lambda: len(house.living()) == len(running.kernels), "it is back", 120)
    return took


def _ended(house: Cluster, accepted: dict[int, str]) -> bool:
    return all(state is not None and state >= RunState.SUCCEEDED for state in _states(house, accepted).values())


def _lost(house: Cluster, accepted: dict[int, str]) -> int:
    return sum(state is not RunState.SUCCEEDED for state in _states(house, accepted).values())


def _states(house: Cluster, accepted: dict[int, str]) -> dict[str, RunState | None]:
    history = make_history(house.folder / "first", house.environ)
    try:
        heads = {run: history.head(from_text(run)) for run in accepted.values()}
        return {run: RunState(head.state) if head is not None else None for run, head in heads.items()}
    finally:
        history.close()
