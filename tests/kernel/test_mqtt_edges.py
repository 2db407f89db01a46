"""The MQTT hub against a broker made by hand: silence, garbage, and connections cut at one exact point."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from appliance.contracts import Busy, Message, NodeError
from appliance.kernel.mqtt import MqttHub, wire
from appliance.kernel.mqtt.link import LARGEST
from tests.support.broker import RawBroker, RawConnection, eventually
from tests.support.mqtt import Listener, outcome

CONNECT_FLAGS = 7


@pytest.fixture
def broker() -> Iterator[RawBroker]:
    with RawBroker() as broker:
        yield broker


@pytest.fixture
def hub() -> Iterator[MqttHub]:
    hub = MqttHub("test", patience=2.0)
    yield hub
    hub.close()


def subscribe(hub: MqttHub, broker: RawBroker, listener: Listener, qos: int = 2) -> None:
    hub.subscribe(broker.url, "t", qos, "client", listener.on_messages, listener.on_status)


def subscribed(broker: RawBroker) -> RawConnection:
    connection = broker.accept()
    connection.welcome()
    connection.grant()
    return connection


def publishing(broker: RawBroker) -> RawConnection:
    """The first publish connection: one that makes the broker forget, then one that stays."""
    first = broker.accept()
    assert first.welcome()[CONNECT_FLAGS] & 2
    assert first.packet() == (0xE0, b"")
    first.close()
    second = broker.accept()
    assert not second.welcome()[CONNECT_FLAGS] & 2
    return second


def message(payload: bytes, qos: int, mid: int, dup: bool = False) -> bytes:
    return wire.publish(wire.text("t"), payload, qos, False, dup, mid)


# --- subscribing ---


def test_qos_2_is_received_only_when_the_trigger_has_it(broker: RawBroker, hub: MqttHub) -> None:
    listener = Listener(ack=False)
    subscribe(hub, broker, listener)
    connection = subscribed(broker)
    connection.send(message(b"1", 2, 77))
    eventually(lambda: listener.messages)
    listener.messages[0].ack()
    assert connection.expect(0x50) == b"\x00\x4d"
    connection.send(wire.answer(wire.PUBREL, 77))
    assert connection.expect(0x70) == b"\x00\x4d"


def test_a_release_of_a_message_of_an_earlier_life_is_answered(broker: RawBroker, hub: MqttHub) -> None:
    """Else its place among the broker's messages under way would be taken for ever."""
    subscribe(hub, broker, Listener())
    connection = broker.accept()
    connection.welcome(session=True)
    connection.send(wire.answer(wire.PUBREL, 5))
    connection.grant()
    assert connection.expect(0x70) == b"\x00\x05"


def test_an_acknowledgement_of_a_lost_connection_is_not_sent_on_the_next(broker: RawBroker, hub: MqttHub) -> None:
    """The broker may have given the packet id to another message meanwhile."""
    listener = Listener(ack=False)
    subscribe(hub, broker, listener)
    connection = subscribed(broker)
    connection.send(message(b"old", 1, 9))
    eventually(lambda: listener.messages)
    connection.cut()
    connection = subscribed(broker)
    connection.send(message(b"new", 1, 9))
    eventually(lambda: len(listener.messages) == 2)
    listener.messages[0].ack()
    connection.send(message(b"next", 1, 10))
    eventually(lambda: len(listener.messages) == 3)
    listener.messages[2].ack()
    assert connection.expect(0x40) == b"\x00\x0a"


def test_one_that_leaves_stays_until_the_broker_has_read_its_acknowledgements(broker: RawBroker, hub: MqttHub) -> None:
    """As Mosquitto does, the broker answers each at once, and gives up one that is not there to hear it."""
    listener = Listener()
    stop = hub.subscribe(broker.url, "t", 2, "client", listener.on_messages, listener.on_status)
    connection = subscribed(broker)
    for mid in (1, 2, 3):
        connection.send(message(b"x", 2, mid))
    eventually(lambda: len(listener.messages) == 3)
    leaving = threading.Thread(target=stop)
    leaving.start()
    for mid in (1, 2, 3):
        assert connection.expect(0x50) == mid.to_bytes(2, "big")
        time.sleep(0.1)  # it has said goodbye by now
        connection.send(b"\x62\x02" + mid.to_bytes(2, "big"))
    assert connection.packet() == (0xE0, b"")
    connection.close()
    leaving.join()


