"""Links that break and engines that die at any moment: no ``once`` effect is doubled, and nothing is lost.

The cut comes right before or right behind the n-th message, for every n, with real journals on both sides.
"""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts import Context, Effect, Node
from appliance.engine import trace
from appliance.engine.states import RunState
from tests.kernel.peering.conftest import House, MakeHouse
from tests.kernel.peering.test_placement import need
from tests.support.flows import flow, node
from tests.support.peer_net import PeerBench, turn
from tests.support.probes import Hanging, ProbeConfig


class Act(Node[ProbeConfig]):
    """An effect on the world outside: a list that outlives every engine."""

    Config = ProbeConfig

    def __init__(self, effect: Effect, world: list[str]) -> None:
        self.chosen, self.world = effect, world

    def effect_of(self, config: Any) -> Effect:
        return self.chosen

    async def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        self.world.append(ctx.idempotency_key)
        return payload


def acts(world: list[str], effect: Effect) -> dict[str, Node[Any]]:
    return {"act": Act(effect, world), "pure": Act(Effect.PURE, [])}


def answer_unverified(bench: PeerBench) -> None:
    """A person says of what was cut off that it was done."""
    for run in list(bench.engine.runs.values()):
        for index, parked in list(run.parked.items()):
            if parked.unverified:
                bench.engine.steps.decide(run, index, "skip", "test")


SHAPE = flow(node("before", "pure"), need("there", "act", "engine:laptop"), node("after", "pure"))


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("victim", ["link", "pi", "laptop"])
def test_a_cut_at_any_message(make_house: MakeHouse, effect: Effect, behind: bool, victim: str) -> None:
    for number in range(1, 8):
        house = make_house()
        world: list[str] = []
        pi = house.engine("pi", acts(world, effect))
        laptop = house.engine("laptop", acts(world, effect))
        pi.deploy(1, SHAPE)
        pi.submit(1, {"n": 1}, id="e1", unique=True)
        house.net.cut_at = (number, behind)
        turn([pi, laptop], lambda net=house.net, pi=pi: bool(net.cut_links) or not pi.engine.runs)
        house.net.cut_at = None
        if victim == "pi":
            pi = house.again("pi", acts(world, effect))
        elif victim == "laptop":
            laptop = house.again("laptop", acts(world, effect))
        house.net.join("pi", "laptop")

        def settled(pi: PeerBench = pi, laptop: PeerBench = laptop) -> bool:
            answer_unverified(pi)
            return not pi.engine.runs and not laptop.engine.runs

        turn([pi, laptop], settled)
        assert pi.states() == ["succeeded"], (number, pi.states())
        assert len(set(world)) == 1, (number, world)
        if effect is Effect.ONCE:
            assert len(world) == 1, (number, world)
        house.close()


def hanging(effect: Effect) -> dict[str, Node[Any]]:
    return {"hanging": Hanging(effect)}


def begun(house: House, effect: Effect, **more: Any) -> tuple[PeerBench, PeerBench, Any]:
    """A step hangs at the laptop."""
    pi, laptop = house.engine("pi", hanging(effect)), house.engine("laptop", hanging(effect))
    pi.deploy(1, flow(need("a", "hanging", "engine:laptop", **more)))
    pi.submit(1)
    probe: Any = laptop.registry.nodes["hanging"]
    turn([pi, laptop], lambda: probe.began.acquire(blocking=False))
    return pi, laptop, probe


def test_the_link_breaks_and_the_work_goes_on(house: House) -> None:
    pi, laptop, _ = begun(house, Effect.ONCE)
    house.net.cut("pi", "laptop")
    pi.engine.pump(), laptop.engine.pump()
    assert len(laptop.engine.runs) == 1, "nobody ended it"
    asked = house.net.count["step"]
    house.net.join("pi", "laptop")
    turn([pi, laptop], lambda: house.net.count["step"] > asked)
    turn([pi, laptop], lambda: house.net.count.get("step_wanted", 0) > 0)
    assert len(laptop.engine.runs) == 1, "it is still wanted"


def test_once_stays_with_the_peer_that_may_have_done_it(house: House) -> None:
    pi, laptop, _ = begun(house, Effect.ONCE, timeout="10m")
    desk = house.engine("desk", hanging(Effect.ONCE))
    laptop.die()
    pi.pass_time(300)
    with pi.engine.timers._changed:
        pass
    turn([pi, desk], lambda: True)
    assert not desk.rows(), "nobody else is asked"
    run = next(iter(pi.engine.runs.values()))
    assert run.state is RunState.WAITING
    pi.pass_time(400)
    turn([pi, desk], lambda: any(parked.unverified for parked in run.parked.values()))


