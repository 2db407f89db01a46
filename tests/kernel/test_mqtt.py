"""The MQTT hub against a real Mosquitto, with paho as the independent client at the other end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Message, NodeError
from appliance.kernel.mqtt import MqttHub
from tests.support.broker import PATIENCE, Mosquitto, Peer, eventually, free_port
from tests.support.mqtt import Listener, outcome


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture
def hub() -> Iterator[MqttHub]:
    hub = MqttHub("test")
    yield hub
    hub.close()


# --- publishing ---


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_arrives_and_is_acknowledged(broker: Mosquitto, hub: MqttHub, qos: int) -> None:
    with Peer(broker) as peer:
        peer.subscribe("out/#")
        result = outcome(hub.publish(broker.url, "out/é", b"21 \xff", qos))
        message = peer.message()
    assert result == {"topic": "out/é", "qos": qos, "bytes": 4}
    assert (message.topic, message.payload, message.qos, message.retain) == ("out/é", b"21 \xff", qos, False)


def test_a_retained_message_is_there_for_those_who_come_later(broker: Mosquitto, hub: MqttHub) -> None:
    outcome(hub.publish(broker.url, "kept", b"1", 1, True))
    with Peer(broker) as peer:
        peer.subscribe("kept")
        assert peer.message().retain
    outcome(hub.publish(broker.url, "kept", b"", 1, True))


def test_many_threads_publish_at_once_and_all_arrives_in_their_order(broker: Mosquitto, hub: MqttHub) -> None:
    def send(worker: int) -> None:
        pendings = [hub.publish(broker.url, f"many/{worker}", b"%d" % n, 1) for n in range(200)]
        for pending in pendings:
            outcome(pending)

    with Peer(broker) as peer:
        peer.subscribe("many/+", 1)
        threads = [threading.Thread(target=send, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        received = [peer.next() for _ in range(1600)]
    for worker in range(8):
        assert [int(payload) for topic, payload in received if topic == f"many/{worker}"] == list(range(200))


def test_more_qos_2_messages_than_the_broker_lets_under_way(broker: Mosquitto, hub: MqttHub) -> None:
    with Peer(broker) as peer:
        peer.subscribe("exact")
        for pending in [hub.publish(broker.url, "exact", b"%d" % n, 2) for n in range(300)]:
            outcome(pending)
        assert [int(peer.next()[1]) for _ in range(300)] == list(range(300))
    assert [status.text for status in hub.status()] == ["connected"]


def test_a_large_message_goes_out_and_comes_in(broker: Mosquitto, hub: MqttHub) -> None:
    listener, payload = Listener(), bytes(range(256)) * 40_000
    with listener.on(hub, broker.url, "large"):
        outcome(hub.publish(broker.url, "large", payload, 1))
        eventually(lambda: listener.messages)
    assert listener.payloads == [payload]


def test_a_broker_that_is_away_fails_the_message_in_time(hub: MqttHub) -> None:
    hub = MqttHub("test", patience=0.2)
    try:
        with pytest.raises(NodeError, match="nothing listens on mqtt://127") as caught:
            outcome(hub.publish(f"mqtt://127.0.0.1:{free_port()}", "t", b"1"))
        assert caught.value.retryable
    finally:
        hub.close()


@pytest.mark.parametrize(
    ("host", "reason"), [("no-such-host.invalid", "name in .* cannot be found"), ("localhost", "nothing listens on")]
)
def test_a_name_that_leads_nowhere_is_explained(host: str, reason: str) -> None:
    hub = MqttHub("test", patience=0.2)
    try:
        with pytest.raises(NodeError, match=reason):
            outcome(hub.publish(f"mqtt://{host}:{free_port()}", "t", b"1"))
    finally:
        hub.close()


def test_a_broker_may_be_named(broker: Mosquitto, hub: MqttHub) -> None:
    outcome(hub.publish(f"mqtt://localhost:{broker.port}", "t", b"1"))


def test_a_message_waits_for_a_broker_that_comes_back_in_time(tmp_path: Path, hub: MqttHub) -> None:
    with Mosquitto(tmp_path) as broker:
        outcome(hub.publish(broker.url, "t", b"before"))
        broker.kill()
        eventually(lambda: not hub.status()[0].ok)
        pending = hub.publish(broker.url, "t", b"meanwhile", 1, True)
        broker.start()
        outcome(pending)
        with Peer(broker) as peer:
            peer.subscribe("t")
            assert peer.next() == ("t", b"meanwhile")


def test_messages_under_way_when_the_broker_dies_all_have_an_end(tmp_path: Path) -> None:
    hub = MqttHub("test", patience=0.5)
    try:
        with Mosquitto(tmp_path) as broker:
            pendings = [hub.publish(broker.url, "t", b"x", n % 3) for n in range(3000)]
            broker.kill()
            failed = 0
            for pending in pendings:
                try:
                    outcome(pending)
                except NodeError:
                    failed += 1
            assert failed
            eventually(lambda: hub.status()[0].waiting == 0)
    finally:
        hub.close()


def test_an_unused_publish_connection_is_closed_and_opened_again(broker: Mosquitto) -> None:
    hub = MqttHub("test", idle=0.05)
    try:
        for _ in range(3):
            outcome(hub.publish(broker.url, "t", b"1"))
            eventually(lambda: hub.status() == [])
    finally:
        hub.close()


@pytest.mark.parametrize(("topic", "qos"), [("a/+", 1), ("#", 1), ("", 1), ("a\0", 1), ("t", 3), ("t", -1)])
def test_what_mqtt_does_not_allow_is_refused_at_once(hub: MqttHub, topic: str, qos: int) -> None:
    with pytest.raises(ConfigError):
        hub.publish("mqtt://127.0.0.1", topic, b"", qos)


def test_subscribing_to_nonsense_is_refused_at_once(hub: MqttHub) -> None:
    listener = Listener()
    for topic, qos, client in (("a/#/b", 1, "c"), ("a", 3, "c"), ("a", 1, "")):
        with pytest.raises(ConfigError):
            hub.subscribe("mqtt://127.0.0.1", topic, qos, client, listener.on_messages, listener.on_status)


# --- subscribing ---


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_is_handed_over_as_it_came(broker: Mosquitto, hub: MqttHub, qos: int) -> None:
    listener = Listener()
    with Peer(broker) as peer, listener.on(hub, broker.url, ["in/+/t", "else/#"], 2, f"as-{qos}"):
        peer.publish("in/é/t", b"1", qos)
        peer.publish("in/x/other", b"2", qos)
        peer.publish("else/a/b", b"3", qos)
        eventually(lambda: len(listener.messages) == 2)
    first = listener.messages[0]
    assert (first.topic, first.payload, first.qos, first.retain, first.dup) == ("in/é/t", b"1", qos, False, False)
    assert listener.payloads == [b"1", b"3"]


def test_a_burst_is_handed_over_in_batches_and_in_order(broker: Mosquitto, hub: MqttHub) -> None:
    listener, payloads = Listener(), [b"%d" % n for n in range(3000)]
    with Peer(broker) as peer, listener.on(hub, broker.url, "burst"):
        peer.publish_many("burst", payloads)
        eventually(lambda: len(listener.messages) >= 3000)
    assert listener.payloads == payloads
    assert max(listener.sizes) <= 256


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_not_acknowledged_comes_again_marked(broker: Mosquitto, qos: int) -> None:
    """The hub closes without an acknowledgement, as a killed process does, and another life begins."""
    client, dead, alive = f"again-{qos}", Listener(ack=False), Listener()
    with Peer(broker) as peer:
        hub = MqttHub("test")
        with dead.on(hub, broker.url, "again", qos, client):
            peer.publish_many("again", [b"1", b"2"], qos)
            eventually(lambda: len(dead.messages) == 2)
        hub.close()
        peer.publish("again", b"3", qos)
        hub = MqttHub("test")
        with alive.on(hub, broker.url, "again", qos, client):
            eventually(lambda: len(alive.messages) == 3)
            peer.publish("again", b"4", qos)
            eventually(lambda: len(alive.messages) == 4)
        hub.close()
    assert [(each.payload, each.dup) for each in dead.messages] == [(b"1", False), (b"2", False)]
    assert [(each.payload, each.dup) for each in alive.messages] == [
        (b"1", True),
        (b"2", True),
        (b"3", False),
        (b"4", False),
    ]
    assert [each.mid for each in alive.messages[:2]] == [each.mid for each in dead.messages]


@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_acknowledged_does_not_come_again(broker: Mosquitto, qos: int) -> None:
    client, listener = f"once-{qos}", Listener()
    with Peer(broker) as peer:
        for life in range(3):
            hub = MqttHub("test")
            with listener.on(hub, broker.url, "once", qos, client):
                # More than the broker lets under way: each acknowledgement must have freed its place.
                peer.publish_many("once", [b"%d" % life] * 50, qos)
                eventually(lambda n=life: len(listener.messages) >= 50 * (n + 1))
            hub.close()
    assert listener.payloads == [b"0"] * 50 + [b"1"] * 50 + [b"2"] * 50
    assert not any(each.dup for each in listener.messages)


def test_retained_messages_are_marked_and_not_sent_again_on_every_reconnect(tmp_path: Path, hub: MqttHub) -> None:
    listener = Listener()
    with Mosquitto(tmp_path, persistence=True) as broker:
        with Peer(broker) as peer:
            peer.publish("state", b"on", retain=True)
        with listener.on(hub, broker.url, "state"):
            eventually(lambda: listener.messages)
            broker.stop()
            eventually(lambda: not listener.states[-1][0])
            broker.start()
            eventually(lambda: listener.states[-1][0])
            with Peer(broker) as peer:
                peer.publish("state", b"off")
            eventually(lambda: len(listener.messages) >= 2)
    assert [(each.payload, each.retain) for each in listener.messages] == [(b"on", True), (b"off", False)]


def test_a_killed_broker_is_retried_until_it_is_back(tmp_path: Path, hub: MqttHub) -> None:
    listener = Listener()
    with Mosquitto(tmp_path) as broker, listener.on(hub, broker.url, "t"):
        for life in range(2):
            broker.kill()
            eventually(lambda: "nothing listens" in listener.states[-1][1])
            broker.start()
            eventually(lambda: listener.states[-1] == (True, "connected"))
            with Peer(broker) as peer:
                peer.publish("t", b"%d" % life)
            eventually(lambda n=life: listener.payloads[-1:] == [b"%d" % n])
    assert listener.states[-1] == (False, "stopped")
    assert all(one != two for one, two in zip(listener.states, listener.states[1:], strict=False))


def test_busy_holds_everything_back_and_loses_nothing(broker: Mosquitto, hub: MqttHub) -> None:
    listener, payloads = Listener(room=0), [b"%d" % n for n in range(500)]
    with Peer(broker) as peer, listener.on(hub, broker.url, "busy"):
        peer.publish_many("busy", payloads)
        eventually(lambda: listener.refused >= 5)
        assert hub.status()[0].waiting
        assert not listener.messages
        listener.room = 1  # less than any batch: the hub has to offer fewer
        eventually(lambda: len(listener.messages) >= 20)
        listener.room = 10**9
        eventually(lambda: len(listener.messages) >= 500)
    assert listener.payloads == payloads


def test_a_connection_that_is_lost_while_busy_loses_no_message(tmp_path: Path, hub: MqttHub) -> None:
    listener, payloads = Listener(room=0), [b"%d" % n for n in range(10)]
    with Mosquitto(tmp_path, persistence=True) as broker, listener.on(hub, broker.url, "t"):
        with Peer(broker) as peer:
            peer.publish_many("t", payloads)
            eventually(lambda: listener.refused)
        broker.stop()
        broker.start()
        listener.room = 256
        eventually(lambda: set(listener.payloads) == set(payloads))
    first = {message.payload for message in listener.messages if not message.dup}
    repeated = [message.payload for message in listener.messages if message.dup]
    assert sorted(first | set(repeated)) == payloads
    assert len(repeated) == len(set(repeated))


def test_messages_that_cannot_be_stored_wait_and_it_is_said(broker: Mosquitto, hub: MqttHub) -> None:
    broken = threading.Event()
    broken.set()

    class Broken(Listener):
        def on_messages(self, batch: list[Message]) -> None:
            if broken.is_set():
                raise OSError("disk I/O error")
            super().on_messages(batch)

    listener = Broken()
    with Peer(broker) as peer, listener.on(hub, broker.url, "stored"):
        peer.publish("stored", b"1")
        eventually(lambda: "disk I/O error" in listener.states[-1][1])
        broken.clear()
        eventually(lambda: listener.messages)
        eventually(lambda: listener.states[-1] == (True, "connected"))


def test_acknowledging_from_other_threads_and_after_the_stop(broker: Mosquitto, hub: MqttHub) -> None:
    listener = Listener(ack=False)
    with Peer(broker) as peer, listener.on(hub, broker.url, "threads"):
        peer.publish_many("threads", [b"%d" % n for n in range(100)])
        acked = 0
        while acked < 100:
            eventually(lambda n=acked: len(listener.messages) > n)
            for message in listener.messages[acked:]:
                threading.Thread(target=message.ack).start()
                acked += 1
    listener.messages[-1].ack()
    assert len(listener.messages) == 100


def test_topics_of_an_earlier_version_are_taken_back(broker: Mosquitto, hub: MqttHub) -> None:
    old, new = Listener(), Listener()
    with old.on(hub, broker.url, ["old/+/t", "both/#"], client="versions"):
        pass
    with Peer(broker) as peer, new.on(hub, broker.url, ["new/#", "both/x"], client="versions"):
        peer.publish("old/a/t", b"stale")
        peer.publish("both/y", b"stale")
        peer.publish("both/x", b"1")
        eventually(lambda: new.messages)
        received = hub.status()[0].received
        peer.publish("old/b/t", b"stale")
        peer.publish("new/1", b"2")
        eventually(lambda: len(new.messages) >= 2)
        assert hub.status()[0].received == received + 1
    assert new.payloads == [b"1", b"2"]


# --- login and TLS ---


def test_login_is_needed_and_the_password_is_never_repeated(tmp_path: Path, hub: MqttHub) -> None:
    listener, quiet = Listener(), Listener()
    with Mosquitto(tmp_path, users={"me": "p@ss/word"}) as broker:
        right = broker.login("me", "p%40ss%2Fword")
        with listener.on(hub, right, "t"):
            outcome(hub.publish(right, "t", b"1"))
            eventually(lambda: listener.messages)
        wrong = broker.login("me", "hunter2")
        with pytest.raises(NodeError, match=r"does not let this user in|refuses this user") as caught:
            outcome(hub.publish(wrong, "t", b"1"))
        stop = hub.subscribe(wrong, "t", 1, "wrong", quiet.on_messages, quiet.on_status)
        eventually(lambda: quiet.states)
        said = f"{caught.value} {quiet.states} {hub.status()}"
        stop()
    assert "user" in quiet.states[0][1]
    assert "hunter2" not in said
    assert "p@ss" not in said
    assert "p%40ss" not in said


def test_tls_with_a_private_authority(tmp_path: Path, hub: MqttHub) -> None:
    listener = Listener()
    with Mosquitto(tmp_path, tls=True) as broker, listener.on(hub, broker.url, "t"):
        outcome(hub.publish(broker.url, "t", b"x" * 300_000))
        for pending in [hub.publish(broker.url, "t", b"%d" % n) for n in range(1000)]:
            outcome(pending)
        eventually(lambda: len(listener.messages) >= 1001)
    assert listener.payloads[1:] == [b"%d" % n for n in range(1000)]


def test_tls_trusts_nobody_by_itself(tmp_path: Path) -> None:
    hub = MqttHub("test", patience=0.5)
    try:
        with Mosquitto(tmp_path, tls=True) as broker:
            plain = f"mqtts://127.0.0.1:{broker.port}"
            with pytest.raises(NodeError, match=r"certificate of mqtts://127.0.0.1:\d+ is not trusted"):
                outcome(hub.publish(plain, "t", b"1"))
            outcome(hub.publish(f"{plain}?insecure=1", "t", b"1"))
            with pytest.raises(NodeError, match="certificate file"):
                outcome(hub.publish(f"{plain}?ca={tmp_path}/missing.pem", "t", b"1"))
    finally:
        hub.close()


# --- ending ---


def test_stopping_twice_and_from_inside_a_callback(broker: Mosquitto, hub: MqttHub) -> None:
    listener = Listener()
    with Peer(broker) as peer:
        stops: list[Any] = []

        def on_messages(batch: list[Message]) -> None:
            listener.on_messages(batch)
            stops[0]()

        stops.append(hub.subscribe(broker.url, "stop", 1, "stop", on_messages, listener.on_status))
        eventually(lambda: listener.states)
        peer.publish("stop", b"1")
        eventually(lambda: listener.states[-1] == (False, "stopped"))
        peer.publish("stop", b"2")
        stops[0]()
        outcome(hub.publish(broker.url, "stop", b"3"))
    assert listener.payloads == [b"1"]
    assert [status.role for status in hub.status()] == ["publish"]


def test_a_closed_hub_has_no_thread_and_refuses_work(broker: Mosquitto) -> None:
    hub, listener = MqttHub("test"), Listener()
    hub.subscribe(broker.url, "t", 1, "closing", listener.on_messages, listener.on_status)
    eventually(lambda: listener.states)
    hub.publish(broker.url, "t", b"1")
    hub.close()
    hub.close()
    assert "mqtt" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(NodeError):
        outcome(hub.publish(broker.url, "t", b"1"))
    with pytest.raises(NodeError):
        hub.subscribe(broker.url, "t", 1, "late", listener.on_messages, listener.on_status)


def test_a_hub_that_was_never_used_starts_nothing() -> None:
    hub = MqttHub("test")
    assert hub.status() == []
    hub.close()
    assert "mqtt" not in {thread.name for thread in threading.enumerate()}
