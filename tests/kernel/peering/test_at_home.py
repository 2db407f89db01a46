"""A kernel of a cluster and what it is handed: it says nothing for flows that are not, or not all the time, at home."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from appliance.contracts.peers import PeerState
from appliance.kernel.peering import wire
from appliance.kernel.peering.at_home import Handed, make_home
from appliance.kernel.peering.between import Asked
from appliance.kernel.submission import Elsewhere
from tests.kernel.peering.conftest import House
from tests.kernel.peering.test_events import listening, received
from tests.support.peer_net import ALL, PeerBench, turn

Said = list[tuple[str, Any]]


def handed(method: str, body: Any, flows: list[int]) -> tuple[Handed, Said]:
    peer = msgspec.to_builtins(PeerState(id="pi-id", name="pi", state="connected", roles=ALL))
    said: Said = []
    told = {"peer": peer, "method": method, "body": body, "flows": flows}
    return Handed(Asked(told, time.monotonic() + 60, lambda kind, value: said.append((kind, value)))), said


def kernel(house: House, *looks: set[int]) -> PeerBench:
    """With flow 1, which is seen to be at home, or not, at each look in turn."""
    bench, left = house.engine("laptop", link=False), list(looks)

    def stays(flows: Sequence[int]) -> set[int]:
        return (left.pop(0) if len(left) > 1 else left[0]) & set(flows)

    make_home(bench.engine, stays)
    bench.link()
    bench.deploy(1, listening())
    bench.listen(1)
    return bench


@pytest.mark.parametrize(("looks", "flows"), [([{1}], [1]), ([set()], []), ([{1}, set()], []), ([set(), {1}], [])])
def test_events_count_for_flows_that_were_here_all_the_time(
    house: House, looks: list[set[int]], flows: list[int]
) -> None:
    bench = kernel(house, *looks)
    request, said = handed("event", {"outbox": "o", "events": [{"seq": 1, "topic": "door/a", "payload": 7}]}, [1])
    bench.engine.peer_events._on_event(request)
    turn([bench], lambda: bool(said))
    assert said == [("answer", {"upto": 1, "pause": 0.0, "runs": 1, "flows": flows})]
    turn([bench], lambda: bool(received(bench)))
    # It is sent again, and starts nothing again.
    request, said = handed("event", {"outbox": "o", "events": [{"seq": 1, "topic": "door/a", "payload": 7}]}, [1])
    bench.engine.peer_events._on_event(request)
    turn([bench], lambda: bool(said))
    assert received(bench) == [7]


def test_a_step_is_not_unknown_where_its_flow_is_not_at_home(house: House) -> None:
    bench = kernel(house, {1})

    def away(flow: int) -> None:
        raise Elsewhere("it is on its way")

    bench.engine.require_home = away
    request, said = handed("step", {"id": "R", "ask": True}, [900])
    bench.engine.guests._on_step(request)
    turn([bench], lambda: bool(said))
    assert [(kind, value["id"]) for kind, value in said] == [("failed", "elsewhere")]
    bench.engine.require_home = lambda flow: None
    request, said = handed("step", {"id": "R", "ask": True}, [900])
    bench.engine.guests._on_step(request)
    turn([bench], lambda: bool(said))
    assert said == [("answer", msgspec.to_builtins(wire.Outcome(state=wire.UNKNOWN)))]


def test_only_the_kernel_with_the_run_says_that_its_step_is_not_wanted(house: House) -> None:
    bench = kernel(house, {1})
    request, said = handed("step_wanted", {"ids": ["0000000000000-/far#1-ab", "nonsense"]}, [])
    bench.engine.guests._on_wanted(request)
    assert said == [("answer", {"not": []})]
