"""`flowork ask` and `flowork memory` on a real kernel."""

from __future__ import annotations

from typing import Any

from appliance.kernel.kernel import Kernel
from tests.ai.agents.scripted import Scripted, answer, use
from tests.commands.box import Box
from tests.support.flows import compute, flow, node

TALK = {"id": "talk", "type": "chat"}


def chat(name: str, *nodes: dict[str, Any], **config: Any) -> dict[str, Any]:
    return {**flow(*nodes, triggers=[{**TALK, "config": config}]), "name": name}


def agent() -> dict[str, Any]:
    tool = {"about": "Adds.", "node": "add", "arguments": {"a": {"type": "integer"}}}
    body = {"nodes": [compute("add", "payload.a + 1")]}
    return node("ai", "ai_agent", {"task": "{{ payload.text }}", "history": "payload.history", "tools": [tool],
                                   "body": body})  # fmt: skip


def test_an_agent_is_asked_and_its_answer_shown_as_it_comes(box: Box, kernel: Kernel) -> None:
    models = Scripted(use("add", a=1), answer("It is two.\nReally."), answer("Still two."))
    kernel.services.models = lambda ctx: models
    box.deploy(chat("Ask", agent()))
    said = box.run("ask", "What is one and one?")
    assert "→ add" in said
    assert said.endswith("It is two.\nReally.\n")
    assert said.count("It is two.") == 1
    again = box.json("ask", "And now?", "--again")
    assert again["answer"] == "Still two."
    told = [message["content"] for message in models.asked[-1].messages[1:]]
    assert told == ["What is one and one?", "It is two.\nReally.", "And now?"]
    third = box.json("ask", "Something else")
    assert third["chat"] != again["chat"]
    assert box.json("ask", "More", "--chat", again["chat"])["chat"] == again["chat"]


def test_what_goes_wrong_is_said(box: Box, kernel: Kernel) -> None:
    assert "examples/ask.json" in box.fails("ask", "hi", code=3)
    box.deploy(chat("Broken", compute("a", "1 / 0")))
    box.run("ask", "hi", code=10)
    assert "Error: step a" in box.last.stderr
    box.deploy(chat("Other", compute("a", "payload.text | upper")))
    assert "--flow; there are: broken, other" in box.fails("ask", "hi", code=3)
    assert box.run("ask", "hi", "--flow", "other") == "HI\n"
    assert "no chat" in box.fails("ask", "hi", "--flow", "first-steps", code=3)
    assert "no flow 'nothing'" in box.fails("ask", "hi", "--flow", "nothing", code=3)
    assert "no conversation" in box.fails("ask", "hi", "--flow", "other", "--chat", "x", code=3)


def test_it_needs_a_running_engine(box: Box) -> None:
    box.deploy(chat("Ask", compute("a", "1")))
    assert "flowork up" in box.fails("ask", "hi", code=5)


def test_the_memory_is_listed_searched_and_forgotten(box: Box, kernel: Kernel) -> None:
    name = box.deploy(flow(node("k", "memory", {"text": "{{ payload }}", "outcome": "ok"}), name="Keeps"))
    assert "nothing fits" in box.run("memory")
    for text in ('"the pump ran dry"', '"the lamp broke"'):
        box.run("run", name, "-i", text)
    assert "the lamp broke" in box.run("memory")
    found = box.json("memory", "search", "why did the pump run dry")["items"]
    assert found[0]["text"] == "the pump ran dry"
    assert "SCORE" in box.run("memory", "search", "pump")
    assert "2 episodes" in box.run("memory", "show")
    assert box.json("memory", "show")["outcomes"] == {"ok": 2}
    box.run("memory", "forget", code=2)
    box.run("memory", "forget", "--all", "--outcome", "ok", "--yes", code=2)
    assert box.json("memory", "forget", str(found[0]["id"])) == {"forgotten": 1}
    assert box.json("memory", "forget", "--older", "1h", "--yes") == {"forgotten": 0}
    assert box.json("memory", "forget", "--all", "--yes") == {"forgotten": 1}
    assert next(entry["action"] for entry in box.json("audit", "list")["items"]) == "memory.forget"
