"""What every driver has to keep to. The test of a driver subclasses :class:`Contract` and gives it its hardware."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from drivers.base import Driver, DriverError, Entity, Observation, all_types, find
from tests.drivers.host import FakeHost, Heard

_KINDS = {"binary", "number", "text", "event", "image"}
GARBAGE: list[Any] = [
    {},
    {"no such command": 1},
    {"value": {"deep": [1, 2, {}]}},
    {"entity": 7},
    {"value": float("nan")},
    {"value": "\0\x1b[31m" * 100},
    {"": None},
    {"value": 10**30},
    {"write": -1, "read": "x"},
]


class Contract:
    """A subclass has a ``driver`` fixture: an instance that can be opened, with nothing open yet."""

    @pytest.fixture(autouse=True)
    def _no_threads_left(self, driver: Driver[Any]) -> Iterator[None]:
        before = set(threading.enumerate())
        yield
        driver.close()
        assert not set(threading.enumerate()) - before

    def test_says_what_it_is(self, driver: Driver[Any]) -> None:
        kind = type(driver)
        assert find(kind.type) is kind
        assert all_types()[kind.type] is kind
        assert kind.title
        schema = msgspec.json.schema(kind.Config)
        assert schema["$defs"][kind.Config.__name__]["properties"]
        assert kind.unavailable() == ""

    def test_a_config_survives_the_wire_and_shares_by_being_equal(self, driver: Driver[Any]) -> None:
        wire = msgspec.json.encode(driver.config)
        again = msgspec.json.decode(wire, type=type(driver.config))
        assert again == driver.config

    def test_a_config_with_an_unknown_field_is_refused(self, driver: Driver[Any]) -> None:
        raw = msgspec.to_builtins(driver.config) | {"no_such_field": 1}
        with pytest.raises(msgspec.ValidationError, match="no_such_field"):
            msgspec.convert(raw, type(driver.config))

    def test_claims_are_known_before_it_is_open(self, driver: Driver[Any]) -> None:
        claims = driver.claims()
        assert all(isinstance(claim, str) and ":" in claim for claim in claims)
        driver.open()
        assert driver.claims() == claims

    def test_opens_and_closes_any_number_of_times(self, driver: Driver[Any]) -> None:
        driver.close()
        for _ in range(2):
            driver.open()
            driver.open()
            driver.close()
            driver.close()

    def test_nothing_works_while_it_is_closed(self, driver: Driver[Any]) -> None:
        with pytest.raises(DriverError):
            driver.events(Heard())
        for command in GARBAGE:
            with pytest.raises(DriverError):
                driver.write(command)

    def test_a_watch_stops_and_begins_again(self, driver: Driver[Any]) -> None:
        driver.open()
        heard = Heard()
        for _ in range(2):
            try:
                stop = driver.events(heard)
            except DriverError as exc:
                assert "has no events" in exc.message
                return
            with pytest.raises(DriverError, match="watched already"):
                driver.events(Heard())
            stop()
            told = len(heard.all)
            stop()
            assert len(heard.all) == told

    def test_an_old_stop_does_not_end_the_next_watch(self, driver: Driver[Any]) -> None:
        driver.open()
        try:
            first = driver.events(Heard())
        except DriverError:
            return
        first()
        second = driver.events(Heard())
        first()
        with pytest.raises(DriverError, match="watched already"):
            driver.events(Heard())
        second()

    def test_close_ends_the_watch_also_from_another_thread(self, driver: Driver[Any]) -> None:
        driver.open()
        try:
            stop = driver.events(Heard())
        except DriverError:
            return
        closer = threading.Thread(target=driver.close)
        closer.start()
        closer.join(20)
        assert not closer.is_alive()
        stop()

    def test_an_emit_that_stops_the_watch_or_raises_does_no_harm(self, driver: Driver[Any]) -> None:
        def emit(_: Observation) -> None:
            driver.safe_state()
            raise RuntimeError("full")

        driver.open()
        try:
            stop = driver.events(emit)
        except DriverError:
            return
        stop()
        driver.close()

    def test_garbage_commands_are_refused(self, driver: Driver[Any]) -> None:
        driver.open()
        for command in GARBAGE:
            with pytest.raises(DriverError) as caught:
                driver.write(command)
            assert caught.value.message

    def test_a_command_to_another_entity_is_refused(self, driver: Driver[Any]) -> None:
        driver.open()
        with pytest.raises(DriverError):
            driver.write({"entity": "no such entity", "value": True})

    def test_the_safe_state_never_raises(self, driver: Driver[Any]) -> None:
        driver.safe_state()
        driver.open()
        driver.safe_state()
        driver.safe_state()
        driver.close()
        driver.safe_state()

    def test_entities_are_whole(self, driver: Driver[Any]) -> None:
        driver.open()
        entities = driver.entities()
        assert len({entity.id for entity in entities}) == len(entities)
        for entity in entities:
            assert isinstance(entity, Entity)
            assert entity.id
            assert entity.name
            assert entity.kind in _KINDS
            assert bool(entity.commands) == entity.writable
            msgspec.json.encode(entity)


def observed(heard: Heard, host: FakeHost) -> None:
    """What holds for everything that a driver said: JSON, a time of this machine's clock."""
    assert heard.all
    for observation in heard.all:
        assert msgspec.json.decode(msgspec.json.encode(observation), type=Observation)
        assert observation.source
        assert abs(observation.at - host.now()) < 120
