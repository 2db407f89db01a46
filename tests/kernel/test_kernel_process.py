"""Kernels as real processes that are killed, stopped and started again while events come in."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.contracts import Event, FlowError
from appliance.kernel.client import KernelAway, KernelClient
from appliance.kernel.standin import StandIn
from appliance.store.history import RunFilter
from tests.support.flows import compute, flow, node
from tests.support.kernels import _CHILD, ROOT, KernelHouse, wait_for

MANUAL: dict[str, Any] = {"triggers": [{"id": "t1", "type": "manual", "config": {}}]}
ENDED = {"succeeded", "failed", "dead", "cancelled", "skipped"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[KernelHouse]:
    made = KernelHouse(tmp_path / "FloworkData")
    yield made
    made.close()


def appending(name: str, text: str) -> dict[str, Any]:
    """A step whose effect happens once: a line at the end of a file."""
    config = {"path": f"{name}.txt", "format": "text", "mode": "append", "content": text}
    return node(name, "file_write", config, on_crash="skip")


class Senders:
    """Threads that send events and repeat what was not acknowledged, as a good sender does."""

    def __init__(self, house: KernelHouse, flows: list[int], count: int) -> None:
        self.acknowledged: dict[str, str] = {}
        self._house = house
        self._flows = flows
        self._left = list(range(count))
        self._threads = [threading.Thread(target=self._send, name=f"sender {n}") for n in range(4)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        client = KernelClient(self._house.data)
        while self._left:
            try:
                number = self._left.pop()
            except IndexError:
                break
            self._until_acknowledged(client, number)
        client.close()

    def _until_acknowledged(self, client: KernelClient, number: int) -> None:
        name = f"e{number}"
        for _ in range(10_000):
            try:
                answer = client.call(
                    "submit",
                    timeout=5,
                    flow=self._flows[number % len(self._flows)],
                    trigger="t1",
                    kind="manual",
                    payload={"name": name, "list": [1, 2]},
                    id=name,
                    unique=True,
                )
            except (KernelAway, FlowError):
                threading.Event().wait(0.005)
                continue
            self.acknowledged[name] = answer["run"]
            return

    def more_than(self, count: int) -> bool:
        return len(self.acknowledged) > count

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_moment(house: KernelHouse, seed: int) -> None:
    rng = random.Random(seed)
    house.settings(durability="process")
    body = {"nodes": [compute("x", "payload + 1"), appending("b", "{{ event.parent }}-{{ payload }}")]}
    body["edges"] = [{"from": "x", "to": "b"}]
    flows = [
        house.deploy(
            flow(compute("a", "payload"), appending("one", "{{ payload.name }}"), compute("z", "'end'"), **MANUAL)
        ),
        house.deploy(
            flow(
                node("d", "delay", {"for": "50ms"}),
                appending("two", "{{ steps.d.name }}"),
                node("f", "for_each", {"items": "steps.d.list", "body": body}),
                **MANUAL,
            )
        ),
    ]
    house.start()
    senders = Senders(house, flows, 300)
    for _ in range(5):
        threading.Event().wait(rng.uniform(0.05, 0.5))
        house.kill()
        house.start()
    senders.join()
    wait_for(lambda: set(house.states()) <= ENDED, 60)
    heads = house.history.page(RunFilter(), limit=1000).items
    assert {head.id for head in heads} and len(heads) == len(senders.acknowledged) == 300
    assert Counter(house.states()) == {"succeeded": 300}
    for name, text in (("one", 150), ("two", 150), ("b", 300)):
        lines = (house.data / "files" / f"{name}.txt").read_text().split()
        assert len(lines) == len(set(lines)) <= text, f"an effect of {name} happened twice"
        assert len(lines) >= text - 40
    assert house.stop() == 0


def test_a_graceful_stop_waits_for_effects_and_the_next_start_goes_on(house: KernelHouse) -> None:
    command = node(
        "c", "command", {"shell": 'sleep 1; echo done >> "$F"', "env": {"F": str(house.data / "files" / "done")}}
    )
    num = house.deploy(flow(compute("a", "payload"), command, node("d", "delay", {"for": "1s"}), **MANUAL))
    house.start()
    house.submit(num)
    wait_for(lambda: house.client.call("status")["runs"] == 1)
    wait_for(lambda: any(child.name() == "sleep" for child in psutil.Process(house.process.pid).children(True)))  # type: ignore[union-attr]
    assert house.stop() == 0
    assert (house.data / "files" / "done").read_text() == "done\n"
    assert house.states()[0] in {"running", "waiting"}
    assert not (house.data / "kernel.sock").exists()
    house.start()
    wait_for(lambda: house.states() == ["succeeded"])
    assert (house.data / "files" / "done").read_text() == "done\n"


def test_a_stop_under_load_answers_what_it_accepted(house: KernelHouse) -> None:
    num = house.deploy(flow(compute("a", "payload"), appending("one", "{{ payload.name }}"), **MANUAL))
    house.start()
    senders = Senders(house, [num], 2000)
    for _ in range(2):
        before = len(senders.acknowledged)
        wait_for(partial(senders.more_than, before + 100))
        assert house.stop() == 0
        house.start()
    senders.join()
    wait_for(lambda: set(house.states()) == {"succeeded"})
    assert len(house.states()) == 2000
    lines = (house.data / "files" / "one.txt").read_text().split()
    assert len(lines) == len(set(lines)) == 2000


def test_a_step_that_does_not_let_itself_be_ended_does_not_hold_up_the_stop(house: KernelHouse) -> None:
    fifo = house.data / "files" / "fifo"
    fifo.parent.mkdir(exist_ok=True)
    plugins = house.data / "packages" / "nodes"
    plugins.mkdir(parents=True)
    (plugins / "stubborn.py").write_text(
        '"""Sleeps and cannot be woken."""\n'
        "import time\n"
        "from appliance.contracts import Config, Node\n\n"
        "class Stubborn(Node[Config]):\n"
        "    def run(self, ctx, config, payload):\n"
        "        time.sleep(600)\n"
    )
    num = house.deploy(flow(node("s", "stubborn"), **MANUAL))
    house.start()
    house.submit(num)
    began = time.monotonic()
    assert house.stop(25) == 0
    assert time.monotonic() - began < 20
    assert house.states() == ["running"]


def test_two_kernels_on_one_folder(house: KernelHouse) -> None:
    house.start()
    second = subprocess.run(
        [sys.executable, "-c", _CHILD, str(house.data)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert second.returncode != 0
    assert "another engine" in second.stderr
    assert house.answers()


def test_runs_accepted_while_the_kernel_is_away(house: KernelHouse) -> None:
    num = house.deploy(flow(appending("one", "{{ payload }}"), **MANUAL))
    standin = StandIn(house.data)
    version = standin_version(house, num)
    accepted = [standin.accept(num, version, "t1", "manual", Event(payload=f"a{n}")) for n in range(5)]
    same = {standin.accept(num, version, "t1", "manual", Event(payload="u", id="k", unique=True)) for _ in range(3)}
    assert len(same) == 1
    house.start()
    wait_for(lambda: house.states() == ["succeeded"] * 6)
    assert house.submit(num, "u", id="k", unique=True)["run"] in same
    # It does not notice at once that the kernel is back.
    accepted += [standin.accept(num, version, "t1", "manual", Event(payload=f"b{n}")) for n in range(5)]
    wait_for(lambda: house.states() == ["succeeded"] * 11, 30)
    standin.close()
    lines = (house.data / "files" / "one.txt").read_text().split()
    assert sorted(lines) == sorted([*(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(5)), "u"])
    assert len(set(accepted)) == 10


def standin_version(house: KernelHouse, num: int) -> int:
    """The number of the live version, as the gateway knows it."""
    from appliance.store.metadata import open_store

    store = open_store(house.data)
    try:
        live = store.flows.by_num(num).live
        assert live is not None
        return live
    finally:
        store.close()


def test_an_idle_kernel_leaves_the_card_and_the_processor_alone(house: KernelHouse) -> None:
    num = house.deploy(flow(node("d", "delay", {"for": "1h"}), **MANUAL))
    house.start()
    for _ in range(3):
        house.submit(num)
    process = psutil.Process(house.process.pid)  # type: ignore[union-attr]
    threading.Event().wait(1.0)
    written, used = process.io_counters().write_chars, sum(process.cpu_times()[:2])
    threading.Event().wait(4.0)
    assert process.io_counters().write_chars - written < 2_000
    assert sum(process.cpu_times()[:2]) - used < 0.4
