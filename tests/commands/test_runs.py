"""The history and what people do with runs, with an engine that runs and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from appliance.kernel.kernel import Kernel
from appliance.paths import EngineLock
from tests.commands.box import Box
from tests.support.broker import eventually
from tests.support.flows import compute, edges, flow, node

FAILING = {**flow(compute("first", "payload"), compute("then", "payload.x.y")), "name": "failing"}
ASKING = {
    **flow(
        node("ask", "approval", {"title": "Open the valve?"}),
        compute("after", "payload"),
        links=edges("ask>after>yes"),
    ),
    "name": "asking",
}


def states(box: Box, *words: str) -> list[str]:
    return [run["state"] for run in box.json("runs", *words)["items"]]


def begin(box: Box, flow_id: str, payload: Any = None) -> str:
    """Start a run in the running engine; its id."""
    run: str = box.json("run", flow_id, "--detach", "--input", json.dumps(payload))["run"]
    return run


def waiting(box: Box, run: str) -> None:
    eventually(lambda: box.json("show", run)["state"] == "waiting")


@pytest.fixture
def failed(box: Box) -> list[str]:
    """Three dead letters, oldest first."""
    box.deploy(FAILING)
    return [box.json("run", "failing", "-i", str(number), code=10)["id"] for number in range(3)]


def test_the_list_filters_and_goes_on_where_it_stopped(box: Box, failed: list[str]) -> None:
    box.run("run", "first-steps", "-i", '{"name": "Grace Hopper"}')
    assert states(box) == ["succeeded", "failed", "failed", "failed"]
    assert states(box, "--state", "failed", "--state", "dead") == ["failed"] * 3
    assert states(box, "--flow", "first-steps") == ["succeeded"]
    assert states(box, "--text", "Hopper") == ["succeeded"]
    assert states(box, "--text", "nobody") == []
    assert states(box, "--trigger", "hand") == ["succeeded"]
    assert len(states(box, "--since", "1h")) == 4
    assert states(box, "--until", "1h") == []
    assert states(box, "--since", "2999-01-01") == []
    page = box.json("runs", "--limit", "3")
    rest = box.json("runs", "--limit", "3", "--before", page["next"])
    assert [run["id"] for run in [*page["items"], *rest["items"]]][1:] == list(reversed(failed))
    assert rest["next"] is None
    assert "--before" in box.run("runs", "--limit", "3") + box.last.stderr
    assert "there is no flow 'x'" in box.fails("runs", "--flow", "x", code=3)
    assert "is no moment" in box.run("runs", "--since", "yesterday", code=2) + box.last.stderr


def test_a_run_is_told_step_by_step(box: Box, failed: list[str]) -> None:
    said = box.run("show", failed[0])
    assert "state:       failed" in said
    assert "dead letter: open" in said
    assert "✓ first" in said
    assert "✗ then" in said
    assert "has no attribute" in said
    step = box.json("show", failed[0], "--step", "first")
    assert (step["state"], step["input"], step["output"]) == ("done", 0, 0)
    assert "input:" in box.run("show", failed[0], "--step", "then")
    assert "no step 'x' in that run; there are: first, then" in box.fails("show", failed[0], "--step", "x", code=3)
    assert "there is no run" in box.fails("show", "0000000000000", code=3)


def test_children_are_shown_below_their_parent(box: Box) -> None:
    body = {"nodes": [compute("double", "payload * 2")]}
    loop = flow(node("each", "for_each", {"items": "payload", "body": body}))
    box.deploy({**loop, "name": "loop"})
    run = box.json("run", "loop", "-i", "[1, 2, 3]")
    assert run["output"] is not None
    told = [line.split()[2] for line in box.run("show", run["id"]).splitlines() if line.startswith("↳ run")]
    assert len(told) == 3 and told == sorted(told), "in the order in which they came"
    assert len(states(box)) == 1
    assert len(states(box, "--children")) == 4


def test_a_run_of_a_plug_in_that_is_gone_can_still_be_shown(box: Box) -> None:
    nodes = box.folder / "packages" / "nodes"
    nodes.mkdir(parents=True)
    (nodes / "mine.py").write_text(
        '"""Mine."""\nfrom appliance.contracts import Node\n\n\nclass Mine(Node):\n'
        "    def run(self, ctx, config, payload):\n        return 42\n"
    )
    box.deploy({**flow(node("m", "mine")), "name": "f"})
    run = box.json("run", "f")
    assert run["output"] == 42
    (nodes / "mine.py").unlink()
    assert box.json("show", run["id"])["output"] == 42
    assert "there is no node type 'mine'" in box.run("doctor", code=1)


def test_replay_takes_over_what_came_before(box: Box) -> None:
    first = box.json("run", "first-steps", "-i", '{"name": "Ada"}')
    again = box.json("replay", first["id"], "--from", "first")
    assert (again["origin"], again["state"]) == (first["id"], "succeeded")
    kept = {step["node"]: step["state"] for step in again["steps"]}
    assert (kept["greeting"], kept["welcome"]) == ("kept", "done")
    other = box.json("replay", first["id"], "--from", "greeting", "--payload", '{"name": "Bob"}')
    assert other["output"]["text"] == "Hello, Bob!"
    assert "↷ count" in box.run("replay", first["id"], "--from", "greeting", "--follow")
    assert "no step 'x'" in box.fails("replay", first["id"], "--from", "x", code=3)
    assert "no such run" in box.fails("replay", "0000000000000", code=3)


def test_replay_with_the_version_that_mends_it(box: Box, failed: list[str]) -> None:
    box.deploy({**flow(compute("first", "payload"), compute("then", "payload + 1")), "name": "failing"})
    assert box.json("replay", failed[1], code=10)["state"] == "failed"
    assert box.json("replay", failed[1], "--live")["output"] == 2
    assert box.json("show", failed[1])["letter"] == "replayed"


@pytest.mark.parametrize("running", [False, True])
def test_dead_letters_one_by_one_and_all(
    box: Box, failed: list[str], running: bool, request: pytest.FixtureRequest
) -> None:
    if running:
        request.getfixturevalue("kernel")
    assert [run["id"] for run in box.json("dead-letters")["items"]] == list(reversed(failed))
    assert "✗ then" in box.run("dead-letters", "show", failed[0])
    box.run("dead-letters", "discard", failed[0], "--reason", "was a test")
    note = box.json("show", failed[0])["letter_note"]
    assert note["reason"] == "was a test"
    assert "is not on the list" in box.fails("dead-letters", "discard", failed[0], code=3)
    box.deploy({**flow(compute("first", "payload"), compute("then", "payload + 1")), "name": "failing"})
    answer = box.json("dead-letters", "replay", "--all", "--flow", "failing", "--live")
    assert list(answer["replayed"]) == failed[1:]
    eventually(lambda: states(box, "--state", "succeeded", "--flow", "failing") == ["succeeded"] * 2)
    assert box.json("dead-letters", "list")["items"] == []
    assert box.json("dead-letters", "replay", "--all")["replayed"] == {}
    for words in ([], ["--flow", "failing"], [failed[0], "--all"]):
        box.run("dead-letters", "replay", *words, code=2)


def test_all_letters_are_discarded_only_when_that_is_meant(box: Box, failed: list[str]) -> None:
    box.run("dead-letters", "discard", "--all", code=2)
    assert "Discard 3 dead letters?" in box.last.stderr
    assert len(box.json("dead-letters", "discard", "--all", "--yes")["discarded"]) == 3
    assert box.json("dead-letters")["items"] == []
    assert "letter.discard" in box.run("audit", "list")


def test_a_flow_is_followed_in_the_running_engine(box: Box, kernel: Kernel) -> None:
    said = box.run("run", "first-steps", "--follow", "-i", '{"name": "Ada"}')
    assert "✓ greeting" in said
    assert box.json("run", "first-steps")["output"]["text"] == "Hello, world!"
    assert len(box.json("runs", "--trigger", "up")["items"]) == 1


def test_a_step_that_takes_long_is_told_while_it_runs(box: Box, kernel: Kernel) -> None:
    box.deploy({**flow(node("wait", "delay", {"for": "2h"})), "name": "slow"})
    with box.process("run", "slow", "--follow", "--json") as process:
        (found,) = eventually(lambda: box.json("runs", "--flow", "slow", "--state", "waiting")["items"])
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["step"]["state"] == "waiting"
        assert box.json("cancel", found["id"]) == {"cancelled": found["id"]}
        out, _ = process.communicate(timeout=50)
    assert process.returncode == 12
    assert json.loads(out)["run"]["state"] == "cancelled"
    assert "is not under way" in box.fails("cancel", found["id"], code=4)


def test_following_survives_a_restart_of_the_kernel(box: Box) -> None:
    box.deploy({**flow(node("wait", "delay", {"for": "2h"})), "name": "slow"})
    first = Kernel(box.folder)
    with EngineLock(box.folder, "kernel"), ExitStack() as stack:
        first.start()
        process = stack.enter_context(box.process("run", "slow", "--follow", "--json"))
        try:
            (found,) = eventually(lambda: box.json("runs", "--flow", "slow", "--state", "waiting")["items"])
        finally:
            first.stop()
        second = Kernel(box.folder)
        second.start()
        try:
            eventually(lambda: found["id"] in {run.text for run in second.engine.runs.values()})
            box.run("cancel", found["id"])
            out, _ = process.communicate(timeout=50)
        finally:
            second.stop()
    assert process.returncode == 12
    assert json.loads(out.splitlines()[-1])["run"]["state"] == "cancelled"


def test_waiting_ends_at_the_timeout_and_the_run_goes_on(box: Box, kernel: Kernel) -> None:
    box.deploy(ASKING)
    answer = box.json("run", "asking", "--timeout", "200ms", code=14)
    assert answer["state"] == "waiting"
    box.run("answer", answer["id"], "ask", "no")
    eventually(lambda: box.json("show", answer["id"])["state"] == "succeeded")


def test_a_run_that_is_skipped_has_an_exit_code_of_its_own(box: Box, kernel: Kernel) -> None:
    box.deploy({**ASKING, "settings": {"mode": "single"}})
    begin_waiting(box)
    assert box.json("run", "asking", code=13)["state"] == "skipped"


def test_an_approval_is_listed_and_answered(box: Box, kernel: Kernel) -> None:
    box.deploy(ASKING)
    run = begin(box, "asking", {"liters": 3})
    waiting(box, run)
    (ask,) = box.json("approvals")["items"]
    assert (ask["run"], ask["node"], ask["kind"], ask["payload"]) == (run, "ask", "approval", {"liters": 3})
    assert f"flowork answer {run} ask yes|no" in box.run("approvals")
    assert "must be one of yes, no" in box.fails("answer", run, "ask", "maybe", code=4)
    assert "does not wait" in box.fails("answer", run, "after", "yes", code=4)
    box.run("answer", run, "ask", "yes", "--note", "looked at it")
    eventually(lambda: box.json("show", run)["state"] == "succeeded")
    step = box.json("show", run, "--step", "ask")
    assert step["port"] == "yes"
    assert "approval.answer" in box.run("audit", "list")
    assert "nothing waits" in box.run("approvals")
    assert "not unverified" in box.fails("decide", begin_waiting(box), "ask", "skip", code=4)


def begin_waiting(box: Box) -> str:
    run = begin(box, "asking")
    waiting(box, run)
    return run


def test_a_step_that_a_crash_cut_off_is_decided(box: Box) -> None:
    body = flow(node("pay", "command", {"args": ["sleep", "1000"], "effect": "once"}), compute("after", "'paid'"))
    box.deploy({**body, "name": "pay"})
    with EngineLock(box.folder, "kernel"):
        first = Kernel(box.folder)
        first.start()
        run = begin(box, "pay")
        eventually(lambda: any(live.running for live in first.engine.runs.values()))
        # As a crash leaves it: in the middle of the effect, with nobody there to write it down.
        first.engine.steps.precious = lambda: False  # type: ignore[method-assign]
        first.stop()
        second = Kernel(box.folder)
        second.start()
        try:
            waiting(box, run)
            assert "was it done?" in box.run("approvals")
            assert "unverified" in box.run("show", run)
            box.run("decide", run, "pay", "skip")
            eventually(lambda: box.json("show", run)["state"] == "succeeded")
        finally:
            second.stop()


def test_a_named_event_wakes_who_waits_for_it(box: Box, kernel: Kernel) -> None:
    box.deploy({**flow(node("w", "wait_event", {"name": "parcel"})), "name": "door"})
    assert box.json("event", "parcel")["woken"] == 0
    run = begin(box, "door")
    waiting(box, run)
    assert box.json("event", "other")["woken"] == 0
    assert box.json("event", "parcel", "--flow", "door", "--payload", '{"from": "Ada"}')["woken"] == 1
    eventually(lambda: box.json("show", run)["state"] == "succeeded")
    assert "Ada" in box.run("show", run)
    assert "no flow 'x'" in box.fails("event", "parcel", "--flow", "x", code=3)


@pytest.mark.parametrize(
    "words",
    [
        ["cancel", "0000000000000"],
        ["answer", "0000000000000", "s", "yes"],
        ["decide", "0000000000000", "s", "skip"],
        ["approvals"],
        ["event", "x"],
    ],
)
def test_what_needs_the_engine_says_so(box: Box, words: list[str]) -> None:
    assert "start it with `flowork up`" in box.fails(*words, code=5)
    assert box.json(*words, code=5)["error"]["id"] == "kernel-away"


def test_triggers_are_listed_and_tried(box: Box, kernel: Kernel) -> None:
    triggers = [
        {"id": "t", "type": "schedule", "config": {"every": "1h"}},
        {"id": "m", "type": "mqtt", "config": {"broker": "mqtt://127.0.0.1:1", "topic": "a/b"}},
    ]
    body = flow(compute("a", "{'t': payload.t, 'topic': event.topic}"), triggers=triggers)
    box.deploy({**body, "name": "greenhouse"})
    views: Callable[[], dict[str, Any]] = lambda: {  # noqa: E731
        view["id"]: view for view in box.json("trigger", "list", "--flow", "greenhouse", code=1)["items"]
    }
    eventually(lambda: box.last is not None and kernel.hosting.views() and len(kernel.hosting.views()) >= 4)
    found = eventually(lambda: views() if not views()["m"]["ok"] else None)
    assert len(found["t"]["next"]) == 5
    assert "failing" in box.run("trigger", "list", code=1)
    event = '{"payload": {"t": 31}, "topic": "greenhouse/1/temp"}'
    answer = box.json("trigger", "test", "greenhouse", "m", "--event", event)
    assert (answer["trigger"], answer["output"]) == ("m", {"t": 31, "topic": "greenhouse/1/temp"})
    assert "no trigger 'x'" in box.fails("trigger", "test", "greenhouse", "x", code=3)
    box.run("trigger", "test", "greenhouse", "m", "--event", "7", code=2)
    assert "trigger m" in box.run("doctor", code=1)


def test_triggers_of_an_engine_that_does_not_run(box: Box) -> None:
    body = {**flow(compute("a", "1")), "triggers": [{"id": "t", "type": "schedule", "config": {"every": "1h"}}]}
    box.deploy({**body, "name": "f"})
    views = {view["id"]: view for view in box.json("trigger", "list")["items"]}
    assert views["t"]["ok"] is None
    assert len(views["t"]["next"]) == 5
    assert "no engine is running" in box.run("trigger", "list") + box.last.stderr


def test_an_event_that_starts_no_run(box: Box, kernel: Kernel) -> None:
    triggers = [{"id": "m", "type": "manual"}, {"id": "w", "type": "manual", "starts_runs": False}]
    box.deploy({**flow(compute("a", "1"), triggers=triggers), "name": "f"})
    assert box.json("trigger", "test", "f", "w") == {"run": None}
