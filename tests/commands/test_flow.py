"""``flowork flow``: from files and back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support import boxes
from tests.support.broker import eventually, free_port
from tests.support.flows import compute, flow, node


def named(name: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**flow(*(nodes or (compute("a", "1"),))), "name": name, **more}


def test_a_file_becomes_a_flow_and_then_its_versions(box: Box) -> None:
    file = box.write("greenhouse.json", named("Greenhouse guard"))
    made = box.json("flow", "deploy", file, "--message", "first")
    assert (made["id"], made["newest"], made["live"], made["kernel"]) == ("greenhouse", 1, 1, False)
    box.write("greenhouse.json", named("Greenhouse guard", compute("a", "2")))
    assert box.json("flow", "deploy", file)["live"] == 2
    assert [one["number"] for one in box.json("flow", "versions", "greenhouse")["items"]] == [2, 1]
    assert "deployed: greenhouse version 2" in box.run("flow", "deploy", file)


def test_a_file_finds_its_flow_by_its_name_too(box: Box) -> None:
    box.deploy(named("Greenhouse guard"), "greenhouse")
    assert box.deploy(named("Greenhouse guard", compute("a", "2")), "other-file") == "greenhouse"
    assert box.deploy(named("Another"), "third") == "third"


def test_a_file_from_standard_input_is_named_by_what_is_in_it(box: Box) -> None:
    body = json.dumps(named("Night watch"))
    assert box.json("flow", "deploy", "-", stdin=body)["id"] == "night-watch"
    assert box.json("flow", "deploy", "-", stdin=body)["live"] == 1


def test_an_edit_of_an_older_version_is_refused_and_both_are_named(box: Box) -> None:
    box.deploy(named("f"))
    box.deploy(named("f", compute("a", "2")))
    file = box.write("f.json", named("f", compute("a", "3")))
    assert "version 1, but version 2 is the newest" in box.fails("flow", "deploy", file, "--base", "1", code=4)
    error = box.json("flow", "deploy", file, "--base", "1", code=4)["error"]
    assert (error["id"], error["detail"]) == ("conflict", {"yours": 1, "newest": 2})
    assert box.json("flow", "deploy", file, "--base", "2")["live"] == 3


def test_every_fault_is_told_with_its_place(box: Box) -> None:
    file = box.write("bad.json", named("bad", node("a", "transfrom"), node("a", "log", {"level": "loud"}), edges=[]))
    said = box.run("flow", "validate", file, code=1).splitlines()
    assert [line.split(":")[0] for line in said] == ["nodes[1].id", "nodes[0].type", "nodes[1].config.level"]
    assert "did you mean 'transform'" in said[1]
    answer = box.json("flow", "validate", file, code=1)
    assert not answer["valid"]
    assert len(answer["problems"]) == 3
    assert box.json("flow", "deploy", file, code=1)["error"]["detail"]["problems"] == answer["problems"]
    assert "no faults" in box.run("flow", "validate", box.write("good.json", named("good")))


def test_answers_that_no_model_of_this_machine_can_be_held_to_are_told(box: Box, empty: Box) -> None:
    schema = {"type": "object", "properties": {"rooms": {"type": "array", "uniqueItems": True}}}
    called = {"node": "look", "about": "Looks.", "arguments": {"when": {"type": "string", "pattern": "(?=a)b"}}}
    body = {"nodes": [node("look", "log")], "edges": []}
    file = box.write(
        "asks.json",
        named(
            "asks",
            node("here", "llm", {"prompt": "?", "schema": schema}),
            node("away", "extract", {"text": "?", "schema": schema, "models": ["cloud/x"]}),
            node("filled", "extract", {"text": "?", "schema": {"pattern": "{{ payload }}", "uniqueItems": True}}),
            node("held", "extract", {"text": "?", "schema": {"type": "array", "items": {"type": "number"}}}),
            node("agent", "ai_agent", {"task": "?", "tools": [called], "body": body}),
            edges=[],
        ),
    )
    upstreams = {"cloud": {"provider": "openai", "config": {"url": "https://api.example/v1"}}}
    box.run("settings", "set", f"model_upstreams={json.dumps(upstreams)}")
    for checked in (box.json("flow", "validate", file), box.json("flow", "deploy", file)):
        first, second = checked["notes"]
        assert first.startswith("nodes[0].config.schema: local models refuse it: schema at #/properties/")
        assert second.startswith("nodes[4].config.tools[0].arguments.when: ")
    assert len(empty.json("flow", "validate", file)["notes"]) == 2
    assert "uniqueItems" in box.run("flow", "validate", file) + box.last.stderr


def test_a_file_is_checked_where_there_is_no_engine(empty: Box) -> None:
    assert empty.json("flow", "validate", empty.write("good.json", named("good")))["valid"]
    assert not empty.folder.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"name": "x",\n "nodes": [}', "line 2 column 12"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"7", "a flow is a JSON object"),
        (b'"text"', "a flow is a JSON object"),
    ],
)
def test_what_is_no_flow_is_said_in_one_line(box: Box, content: bytes, said: str) -> None:
    file = box.write("x.json", content)
    for words in (("validate", file), ("deploy", file), ("import", file)):
        assert said in box.fails("flow", *words)
    assert "no such file" in box.fails("flow", "deploy", "/no/such/file.json")


def test_export_gives_back_what_was_saved(box: Box) -> None:
    body = named("Wächter", node("l", "log", {"message": "ü {{ payload }}"}))
    box.deploy(body, "guard")
    assert json.loads(box.run("flow", "export", "guard")) == body
    file = box.folder.parent / "out.json"
    box.run("flow", "export", "guard", "--output", str(file))
    assert json.loads(file.read_text()) == body


def test_import_makes_a_new_flow_also_of_an_older_form(box: Box) -> None:
    old = {"title": "Old", "nodes": [{"id": "a", "module_id": "log", "config_values": {}}], "connections": []}
    made = box.json("flow", "import", box.write("old.json", old))
    assert (made["id"], made["live"], made["state"]) == ("old", None, "draft")
    assert "older form" in made["notes"][0]
    assert box.json("flow", "import", box.write("old.json", old), "--deploy")["id"] == "old-2"
    other = box.write("other.json", named("Other"))
    assert "version 1 is the newest" in box.fails("flow", "import", other, "--id", "old", code=4)


def test_diff_shows_what_changed(box: Box) -> None:
    box.deploy(named("f", compute("a", "1"), node("b", "log")))
    box.deploy(named("f", compute("a", "2"), node("c", "log"), description="new"))
    said = box.run("flow", "diff", "f", "1", "2")
    for line in (
        '    ~ config.expression: "1" → "2"',
        "+ node c (log)",
        "- node b (log)",
        "+ edge a → c",
        "- edge a → b",
    ):
        assert line in said, said
    answer = box.json("flow", "diff", "f", "1", "2")
    assert (answer["from"], answer["to"]) == (1, 2)
    assert [one["id"] for one in answer["nodes"]["added"]] == ["c"]
    assert box.json("flow", "diff", "f")["from"] == 1, "the newest is live: what it has changed"
    assert "no difference" in box.run("flow", "diff", "f", "2")


def test_diff_shows_of_a_long_text_the_lines_that_changed(box: Box) -> None:
    text = "# Cold\n\nFirst this.\nThen {}.\nAt last that.\n"
    box.deploy(named("f", compute("a", "1"), spec=text.format("rain")))
    box.deploy(named("f", compute("a", "1"), spec=text.format("snow")))
    said = box.run("flow", "diff", "f", "1", "2")
    assert said.splitlines()[1:] == ["~ flow spec:", "    - Then rain.", "    + Then snow."]


def test_rollback_and_the_switches(box: Box) -> None:
    for number in (1, 2, 3):
        box.deploy(named("f", compute("a", str(number))))
    assert box.json("flow", "rollback", "f")["live"] == 2
    assert box.json("flow", "rollback", "f", "1")["live"] == 1
    assert "no earlier version" in box.fails("flow", "rollback", "f", code=3)
    assert box.json("flow", "deploy", "f")["live"] == 3
    assert box.json("flow", "deploy", "f", "--version", "2")["live"] == 2
    assert "no version 9" in box.fails("flow", "deploy", "f", "--version", "9", code=3)
    assert box.json("flow", "disable", "f")["state"] == "off"
    assert box.json("flow", "enable", "f")["state"] == "live"
    assert box.json("flow", "undeploy", "f")["state"] == "draft"
    box.run("flow", "delete", "f", code=2)
    assert "--yes" in box.last.stderr
    box.run("flow", "delete", "f", "--yes")
    assert "there is no flow 'f'" in box.fails("flow", "show", "f", code=3)


def test_the_list_and_the_details_without_an_engine(box: Box) -> None:
    box.deploy(named("f", node("a", "condition", {"when": "true"}), description="what it is for", tags=["x"]))
    box.run("run", "f", "--input", "1")
    assert "f" in box.run("flow", "list")
    (item,) = box.json("flow", "list", "--tag", "x")["items"]
    assert (item["state"], item["triggers"], item["last_run"]["state"]) == ("live", None, "succeeded")
    shown = box.run("flow", "show", "f")
    assert "what it is for" in shown
    assert box.json("flow", "show", "f")["flow"]["name"] == "f"
    assert box.json("flow", "list", "--search", "nothing like it")["items"] == []
    assert "no flows" in box.run("flow", "list", "--workspace", "elsewhere")


def test_a_running_engine_takes_changes_at_once(box: Box, kernel: Kernel) -> None:
    body = named(
        "f", triggers=[{"id": "w", "type": "webhook"}, {"id": "c", "type": "schedule", "config": {"every": "1h"}}]
    )
    made = box.json("flow", "deploy", box.write("f.json", body))
    assert made["kernel"]
    assert made["webhooks"]["w"].startswith("/hooks/")
    eventually(lambda: len(box.json("flow", "show", "f")["triggers"]) == 2)
    assert "2 ok" in box.run("flow", "list")
    assert "1h" in box.run("flow", "export", "f")
    shown = box.run("flow", "show", "f")
    assert "listening at /hooks/" in shown
    box.run("flow", "undeploy", "f")
    eventually(lambda: box.json("flow", "show", "f")["triggers"] == [])
    assert box.json("audit", "verify")["ok"]


def test_who_sees_what_a_step_works_on_is_said(box: Box) -> None:
    upstreams = {"cloud": {"config": {"url": "https://api.example/v1"}}}
    box.run("settings", "set", f"model_upstreams={json.dumps(upstreams)}")
    asks = named(
        "Asks", node("away", "llm", {"prompt": "?", "models": ["cloud/gpt"]}), node("here", "llm", {"prompt": "?"})
    )
    file = box.write("asks.json", asks)
    assert box.json("flow", "validate", file)["sends_to"] == {"away": ["api.example"]}
    assert "away sends its prompt to api.example\n" in box.run("flow", "validate", file)
    box.deploy(asks, "asks")
    assert "away sends its prompt to api.example\n" in box.run("flow", "show", "asks")
    asks["nodes"][0]["config"]["models"] = ["clout/gpt"]
    (problem,) = box.json("flow", "validate", box.write("asks.json", asks), code=1)["problems"]
    assert problem == {
        "path": "nodes[0].config.models",
        "message": "the model 'clout/gpt': there is no upstream 'clout'; there are: cloud, local, peer",
    }


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: Box, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Another engine, paired with this one, whose kernel runs."""
    other = boxes.box(tmp_path / "others", "laptop")
    try:
        monkeypatch.setenv("FLOWORK_PEER_DISCOVERY", "never")
        monkeypatch.setenv("FLOWORK_PEER_PORT", str(free_port()))
        request.getfixturevalue("kernel")
        made = other.client.call("peer_pair", roles=boxes.EVERYTHING)
        box.json("peer", "join", made["code"], f"127.0.0.1:{made['port']}")
        eventually(lambda: box.json("peer", "show", "laptop")["state"] == "connected", "the link to it")
        yield other
    finally:
        other.close()


