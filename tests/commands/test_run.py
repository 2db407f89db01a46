"""``flowork run`` without an engine, in this process and as a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from appliance.paths import EngineLock
from tests.commands.box import Box
from tests.support.flows import compute, edges, flow, node

GREET = flow(compute("a", "payload.name | upper"), node("b", "log", {"message": "hello {{ payload }}"}))


def test_a_file_runs_with_nothing_there(empty: Box) -> None:
    file = empty.write("greet.json", GREET)
    said = empty.run("run", file, "--input", '{"name": "ada"}', "--follow")
    assert "✓ a  transform" in said
    assert "    hello ADA" in said
    assert "succeeded in" in said
    assert said.rstrip().endswith('"ADA"')
    assert not empty.folder.exists()


def test_without_follow_the_answer_is_the_output(empty: Box) -> None:
    file = empty.write("greet.json", GREET)
    assert empty.run("run", file, "-i", '{"name": "ada"}') == '"ADA"\n'
    assert "succeeded" in empty.last.stderr
    answer = empty.json("run", file, "--input", "-", stdin='{"name": "ada"}')
    assert (answer["state"], answer["output"], [step["state"] for step in answer["steps"]]) == (
        "succeeded", "ADA", ["done", "done"],
    )  # fmt: skip


def test_steps_come_as_lines_of_json(empty: Box) -> None:
    lines = empty.lines("run", empty.write("greet.json", GREET), "-i", '{"name": "ada"}', "--follow")
    assert [line["kind"] for line in lines] == ["step", "step", "run"]
    assert [line["step"]["node"] for line in lines[:2]] == ["a", "b"]
    assert lines[2]["run"]["output"] == "ADA"


def test_every_attempt_that_failed_is_told_once(empty: Box) -> None:
    tried = node("a", "http_request", {"url": "http://127.0.0.1:1/"}, retry={"attempts": 3, "backoff": "10ms"})
    empty.run("run", empty.write("f.json", flow(tried)), "--follow", code=10)
    said = [line for line in empty.last.stdout.splitlines() if line[:1] in "↻✗"]
    assert [line[0] for line in said] == ["↻", "↻", "✗"]
    assert ["attempt 1 failed" in said[0], "attempt 2 failed" in said[1]] == [True, True]


@pytest.mark.parametrize(
    ("step", "code", "state"),
    [
        (compute("a", "payload.x.y"), 10, "failed"),
        (compute("a", "1"), 0, "succeeded"),
        (node("a", "delay", {"for": "1h"}), 14, "waiting"),
    ],
)
def test_the_exit_code_tells_how_the_run_ended(empty: Box, step: dict[str, Any], code: int, state: str) -> None:
    file = empty.write("f.json", flow(step))
    assert empty.json("run", file, "--timeout", "300ms", code=code)["state"] == state


def test_a_failure_names_its_step(empty: Box) -> None:
    file = empty.write("f.json", flow(compute("first", "payload.x.y"), compute("then", "1")))
    said = empty.run("run", file, "--follow", code=10)
    assert "✗ first" in said
    assert "then" not in said
    assert "Error: step first:" in empty.last.stderr


def test_a_faulty_file_does_not_run(empty: Box) -> None:
    file = empty.write("f.json", flow(node("a", "transfrom")))
    assert "nodes[0].type" in empty.fails("run", file)
    assert "not JSON" in empty.fails("run", empty.write("f.json", b"{"))
    assert "not JSON" in empty.fails("run", empty.write("f.json", GREET), "--input", "{")


def test_triggers_are_not_attached_and_their_form_is_checked(empty: Box) -> None:
    body = {
        **GREET,
        "triggers": [
            {"id": "s", "type": "start"},
            {"id": "h", "type": "manual", "config": {"inputs": [{"name": "name", "required": True}]}},
        ],
    }
    file = empty.write("f.json", body)
    assert "input.name: is required" in empty.fails("run", file)
    assert empty.json("run", file, "-i", '{"name": "ada"}')["trigger"] == "h"
    assert "no trigger 'x'; it has: s, h" in empty.fails("run", file, "--trigger", "x", code=3)


def test_a_file_sees_a_copy_of_the_engine_and_leaves_it_as_it_was(box: Box) -> None:
    box.deploy({**flow(compute("double", "payload * 2")), "name": "double"})
    box.run("var", "set", "base", "20")
    box.run("secret", "set", "word", stdin="open sesame")
    (box.folder / "files").mkdir()
    (box.folder / "files" / "note.txt").write_text("from the engine's own folder")
    body = flow(
        compute("a", "vars.base + 1"),
        node("b", "subflow", {"flow": "double"}),
        node("c", "file_read", {"path": "note.txt"}),
        node("d", "transform", {"set": {"text": "{{ payload }}", "length": "{{ secrets.word | length }}"}}),
        node("e", "state", {"action": "increment", "key": "n", "keep": True}),
    )
    before = sorted(path.name for path in box.folder.iterdir())
    answer = box.json("run", box.write("trial.json", body))
    outputs = {step["node"]: step.get("output") for step in answer["steps"]}
    assert (outputs["a"], outputs["b"]) == (21, 42)
    assert answer["output"]["length"] == 11
    assert "engine's own folder" in json.dumps(answer["output"]["text"])
    assert box.json("runs")["items"] == []
    assert list((box.folder / "scratch").iterdir()) == []
    assert sorted(path.name for path in box.folder.iterdir()) == sorted([*before, "scratch"])
    assert box.json("flow", "list", "--search", "trial")["items"] == []


def test_a_file_runs_in_the_place_of_the_flow_that_it_is(box: Box) -> None:
    """A flow that calls itself calls the file's version."""
    box.deploy({**flow(compute("a", "'deployed'")), "name": "loop"})
    body = flow(
        node("again", "condition", {"when": "payload < 1"}),
        compute("more", "payload + 1"),
        node("call", "subflow", {"flow": "loop"}),
        compute("end", "'from the file'"),
        links=edges("again>more>true", "more>call", "again>end>false"),
    )
    assert box.json("run", box.write("loop.json", {**body, "name": "loop"}), "-i", "0")["output"] == "from the file"


