"""Chats: who may talk to which flow, what a message starts, and what a conversation tells."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.engine import Caller, Home
from tests.support.flows import compute, flow, node

ANSWER = compute("a", "{'text': 'You said: ' ~ payload.text, 'before': payload.history|length, 'user': payload.user}")


def chat(name: str, *nodes: dict[str, Any], **config: Any) -> dict[str, Any]:
    """A flow that can be talked to."""
    trigger = {"id": "talk", "type": "chat", "config": config}
    return {**flow(*(nodes or (ANSWER,)), triggers=[trigger]), "name": name}


def say(caller: Caller, name: str, text: str, **more: Any) -> Any:
    return caller.do("POST", f"/chats/{name}/messages", {"text": text, "wait": 10, **more})


def test_chats_are_listed_with_what_one_can_ask(home: Home) -> None:
    name = home.save(chat("Listed", title="Ask", about="Knows all.", suggestions=["Why?"], who="admin"), workspace="c1")
    home.save({**flow(compute("a", "1")), "name": "Silent"}, workspace="c1")
    home.save(chat("Draft"), deploy=False, workspace="c1")
    (listed,) = home.owner.get("/chats?workspace=c1")["items"]
    assert listed == {
        "flow": name, "workspace": "c1", "trigger": "talk", "title": "Ask", "about": "Knows all.",
        "suggestions": ["Why?"], "who": "admin", "may": True,
    }  # fmt: skip
    runner, _ = home.person("runner", "c1")
    assert runner.get("/chats?workspace=c1")["items"][0]["may"] is False


def test_a_message_is_a_run_and_its_output_the_answer(home: Home) -> None:
    name = home.save(chat("Talks"))
    sent = say(home.owner, name, "  hello  ")
    assert (sent["state"], sent["answer"], sent["error"]) == ("succeeded", "You said: hello", "")
    run = home.owner.get(f"/runs/{sent['run']}")
    assert run["payload"]["text"] == "hello"
    assert run["payload"]["chat"] == sent["chat"]
    assert run["trigger"] == "talk"
    assert run["event"]["type"] == "chat"


def test_a_conversation_goes_on_with_what_was_said(home: Home) -> None:
    name = home.save(chat("Remembers", history=3))
    first = say(home.owner, name, "one")
    for text in ("two", "three"):
        say(home.owner, name, text, chat=first["chat"])
    other = say(home.owner, name, "elsewhere")
    messages = home.owner.get(f"/chats/{name}/conversations/{first['chat']}")["items"]
    assert [(one["text"], one["answer"]) for one in messages] == [
        (text, f"You said: {text}") for text in ("one", "two", "three")
    ]
    newest = home.owner.get(f"/chats/{name}/conversations/{first['chat']}?limit=1")["items"]
    assert [one["text"] for one in newest] == ["three"]
    given = home.owner.get(f"/runs/{messages[2]['run']}")["payload"]["history"]
    assert given == [
        {"role": "assistant", "content": "You said: one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "You said: two"},
    ]
    listed = home.owner.get(f"/chats/{name}/conversations")["items"]
    assert [(one["chat"], one["title"], one["messages"]) for one in listed] == [
        (other["chat"], "elsewhere", 1), (first["chat"], "one", 3),
    ]  # fmt: skip
    assert listed[1]["began"] <= messages[0]["at"] <= listed[1]["newest"]


def test_a_replayed_answer_stands_in_for_the_first_one(home: Home) -> None:
    name = home.save(chat("Rewinds"))
    first = say(home.owner, name, "one")
    edited = {"text": "another", "history": [], "chat": first["chat"], "user": "x"}
    again = home.owner.do("POST", f"/runs/{first['run']}/replay", {"from": "a", "payload": edited})["run"]
    from tests.gateway.engine import wait_for

    wait_for(lambda: home.owner.get(f"/runs/{again}")["state"] == "succeeded")
    messages = home.owner.get(f"/chats/{name}/conversations/{first['chat']}")["items"]
    assert [one["replay_of"] for one in messages] == ["", first["run"]]
    second = say(home.owner, name, "two", chat=first["chat"])
    given = home.owner.get(f"/runs/{second['run']}")["payload"]["history"]
    assert [one["content"] for one in given] == ["another", "You said: another"]


def test_a_failure_is_told_and_not_passed_on(home: Home) -> None:
    name = home.save(chat("Fails", compute("a", "10 / (payload.text|int)")))
    bad = say(home.owner, name, "0")
    assert bad["state"] == "failed"
    assert "zero" in bad["error"]
    good = say(home.owner, name, "2", chat=bad["chat"])
    assert good["answer"] == "5.0"
    messages = home.owner.get(f"/chats/{name}/conversations/{bad['chat']}")["items"]
    assert [(one["state"], one["answer"]) for one in messages] == [("failed", ""), ("succeeded", "5.0")]
    assert home.owner.get(f"/runs/{good['run']}")["payload"]["history"] == []


def test_who_may_talk_is_the_flows_word(home: Home) -> None:
    name = home.save(chat("For admins", who="admin"))
    open_name = home.save(chat("For all"))
    reader, _ = home.person("reader")
    runner, _ = home.person("runner")
    admin, _ = home.person("admin")
    message = {"text": "hi"}
    assert reader("POST", f"/chats/{open_name}/messages", message).status_code == 403
    assert runner("POST", f"/chats/{open_name}/messages", message).status_code == 202
    refused = runner("POST", f"/chats/{name}/messages", message)
    assert refused.status_code == 403
    assert "for the role admin" in refused.get_json()["detail"]
    assert admin("POST", f"/chats/{name}/messages", message).status_code == 202
    machine = home.caller(["runs:read", "runs:write", "flows:read"])
    assert machine("POST", f"/chats/{name}/messages", message).status_code == 403
    assert machine("POST", f"/chats/{open_name}/messages", message).status_code == 202


def test_conversations_are_their_own(home: Home) -> None:
    name = home.save(chat("Private"))
    ann, _ = home.person("runner")
    bob, _ = home.person("runner")
    admin, _ = home.person("admin")
    sent = say(ann, name, "secret plan")
    assert bob.get(f"/chats/{name}/conversations")["items"] == []
    assert bob("GET", f"/chats/{name}/conversations/{sent['chat']}").status_code == 404
    assert bob("POST", f"/chats/{name}/messages", {"text": "go on", "chat": sent["chat"]}).status_code == 404
    assert ann.get(f"/chats/{name}/conversations/{sent['chat']}")["items"][0]["text"] == "secret plan"
    assert admin.get(f"/chats/{name}/conversations/{sent['chat']}")["items"][0]["text"] == "secret plan"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"text": ""}, 422),
        ({}, 422),
        ({"text": "x" * 20_001}, 422),
        ({"text": "   "}, 422),
        ({"text": "hi", "chat": "../../etc"}, 422),
        ({"text": "hi", "chat": "0000000000000-00000000"}, 202),
        ({"text": "hi", "trigger": "other"}, 404),
        ({"text": "hi", "history": []}, 422),
    ],
)
def test_what_is_no_message_is_refused(home: Home, body: dict[str, Any], status: int) -> None:
    name = home.save(chat("Strict"))
    assert home.owner("POST", f"/chats/{name}/messages", body).status_code == status


def test_a_flow_without_a_chat_cannot_be_talked_to(home: Home) -> None:
    name = home.save({**flow(compute("a", "1")), "name": "Deaf"})
    assert home.owner("POST", f"/chats/{name}/messages", {"text": "hi"}).status_code == 404
    assert home.owner("GET", f"/chats/{name}/conversations").status_code == 404
    off = home.save({**chat("Off"), "triggers": [{"id": "talk", "type": "chat", "disabled": True}]})
    assert home.owner("POST", f"/chats/{off}/messages", {"text": "hi"}).status_code == 404


def test_the_same_message_twice_is_one_run(home: Home) -> None:
    name = home.save(chat("Once"))
    headers = {"Idempotency-Key": "message-1"}
    first = home.owner.do("POST", f"/chats/{name}/messages", {"text": "hi", "wait": 10}, headers=headers)
    second = home.owner.do("POST", f"/chats/{name}/messages", {"text": "hi"}, headers=headers)
    assert second["run"] == first["run"]
    assert second["chat"] == first["chat"]
    assert len(home.owner.get(f"/chats/{name}/conversations/{first['chat']}")["items"]) == 1


def test_it_waits_no_longer_than_asked(home: Home) -> None:
    name = home.save(chat("Waits", node("w", "wait_event", {"name": "never"}), compute("a", "payload")))
    sent = home.owner.do("POST", f"/chats/{name}/messages", {"text": "hi", "wait": 0.05})
    assert (sent["state"], sent["answer"]) == ("", "")
    (message,) = home.owner.get(f"/chats/{name}/conversations/{sent['chat']}")["items"]
    assert message["state"] in {"running", "waiting"}
    home.owner.do("POST", f"/runs/{sent['run']}/cancel")


def test_a_run_by_hand_takes_the_same_words(home: Home) -> None:
    name = home.save(chat("By hand"))
    fired = home.owner("POST", f"/flows/{name}/triggers/talk/test", {"payload": "hello"})
    assert fired.status_code == 202
    wrong = home.owner("POST", f"/flows/{name}/triggers/talk/test", {"payload": {"text": 3}})
    assert wrong.status_code == 422
    assert "input.text" in wrong.get_data(as_text=True)
