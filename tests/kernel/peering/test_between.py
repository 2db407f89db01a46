"""Requests between kernels over a bus that a test holds in its hand: it loses, it is late, and kernels die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from appliance.contracts import Busy, FlowError, PeerAway, PeerFailed, TimedOut
from appliance.kernel.peering import between
from appliance.kernel.peering.between import Asked, Asking, Between, KernelGone
from appliance.kernel.submission import Elsewhere
from appliance.sharing.service import ServiceAway


class Bus:
    """Carries messages when it is told to; ``lose`` says which not."""

    def __init__(self) -> None:
        self.ends: dict[str, Between] = {}
        self.waiting: list[tuple[str, Any]] = []
        self.lose: Callable[[Any], bool] = lambda part: False

    def end(self, box: str) -> Between:
        made = self.ends[box] = Between(self._send, box)
        return made

    def _send(self, box: str, part: Any, failed: Callable[[FlowError], None] | None) -> None:
        if box not in self.ends:
            if failed is not None:
                failed(ServiceAway("there is nobody"))
        elif not self.lose(part):
            self.waiting.append((box, part))

    def carry(self) -> None:
        while self.waiting:
            box, part = self.waiting.pop(0)
            if box in self.ends:
                self.ends[box].take(part)


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    monkeypatch.setattr(between, "_SURE", 0.0)
    return Bus()


def serve(end: Between) -> list[Asked]:
    """Keep what is asked."""
    asked: list[Asked] = []
    end.served["do"] = asked.append
    return asked


def both(bus: Bus) -> tuple[Between, Between, list[Asked]]:
    attic, cellar = bus.end("attic"), bus.end("cellar")
    return attic, cellar, serve(cellar)


def test_items_come_ahead_of_the_answer(bus: Bus) -> None:
    attic, _, asked = both(bus)
    items: list[Any] = []
    asking = attic.ask("cellar", "do", {"n": 1}, 10.0, items.append)
    bus.carry()
    assert asked[0].body == {"n": 1}
    asked[0].item("a")
    asked[0].answer(2)
    asked[0].answer(3)
    bus.carry()
    assert (items, asking.future.result(0)) == (["a"], 2)


@pytest.mark.parametrize(
    ("error", "kind", "about"),
    [
        (Busy("full", retry_after=3.0), Busy, lambda exc: exc.retry_after == 3.0),
        (PeerAway("off", sent=True), PeerAway, lambda exc: exc.sent),
        (PeerFailed("no", error_id="blob", retryable=False), PeerFailed, lambda exc: exc.error_id == "blob"),
        (Elsewhere("there"), Elsewhere, lambda exc: True),
        (TimedOut("late"), TimedOut, lambda exc: True),
        (FlowError("odd", retryable=False), PeerFailed, lambda exc: not exc.retryable),
    ],
)
def test_what_went_wrong_stays_what_it_was(bus: Bus, error: Any, kind: Any, about: Callable[[Any], bool]) -> None:
    attic, _, asked = both(bus)
    asking = attic.ask("cellar", "do", None, 10.0)
    bus.carry()
    asked[0].error(error)
    bus.carry()
    exc = asking.future.exception(0)
    assert type(exc) is kind and about(exc)


@pytest.mark.parametrize("kind", ["ask", "answer"])
def test_what_the_bus_loses_is_found_out(bus: Bus, kind: str) -> None:
    attic, cellar, asked = both(bus)
    bus.lose = lambda part: bool(part[1] == kind)
    asking = attic.ask("cellar", "do", None, 10.0)
    bus.carry()
    for each in asked:
        each.answer(1)
    bus.lose = lambda part: False
    attic.look({"attic", "cellar"})
    bus.carry()
    exc = asking.future.exception(0)
    assert isinstance(exc, KernelGone) and exc.sent
    assert not cellar._asked


def test_what_is_under_way_is_not_lost(bus: Bus) -> None:
    attic, _, asked = both(bus)
    asking = attic.ask("cellar", "do", None, 10.0)
    bus.carry()
    attic.look({"attic", "cellar"})
    bus.carry()
    assert not asking.future.done()
    asked[0].answer(1)
    bus.carry()
    assert asking.future.result(0) == 1


def test_a_request_that_is_given_up_is_ended_there(bus: Bus) -> None:
    attic, _, asked = both(bus)
    ends: list[str] = []
    ways: list[Callable[[Asking], object]] = [lambda one: one.future.cancel(), lambda one: attic.end(one, "away")]
    for number, end in enumerate(ways):
        asking = attic.ask("cellar", "do", None, 10.0)
        bus.carry()
        asked[number].on_end(ends.append)
        end(asking)
        bus.carry()
    assert ends == ["cancelled", "away"]


def test_the_dead_are_waited_for_no_more_and_give_nothing_up(bus: Bus) -> None:
    attic, cellar, asked = both(bus)
    asking = attic.ask("cellar", "do", None, 10.0)
    bus.carry()
    ends: list[str] = []
    asked[0].on_end(ends.append)
    attic.look({"attic"})
    assert isinstance(asking.future.exception(0), KernelGone)
    cellar.look({"cellar"})
    assert ends == ["away"]


def test_a_kernel_that_is_not_there_was_not_asked(bus: Bus) -> None:
    asking = bus.end("attic").ask("shed", "do", None, 10.0)
    exc = asking.future.exception(0)
    assert isinstance(exc, KernelGone) and not exc.sent


def test_a_kernel_asks_itself_without_the_bus(bus: Bus) -> None:
    attic = bus.end("attic")
    asked, items, ends = serve(attic), list[Any](), list[str]()
    asking = attic.ask("attic", "do", 1, 10.0, items.append)
    asked[0].item(2)
    asked[0].answer(3)
    assert (items, asking.future.result(0), bus.waiting) == ([2], 3, [])
    asking = attic.ask("attic", "do", 1, 10.0)
    asked[1].on_end(ends.append)
    asking.future.cancel()
    assert ends == ["cancelled"]


def test_nobody_waits_for_ever(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "_GRACE", 0.0)
    attic, cellar, asked = both(bus)
    asking = attic.ask("cellar", "do", None, 0.0)
    bus.carry()
    ends: list[str] = []
    asked[0].on_end(ends.append)
    for each in (attic, cellar):
        each.look({"attic", "cellar"})
    assert isinstance(asking.future.exception(0), TimedOut) and ends == ["late"]
