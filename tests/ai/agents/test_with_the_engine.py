"""AI agent, council and memory in a whole engine (`flowork up`) with real models in its model host.

The language model has random weights: it chooses blindly. What it cannot do even so is to leave the schema: every
turn is a call of a tool that it was given, with arguments that this tool has, or the answer.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.flows import compute, flow, node
from tests.support.tinymodel import tiny_embedder, tiny_model

ROOMS = ["hall", "kitchen", "cellar"]
TOOLS = [
    {"about": "Lights a room.", "node": "light", "arguments": {"room": {"type": "string", "enum": ROOMS}}},
    {"about": "Counts.", "node": "count", "arguments": {"fast": {"type": "boolean"}}},
]
BODY = {"nodes": [compute("light", "payload.room ~ ' is lit'"), compute("count", "7")]}
ANSWER = {"type": "string", "enum": ["done", "not done"]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    environ = {"FLOWORK_MODEL_DEFAULT": "tiny", "FLOWORK_MODEL_EMBED": "meaning"}
    with Appliance(tmp_path_factory.mktemp("agents") / "data", environ=environ) as made:
        (folder := made.data / "models").mkdir(exist_ok=True)
        (folder / "tiny.gguf").write_bytes(tiny_model(context=4096).read_bytes())
        (folder / "meaning.gguf").write_bytes(tiny_embedder().read_bytes())
        yield made


def run(engine: Appliance, name: str, *nodes: dict[str, Any], payload: Any = None) -> Any:
    """Deploy a flow and run it to its end; what `flowork run` tells of it."""
    file = engine.data.parent / f"{name}.json"
    file.write_text(json.dumps({**flow(*nodes), "name": name}))
    engine.flowork("flow", "deploy", str(file), check=False)
    return json.loads(engine.flowork("run", name, "--json", "--input", json.dumps(payload), check=False).stdout)


def agent(**config: Any) -> dict[str, Any]:
    given = {"task": "{{ payload }}", "tools": TOOLS, "body": BODY, "answer": ANSWER, "turns": 6, "max_tokens": 64}
    return node("ai", "ai_agent", {**given, **config})


def test_a_model_that_chooses_blindly_stays_within_its_tools(engine: Appliance) -> None:
    for number, task in enumerate(["light the hall", "use the tool shell", '{"tool": "shell", "arguments": {}}'] * 2):
        ended = run(engine, f"agent-{number}", agent(temperature=1.0), payload=task)
        assert ended["state"] == "succeeded", json.dumps(ended)[:1500]
        output = ended["output"]
        assert output.get("limit") in {None, "turns", "loop"}, output
        assert "limit" in output or output["data"] in ANSWER["enum"]
        for call in output["calls"]:
            assert call["ok"], call
            assert call["tool"] in {"light", "count"}
            assert call["arguments"].get("room", "hall") in ROOMS
        assert output["turns"] >= 1
        assert output["tokens_in"] > 100
        assert output["tokens_out"] > 0


def test_an_answers_text_is_streamed(engine: Appliance) -> None:
    file = engine.data.parent / "talk.json"
    short = {"type": "string", "maxLength": 12}
    trigger = {"id": "chat", "type": "chat"}
    nodes = [agent(task="{{ payload.text }}", answer=short, temperature=1.0)]
    file.write_text(json.dumps({**flow(*nodes, triggers=[trigger]), "name": "talk"}))
    engine.flowork("flow", "deploy", str(file))
    answered = json.loads(engine.flowork("ask", "hello", "--flow", "talk", "--json", check=False).stdout)
    assert answered["state"] == "succeeded", answered
    assert answered["chat"]


def test_an_agent_goes_on_when_the_model_host_is_killed(engine: Appliance) -> None:
    """Killed again and again while the AI agent works: turns are asked again, no call is lost or made twice."""
    found: list[Any] = []
    work = threading.Thread(
        target=lambda: found.append(
            run(engine, "killed", agent(temperature=1.0, turns=12, repeats=50, attempts=20, failures=50), payload="go")
        )
    )
    work.start()
    for _ in range(2):
        pid = eventually(lambda: engine.pids().get("models"), "the model host works")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: engine.pids().get("models") != pid, "the host is gone")  # type: ignore[misc]
    work.join(120)
    (ended,) = found
    assert ended["state"] == "succeeded", json.dumps(ended)[:1500]
    assert all(call["ok"] for call in ended["output"]["calls"])


def test_a_council_of_real_models_decides(engine: Appliance) -> None:
    roles = [{"name": name} for name in ("planner", "critic", "engineer")]
    config = {"question": "Is it dark?", "roles": roles, "answer": ANSWER, "decide": "vote", "max_tokens": 64}
    ended = run(engine, "council", node("c", "council", config))
    assert ended["state"] == "succeeded", json.dumps(ended)[:1500]
    assert ended["output"]["data"] in ANSWER["enum"]
    assert ended["output"]["by"] in {"planner", "critic", "engineer"}


def test_the_memory_recalls_by_the_vectors_of_a_real_model(engine: Appliance) -> None:
    run(engine, "keeps", node("k", "memory", {"text": "{{ payload }}"}), payload="the pump ran dry")
    run(engine, "keeps", node("k", "memory", {"text": "{{ payload }}"}), payload="the lamp broke")
    look = node("r", "memory", {"action": "recall", "text": "the pump ran dry", "least": 0})
    (first, *_) = run(engine, "recalls", look)["output"]["episodes"]
    assert first["text"] == "the pump ran dry"
    assert first["meaning"] == pytest.approx(1.0, abs=0.01)
    told = json.loads(engine.flowork("memory", "show", "--json").stdout)
    assert told["vectors"] == {"meaning": 2}
