"""The mqtt_publish node: what is sent, what is refused, and that it really arrives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError, Pending, decode
from appliance.kernel.mqtt import MqttHub
from appliance.nodes.mqtt_publish import MqttPublish, MqttPublishConfig
from tests.support.broker import Mosquitto, Peer, free_port
from tests.support.context import FakeContext, FakeWorld, run_node


class Sent:
    """An MQTT service that keeps what it is given."""

    name = "test"

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, bytes, int, bool]] = []

    def publish(self, broker: str, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> Pending:
        self.calls.append((broker, topic, payload, qos, retain))
        pending = Pending()
        pending.complete("sent")
        return pending


def sent(config: dict[str, Any], payload: Any = None) -> tuple[str, str, bytes, int, bool]:
    mqtt = Sent()
    ctx = FakeContext(mqtt=mqtt)
    assert run_node(MqttPublish(), {"topic": "t", **config}, payload, ctx) == "sent"
    return mqtt.calls[0]


@pytest.mark.parametrize(
    ("config", "payload", "content"),
    [
        ({"payload": "grün"}, None, "grün".encode()),
        ({"payload": ""}, {"a": 1}, b""),
        ({"payload": {"on": True}}, None, b'{"on":true}'),
        ({"payload": 21.5}, None, b"21.5"),
        ({"payload": None}, {"a": 1}, b"null"),
        ({}, {"a": [1]}, b'{"a":[1]}'),
        ({}, "plain", b"plain"),
        ({}, None, b"null"),
        ({"payload": "/wA=", "encoding": "base64"}, None, b"\xff\x00"),
        ({"encoding": "base64"}, "", b""),
    ],
)
def test_what_is_sent(config: dict[str, Any], payload: Any, content: bytes) -> None:
    assert sent(config, payload)[2] == content


def test_all_fields_reach_the_broker() -> None:
    config = {"broker": "mqtts://box", "topic": "a/b", "payload": "x", "qos": 2, "retain": True}
    assert sent(config) == ("mqtts://box", "a/b", b"x", 2, True)
    assert sent({"payload": "x"}) == ("mqtt://127.0.0.1:1883", "t", b"x", 1, False)


@pytest.mark.parametrize("topic", ["a/+", "#", "a\0b", "x" * 65_536, "é" * 40_000])
def test_a_topic_that_no_message_can_have_is_refused(topic: str) -> None:
    with pytest.raises(ConfigError, match="topic"):
        sent({"topic": topic})
    assert [problem.path for problem in MqttPublish().check({"topic": topic}, FakeWorld())] == ["topic"]


@pytest.mark.parametrize("payload", ["not base64!", "YQ", 5, None])
def test_what_is_not_base64_is_refused(payload: Any) -> None:
    with pytest.raises(ConfigError, match="base64"):
        sent({"payload": payload, "encoding": "base64"})


def test_what_is_not_json_is_refused() -> None:
    for payload in (object(), {"a": {1j}}, "\ud800"):
        with pytest.raises(ConfigError, match="payload"):
            sent({}, payload)


@pytest.mark.parametrize("config", [{}, {"topic": ""}, {"topic": "t", "qos": 3}, {"topic": "t", "colour": "red"}])
def test_a_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        decode(MqttPublishConfig, config)


def test_a_broker_that_is_no_url_is_found_on_save() -> None:
    check = MqttPublish().check
    assert [each.path for each in check({"topic": "t", "broker": "http://box"}, FakeWorld())] == ["broker"]
    assert list(check({"topic": "{{ payload.t }}", "broker": "{{ secrets.broker }}"}, FakeWorld())) == []
    assert list(check({"topic": "t"}, FakeWorld())) == []


@pytest.mark.parametrize(
    ("qos", "effect"),
    [(0, Effect.IDEMPOTENT), (1, Effect.IDEMPOTENT), (2, Effect.ONCE), ("{{ vars.qos }}", Effect.ONCE)],
)
def test_the_effect_follows_the_qos(qos: Any, effect: Effect) -> None:
    assert MqttPublish().effect_of({"topic": "t", "qos": qos}) is effect
    assert MqttPublish().effect_of({"topic": "t"}) is Effect.IDEMPOTENT


@pytest.fixture
def ctx() -> Iterator[FakeContext]:
    hub = MqttHub("test", patience=0.3)
    yield FakeContext(mqtt=hub)
    hub.close()


def test_it_arrives_at_a_real_broker(tmp_path: Path, ctx: FakeContext) -> None:
    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        peer.subscribe("lamp/#")
        for qos in (0, 1, 2):
            config = {"broker": broker.url, "topic": f"lamp/{qos}", "payload": {"on": True}, "qos": qos}
            assert run_node(MqttPublish(), config, None, ctx) == {"topic": f"lamp/{qos}", "qos": qos, "bytes": 11}
            assert peer.next() == (f"lamp/{qos}", b'{"on":true}')


def test_a_broker_that_is_away_fails_the_step_so_that_it_is_tried_again(ctx: FakeContext) -> None:
    with pytest.raises(NodeError, match="nothing listens") as caught:
        run_node(MqttPublish(), {"broker": f"mqtt://127.0.0.1:{free_port()}", "topic": "t"}, "x", ctx)
    assert caught.value.retryable
