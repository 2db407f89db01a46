"""How runs move through their graph: branches, joins, dead paths, conditions, error ports."""

from __future__ import annotations

from appliance.engine.states import Letter, RunState
from tests.support.bench_engine import Bench
from tests.support.flows import compute, edges, flow, node


def test_steps_follow_each_other(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload + 1"), compute("b", "payload * 2")))
    run = bench.run(1)
    assert run.state is RunState.SUCCEEDED
    assert run.output() == 4


def test_branches_meet_in_one_step(bench: Bench) -> None:
    links = edges("a>b", "a>c", "b>m", "c>m")
    nodes = (compute("a", "payload + 1"), compute("b", "payload * 2"), compute("c", "payload * 3"), node("m", "merge"))
    bench.deploy(1, flow(*nodes, links=links))
    assert bench.run(1).output() == {"b": 4, "c": 6}


def test_a_dead_branch_does_not_hold_up_the_join(bench: Bench) -> None:
    links = edges("c>y>true", "c>n>false", "n>n2", "y>z", "n2>z")
    nodes = (
        node("c", "condition", {"when": "payload > 3"}),
        compute("y", "'yes'"),
        compute("n", "'no'"),
        compute("n2", "payload ~ '!'"),
        compute("z", "payload ~ '?'"),
    )
    bench.deploy(1, flow(*nodes, links=links))
    assert bench.run(5).output() == "yes?"
    assert bench.run(1).output() == "no!?"


def test_join_any_runs_once_at_the_first(bench: Bench) -> None:
    later = bench.registry.nodes["later"]
    nodes = (compute("a", "'fast'"), node("b", "later"), compute("z", "payload", join="any"))
    bench.deploy(1, flow(*nodes, links=edges("a>z", "b>z")))
    done = bench.submit(1)
    bench.engine.pump()
    run = next(iter(bench.engine.flows[1].active.values()))
    assert run.walk.outputs[2] == "fast"
    later.pending[0].complete("slow")  # type: ignore[attr-defined]
    bench.turn(lambda: bool(done))
    records = bench.rows()[0][1]
    assert [r.node for r in records].count(2) == 1


def test_conditions_on_edges(bench: Bench) -> None:
    links = [
        {"from": "a", "to": "big", "condition": "payload > 10"},
        {"from": "a", "to": "small", "condition": "payload <= 10"},
    ]
    bench.deploy(1, flow(compute("a", "payload"), compute("big", "'big'"), compute("small", "'small'"), links=links))
    assert bench.run(11).output() == "big"
    assert bench.run(3).output() == "small"


def test_a_condition_that_fails_fails_the_run_and_names_the_step(bench: Bench) -> None:
    links = [{"from": "a", "to": "b", "condition": "payload.x > 10"}]
    bench.deploy(1, flow(compute("a", "payload"), compute("b", "1"), links=links))
    run = bench.run({})
    assert run.state is RunState.FAILED
    assert run.error["node"] == "a"
    assert "'x'" in run.error["message"]


def test_an_error_port_catches(bench: Bench) -> None:
    bench.registry.nodes["pure"].failures = 1  # type: ignore[attr-defined]
    bench.deploy(1, flow(node("p", "pure"), compute("z", "payload.error.message"), links=edges("p>z>error")))
    run = bench.run(1)
    assert run.state is RunState.SUCCEEDED
    assert run.output() == "told to fail"


def test_without_an_error_port_the_run_fails_and_becomes_a_dead_letter(bench: Bench) -> None:
    bench.registry.nodes["pure"].failures = 1  # type: ignore[attr-defined]
    bench.deploy(1, flow(node("p", "pure"), compute("z", "1")))
    run = bench.run(1)
    assert run.state is RunState.FAILED
    assert run.letter is Letter.OPEN
    assert run.error == {"id": "node-failed", "message": "told to fail", "node": "p"}
    assert bench.states() == ["failed"]


def test_a_failure_ends_the_work_of_other_branches(bench: Bench) -> None:
    bench.registry.nodes["pure"].failures = 1  # type: ignore[attr-defined]
    bench.deploy(1, flow(node("p", "pure"), node("h", "hanging"), links=[]))
    assert bench.run(1).state is RunState.FAILED
    assert bench.registry.nodes["hanging"].ended.wait(5)  # type: ignore[attr-defined]


def test_a_disabled_node_passes_the_payload_on(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload + 1", disabled=True), compute("b", "payload * 2")))
    assert bench.run(5).output() == 10


def test_an_unchanged_payload_is_not_written_twice(bench: Bench) -> None:
    bench.deploy(1, flow(node("l", "log", {"message": "hello"}), compute("b", "payload.x")))
    bench.run({"x": "y" * 500})
    row, records = bench.rows()[0]
    assert len(row.steps) < 800
    assert records[0].value is None


def test_large_values_go_to_blobs_and_come_back(bench: Bench) -> None:
    bench.deploy(
        1, flow(compute("a", "payload * 100000"), node("d", "delay", {"for": "1h"}), compute("z", "payload | length"))
    )
    done = bench.submit(1, "x")
    bench.engine.pump()
    bench.pass_time(3700)
    bench.turn(lambda: bool(done))
    assert done[0].output() == 100_000
    row, records = bench.rows()[0]
    assert len(row.steps) < 2000
    assert records[0].value["size"] > 100_000


def test_five_hundred_branches(bench: Bench) -> None:
    count = 500
    nodes = [
        compute("a", "payload"),
        *(compute(f"n{i}", f"payload + {i}") for i in range(count)),
        node("m", "merge", {"mode": "list"}),
    ]
    links = edges(*(f"a>n{i}" for i in range(count)), *(f"n{i}>m" for i in range(count)))
    bench.deploy(1, flow(*nodes, links=links))
    assert sorted(bench.run(0).output()) == list(range(count))
