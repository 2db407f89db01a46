"""The main job on real input: a real MQTT message through a real Mosquitto starts a flow, the run survives
kill -9, and it is there to look at step by step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.states import RunState
from appliance.store.history import RunFilter
from appliance.store.places import make_history
from appliance.store.runids import from_text, to_text
from tests.support.appliance import Appliance
from tests.support.broker import Mosquitto, Peer, eventually
from tests.support.flows import compute, edges, flow, node


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as running:
        yield running


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with Appliance(tmp_path / "FloworkData") as running:
        yield running


def deploy(appliance: Appliance, body: dict[str, Any], name: str) -> str:
    """Deploy as a person would; the flow's id."""
    file = appliance.data.parent / f"{name}.json"
    file.write_text(json.dumps(body))
    appliance.flowork("flow", "deploy", str(file))
    return name


def greenhouse(broker: Mosquitto, pause: str) -> dict[str, Any]:
    """MQTT in, condition, a wait, text, MQTT out."""
    nodes = (
        node("hot", "condition", {"when": "payload.t > 30"}),
        node("pause", "delay", {"for": pause}),
        compute("say", "payload.n ~ ': ' ~ payload.t ~ ' °C'"),
        node("tell", "mqtt_publish", {"broker": broker.url, "topic": "warn/{{ event.topic }}"}),
    )
    trigger = {"id": "in", "type": "mqtt", "config": {"broker": broker.url, "topic": "greenhouse/+/temp"}}
    links = edges("hot>pause>true", "pause>say", "say>tell")
    return flow(*nodes, links=links, name="greenhouse", triggers=[trigger], settings={"max_runs": 1000})


def attached(appliance: Appliance) -> None:
    triggers = lambda: appliance.json("trigger", "list")  # noqa: E731 - asked again and again
    eventually(lambda: any(entry["status"] == "connected" for entry in triggers()["items"]), "the trigger is connected")


def test_from_a_message_to_the_last_step_over_kills(appliance: Appliance, broker: Mosquitto) -> None:
    deploy(appliance, greenhouse(broker, "300ms"), "greenhouse")
    attached(appliance)
    count = 60
    with Peer(broker) as peer:
        peer.subscribe("warn/#")
        for number in range(count):
            peer.publish("greenhouse/a/temp", json.dumps({"n": number, "t": 20 if number % 10 == 9 else 31.5}))
            if number in {15, 40}:
                appliance.kill("kernel")
        history = make_history(appliance.data)
        wanted = RunFilter(states=[RunState.SUCCEEDED], trigger="in")
        eventually(lambda: len(history.page(wanted, limit=200).items) >= count, "all runs")
        rows = history.page(RunFilter(trigger="in"), limit=200).items
        hot = [number for number in range(count) if number % 10 != 9]
        heard = Counter(int(peer.next()[1].split(b":")[0]) for _ in hot)
    assert len(rows) == count, "every message is one run, also those that were sent twice"
    assert {RunState(row.state) for row in rows} == {RunState.SUCCEEDED}
    assert set(heard) == set(hot)
    detail = history.detail(rows[0].id)
    assert detail is not None
    history.close()
    shown = appliance.flowork("show", to_text(rows[1].id)).stdout
    for step in ("hot", "pause", "say", "tell"):
        assert step in shown
    assert "31.5" in shown


def test_a_webhook_is_accepted_while_the_kernel_is_dead(appliance: Appliance) -> None:
    trigger = {"id": "in", "type": "webhook", "config": {"path": "a-long-secret-path"}}
    deploy(appliance, flow(compute("a", "payload.n + 1"), name="hook", triggers=[trigger]), "hook")
    eventually(lambda: appliance.http("POST", "/hooks/a-long-secret-path", {"n": 0})[0] in {200, 202}, "the hook")
    accepted = []
    for number in range(40):
        if number in {10, 25}:
            appliance.kill("kernel", wait=False)
        headers = {"Idempotency-Key": f"key-{number}"}
        for _ in range(2):
            status, body, _ = appliance.http("POST", "/hooks/a-long-secret-path", {"n": number}, headers)
            assert status == 202, body
            accepted.append(body["run"])
    assert len(set(accepted)) == 40, "the same event twice is one run"
    history = make_history(appliance.data)

    def done() -> bool:
        heads = [history.head(from_text(run)) for run in set(accepted)]
        return all(head is not None and head.state == RunState.SUCCEEDED for head in heads)

    eventually(done, "every accepted run has succeeded")
    history.close()


def test_the_first_start_shows_the_main_job_and_the_second_keeps_it(tmp_path: Path) -> None:
    appliance = Appliance(tmp_path / "FloworkData")
    with appliance:
        history = make_history(appliance.data)
        good = RunFilter(states=[RunState.SUCCEEDED])
        eventually(lambda: history.page(good).items, "the example's first run has succeeded")
        assert appliance.owner_key()
        status, body, _ = appliance.http("GET", "/api/v1/health")
        assert (status, body["status"]) == (200, "ok")
        assert appliance.http("GET", "/api/v1/flows")[0] == 401
    before = len(history.page(RunFilter()).items)
    with appliance:
        assert appliance.owner_key(), "the key is printed once, on the first start only"
        assert len(history.page(RunFilter()).items) >= before
    history.close()


def test_two_engines_on_one_folder(appliance: Appliance) -> None:
    second = appliance.flowork("up", "--port", "0", "--host", "127.0.0.1", check=False)
    assert second.returncode != 0
    assert "another engine" in second.stdout + second.stderr


def test_a_taken_port_is_one_clear_line(appliance: Appliance, tmp_path: Path) -> None:
    other = Appliance(tmp_path / "other")
    result = other.flowork("up", "--host", "127.0.0.1", "--port", str(appliance.port), check=False)
    assert result.returncode != 0
    assert f"port {appliance.port}" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
