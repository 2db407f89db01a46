"""What starts runs goes on when the kernel that it is attached to is killed: the clock, MQTT, webhooks."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from appliance.store.history import RunDetail, RunFilter
from appliance.store.places import make_history
from tests.cluster.conftest import Running
from tests.support.broker import Mosquitto, Peer
from tests.support.cluster import until
from tests.support.flows import compute

pytestmark = pytest.mark.timeout(240)
#: Seconds within which each trigger goes on elsewhere.
TAKEOVER = 15.0
PATH = "takes-over".ljust(32, "x")


def runs_of(running: Running, flow: int) -> dict[str, list[RunDetail]]:
    """The runs by trigger, oldest first."""
    found: dict[str, list[RunDetail]] = {"clock": [], "mqtt": [], "hook": []}
    with closing(make_history(running.house.folder / "first", running.house.environ)) as history:
        for head in reversed(history.page(RunFilter(flows=[flow]), limit=10_000).items):
            detail = history.detail(head.id)
            assert detail is not None
            found[head.trigger].append(detail)
    return found


def done(runs: list[RunDetail]) -> int:
    """How many have ended: a gateway takes webhooks also while no kernel has the flow."""
    return sum(run.head.finished is not None for run in runs)


def payloads(runs: list[RunDetail]) -> list[Any]:
    return [run.event[2] for run in runs]


def test_every_trigger_goes_on_elsewhere_and_nothing_is_lost_or_doubled(running: Running, tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Peer(broker) as sender:
        triggers = [
            {"id": "clock", "type": "schedule", "config": {"every": "1s", "missed": "all"}},
            {"id": "mqtt", "type": "mqtt", "config": {"topic": "takes/over", "qos": 1, "broker": broker.url}},
            {"id": "hook", "type": "webhook", "config": {"path": PATH}},
        ]
        flow = running.house.deploy({"name": "takes over", "triggers": triggers, "nodes": [compute("a", "1")]})
        running.settled(flow)
        until(lambda: running.gateways[0].ask("PUT", f"/hooks/{PATH}")[0] == 405, "the hook is known")
        # until it listens, the broker keeps nothing for it
        until(lambda: sender.publish("takes/over", b'{"n": -1}') or runs_of(running, flow)["mqtt"], "it listens")
        until(lambda: runs_of(running, flow)["clock"], "the clock has struck")
        over, accepted, sent = threading.Event(), set[int](), list[int]()

        def work() -> None:
            number = 0
            while not over.wait(0.1):
                sender.publish("takes/over", json.dumps({"n": number}))
                sent.append(number)
                status, _ = running.gateways[number % 2].ask("POST", f"/hooks/{PATH}", {"n": number})
                if status == 202:
                    accepted.add(number)
                number += 1

        busy = threading.Thread(target=work)
        busy.start()
        try:
            until(lambda: len(sent) > 20, "much happens")
            part = running.kernels[running.home_of(flow)]
            before = {name: done(found) for name, found in runs_of(running, flow).items()}
            part.kill()
            killed = time.monotonic()
            took: dict[str, float] = {}

            def goes_on() -> bool:
                now = runs_of(running, flow)
                # those that were accepted before the kill may be seen behind it
                for name in before.keys() - took.keys():
                    if done(now[name]) > before[name] + 3:
                        took[name] = time.monotonic() - killed
                return len(took) == len(before)

            until(goes_on, "each trigger goes on")
            until(lambda: len(sent) > 60, "much happens")
        finally:
            over.set()
            busy.join()
        assert max(took.values()) < TAKEOVER, took
        until(lambda: {each["n"] for each in payloads(runs_of(running, flow)["mqtt"])} >= set(sent), "all has come")
        found = runs_of(running, flow)
        assert max(Counter(each["n"] for each in payloads(found["mqtt"]) if each["n"] >= 0).values()) == 1
        hooked = Counter(each["n"] for each in payloads(found["hook"]))
        assert accepted <= hooked.keys()
        assert max(hooked.values()) == 1
        struck = [each["unix"] for each in payloads(found["clock"])]
        assert {after - earlier for earlier, after in pairwise(sorted(struck))} == {1.0}, "a slot is missing or twice"
    running.all_live()