def test_a_flow_goes_to_another_engine(box: Box, laptop: Any) -> None:
    box.deploy(named("Greenhouse", node("a", "log", {"message": "{{ secrets.mail }}"})))
    said = box.run("flow", "copy", "greenhouse", "--to", "laptop")
    assert "copied to laptop as greenhouse with 1 version; it is saved there, not deployed" in said
    assert "to be set there: mail" in said
    # said before anything is sent: here nobody agrees, and nothing is
    box.run("flow", "move", "greenhouse", "--to", "laptop", code=2)
    lacking = "Secrets are never sent; to be set in the workspace 'default' of laptop before it can work: mail."
    assert box.last.stderr.startswith(lacking)
    assert box.json("flow", "show", "greenhouse")["enabled"]
    moved = box.run("flow", "move", "greenhouse", "--to", "laptop", "--yes")
    assert "moved to laptop as greenhouse" in moved
    assert not box.json("flow", "show", "greenhouse")["enabled"]
    assert "no engine that is called 'desk' is paired" in box.fails("flow", "copy", "greenhouse", "--to", "desk")


def test_without_a_kernel_a_flow_goes_nowhere(box: Box) -> None:
    box.deploy(named("Greenhouse"))
    assert "kernel" in box.fails("flow", "copy", "greenhouse", "--to", "laptop", code=5)