def test_a_kept_session_is_not_subscribed_again(broker: RawBroker, hub: MqttHub) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    subscribed(broker).cut()
    connection = broker.accept()
    connection.welcome(session=True)
    connection.send(message(b"1", 1, 3))
    connection.expect(0x40)
    assert listener.states[-1] == (True, "connected")
    connection.cut()
    subscribed(broker)  # without a session it has to be


def test_a_refused_filter_is_said(broker: RawBroker, hub: MqttHub) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    connection = broker.accept()
    connection.welcome()
    connection.grant(wire.REFUSED)
    eventually(lambda: listener.states[-1:] == [(False, "the broker does not let us subscribe to t")])


@pytest.mark.parametrize(
    ("code", "reason"), [(2, "client id"), (3, "unavailable"), (4, "password"), (5, "let this user in"), (99, "99")]
)
def test_a_refusal_is_said_and_retried(broker: RawBroker, hub: MqttHub, code: int, reason: str) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    broker.accept().welcome(code=code)
    eventually(lambda: listener.states)
    assert reason in listener.states[0][1]
    subscribed(broker)
    eventually(lambda: listener.states[-1] == (True, "connected"))


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x30\xff\xff\xff\xff\x7f", b"\x90\x00", b"\x20\x01\x00"]
)
def test_garbage_ends_the_connection_and_not_the_subscription(broker: RawBroker, hub: MqttHub, garbage: bytes) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    broker.accept().send(garbage)
    connection = subscribed(broker)
    connection.send(message(b"\xff", 1, 1))
    eventually(lambda: listener.payloads == [b"\xff"])


def test_a_message_over_the_limit_is_refused_and_the_next_one_taken(broker: RawBroker, hub: MqttHub) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    connection = subscribed(broker)
    connection.send(message(bytes(LARGEST), 1, 1) + message(b"2", 1, 2))
    assert connection.expect(0x40) == b"\x00\x01"
    assert connection.expect(0x40) == b"\x00\x02"
    assert listener.payloads == [b"2"]
    assert any("longer than 32 MiB" in text for _, text in listener.states)


def test_two_clients_of_one_id_are_suspected(broker: RawBroker, hub: MqttHub) -> None:
    listener = Listener()
    subscribe(hub, broker, listener)
    for _ in range(4):
        subscribed(broker).close()
    eventually(lambda: any("another client using the id 'client'" in text for _, text in listener.states))


def test_a_silent_broker_is_given_up(broker: RawBroker) -> None:
    hub, listener = MqttHub("test", keepalive=0.1), Listener()
    try:
        subscribe(hub, broker, listener)
        connection = subscribed(broker)
        assert connection.packet() == (0xC0, b"")
        eventually(lambda: any("silent" in text for _, text in listener.states))
        subscribed(broker)
    finally:
        hub.close()


def test_the_broker_hears_from_us_while_the_engine_is_busy(broker: RawBroker) -> None:
    hub, taken = MqttHub("test", keepalive=0.1), Listener()
    full = True

    def on_messages(batch: list[Message]) -> None:
        if full:
            raise Busy(retry_after=0.02)
        taken.on_messages(batch)

    try:
        hub.subscribe(broker.url, "t", 1, "client", on_messages, taken.on_status)
        connection = subscribed(broker)
        connection.send(message(b"1", 1, 1))
        for _ in range(8):  # twice as long as silence is borne otherwise
            assert connection.packet() == (0xC0, b"")
        full = False
        assert connection.expect(0x40) == b"\x00\x01"
    finally:
        hub.close()
    assert taken.states == [(True, "connected"), (False, "stopped")]


