"""The MQTT trigger: how messages are read, when they are acknowledged, and a real broker with crashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Busy, ConfigError, Message, decode
from appliance.kernel.mqtt import MqttHub
from appliance.triggers.mqtt import Mqtt, MqttConfig
from tests.support.broker import Mosquitto, Peer, eventually
from tests.support.context import FakeWorld
from tests.support.triggers import FakeTriggerContext, attach


@dataclass
class FakeMqtt:
    """Hands messages over as the hub does, and keeps the acknowledgements."""

    name: str = "flowork-1234"
    subscriptions: list[tuple[Any, ...]] = field(default_factory=list)
    acked: list[int] = field(default_factory=list)
    stopped: int = 0

    def subscribe(
        self,
        broker: str,
        topic: str | Sequence[str],
        qos: int,
        client_id: str,
        on_messages: Callable[[list[Message]], None],
        on_status: Callable[[bool, str], None],
    ) -> Callable[[], None]:
        self.subscriptions.append((broker, topic, qos, client_id))
        self.deliver, self.status = on_messages, on_status

        def stop() -> None:
            self.stopped += 1

        return stop

    def message(self, payload: bytes, mid: int = 1, **other: Any) -> Message:
        values = {"topic": "t", "qos": 1, "retain": False, "dup": False, **other}
        return Message(payload=payload, mid=mid, ack=lambda: self.acked.append(mid), **values)


@pytest.fixture
def ctx() -> FakeTriggerContext:
    return FakeTriggerContext(mqtt=FakeMqtt())


def listen(ctx: FakeTriggerContext, **config: Any) -> Any:
    attach(Mqtt(), {"topic": "t", **config}, ctx)
    return ctx.mqtt


# --- subscribing ---


def test_the_session_belongs_to_engine_flow_and_trigger(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx, topic=["a/#", "b"], qos=2)
    assert mqtt.subscriptions == [("mqtt://127.0.0.1:1883", ["a/#", "b"], 2, "flowork-1234-flow-t1")]
    mqtt = listen(ctx, broker="mqtts://box", client_id="mine")
    assert mqtt.subscriptions[-1] == ("mqtts://box", "t", 1, "mine")


def test_the_brokers_state_is_the_triggers_state(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx)
    mqtt.status(True, "connected")
    mqtt.status(False, "nothing listens on mqtt://127.0.0.1:1883")
    assert ctx.states == [
        (None, "connecting"),
        (True, "connected"),
        (False, "nothing listens on mqtt://127.0.0.1:1883"),
    ]


def test_detaching_stops_the_subscription(ctx: FakeTriggerContext) -> None:
    detach = attach(Mqtt(), {"topic": "t"}, ctx)
    detach()
    assert ctx.mqtt.stopped == 1


# --- reading ---


@pytest.mark.parametrize(
    ("how", "raw", "payload", "encoding"),
    [
        ("auto", b'{"t": 31.5}', {"t": 31.5}, "json"),
        ("auto", b"21.5", 21.5, "json"),
        ("auto", "grün".encode(), "grün", "text"),
        ("auto", b"", "", "text"),
        ("auto", b"{broken", "{broken", "text"),
        ("auto", b"NaN", "NaN", "text"),
        ("auto", b"\xff\x00", "/wA=", "base64"),
        ("json", b"[1]", [1], None),
        ("text", b"[1]", "[1]", None),
        ("text", b"a\x00b", "a\x00b", None),
        ("base64", b"abc", "YWJj", None),
    ],
)
def test_how_a_message_is_read(ctx: FakeTriggerContext, how: str, raw: bytes, payload: Any, encoding: Any) -> None:
    mqtt = listen(ctx, payload=how)
    mqtt.deliver([mqtt.message(raw)])
    assert ctx.runs[0].payload == payload
    assert ctx.runs[0].meta.get("encoding") == encoding
    assert mqtt.acked == [1]


def test_the_event_tells_of_the_message(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx, payload="json")
    mqtt.deliver([mqtt.message(b"1", topic="a/b", qos=2, retain=True, dup=True)])
    (event,) = ctx.runs
    assert event.meta == {"topic": "a/b", "qos": 2, "retain": True, "dup": True}
    assert event.redelivered
    assert not event.unique


@pytest.mark.parametrize(
    ("how", "raw", "reason"),
    [
        ("json", b"{broken", "not JSON"),
        ("json", b"", "not JSON"),
        ("json", b"\xff", "not JSON"),
        ("json", b"[" * 100_000, "not JSON"),
        ("json", b'"\\ud800"', "not JSON"),
        ("text", b"caf\xe9", "not text in UTF-8"),
    ],
)
def test_a_poison_message_is_kept_and_acknowledged(ctx: FakeTriggerContext, how: str, raw: bytes, reason: str) -> None:
    mqtt = listen(ctx, payload=how)
    mqtt.deliver([mqtt.message(b"1", 1), mqtt.message(raw, 2, topic="x"), mqtt.message(b"2", 3)])
    assert len(ctx.runs) == 2
    ((event, why),) = ctx.dead_letters
    assert reason in why
    assert event.meta["topic"] == "x"
    assert event.payload.keys() == {"base64"}
    assert sorted(mqtt.acked) == [1, 2, 3]


def test_retained_messages_can_be_left_out(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx, retained=False)
    mqtt.deliver([mqtt.message(b"old", 1, retain=True), mqtt.message(b"new", 2)])
    assert [event.payload for event in ctx.runs] == ["new"]
    assert sorted(mqtt.acked) == [1, 2]


# --- acknowledging ---


def test_a_message_is_acknowledged_when_its_run_is_on_disk_and_not_before(ctx: FakeTriggerContext) -> None:
    ctx.auto_commit = False
    mqtt = listen(ctx, payload="json")
    mqtt.deliver([mqtt.message(b"1", 1), mqtt.message(b"{", 2), mqtt.message(b"3", 3, qos=0)])
    assert mqtt.acked == []
    ctx.commit()
    assert sorted(mqtt.acked) == [1, 2]


def test_a_repeated_message_starts_nothing_twice_and_is_acknowledged_again(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx)
    mqtt.deliver([mqtt.message(b"1", 7)])
    mqtt.deliver([mqtt.message(b"1", 7, dup=True)])
    assert len(ctx.runs) == 1
    assert mqtt.acked == [7, 7]


@pytest.mark.parametrize("other", [{"payload": b"2"}, {"mid": 8}, {"topic": "u"}, {"dup": False}])
def test_a_message_that_is_like_an_earlier_one_is_another(ctx: FakeTriggerContext, other: dict[str, Any]) -> None:
    mqtt = listen(ctx)
    mqtt.deliver([mqtt.message(b"1", 7)])
    mqtt.deliver([mqtt.message(**{"payload": b"1", "mid": 7, "dup": True, **other})])
    assert len(ctx.runs) == 2


def test_messages_of_qos_0_have_no_identity(ctx: FakeTriggerContext) -> None:
    mqtt = listen(ctx)
    mqtt.deliver([mqtt.message(b"1", 0, qos=0), mqtt.message(b"1", 0, qos=0)])
    assert [event.id for event in ctx.runs] == ["", ""]


# --- a full queue ---


def test_a_batch_is_taken_whole_or_not_at_all(ctx: FakeTriggerContext) -> None:
    ctx.room = 1
    mqtt = listen(ctx, payload="json", retained=False)
    batch = [mqtt.message(b"1", 1), mqtt.message(b"{", 2), mqtt.message(b"3", 3), mqtt.message(b"4", 4, retain=True)]
    with pytest.raises(Busy):
        mqtt.deliver(batch)
    assert ctx.events == []
    assert ctx.dead_letters == []
    assert mqtt.acked == []
    ctx.room = None
    mqtt.deliver(batch)
    assert sorted(mqtt.acked) == [1, 2, 3, 4]


def test_a_poison_message_that_finds_no_room_is_kept_back_alone(ctx: FakeTriggerContext) -> None:
    """Offering the whole batch again would start the others twice."""
    ctx.room, ctx.retry_after = 1, 2.0
    mqtt = listen(ctx, payload="json")
    mqtt.deliver([mqtt.message(b"1", 1), mqtt.message(b"{", 2)])
    assert mqtt.acked == [1]
    ctx.room = 1
    ctx.advance(2)
    assert len(ctx.dead_letters) == 1
    assert mqtt.acked == [1, 2]


# --- configs ---


@pytest.mark.parametrize(
    "config",
    [{}, {"topic": ""}, {"topic": []}, {"topic": [""]}, {"topic": "t", "qos": 3}, {"topic": "t", "payload": "xml"}],
)
def test_a_bad_config_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        decode(MqttConfig, config)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"topic": "a/#/b"}, "topic"),
        ({"topic": "a+"}, "topic"),
        ({"topic": "a\0"}, "topic"),
        ({"topic": ["a", "b/c#"]}, "topic[1]"),
        ({"topic": "t", "broker": "localhost"}, "broker"),
        ({"topic": "t", "broker": "http://box"}, "broker"),
    ],
)
def test_what_mqtt_does_not_allow_is_found_on_save(config: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in Mqtt().check(config, FakeWorld())] == [path]


@pytest.mark.parametrize(
    "config", [{"topic": "#"}, {"topic": ["+/a", "b/#"]}, {"topic": "{{ vars.x }}#", "broker": "{{ secrets.b }}"}]
)
def test_a_good_config_has_no_problem(config: dict[str, Any]) -> None:
    assert list(Mqtt().check(config, FakeWorld())) == []


# --- a real broker ---


@contextmanager
def engine(ctx: FakeTriggerContext, broker: Mosquitto, **config: Any) -> Iterator[FakeTriggerContext]:
    """One life: attached and connected while the block runs, gone without a word for what is not committed."""
    hub = MqttHub("engine")
    ctx.mqtt = hub
    detach = attach(Mqtt(), {"broker": broker.url, "topic": "sensor/+", **config}, ctx)
    try:
        eventually(lambda: ctx.states[-1] == (True, "connected"))
        yield ctx
    finally:
        detach()
        hub.close()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_crash_before_the_commit_loses_nothing(tmp_path: Path, qos: int) -> None:
    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        with engine(FakeTriggerContext(auto_commit=False), broker, qos=qos) as first:
            peer.publish_many("sensor/1", [b"1", b"2"], qos)
            eventually(lambda: len(first.events) == 2)
        peer.publish("sensor/1", b"3", qos)
        with engine(FakeTriggerContext(), broker, qos=qos) as second:
            eventually(lambda: len(second.runs) == 3)
    assert [event.payload for event in second.runs] == [1, 2, 3]


@pytest.mark.parametrize("qos", [1, 2])
def test_a_crash_between_commit_and_acknowledgement_starts_nothing_twice(tmp_path: Path, qos: int) -> None:
    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        with engine(FakeTriggerContext(auto_commit=False), broker, qos=qos) as first:
            peer.publish_many("sensor/1", [b"1", b"2"], qos)
            eventually(lambda: len(first.events) == 2)
        assert len(first.known) == 2  # stored, but no acknowledgement was sent
        with engine(first.restarted(), broker, qos=qos) as second:
            eventually(lambda: len(second.events) == 2)
            peer.publish("sensor/1", b"3", qos)
            eventually(lambda: len(second.runs) == 1)
        with engine(second.restarted(), broker, qos=qos) as third:
            peer.publish("sensor/1", b"4", qos)
            eventually(lambda: third.runs)
    assert [event.payload for event in second.runs] == [3]
    assert [event.payload for event in third.events] == [4]


def test_messages_of_the_time_when_the_engine_was_off_are_there_afterwards(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, persistence=True) as broker:
        with engine(FakeTriggerContext(), broker) as ctx:
            pass
        with Peer(broker) as peer:
            peer.publish_many("sensor/1", [b"%d" % n for n in range(50)])
        broker.stop()
        broker.start()
        with engine(ctx.restarted(), broker) as ctx:
            eventually(lambda: len(ctx.runs) == 50)
    assert [event.payload for event in ctx.runs] == list(range(50))


def test_a_burst_through_a_queue_that_is_often_full(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        ctx = FakeTriggerContext(room=0, retry_after=0.005)
        with engine(ctx, broker, payload="json"):
            peer.publish_many("sensor/1", [b"{" if n % 10 == 9 else b"%d" % n for n in range(400)])
            while len(ctx.runs) + len(ctx.dead_letters) < 400:
                refusals = ctx.refusals
                ctx.room = 7
                eventually(lambda n=refusals: ctx.refusals > n or len(ctx.runs) + len(ctx.dead_letters) >= 400)
                ctx.advance(1)
    assert [event.payload for event in ctx.runs] == [n for n in range(400) if n % 10 != 9]
    assert len(ctx.dead_letters) == 40
