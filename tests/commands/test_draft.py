"""``flowork draft`` and ``flowork analyze`` with a real kernel; the model is a scripted server over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support.cloud import Cloud, cloud
from tests.support.flows import compute, edges, flow, node

CHOICE = {"triggers": ["manual"], "nodes": ["condition", "http_request"]}
FLOW: dict[str, Any] = {
    "name": "Too hot",
    "triggers": [{"id": "manual", "type": "manual", "config": {}}],
    "nodes": [
        {"id": "condition", "type": "condition", "config": {"when": "payload.t > 30"}},
        {"id": "http_request", "type": "http_request", "config": {"url": "http://127.0.0.1:9/{{ payload.t }}"}},
    ],
    "edges": [{"from": "condition", "to": "http_request", "port": "true"}],
}


@pytest.fixture
def server(box: Box, kernel: Kernel) -> Iterator[Cloud]:
    """A model that says what a test writes for it, as the engine's default."""
    with cloud() as found:
        upstream = {"near": {"provider": "openai", "config": {"url": found.url}}}
        box.run("settings", "set", f"model_upstreams={json.dumps(upstream)}", "model_default=near/small")
        kernel.reload(lambda: None, lambda exc: None)
        yield found


def says(server: Cloud, *answers: Any) -> None:
    for answer in answers:
        server.say(json.dumps(answer))


def test_a_sentence_becomes_a_draft_with_a_dry_run_and_nothing_is_saved(box: Box, server: Cloud) -> None:
    says(server, CHOICE, {"flow": FLOW, "sample": {"t": 31}})
    told = box.json("draft", "Tell the neighbour when it is too hot")
    assert told["problems"] == [] and told["model"] == "small" and told["saved"] is None
    assert [(step["node"], step["outcome"]) for step in told["dry_run"]] == [
        ("condition", "done"),
        ("http_request", "held"),
    ]
    assert told["dry_run"][1]["config"] == {"url": "http://127.0.0.1:9/31"}
    assert "too-hot" not in {one["id"] for one in box.json("flow", "list")["items"]}
    says(server, CHOICE, {"flow": FLOW, "sample": {"t": 31}})
    text = box.run("draft", "Tell the neighbour when it is too hot")
    assert "# Too hot" in text and "held" in text and "nothing was saved" in text


def test_a_saved_draft_is_not_deployed_and_can_be_drafted_again_from_its_spec(box: Box, server: Cloud) -> None:
    says(server, CHOICE, {"flow": FLOW, "sample": {"t": 31}})
    told = box.json("draft", "Tell the neighbour when it is too hot", "--save")
    assert told["saved"] == {"flow": "too-hot", "version": 1}
    shown = box.json("flow", "show", "too-hot")
    assert shown["live"] is None
    spec = box.folder.parent / "spec.md"
    shown_spec = box.run("flow", "show", "too-hot", "--spec")
    assert shown_spec == told["spec"] == box.json("flow", "show", "too-hot", "--spec")["spec"]
    spec.write_text(shown_spec.replace("30", "35"))
    warmer = {**FLOW, "nodes": [{**FLOW["nodes"][0], "config": {"when": "payload.t > 35"}}, FLOW["nodes"][1]]}
    says(server, {"triggers": [], "nodes": ["condition"]}, {"flow": warmer, "sample": None})
    again = box.json("draft", "--spec", str(spec), "--flow", "too-hot", "--save")
    assert again["saved"]["version"] == 2 and again["spec"] == spec.read_text()
    assert "payload.t > 30" in server.bodies[-1]["messages"][-1]["content"]


def test_faults_that_are_left_are_told_and_the_exit_code_says_so(box: Box, server: Cloud) -> None:
    broken = {**FLOW, "edges": [{"from": "http_request", "to": "condition", "port": "true"}]}
    says(server, CHOICE, {"flow": broken, "sample": None})
    told = box.json("draft", "x", "--repairs", "0", code=1)
    assert [problem["path"] for problem in told["problems"]] == ["edges[0].port"]
    assert told["dry_run"] is None


def test_a_flow_without_a_spec_is_described_by_its_steps(box: Box) -> None:
    name = box.deploy({**flow(node("hot", "condition", {"when": "payload.t > 30"})), "name": "Warm"})
    assert "1. **hot** (Condition)" in box.run("flow", "show", name, "--spec")


def test_a_spec_has_to_be_text(box: Box) -> None:
    spec = box.folder.parent / "spec.md"
    spec.write_bytes(b"\x80GGUF")
    assert "spec.md: not text in UTF-8" in box.fails("draft", "--spec", str(spec))


def test_without_a_wish_it_says_what_to_give(box: Box) -> None:
    box.run("draft", code=2)
    assert "say what the flow has to do" in box.last.stderr


def test_without_a_model_the_error_says_what_to_do(box: Box, kernel: Kernel) -> None:
    box.run("draft", "anything", code=1)
    assert "model" in box.last.stderr.splitlines()[-1]


def test_a_finding_is_shown_and_its_change_saved_as_a_draft(box: Box, kernel: Kernel) -> None:
    body = flow(
        node("hot", "condition", {"when": "payload.t > 30"}),
        compute("never", "1"),
        compute("always", "2"),
        links=edges("hot>never>true", "hot>always>false"),
        triggers=[{"id": "form", "type": "manual", "config": {}}],
    )
    name = box.deploy({**body, "name": "Cold"})
    assert box.run("analyze", name) == "version 1 has not run yet\n"
    for _ in range(60):
        box.run("run", name, "--input", '{"t": 1}')
    told = box.json("analyze", name)
    assert [finding["node"] for finding in told["findings"]] == ["never"]
    assert "1. never was never reached" in box.run("analyze", name)
    assert "saved as version 2 of cold, not deployed; `flowork flow deploy cold`" in box.run(
        "analyze", name, "--apply", "1"
    )
    assert box.json("analyze", name, "--apply", "1")["saved"] == {"flow": "cold", "version": 2}
    shown = box.json("flow", "show", name)
    assert (shown["newest"], shown["live"]) == (2, 1)
    box.run("analyze", name, "--apply", "7", code=2)
    assert "there is no finding 7; the last one is 1" in box.last.stderr


def test_a_model_words_what_the_rules_have_found(box: Box, server: Cloud) -> None:
    name = box.deploy({**flow(compute("big", "'x' * 100000")), "name": "Big"})
    box.run("run", name)
    server.say("The step big hands on too much.")
    told = box.json("analyze", name, "--words")
    assert told["words"] == "The step big hands on too much."
    assert "big hands on 100 kB" in server.bodies[-1]["messages"][-1]["content"]
    server.fail(401, "who are you?")
    assert "1. big hands on" in box.run("analyze", name, "--words", "--model", "near/large")
    assert "no model sums it up: 127.0.0.1 answered 401" in box.last.stderr
