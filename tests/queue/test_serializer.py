"""What the serializer brings back, and what it refuses."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

import pytest
from huey.exceptions import TaskException
from huey.registry import Message
from huey.utils import SKIPPED, Error
from hypothesis import given
from hypothesis import strategies as st

from appliance.queue.errors import Unserializable
from appliance.queue.serializer import MsgpackSerializer

serializer = MsgpackSerializer()

zones = st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=45)), timezone(-timedelta(hours=9))])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=zones)
    | st.timedeltas()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=20,
)


def there_and_back(value: Any) -> Any:
    return serializer.deserialize(serializer.serialize(value))


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down (True is not 1, a list is not a tuple)."""
    if type(a) is not type(b) or a != b:
        return False
    if isinstance(a, list | tuple):
        return all(map(same, a, b))
    if isinstance(a, dict):
        return all(same(value, b[key]) for key, value in a.items())
    return True


@given(values)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(st.tuples(values, values), st.dictionaries(st.text(), values))
def test_messages_come_back_as_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    follower = Message("2", "module.other", args=(), kwargs={}, chord_config=("c", 2, 0, Message("3", "module.last")))
    message = Message("1", "module.task", datetime(2026, 1, 1), 3, 1.5, -2, args, kwargs, follower, follower)
    back = there_and_back(message)
    assert isinstance(back, Message)
    assert same(tuple(back), tuple(message))


def test_a_message_with_fewer_fields_is_one_of_an_older_version() -> None:
    class Older(MsgpackSerializer):
        pass

    data = serializer.serialize(Message("1", "module.task", args=(), kwargs={}))
    # A fixed array of 15 becomes one of 14, without the last None; the extension is a byte shorter.
    assert data[0] == 0xC7 and data[2] == 1 and data[3] == 0x9F
    shorter = bytes([0xC7, data[1] - 1, 1, 0x9E]) + data[4:-1]
    assert serializer.deserialize(shorter) == Message("1", "module.task", args=(), kwargs={})


def test_what_huey_stores_besides() -> None:
    assert there_and_back(Error({"error": "x", "retries": 0})) == Error({"error": "x", "retries": 0})
    assert there_and_back(SKIPPED) is SKIPPED


def test_an_exception_comes_back_as_a_task_exception() -> None:
    back = there_and_back((ZeroDivisionError("by zero"),))[0]
    assert type(back) is TaskException
    assert back.metadata == {"error": "ZeroDivisionError('by zero')", "type": "ZeroDivisionError"}
    assert str(there_and_back(back)) == "ZeroDivisionError('by zero')", "and may travel on"


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int = 0


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({1, 2}, "builtins.set"),
        (Colour.RED, "Colour"),
        (Point(), "Point"),
        (OrderedDict(), "collections.OrderedDict"),
        (date(2026, 1, 1), "datetime.date"),
        (object(), "builtins.object"),
        ([[{"deep": 1j}]], "builtins.complex"),
        ({(1, 2): 3}, "a dict key of type builtins.tuple"),
        ({None: 3}, "a dict key of type builtins.NoneType"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(value: Any, what: str) -> None:
    with pytest.raises(Unserializable, match=what) as caught:
        serializer.serialize(value)
    assert "pass None, bool, int" in str(caught.value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [2**64, -(2**63) - 1, "\ud800", nested(100_000)], ids=["big", "small", "half", "deep"]
)
def test_what_msgpack_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(Unserializable, match="the queue cannot carry"):
        serializer.serialize(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x93\x01",
        b"not msgpack",
        pickle.dumps(Message("1", "module.task")),
        b"\xd4\x63\xc0",  # an extension of unknown type
        b"\xd4\x05\x01",  # a datetime that is a number
        b"\xd4\x01\xc0",  # a message that is null
        b"\xdc\xff\xff" + b"\x91" * 65535 * 2,
    ],
    ids=range(9),
)
def test_damaged_or_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Unserializable, match="not a message of this version"):
        serializer.deserialize(data)


@given(st.binary())
def test_any_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    try:
        serializer.deserialize(data)
    except Unserializable:
        pass
