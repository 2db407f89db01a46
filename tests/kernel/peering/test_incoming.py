"""What peers ask of a cluster, handed on to kernels that a test plays: who is asked, and what the peer hears."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.contracts import Busy
from appliance.contracts.peers import PeerState
from appliance.kernel.peering.between import Asked, Between, KernelGone
from appliance.kernel.peering.incoming import HANDED, Incoming
from appliance.kernel.submission import Elsewhere
from appliance.sharing.members import KERNEL, Member


class Request:
    """Of a peer."""

    def __init__(self, body: Any) -> None:
        self.peer = PeerState(id="pi", name="pi", state="connected")
        self.body = body
        self.until = time.monotonic() + 60
        self.said: list[Any] = []
        self.ends: list[Callable[[str], None]] = []

    def answer(self, value: Any = None) -> None:
        self.said.append(value)

    def error(self, exc: BaseException) -> None:
        self.said.append(exc)

    def item(self, value: Any) -> None:
        self.said.append(("item", value))

    def on_end(self, callback: Callable[[str], None]) -> None:
        self.ends.append(callback)


class House:
    """Two kernels, each with one listening flow and one in which the peer's steps run; ``asked`` is what came to whom.

    What waits for its next try waits in ``later``.
    """

    def __init__(self) -> None:
        self.homes = {1: 1, 2: 2, 11: 1, 12: 2}
        self.alive = [1, 2]
        self.asked: list[tuple[int, Asked]] = []
        self.later: list[Callable[[], None]] = []
        self.ends: dict[str, Between] = {}
        for writer in (1, 2):
            box = f"kernel.{writer}.1"
            end = self.ends[box] = Between(lambda to, part, failed: self.ends[to].take(part), box)
            end.served[HANDED] = partial(self._came, writer)
        versions = [SimpleNamespace(num=num, enabled=True) for num in (1, 2)]
        live = [(flow, SimpleNamespace(body={"triggers": [{"type": "peer_event"}]})) for flow in versions]
        engine = SimpleNamespace(
            post=lambda work: work(),
            steps=SimpleNamespace(io=SimpleNamespace(call=lambda work: work())),
            timers=SimpleNamespace(after=lambda seconds, work: self.later.append(work)),
            guests=SimpleNamespace(flows_of=lambda peer: {11, 12}, versions=lambda peer, workspace, node: (11, 5)),
        )
        store = SimpleNamespace(changes=dict, flows=SimpleNamespace(live=lambda: live))
        kernel: Any = SimpleNamespace(engine=engine, store=store, journal=SimpleNamespace(load=lambda run: None))
        cluster: Any = SimpleNamespace(
            around=lambda: [Member(one, 1, KERNEL, str(one), str(one), 5.0, 9.0) for one in self.alive],
            members=SimpleNamespace(homes=lambda: dict(self.homes)),
        )
        homes: Any = SimpleNamespace(require=lambda flow: None)
        self.incoming = Incoming(kernel, homes, cluster, self.ends["kernel.1.1"])

    def _came(self, writer: int, asked: Asked) -> None:
        self.asked.append((writer, asked))

    def ask(self, method: str, body: Any) -> Request:
        request = Request(body)
        self.incoming.routed()[method](request)
        return request

    def next(self) -> tuple[int, Asked]:
        return self.asked.pop(0)


@pytest.fixture
def house() -> House:
    return House()


EVENTS = {"outbox": "o", "events": [{"seq": 7, "topic": "a"}, {"seq": 8, "topic": "a"}]}
STEP = {"id": "R-0/far#1-ab", "node": {"id": "far", "type": "mark"}}


def took(asked: Asked, upto: int = 8, **more: Any) -> None:
    asked.answer({"upto": upto, "pause": 0.0, "runs": 1, "flows": asked.body["flows"], **more})


def test_events_are_acknowledged_when_every_flow_has_them(house: House) -> None:
    request = house.ask("event", EVENTS)
    (first, one), (second, other) = house.next(), house.next()
    assert {first: one.body["flows"], second: other.body["flows"]} == {1: [1], 2: [2]}
    took(one)
    assert not request.said
    took(other)
    assert request.said == [{"upto": 8, "pause": 0.0, "runs": 2}]


@pytest.mark.parametrize("fault", ["not at home", "gone", "refused", "no kernel"])
def test_events_are_sent_again_if_one_flow_may_lack_them(house: House, fault: str) -> None:
    if fault == "no kernel":
        house.homes[2] = 3
    request = house.ask("event", EVENTS)
    took(house.next()[1])
    if fault != "no kernel":
        _, other = house.next()
        if fault == "not at home":
            took(other, flows=[])
        elif fault == "gone":
            house.incoming.between.look({"kernel.1.1"})
        else:
            other.error(Busy("starting"))
    assert [(said["upto"], said["pause"] > 0) for said in request.said] == [(0, True)]


def test_the_slowest_kernel_counts(house: House) -> None:
    request = house.ask("event", EVENTS)
    took(house.next()[1])
    took(house.next()[1], upto=7, pause=0.5)
    assert request.said == [{"upto": 7, "pause": 0.5, "runs": 2}]


def test_a_step_goes_to_the_next_home_when_its_kernel_dies(house: House) -> None:
    house.homes[11] = 2
    request = house.ask("step", STEP)
    writer, asked = house.next()
    assert (writer, asked.body["flows"]) == (2, [11])
    house.alive = [1]
    house.incoming.between.look({"kernel.1.1"})
    house.later.pop()()
    assert not house.asked and not request.said, "it is on its way"
    house.homes[11] = 1
    house.later.pop()()
    writer, asked = house.next()
    assert (writer, asked.body["body"]) == (1, STEP)
    asked.error(Busy("full"))
    assert not request.said, "the peer would have it done elsewhere, and the dead kernel may have done it"
    house.later.pop()()
    house.next()[1].answer({"state": "done"})
    assert request.said == [{"state": "done"}]


def test_a_step_that_nobody_has_taken_may_be_refused(house: House) -> None:
    request = house.ask("step", STEP)
    house.next()[1].error(Elsewhere("it is moving"))
    house.later.pop()()
    house.next()[1].error(Busy("full"))
    assert [type(said) for said in request.said] == [Busy]


def test_a_step_is_unknown_when_every_home_says_so(house: House) -> None:
    request = house.ask("step", {"id": "R", "ask": True})
    for writer in (1, 2):
        found, asked = house.next()
        assert found == writer and not request.said
        asked.answer({"state": "unknown"})
    assert [said["state"] for said in request.said] == ["unknown"]


def test_a_step_that_nobody_waits_for_is_ended_at_its_home(house: House) -> None:
    request = house.ask("step", STEP)
    ends: list[str] = []
    house.next()[1].on_end(ends.append)
    request.ends[0]("cancelled")
    assert ends == ["cancelled"] and not request.said


def test_a_step_is_wanted_unless_somebody_knows_better(house: House) -> None:
    request = house.ask("step_wanted", {"ids": ["a", "b", "c"]})
    house.next()[1].answer({"not": ["b"]})
    house.next()[1].error(KernelGone("gone", sent=True))
    assert request.said == [{"not": ["b"]}]
