"""A secret shows itself to nobody who does not ask by name."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import msgspec
import pytest

from appliance.security.secret import MASK, Secret


def test_it_never_shows() -> None:
    secret = Secret("hunter2hunter2")
    for shown in (
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret:>20}",
        format(secret),
        str([secret]),
        str({1: secret}),
    ):
        assert "hunter2" not in shown
        assert MASK in shown
    assert secret.reveal() == "hunter2hunter2"


@pytest.mark.parametrize(
    "writer", [pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode, msgspec.msgpack.encode]
)
def test_it_is_not_written_anywhere(writer: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as failure:
        writer(Secret("hunter2hunter2"))
    assert "hunter2" not in str(failure.value)


def test_equality() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
