"""Events from engine to engine: each starts one run there, whatever is cut off or killed in between."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts.peers import PeerRoles
from appliance.engine.states import RunState
from appliance.kernel.peering import outbox
from appliance.kernel.state import OUTBOX
from appliance.triggers.peer_event import PeerEvent, matches
from tests.kernel.peering.conftest import House, MakeHouse
from tests.support.bench_engine import AnyWorld
from tests.support.flows import flow, node
from tests.support.peer_net import PeerBench, turn

SEND = flow(node("tell", "emit", {"topic": "door/opened", "to": ["laptop"]}))


def listening(pattern: str = "door/+", **config: Any) -> dict[str, Any]:
    trigger = {"id": "t1", "type": "peer_event", "config": {"topic": pattern, **config}}
    return {**flow(node("a", "pure")), "triggers": [trigger]}


def two(house: House, **config: Any) -> tuple[PeerBench, PeerBench]:
    pi, laptop = house.engine("pi"), house.engine("laptop")
    pi.deploy(1, SEND)
    laptop.deploy(1, listening(**config))
    laptop.listen(1)
    return pi, laptop


def received(bench: PeerBench) -> list[Any]:
    return [bench.recovery.told(row, []).walk.payload for row, _ in bench.rows() if row.flow == 1]


def waiting(bench: PeerBench) -> int:
    return sum(not key.startswith("@") for key in bench.services.states.of(OUTBOX))


def send(pi: PeerBench, others: list[PeerBench], *payloads: Any) -> None:
    done = [pi.submit(1, payload) for payload in payloads]
    turn([pi, *others], lambda: all(done))
    assert all(each[0].state is RunState.SUCCEEDED for each in done), done[0][0].error


def test_an_event_starts_a_run_there(house: House) -> None:
    pi, laptop = two(house)
    send(pi, [laptop], {"door": "front"})
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == [{"door": "front"}]
    run = laptop.recovery.told(laptop.rows()[0][0], [])
    assert run.event["peer"] == "pi" and run.event["topic"] == "door/opened"
    assert run.event["from_run"] == pi.rows()[0][0].id or len(run.event["from_run"]) == 13


def test_it_waits_for_an_engine_that_is_away_and_keeps_the_order(house: House) -> None:
    pi, laptop = two(house)
    house.net.cut("pi", "laptop")
    send(pi, [], *range(150))
    assert waiting(pi) == 150 and received(laptop) == []
    pi = house.again("pi")
    assert waiting(pi) == 150, "the outbox is on disk"
    house.net.join("pi", "laptop")
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == list(range(150))


def test_who_does_not_listen_and_who_may_not(house: House) -> None:
    house.net.roles["laptop", "pi"] = PeerRoles(rights=frozenset({"events"}), workspaces=frozenset({"garden"}))
    pi, laptop = two(house)
    send(pi, [laptop], 1)
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == [], "the pairing names another workspace"


def test_from_others_and_of_other_topics_nothing_starts(house: House) -> None:
    pi, laptop = two(house, **{"from": ["desk"]})
    send(pi, [laptop], 1)
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == []


@pytest.mark.parametrize("victim", ["link", "pi", "laptop"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_cut_at_any_message(make_house: MakeHouse, victim: str, behind: bool) -> None:
    for number in range(1, 6):
        house = make_house()
        pi, laptop = two(house)
        house.net.cut_at = (number, behind)
        for payload in range(3):
            send(pi, [laptop], payload)
        turn([pi, laptop], lambda net=house.net, pi=pi: bool(net.cut_links) or not waiting(pi))
        house.net.cut_at = None
        if victim == "pi":
            pi = house.again("pi")
        elif victim == "laptop":
            laptop = house.again("laptop")
            laptop.listen(1)
        house.net.join("pi", "laptop")
        turn([pi, laptop], lambda pi=pi, laptop=laptop: not waiting(pi) and not laptop.engine.runs)
        assert received(laptop) == [0, 1, 2], number
        house.close()


def test_while_its_flow_is_deployed_anew_an_event_waits(house: House) -> None:
    pi, laptop = two(house)
    laptop.deaf()
    send(pi, [laptop], 1)
    turn([pi, laptop], lambda: house.net.count.get("event", 0) >= 1)
    assert waiting(pi) == 1
    laptop.listen(1)
    pi.pass_time(5)
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == [1]


def test_what_had_to_be_left_out_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST", 10)
    pi, laptop = two(house)
    house.net.cut("pi", "laptop")
    send(pi, [], *range(25))
    assert waiting(pi) == 10
    assert pi.engine.outbox.view()["laptop-id"]["lost"] == 15
    house.net.join("pi", "laptop")
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == list(range(15, 25))
    assert laptop.recovery.told(laptop.rows()[0][0], []).event["missed"] == 15
    assert pi.engine.outbox.view() == {}


def test_what_is_too_old_is_left_out(house: House) -> None:
    pi, _ = two(house)
    house.net.cut("pi", "laptop")
    send(pi, [], 1)
    pi.pass_time(8 * 86_400)
    send(pi, [], 2)
    assert waiting(pi) == 1


def test_nobody_is_called_so(house: House) -> None:
    pi, laptop = two(house)
    pi.deploy(2, flow(node("tell", "emit", {"topic": "x", "to": ["robot"]})))
    run = pi.run(1, num=2)
    assert run.state is RunState.FAILED and "no engine here is called 'robot'" in run.error["message"]
    assert "laptop" in run.error["message"]
    assert laptop.rows() == []


def test_patterns() -> None:
    assert matches("#", "a/b") and matches("a/#", "a/b/c") and matches("a/#", "a") and matches("a/+/c", "a/b/c")
    assert not matches("a/+", "a/b/c") and not matches("a", "b") and not matches("a/b", "a")
    assert [p.path for p in PeerEvent().check({"topic": "a/#/b"}, AnyWorld())] == ["topic"]
    assert not list(PeerEvent().check({"topic": "a/+/#"}, AnyWorld()))


def test_an_event_that_can_never_be_sent_holds_up_no_other(house: House) -> None:
    """Its blob is gone, say."""
    pi, laptop = two(house)
    house.net.cut("pi", "laptop")
    send(pi, [], "a", {"file": pi.services.blobs.put(b"gone")}, "b")
    for info in list(pi.services.blobs):  # type: ignore[call-overload]
        pi.services.blobs.delete(info.digest)  # type: ignore[attr-defined]
    house.net.join("pi", "laptop")
    turn([pi, laptop], lambda: not waiting(pi))
    assert received(laptop) == ["a", "b"]
    assert laptop.recovery.told(laptop.rows()[-1][0], []).event["missed"] == 1


def test_what_a_cluster_had_not_numbered_goes_out_when_the_engine_is_one_again(house: House) -> None:
    """It was moved to one machine before the kernel with the links had seen what another one had kept."""
    pi, laptop = two(house)
    send(pi, [laptop], 1)
    turn([pi, laptop], lambda: not waiting(pi))
    peer = {"topic": "door/opened", "at": pi.services.wall(), "run": "", "peer": laptop.end.id}
    kept = {f"{outbox.FRESH}{n}": {**peer, "payload": n} for n in (3, 2)}
    pi.engine.post(lambda: pi.engine.keeper.loose_ops(kept, OUTBOX))
    turn([pi, laptop], lambda: len(pi.services.states.of(OUTBOX)) > 2)
    pi = house.again("pi")
    turn([pi, laptop], lambda: len(received(laptop)) == 3 and set(pi.services.states.of(OUTBOX)) == {"@name", "@seq"})
    assert received(laptop) == [1, 2, 3]
