"""One driver and who wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drivers.base import Driver, DriverConfig, Emit, Observation, Stop
from edge_agent import units
from edge_agent.protocol.messages import Body
from edge_agent.units import Claims, Machine, Unit
from tests.support.broker import eventually


class Last(Driver[DriverConfig]):
    """Sees something in the moment in which it is told to stop."""

    type = "last"

    def events(self, emit: Emit) -> Stop:
        return lambda: emit(Observation("door", "changed", True, 1.0))


def test_what_a_driver_sees_while_it_is_being_ended_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have noted that it told of it, and would not do so again at the next start."""
    monkeypatch.setattr(units, "find", lambda name: Last)
    taken: list[tuple[tuple[str, ...], Any]] = []

    def put(watches: tuple[str, ...], body: Body, at: float, priority: int) -> None:
        taken.append((watches, body.value))

    unit = Unit("last", {}, Machine(tmp_path, lambda data, mime: {}), Claims(), put, lambda: None)
    unit.want(("flow/t",))
    eventually(lambda: unit.ok, "the driver's start")
    unit.end()
    assert unit.join()
    assert taken == [(("flow/t",), True)]
    assert unit.watches == ()
