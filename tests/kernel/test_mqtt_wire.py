"""MQTT packets: the parser on any cut of the stream, and bytes as the standard prints them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import ConfigError
from appliance.kernel.mqtt import broker, wire

LIMIT = 100_000


def test_a_connect_is_laid_out_as_the_standard_shows_it() -> None:
    # OASIS 3.1.2 figure 3.6 and 3.1.3: protocol name and level, flags, keepalive, then the strings.
    packet = wire.connect("id", clean=True, keepalive=10, user="me", password="pw")
    assert packet == b"\x10\x16\x00\x04MQTT\x04\xc2\x00\x0a\x00\x02id\x00\x02me\x00\x02pw"
    assert wire.connect("id", clean=False, keepalive=10, user="", password="pw")[9] == 0


def test_lengths_use_as_few_bytes_as_the_standard_allows() -> None:
    # OASIS 2.2.3 table 2.4
    for size, length in ((0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_152, 4)):
        packet = wire.publish(wire.text("t"), b"x" * size, 0, False, False, 0)
        assert len(packet) == 1 + (length if size + 3 < 128**length else length + 1) + 3 + size


@given(
    st.lists(st.tuples(st.text("abc/é", min_size=1, max_size=9), st.binary(max_size=300), st.sampled_from([0, 1, 2]))),
    st.lists(st.integers(1, 400)),
)
def test_messages_survive_any_cut_of_the_stream(messages: list[tuple[str, bytes, int]], cuts: list[int]) -> None:
    packets = [
        wire.publish(wire.text(topic), payload, qos, True, False, 7 if qos else 0) for topic, payload, qos in messages
    ]
    stream, parser, found = b"".join(packets), wire.Parser(LIMIT), []
    for cut in [*cuts, len(stream)]:
        found += parser.feed(stream[:cut])
        stream = stream[cut:]
    assert [wire.published(flags, body) for _kind, flags, body in found] == [
        (topic, 7 if qos else 0, payload) for topic, payload, qos in messages
    ]


@given(st.lists(st.integers(1, 900), max_size=30))
def test_a_message_over_the_limit_leaves_its_head_and_nothing_else(cuts: list[int]) -> None:
    big = wire.publish(wire.text("big"), b"x" * 200_000, 1, False, False, 9)
    after = wire.publish(wire.text("t"), b"small", 1, False, False, 10)
    stream, parser, found = big + after, wire.Parser(1000), []
    for cut in [*cuts, 70_000, len(stream)]:
        found += parser.feed(stream[:cut])
        stream = stream[cut:]
    (kind, flags, head), (next_kind, _, body) = found
    assert kind == wire.OVERSIZED
    assert wire.published(flags, head)[:2] == ("big", 9)
    assert (next_kind, wire.published(2, body)) == (wire.PUBLISH, ("t", 10, b"small"))


@given(st.binary(max_size=200))
def test_garbage_is_packets_or_malformed_and_nothing_else(data: bytes) -> None:
    try:
        for _kind, flags, body in wire.Parser(LIMIT).feed(data):
            wire.published(flags, body)
    except wire.Malformed:
        pass


@pytest.mark.parametrize("data", [b"\x30\xff\xff\xff\xff\x01", b"\x20\xff\xff\xff\x7f" + b"x" * 70_000])
def test_impossible_lengths_are_malformed(data: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.Parser(LIMIT).feed(data)


@pytest.mark.parametrize(
    ("flags", "body"), [(2, b""), (2, b"\x00\x05ab"), (2, b"\x00\x01t\x00"), (6, b"\x00\x01t\x00\x01")]
)
def test_a_publish_that_lacks_something_is_malformed(flags: int, body: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.published(flags, body)


def test_short_acknowledgements_are_malformed() -> None:
    for decode in (wire.answered, wire.connack, wire.suback):
        with pytest.raises(wire.Malformed):
            decode(b"\x00")


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        # OASIS 4.7.1.2, 4.7.1.3, 4.7.2.1
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/player1/#", "sport/tennis/player10", False),
        ("sport/#", "sport", True),
        ("#", "anything/at/all", True),
        ("#", "$SYS/uptime", False),
        ("+/uptime", "$SYS/uptime", False),
        ("$SYS/#", "$SYS/uptime", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("a.c", "abc", False),
        ("a/+/c", "a/line\nbreak/c", True),
        ("$share/group/a/+", "a/b", True),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter: str, topic: str, matches: bool) -> None:
    assert bool(broker.matcher([topic_filter]).match(topic)) is matches


@pytest.mark.parametrize("topic", ["a", "a/b", "/a", "a//b", "$SYS/a/b"])
def test_every_filter_that_matches_a_topic_is_found(topic: str) -> None:
    found = broker.filters_matching(topic)
    candidates = {"#", "+", "a", "+/+", "a/b", "a/#", "+/#", "/a", "/+", "+/+/+", "a/+/b", "a//b", "+//#", "$SYS/#"}
    missed = {each for each in candidates if broker.matcher([each]).match(topic)} - set(found)
    assert not missed
    assert len(found) == len(set(found))


def test_a_very_deep_topic_has_too_many_filters_to_name() -> None:
    assert broker.filters_matching("/".join("abcdefghij")) == []


@pytest.mark.parametrize(
    ("given_filters", "kept"),
    [
        ("a", ("a",)),
        (["a/b", "a/#"], ("a/#",)),
        (["a", "a/#"], ("a/#",)),
        (["a/#", "a/+/#"], ("a/#",)),
        (["a/+", "a/#", "a/#"], ("a/#",)),
        (["+/b", "a/+"], ("+/b", "a/+")),
        (["#", "$SYS/#"], ("#", "$SYS/#")),
        (["a/+", "a/b/c"], ("a/+", "a/b/c")),
        (["$share/g/a", "a"], ("$share/g/a", "a")),
    ],
)
def test_filters_that_another_covers_are_left_out(given_filters: str | list[str], kept: tuple[str, ...]) -> None:
    assert broker.check_filters(given_filters) == kept


@pytest.mark.parametrize("topic", ["", "a/#/b", "a+", "a/b#", "a\0b", "\ud800", "x" * 65_536, []])
def test_impossible_filters_are_refused(topic: str | list[str]) -> None:
    with pytest.raises(ConfigError):
        broker.check_filters(topic)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "é" * 40_000])
def test_impossible_topics_are_refused(topic: str) -> None:
    with pytest.raises(ConfigError):
        broker.check_topic(topic)


def test_a_broker_url_is_taken_apart() -> None:
    found = broker.parse("mqtts://us%40er:p%2Fw@[::1]:8884?ca=/etc/ca.pem&insecure=1")
    assert found == broker.Broker(
        host="::1", port=8884, tls=True, user="us@er", password="p/w", ca="/etc/ca.pem", insecure=True
    )
    assert str(found) == "mqtts://[::1]:8884"
    assert broker.parse("mqtt://box").port == 1883
    assert broker.parse("mqtts://box").port == 8883


@pytest.mark.parametrize(
    "url",
    [
        "",
        "box",
        "http://secret@box",
        "mqtt://",
        "mqtt://u:secret@box:port",
        "mqtt://u:sec/ret@box",
        "mqtt://box/topic",
        "mqtt://box?ca=secret",
        "mqtts://box?colour=secret",
        "mqtt://box:70000",
        "mqtt://[::1",
    ],
)
def test_a_url_that_is_no_broker_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        broker.parse(url)
    assert "secret" not in caught.value.message


def test_certificate_files_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match="mqtts://box:8883"):
        broker.tls_context(broker.parse("mqtts://box?ca=/nowhere/ca.pem"))