# --- publishing ---


def test_qos_1_is_sent_again_on_the_next_connection(broker: RawBroker, hub: MqttHub) -> None:
    pending = hub.publish(broker.url, "t", b"1", 1)
    connection = publishing(broker)
    body = connection.expect(0x32)
    connection.cut()
    connection = broker.accept()
    connection.welcome()
    assert connection.expect(0x3A) == body
    connection.send(b"\x40\x02" + body[3:5])
    assert outcome(pending)["bytes"] == 1


@pytest.mark.parametrize("received", [False, True])
def test_qos_2_goes_on_where_it_was(broker: RawBroker, hub: MqttHub, received: bool) -> None:
    pending = hub.publish(broker.url, "t", b"1", 2)
    connection = publishing(broker)
    body = connection.expect(0x34)
    mid = body[3:5]
    if received:
        connection.send(b"\x50\x02" + mid)
        assert connection.expect(0x62) == mid
    connection.cut()
    connection = broker.accept()
    connection.welcome(session=True)
    if received:
        assert connection.expect(0x62) == mid
    else:
        assert connection.expect(0x3C) == body
        connection.send(b"\x50\x02" + mid)
        assert connection.expect(0x62) == mid
    connection.send(b"\x70\x02" + mid)
    assert outcome(pending)["qos"] == 2


def test_qos_2_of_a_session_that_the_broker_lost_is_not_guessed(broker: RawBroker, hub: MqttHub) -> None:
    pending = hub.publish(broker.url, "t", b"1", 2)
    connection = publishing(broker)
    connection.expect(0x34)
    connection.cut()
    broker.accept().welcome(session=False)
    with pytest.raises(NodeError, match="not known whether") as caught:
        outcome(pending)
    assert not caught.value.retryable


def test_a_packet_id_that_the_broker_may_remember_is_not_used_again(broker: RawBroker) -> None:
    hub = MqttHub("test", patience=0.1)
    try:
        first = hub.publish(broker.url, "t", b"1", 2)
        connection = publishing(broker)
        mid = connection.expect(0x34)[3:5]
        with pytest.raises(NodeError, match="not known whether"):
            outcome(first)
        assert hub.status()[0].waiting == 0
        second = hub.publish(broker.url, "t", b"2", 2)
        other = connection.expect(0x34)[3:5]
        assert other != mid
        for each in (mid, other):
            connection.send(b"\x50\x02" + each)
            assert connection.expect(0x62) == each
            connection.send(b"\x70\x02" + each)
        outcome(second)
    finally:
        hub.close()


def test_an_acknowledgement_that_never_comes_fails_the_message(broker: RawBroker) -> None:
    hub = MqttHub("test", patience=0.1)
    try:
        pending = hub.publish(broker.url, "t", b"1", 1)
        connection = publishing(broker)
        body = connection.expect(0x32)
        with pytest.raises(NodeError, match="no acknowledgement within") as caught:
            outcome(pending)
        assert caught.value.retryable
        connection.send(b"\x40\x02" + body[3:5])  # too late, and harmless
        again = hub.publish(broker.url, "t", b"1", 1)
        connection.send(b"\x40\x02" + connection.expect(0x32)[3:5])
        outcome(again)
    finally:
        hub.close()


def test_what_waits_is_bounded(broker: RawBroker, hub: MqttHub) -> None:
    large = bytes(1024 * 1024)
    pendings = [hub.publish(broker.url, "t", large, 1) for _ in range(200)]
    with pytest.raises(NodeError, match="too many messages wait"):
        outcome(pendings[-1])


def test_closing_fails_what_is_under_way(broker: RawBroker) -> None:
    hub = MqttHub("test")
    pendings = [hub.publish(broker.url, "t", b"1", qos) for qos in (1, 2)]
    connection = publishing(broker)
    connection.expect(0x32)
    connection.expect(0x34)
    hub.close()
    for pending in pendings:
        with pytest.raises(NodeError, match="the engine is stopping"):
            outcome(pending)
