"""Steps that need another engine: where they run, what comes back, and what happens while nobody has what they need."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.contracts import Config, Context, Effect, Node, NodeError
from appliance.contracts.peers import PeerOffers, PeerRoles
from appliance.engine import trace
from appliance.engine.states import RunState
from tests.kernel.peering.conftest import House
from tests.support.flows import flow, node
from tests.support.peer_net import PeerBench, model, turn

Pair = tuple[PeerBench, PeerBench]


def need(name: str, kind: str, needs: Any, **more: Any) -> dict[str, Any]:
    return {**node(name, kind), "needs": needs, **more}


def finished(benches: Any, bench: PeerBench, payload: Any = None, **event: Any) -> Any:
    done = bench.submit(1, payload, **event)
    turn(list(benches), lambda: bool(done))
    return done[0]


def counted(bench: PeerBench, kind: str) -> list[str]:
    found: list[str] = bench.registry.nodes[kind].keys  # type: ignore[attr-defined]
    return found


def test_a_step_runs_where_it_says(pair: Pair) -> None:
    pi, laptop = pair
    pi.deploy(1, flow(need("a", "once", "engine:laptop"), node("b", "pure")))
    run = finished(pair, pi, {"n": 1})
    assert run.state is RunState.SUCCEEDED and run.output() == {"n": 1}
    assert len(counted(laptop, "once")) == 1 and not counted(pi, "once")
    assert counted(laptop, "once") == [f"{run.text}-a"], "the idempotency key is the step's own"
    guest = next(row for row, _ in laptop.rows())
    assert guest.state == RunState.SUCCEEDED and guest.trigger == "@peer"


def test_the_record_tells_where_it_was(pair: Pair) -> None:
    pi, _ = pair
    pi.deploy(1, flow(need("a", "pure", ["any", "engine:laptop"])))
    finished(pair, pi, 1)
    _, records = pi.rows()[0]
    done = next(record for record in records if record.kind in (trace.DONE, trace.SAME))
    assert done.extra is not None
    assert done.extra["where"]["engine"] == "laptop"
    parked = next(record for record in records if record.kind == trace.PARKED)
    assert parked.extra is not None and parked.extra["away"]["peer"] == "laptop-id"


def test_this_engine_comes_first(pair: Pair) -> None:
    pi, laptop = pair
    pi.end.offers = laptop.end.offers = PeerOffers(models=(model("qwen"),), exact=True)
    pi.deploy(1, flow(need("a", "pure", "model:qwen")))
    finished(pair, pi)
    assert counted(pi, "pure") and not counted(laptop, "pure")


def test_the_least_loaded_one_that_has_it(house: House) -> None:
    pi, laptop, desk = house.engine("pi"), house.engine("laptop"), house.engine("desk")
    laptop.end.offers = PeerOffers(models=(model("qwen"),), load=1.5, cores=2)
    desk.end.offers = PeerOffers(models=(model("QWEN"),), load=0.2, cores=2)
    pi.deploy(1, flow(need("a", "pure", "model:qwen")))
    finished((pi, laptop, desk), pi)
    assert counted(desk, "pure") and not counted(laptop, "pure")


def test_whatever_is_free(pair: Pair) -> None:
    pi, laptop = pair
    pi.deploy(1, flow(need("a", "pure", "any")))
    finished(pair, pi)
    assert counted(pi, "pure"), "at the same load it stays"
    pi.end.offers = PeerOffers(load=3.0, cores=1)
    finished(pair, pi)
    assert counted(laptop, "pure")


def test_nobody_has_it_and_then_somebody_comes(house: House) -> None:
    pi = house.engine("pi")
    pi.deploy(1, flow(need("a", "pure", "device:camera", timeout="10m")))
    done = pi.submit(1, {"x": 1})
    turn([pi], lambda: any(run.state is RunState.WAITING for run in pi.engine.runs.values()))
    assert pi.rows()[0][0].state == RunState.WAITING, "it is a record, and nothing else"
    laptop = house.engine("laptop", link=False)
    laptop.end.offers = PeerOffers(devices=("hall/camera",))
    laptop.link()
    turn([pi, laptop], lambda: bool(done))
    assert done[0].state is RunState.SUCCEEDED and counted(laptop, "pure")


def test_nobody_has_it_and_its_time_is_over(pair: Pair) -> None:
    pi, laptop = pair
    pi.deploy(1, flow(need("a", "pure", ["model:qwen", "engine:laptop"], timeout="60s")))
    done = pi.submit(1)
    turn(list(pair), lambda: any(run.state is RunState.WAITING for run in pi.engine.runs.values()))
    pi.pass_time(61)
    turn(list(pair), lambda: bool(done))
    assert done[0].state is RunState.FAILED
    assert done[0].error["id"] == "timed-out"
    assert "nobody has model:qwen" in done[0].error["message"]
    assert not counted(laptop, "pure")


def test_who_may_not_is_not_asked(house: House) -> None:
    house.net.roles["laptop", "pi"] = PeerRoles(rights=frozenset({"models"}))
    pi, laptop = house.engine("pi"), house.engine("laptop")
    pi.deploy(1, flow(need("a", "pure", "engine:laptop", timeout="5s")))
    done = pi.submit(1)
    turn([pi, laptop], lambda: any(run.state is RunState.WAITING for run in pi.engine.runs.values()))
    pi.pass_time(6)
    turn([pi, laptop], lambda: bool(done))
    assert "laptop does not let this engine run steps there" in done[0].error["message"]
    assert "step" not in house.net.count


def test_a_failure_there_is_a_failure_here(pair: Pair) -> None:
    pi, laptop = pair
    laptop.registry.nodes["pure"].failures = 1  # type: ignore[attr-defined]
    pi.deploy(1, flow(need("a", "pure", "engine:laptop", retry={"attempts": 2, "backoff": "1ms"})))
    run = finished(pair, pi, 5)
    assert run.state is RunState.SUCCEEDED, "the second attempt is a new request"
    assert len(counted(laptop, "pure")) == 2
    laptop.registry.nodes["pure"].failures = 2  # type: ignore[attr-defined]
    run = finished(pair, pi, 5)
    assert run.error["message"] == "at laptop: told to fail"


class Final(Node[Config]):
    """Fails in a way that another attempt cannot mend."""

    Config = Config

    async def run(self, ctx: Context, config: Config, payload: Any) -> Any:
        ctx.log("about to fail")
        raise NodeError("no", retryable=False)


def test_what_cannot_be_mended_is_not_tried_again(house: House) -> None:
    pi, laptop = house.engine("pi", {"final": Final()}), house.engine("laptop", {"final": Final()})
    pi.deploy(1, flow(need("a", "final", "engine:laptop", retry={"attempts": 5, "backoff": "1ms"})))
    run = finished((pi, laptop), pi)
    assert run.state is RunState.FAILED and house.net.count["step"] == 1
    failed = next(record for record in pi.rows()[0][1] if record.kind == trace.FAILED)
    assert failed.extra is not None and failed.extra["logs"][0][2] == "about to fail"


def test_cancelling_ends_it_there(pair: Pair) -> None:
    pi, laptop = pair
    pi.deploy(1, flow(need("a", "hanging", "engine:laptop")))
    done = pi.submit(1)
    hanging: Any = laptop.registry.nodes["hanging"]
    turn(list(pair), lambda: hanging.began.acquire(blocking=False))
    pi.engine.cancel(next(iter(pi.engine.runs.values())), "a test")
    turn(list(pair), lambda: bool(done) and not laptop.engine.runs)
    assert hanging.ended.wait(5)
    assert laptop.states() == ["cancelled"]


def test_its_time_is_over_there_too(pair: Pair) -> None:
    pi, laptop = pair
    pi.deploy(1, flow(need("a", "hanging", "engine:laptop", timeout="30s")))
    done = pi.submit(1)
    hanging: Any = laptop.registry.nodes["hanging"]
    turn(list(pair), lambda: hanging.began.acquire(blocking=False))
    pi.pass_time(31)
    turn(list(pair), lambda: bool(done) and not laptop.engine.runs)
    assert done[0].error["id"] == "timed-out" and hanging.ended.wait(5)


class Speak(Node[Config]):
    """Streams, logs, and gives a blob and a port back."""

    Config = Config
    ports = ("out", "loud")

    async def run(self, ctx: Context, config: Config, payload: Any) -> Any:
        from appliance.contracts import Out

        ctx.stream("hel")
        ctx.stream("lo")
        text = ctx.blobs.get(payload["file"]).decode()
        ctx.log(f"{ctx.event['id']} {text}")
        return Out({"made": ctx.blobs.put(text.upper().encode()), "big": "x" * 600_000}, "loud")


def test_blobs_ports_logs_and_streams(house: House) -> None:
    nodes: dict[str, Any] = {"speak": Speak()}
    pi, laptop = house.engine("pi", nodes), house.engine("laptop", nodes)
    shown: list[str] = []
    pi.services.stream = lambda ctx, text: shown.append(text)
    file = pi.services.blobs.put(b"whisper")
    pi.deploy(1, flow(need("a", "speak", "engine:laptop"), links=[]))
    run = finished((pi, laptop), pi, {"file": file}, id="e7")
    assert run.state is RunState.SUCCEEDED
    assert pi.services.blobs.get(run.output()["made"]) == b"WHISPER"
    assert len(run.output()["big"]) == 600_000
    assert shown == ["hel", "lo"]
    done = next(record for record in pi.rows()[0][1] if record.kind == trace.DONE)
    assert done.port == "loud" and done.extra is not None and done.extra["logs"][0][2] == "e7 whisper"


class Say(Config, frozen=True):
    text: str = ""


class Tell(Node[Say]):
    """Gives its config back, and puts it into the log."""

    Config = Say
    effect = Effect.ONCE

    async def run(self, ctx: Context, config: Say, payload: Any) -> Any:
        ctx.log(config.text)
        return config.text


def test_secrets_go_along_and_are_kept_nowhere(house: House) -> None:
    from appliance.security.scrub import Scrubber

    nodes: dict[str, Any] = {"tell": Tell()}
    pi, laptop = house.engine("pi", nodes), house.engine("laptop", nodes)
    for bench in (pi, laptop):
        scrubber = Scrubber(["hunter2-hunter2"] if bench is pi else [])
        bench.engine.keeper.found_secret, bench.engine.keeper.scrub = scrubber.found_in, scrubber.scrub
        bench.engine.guests.hide = scrubber.update
    pi.services.secrets = {"home": {"mail": "hunter2-hunter2"}}
    pi.deploy(1, flow({**need("a", "tell", "engine:laptop"), "config": {"text": "key {{ secrets.mail }}"}}))
    seen: list[str] = []
    laptop_tell: Any = laptop.registry.nodes["tell"]
    original = laptop_tell.run

    async def look(ctx: Context, config: Say, payload: Any) -> Any:
        seen.append(config.text)
        return await original(ctx, config, payload)

    laptop_tell.run = look
    run = finished((pi, laptop), pi)
    assert seen == ["key hunter2-hunter2"]
    assert run.state is RunState.SUCCEEDED and run.output() == "key •••"
    for bench in (pi, laptop):
        assert "hunter2" not in repr(bench.rows())


def test_the_payload_does_not_fit_is_told(pair: Pair) -> None:
    pi, _ = pair
    pi.deploy(1, flow(need("a", "pure", "engine:laptop")))
    run = finished(pair, pi, {"big": ["y" * 100_000] * 40})
    assert run.state is RunState.SUCCEEDED and len(run.output()["big"]) == 40


def test_what_a_node_may_need_is_checked(pair: Pair) -> None:
    from appliance.engine.validate import validate
    from tests.support.bench_engine import AnyWorld

    pi, _ = pair
    bad = flow(need("a", "pure", ["gpio", "model:", "engine:{{ x }}"]), need("b", "pure", "robot:x"))
    problems = {problem.path: problem.message for problem in validate(bad, pi.registry, AnyWorld())}
    assert "device:gpio" in problems["nodes[0].needs[0]"]
    assert "without a name" in problems["nodes[0].needs[1]"]
    assert "no templates" in problems["nodes[0].needs[2]"]
    assert "model:NAME" in problems["nodes[1].needs"]
    body = {"nodes": [node("x", "log")]}
    within = flow({"id": "a", "type": "for_each", "config": {"body": body}, "needs": "any"})
    assert [problem.path for problem in validate(within, pi.registry, AnyWorld())] == ["nodes[0].needs"]


def test_spec_of_a_guest_is_a_sound_flow(pair: Pair) -> None:
    from appliance.engine.validate import validate
    from appliance.kernel.peering.guest import flow_of
    from tests.support.bench_engine import AnyWorld

    pi, _ = pair
    made = flow_of("pi", {"id": "a", "type": "pure", "config": {}, "timeout": None, "name": ""})
    assert not validate(made, pi.registry, AnyWorld())
    assert msgspec.json.encode(made)


@pytest.mark.parametrize("effect", ["pure", "idempotent", "once"])
def test_a_hundred_at_once(pair: Pair, effect: str) -> None:
    pi, laptop = pair
    pi.deploy(1, {**flow(need("a", effect, "engine:laptop")), "settings": {"max_runs": 200}})
    done = [pi.submit(1, n) for n in range(100)]
    turn(list(pair), lambda: all(done), limit=30)
    assert sorted(each[0].output() for each in done) == list(range(100))
    assert len(set(counted(laptop, effect))) == len(counted(laptop, effect)) == 100


def test_the_run_tells_which_engine_it_is_at_and_was_at(pair: Pair) -> None:
    from appliance.engine.steps_view import story_of

    pi, laptop = pair

    def step(bench: PeerBench) -> Any:
        row, records = bench.rows()[0]
        return story_of(bench.engine.plan(1).graphs[""], None, records, ended=row.finished is not None).steps[0]

    pi.deploy(1, flow(need("a", "hanging", "engine:laptop")))
    pi.submit(1)
    hanging: Any = laptop.registry.nodes["hanging"]
    turn(list(pair), lambda: hanging.began.acquire(blocking=False))
    assert (step(pi).state, step(pi).where) == ("running", {"engine": "laptop", "id": "laptop-id"})
    laptop.engine.cancel(next(iter(laptop.engine.runs.values())), "a person there")
    turn(list(pair), lambda: not pi.engine.runs)
    assert step(pi).state == "failed" and step(pi).where["run"] == laptop.recovery.told(laptop.rows()[0][0], []).text


def test_a_peer_cannot_have_its_templates_filled_in_here(house: House) -> None:
    """A body's templates would see this engine's secrets: what has one is refused, whatever the peer's checks say."""
    pi, laptop = house.engine("pi"), house.engine("laptop")
    laptop.services.secrets = {"home": {"mail": "hunter2-hunter2"}}
    body = {"nodes": [node("x", "transform", {"expression": "secrets.mail"})]}
    spec = {"id": "a", "type": "for_each", "config": {"items": "[1]", "body": body}}
    request = {"id": "r1", "node": spec, "config": spec["config"], "workspace": "home"}
    future = pi.end.request("laptop", "step", request, 10.0)
    turn([pi, laptop], future.done)
    assert "runs where its flow is" in str(future.exception())
    assert laptop.rows() == []
    plain = {"id": "a", "type": "transform", "config": {"expression": "secrets.mail"}}
    future = pi.end.request("laptop", "step", {"id": "r2", "node": plain, "config": plain["config"]}, 10.0)
    turn([pi, laptop], future.done)
    assert future.result()["value"] is None, "there are no secrets but the peer's own"