def test_once_that_was_cut_off_there_is_asked_about_here(house: House) -> None:
    pi, laptop, _ = begun(house, Effect.ONCE)
    run = next(iter(pi.engine.runs.values()))
    laptop = house.again("laptop", hanging(Effect.ONCE))
    turn([pi, laptop], lambda: any(parked.unverified for parked in run.parked.values()))
    assert laptop.states() == ["failed"]
    pi.engine.steps.decide(run, 0, "skip", "test")
    turn([pi, laptop], lambda: run.ended)
    assert run.state is RunState.SUCCEEDED


def test_another_peer_takes_what_may_be_done_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.kernel.peering.placement.PATIENCE", 0.0)
    world: list[str] = []
    pi = house.engine("pi", hanging(Effect.IDEMPOTENT) | acts(world, Effect.IDEMPOTENT))
    from appliance.contracts.peers import PeerOffers

    laptop = house.engine("laptop", {"act": Hanging(Effect.IDEMPOTENT)})
    desk = house.engine("desk", acts(world, Effect.IDEMPOTENT))
    for bench, load in ((laptop, 0.1), (desk, 2.0)):
        bench.end.offers = PeerOffers(devices=("/lamp",), load=load)
    pi.deploy(1, flow(need("a", "act", "device:lamp")))
    done = pi.submit(1, 7)
    probe: Any = laptop.registry.nodes["act"]
    turn([pi, laptop, desk], lambda: probe.began.acquire(blocking=False))
    laptop.die()
    turn([pi, desk], lambda: bool(done))
    assert done[0].state is RunState.SUCCEEDED
    assert world == [f"{done[0].text}-a"], "under the key that it had before"
    tries = [record for record in pi.rows()[0][1] if record.kind == trace.RETRY]
    assert [record.value["message"] for record in tries] == ["laptop went away in the middle of it"]


def test_what_was_given_up_meanwhile_is_ended_there(house: House) -> None:
    pi, laptop, probe = begun(house, Effect.ONCE)
    house.net.cut("pi", "laptop")
    pi.engine.cancel(next(iter(pi.engine.runs.values())), "a test")
    pi.engine.pump()
    assert laptop.engine.runs
    house.net.join("pi", "laptop")
    turn([pi, laptop], lambda: not laptop.engine.runs)
    assert laptop.states() == ["cancelled"] and probe.ended.wait(5)


def test_its_secrets_are_asked_for_again_behind_a_crash(house: House) -> None:
    """The laptop dies with the run on disk and before its step began; what it kept holds no secret."""
    from appliance.security.scrub import Scrubber
    from tests.kernel.peering.test_placement import Tell

    pi, laptop = house.engine("pi", {"tell": Tell()}), house.engine("laptop", {"tell": Tell()})

    def hides(bench: PeerBench, *values: str) -> None:
        scrubber = Scrubber(values)
        bench.engine.keeper.found_secret, bench.engine.keeper.scrub = scrubber.found_in, scrubber.scrub
        bench.engine.guests.hide = scrubber.update

    hides(pi, "hunter2-hunter2")
    hides(laptop)
    pi.services.secrets = {"home": {"mail": "hunter2-hunter2"}}
    pi.deploy(1, flow({**need("a", "tell", "engine:laptop"), "config": {"text": "{{ secrets.mail }}!"}}))
    done = pi.submit(1)
    laptop.engine.draining = True  # runs are accepted by hand below, and no step begins
    laptop.engine.guests._check_room = lambda: None  # type: ignore[method-assign]
    turn([pi, laptop], lambda: bool(laptop.rows()))
    assert "hunter2" not in repr(laptop.rows())
    old = laptop
    old.die()
    laptop = house.engine("laptop", {"tell": Tell()}, link=False)
    hides(laptop)
    laptop.flows |= old.flows
    laptop.recover()
    laptop.link()
    turn([pi, laptop], lambda: bool(done))
    assert done[0].state is RunState.SUCCEEDED, done[0].error
    assert done[0].output() == "•••!"
    assert "hunter2" not in repr(laptop.rows())