def test_scratch_folders_of_killed_commands_are_removed(box: Box) -> None:
    left = box.folder / "scratch" / "flowork-run-left"
    held = box.folder / "scratch" / "flowork-run-held"
    for folder in (left, held):
        folder.mkdir(parents=True)
        os.utime(folder, (1, 1))
    with EngineLock(held, "kernel"):
        os.utime(held, (1, 1))
        box.run("run", box.write("f.json", GREET), "-i", '{"name": "x"}')
        assert not left.exists()
        assert held.exists()


def test_a_deployed_flow_runs_here_when_no_engine_runs(box: Box) -> None:
    assert box.json("run", "first-steps", "-i", '{"name": "Ada"}')["output"]["text"] == "Hello, Ada!"
    assert box.json("run", "first-steps")["output"]["number"] == 2
    assert [run["state"] for run in box.json("runs")["items"]] == ["succeeded", "succeeded"]
    assert "input.nobody: is not declared" in box.fails("run", "first-steps", "-i", '{"nobody": 1}')
    assert "there is no flow 'nothing'" in box.fails("run", "nothing", code=3)
    assert "--detach needs a running engine" in box.run("run", "first-steps", "--detach", code=2) + box.last.stderr


def test_a_draft_can_be_run_if_it_is_sound(box: Box) -> None:
    box.run("flow", "import", box.write("f.json", {**flow(compute("a", "'draft'")), "name": "f"}))
    assert box.json("run", "f")["output"] == "draft"
    box.run("flow", "import", box.write("g.json", {**flow(compute("a", "2")), "name": "g"}), "--deploy")
    box.deploy({**flow(compute("a", "3")), "name": "g"})
    assert box.json("run", "g")["output"] == 3
    assert box.json("run", "g", "--version", "1")["output"] == 2


def test_an_engine_that_starts_or_hangs_is_not_mistaken_for_none(box: Box) -> None:
    with EngineLock(box.folder, "kernel"):
        assert "does not answer" in box.fails("run", "first-steps", code=5)


# --- as a process ------------------------------------------------------------------------------------


def line_of(process: subprocess.Popen[str], part: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if part in line:
            return line
    raise AssertionError(f"no line with {part!r}: {process.stderr and process.stderr.read()}")


def scratch_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("flowork-run-*"))


def test_the_real_command_follows_a_file(empty: Box) -> None:
    file = empty.write("greet.json", GREET)
    with empty.process("run", file, "--follow", "--input", '{"name": "ada"}') as process:
        out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert "✓ a  transform" in out
    assert out.endswith('"ADA"\n')


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_the_run_and_cleans_up(empty: Box, number: signal.Signals) -> None:
    body = flow(node("wait", "command", {"args": ["sleep", "1000"]}))
    before = scratch_folders()
    with empty.process("run", empty.write("f.json", body), "--follow", "--json") as process:
        assert '"running"' in line_of(process, '"step"')
        assert scratch_folders() - before
        process.send_signal(number)
        out, err = process.communicate(timeout=50)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["run"]["state"] == "cancelled"
    assert not scratch_folders() - before


def test_a_reader_that_goes_away_ends_the_command_quietly(box: Box) -> None:
    for number in range(30):
        box.run("var", "set", f"v{number}", json.dumps("x" * 4000))
    with box.process("var", "list", "--json") as process:
        assert process.stdout is not None
        select.select([process.stdout], [], [], 30)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait(30)


def test_no_secret_is_in_what_debug_shows(box: Box) -> None:
    box.run("secret", "set", "word", stdin="open sesame")
    file = box.write(
        "f.json", flow(node("l", "log", {"message": "{{ secrets.word }}"}), compute("x", "secrets.word.y.z"))
    )
    with box.process("run", file, "--follow", "--debug") as process:
        out, err = process.communicate(timeout=50)
    assert process.returncode == 10
    assert "DEBUG" in err or "INFO" in err
    assert "sesame" not in out + err