def test_secrets_in_any_form_are_hidden_there(house: House) -> None:
    from appliance.security.scrub import Scrubber

    nodes: dict[str, Any] = {"tell": Tell()}
    pi, laptop = house.engine("pi", nodes), house.engine("laptop", nodes)
    secret = 'quo"te\nand line: hunter2'
    for bench in (pi, laptop):
        scrubber = Scrubber([secret] if bench is pi else [])
        bench.engine.keeper.found_secret, bench.engine.keeper.scrub = scrubber.found_in, scrubber.scrub
        bench.engine.guests.hide = scrubber.update
    pi.services.secrets = {"home": {"mail": secret}}
    pi.deploy(1, flow({**need("a", "tell", "engine:laptop"), "config": {"text": "{{ secrets.mail | b64encode }}"}}))
    assert finished((pi, laptop), pi).state is RunState.SUCCEEDED
    import base64

    for bench in (pi, laptop):
        assert base64.b64encode(secret.encode()).decode() not in repr(bench.rows())


def test_what_its_expressions_read_goes_along(pair: Pair) -> None:
    pi, laptop = pair
    pi.services.variables = {"home": {"limit": 3}}
    pi.services.secrets = {"home": {"word": "open-sesame"}}
    laptop.services.variables = {"home": {"limit": 99}}
    names = "[steps.a.n, vars.limit, event.id, payload.n, secrets.word | length]"
    pi.deploy(1, flow(node("a", "pure"), need("b", "transform", "engine:laptop") | {"config": {"expression": names}}))
    run = finished(pair, pi, {"n": 1}, id="e1")
    assert run.output() == [1, 3, "e1", 1, 11], run.error
    assert "open-sesame" not in repr(laptop.rows())


def test_what_is_too_large_for_a_link_says_so(pair: Pair) -> None:
    pi, _ = pair
    config = {"set": {"text": "{{ payload.text }}"}}
    pi.deploy(1, flow(need("a", "transform", "engine:laptop") | {"config": config}))
    run = finished(pair, pi, {"text": "y" * 3_000_000})
    assert run.state is RunState.FAILED and "too many for a peer" in run.error["message"]
