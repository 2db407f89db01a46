"""Models over HTTP: the OpenAI API for other programs, upstreams, questions, and what was used."""

from __future__ import annotations

import json
import socket
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from werkzeug.test import TestResponse

from appliance.gateway import told
from tests.gateway.engine import Caller, Home, wait_for
from tests.gateway.served import Served, watching
from tests.gateway.test_runs import named
from tests.support.cloud import Cloud, cloud
from tests.support.flows import node


@pytest.fixture
def server() -> Iterator[Cloud]:
    with cloud() as made:
        yield made


@pytest.fixture
def served(make_home: Callable[..., Home], server: Cloud) -> Home:
    """An engine with an upstream, that serves its models."""
    home = make_home()
    home.start_kernel()
    home.owner.do(
        "PUT",
        "/upstreams/cloud",
        {"config": {"url": server.url}, "price_in": 1000.0, "price_out": 2000.0, "at_once": 0},
    )
    home.owner.do("PATCH", "/settings", {"values": {"model_api": True, "model_default": ["cloud/small"]}})
    return home


def v1(caller: Caller, path: str, body: Any = None) -> TestResponse:
    """A request as other programs make it."""
    method = "GET" if body is None else "POST"
    return caller.client.open(f"/v1{path}", method=method, headers=caller.headers, json=body)


def good(response: TestResponse) -> Any:
    assert response.status_code == 200, response.get_data(as_text=True)
    return response.get_json()


def events(response: TestResponse) -> list[Any]:
    """The events of a stream without the last, which says that it is over."""
    assert response.content_type == "text/event-stream"
    *found, done, end = response.get_data(as_text=True).split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(one.removeprefix("data: ")) for one in found if not one.startswith(":")]


HELLO = [{"role": "user", "content": "Hello?"}]


def test_another_program_asks_with_its_token(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.say("Good day.", cached=2)
    answer = good(v1(program, "/chat/completions", {"model": "cloud/large", "messages": HELLO, "user": "x"}))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "Good day."}
    assert (answer["object"], answer["model"]) == ("chat.completion", "cloud/large")
    assert answer["usage"]["completion_tokens"] == 2
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert server.bodies[-1]["model"] == "large"
    assert good(v1(program, "/chat/completions", {"messages": HELLO}))["model"] == "cloud/small"


def test_an_answer_comes_piece_by_piece(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.say("Good day to you.")
    body = {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    told = events(v1(program, "/chat/completions", body))
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in told[:-1])
    assert text == "Good day to you."
    assert (told[-2]["choices"][0]["finish_reason"], told[-1]["choices"]) == ("stop", [])
    assert told[-1]["usage"]["completion_tokens"] == 4
    assert {event["object"] for event in told} == {"chat.completion.chunk"}


def test_a_stream_that_cannot_begin_has_a_status(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.fail(429, "slow down", retry_after=7)
    response = v1(program, "/chat/completions", {"messages": HELLO, "stream": True})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "7")
    error = response.get_json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "busy")
    assert "slow down" in error["message"]


def test_a_stream_that_breaks_off_says_so(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.cut("Half of ")
    body = {"messages": HELLO, "stream": True}
    text = v1(program, "/chat/completions", body).get_data(as_text=True)
    assert '"Half "' in text
    assert "broken-off" in text
    assert "[DONE]" not in text


def test_an_answer_fits_its_schema(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.say("hm")
    server.say('{"t": 3}')
    schema = {"type": "object", "properties": {"t": {"type": "integer"}}, "required": ["t"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = good(v1(program, "/chat/completions", {"messages": HELLO, "response_format": form}))
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"t": 3}
    assert len(server.bodies) == 2


def test_a_stream_with_a_schema_shows_only_what_fits(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.say("hm")
    server.say('{"t": 3}')
    body = {"messages": HELLO, "stream": True, "response_format": {"type": "json_object"}}
    told = events(v1(program, "/chat/completions", body))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in told) == '{"t": 3}'


def test_a_model_that_is_passed_over_leaves_no_trace_in_the_stream(served: Home, server: Cloud) -> None:
    served.owner.do("PATCH", "/settings", {"values": {"model_default": ["nowhere/x", "cloud/small"]}})
    told = events(v1(served.caller(["models"]), "/chat/completions", {"messages": HELLO, "stream": True}))
    assert told[0]["choices"][0]["delta"] == {"content": "yes"}


def test_a_bare_prompt_is_gone_on_with(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    answer = good(v1(program, "/completions", {"prompt": "once upon a", "max_tokens": 3}))
    choice = answer["choices"][0]
    assert (answer["object"], choice["text"], choice["finish_reason"]) == ("text_completion", "ONCE UPON A", "length")
    assert server.bodies[-1]["prompt"] == "once upon a"
    assert "messages" not in server.bodies[-1]
    told = events(v1(program, "/completions", {"prompt": "there was", "stream": True}))
    assert "".join(event["choices"][0]["text"] for event in told) == "THERE WAS"


def test_vectors(served: Home) -> None:
    program = served.caller(["models"])
    plain = good(v1(program, "/embeddings", {"model": "cloud/vec", "input": ["one", "two"]}))
    packed = good(v1(program, "/embeddings", {"model": "cloud/vec", "input": "one", "encoding_format": "base64"}))
    data = b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(plain["data"][0]["embedding"], rel=1e-6)
    assert plain["usage"]["prompt_tokens"] == 6


def test_models_are_listed_under_the_names_that_are_asked_for(served: Home) -> None:
    found = good(v1(served.caller(["models"]), "/models"))
    assert [model["id"] for model in found["data"]] == ["cloud/small", "cloud/large"]


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/chat/completions", {}, 422, "messages"),
        ("/chat/completions", {"messages": []}, 422, "messages"),
        ("/chat/completions", {"messages": HELLO, "n": 2}, 422, "n"),
        ("/chat/completions", {"messages": HELLO, "tools": [{}]}, 422, "tools"),
        ("/chat/completions", {"messages": HELLO, "temperature": 9}, 422, "temperature"),
        ("/chat/completions", {"messages": HELLO, "response_format": {"type": "xml"}}, 422, "response_format"),
        ("/chat/completions", {"messages": HELLO, "model": "nowhere/x"}, 422, "nowhere"),
        ("/completions", {"prompt": ["a", "b"]}, 422, "prompt"),
        ("/embeddings", {"input": []}, 422, "input"),
        ("/embeddings", {"input": "x", "dimensions": 3}, 422, "dimensions"),
        ("/chat/completions", [], 422, "object"),
    ],
)
def test_what_cannot_be_asked_is_said(served: Home, path: str, body: Any, status: int, field: str) -> None:
    response = v1(served.caller(["models"]), path, body)
    assert response.status_code == status, response.get_data(as_text=True)
    assert field in response.get_json()["error"]["message"]


def test_nothing_is_served_unless_the_owner_wants_that(make_home: Callable[..., Home]) -> None:
    home = make_home()
    response = v1(home.caller(["models"]), "/models")
    assert response.status_code == 404
    assert "model_api" in response.get_json()["error"]["message"]
    assert v1(home.caller(["flows:read"]), "/models").status_code == 403
    response = v1(home.anonymous, "/models")
    assert (response.status_code, response.get_json()["error"]["type"]) == (401, "authentication_error")


def test_only_so_many_questions_at_once(served: Home, server: Cloud) -> None:
    program = served.caller(["models"])
    server.hold("Good ", "day.")
    response = v1(program, "/chat/completions", {"messages": HELLO, "stream": True})
    streams = []
    for _ in range(told.MOST - 1):
        server.hold("Good ", "day.")
        streams.append(v1(program, "/chat/completions", {"messages": HELLO, "stream": True, "temperature": 1.0}))
    assert v1(program, "/chat/completions", {"messages": HELLO, "temperature": 1.0}).status_code == 429
    for one in [response, *streams[:-1]]:
        one.close()
    server.go.set()
    assert "day." in streams[-1].get_data(as_text=True)
    assert good(v1(program, "/chat/completions", {"messages": HELLO}))


def test_whoever_hangs_up_ends_the_work(served: Home, server: Cloud) -> None:
    server.begin_and_hang("Good ")
    response = v1(served.caller(["models"]), "/chat/completions", {"messages": HELLO, "stream": True})
    response.close()
    assert server.web.hung_up.wait(20)


# --- upstreams, questions, usage ---------------------------------------------------------------------------


def test_an_upstream_is_set_up_tried_and_forgotten(served: Home, server: Cloud) -> None:
    owner = served.owner
    listed = owner.get("/upstreams")
    assert [(one["name"], one["place"], one["error"]) for one in listed["items"]] == [("cloud", "", "")]
    assert "url" in json.dumps(listed["providers"]["openai"]["schema"])
    tried = owner.do("POST", "/upstreams/cloud/try")
    assert (tried["ok"], tried["models"]) == (True, ["small", "large"])
    made = owner.do("PUT", "/upstreams/away", {"config": {"url": "https://api.example/v1", "secret": "key"}})
    assert made["place"] == "api.example"
    tried = owner.do("POST", "/upstreams/away/try")
    assert not tried["ok"]
    assert "no secret 'key'" in tried["error"]
    wrong = owner("PUT", "/upstreams/bad", {"config": {"url": "nonsense"}})
    assert (wrong.status_code, wrong.get_json()["problems"][0]["path"]) == (422, "url")
    owner.do("DELETE", "/upstreams/away")
    assert [one["name"] for one in owner.get("/upstreams")["items"]] == ["cloud"]
    assert owner("DELETE", "/upstreams/away").status_code == 404
    actions = [entry["action"] for entry in owner.get("/audit?limit=10")["items"]]
    assert {"upstream.set", "upstream.delete"} <= set(actions)


def test_a_person_asks_and_sees_what_can_be_asked(served: Home, server: Cloud) -> None:
    runner, _ = served.person("runner")
    server.say('"yes"')
    answer = runner.do("POST", "/questions", {"messages": HELLO, "schema": {"enum": ["yes", "no"]}})
    assert (answer["data"], answer["model"], answer["provider"]) == ("yes", "small", "cloud")
    choices = runner.get("/questions/models")
    assert choices["default"] == ["cloud/small"]
    by_name = {place["upstream"]: place for place in choices["items"]}
    assert [model["name"] for model in by_name["cloud"]["models"]] == ["small", "large"]
    assert by_name["local"]["local"] is True
    assert by_name["local"]["models"] == []
    reader, _ = served.person("reader")
    assert reader("POST", "/questions", {"messages": HELLO}).status_code == 403


def lines(response: TestResponse) -> list[Any]:
    """The lines of an answer in pieces."""
    assert (response.status_code, response.content_type) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.get_data(as_text=True).splitlines() if line]


def test_an_answer_is_read_while_it_is_made(served: Home, server: Cloud) -> None:
    runner, _ = served.person("runner")
    server.hold("Good ", "day.")
    response = runner("POST", "/questions/stream", {"messages": HELLO})
    pieces = iter(response.response)
    begun = next(piece for piece in pieces if bytes(piece).strip())
    assert json.loads(begun) == {"text": "Good "}
    server.go.set()
    *rest, last = [json.loads(piece) for piece in pieces if bytes(piece).strip()]
    assert "".join(one["text"] for one in rest) == "day."
    assert (last["reply"]["text"], last["reply"]["model"]) == ("Good day.", "small")
    reader, _ = served.person("reader")
    assert reader("POST", "/questions/stream", {"messages": HELLO}).status_code == 403


def test_what_is_wrong_with_a_question_has_a_status_and_what_breaks_off_a_line(served: Home, server: Cloud) -> None:
    refused = served.owner("POST", "/questions/stream", {"messages": HELLO, "models": ["nowhere/x"]})
    assert (refused.status_code, "nowhere" in refused.get_json()["detail"]) == (422, True)
    server.hold("Good ", "day.")
    response = served.owner("POST", "/questions/stream", {"messages": HELLO})
    served.stop_kernel()
    assert lines(response)[-1]["error"]["detail"] == "the engine is stopping"
    server.go.set()


@pytest.mark.parametrize("path", ["/questions", "/questions/stream", "/drafts/describe"])
def test_whoever_gives_up_a_question_ends_the_work(
    path: str, make_home: Callable[..., Home], served: Home, server: Cloud
) -> None:
    server.begin_and_hang("Good ")
    ours, theirs = socket.socketpair()
    body = {"text": "water the beds"} if path.startswith("/drafts") else {"messages": HELLO}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(served.owner, "POST", path, body, environ_overrides={"gunicorn.socket": ours})
        assert wait_for(lambda: server.bodies, "the model to be asked")
        theirs.close()
        answer.result(20).close()
    assert server.web.hung_up.wait(20)
    ours.close()


def test_a_budget_that_is_spent_is_told_with_its_name(served: Home, server: Cloud) -> None:
    served.owner.do("PATCH", "/settings", {"values": {"model_budget_day": 0.05}})
    response = served.owner("POST", "/questions", {"messages": HELLO, "max_tokens": 100})
    assert response.status_code == 402
    assert "model_budget_day" in response.get_json()["detail"]
    assert server.bodies == []


def test_usage_is_told_by_flow_step_model_and_day(served: Home, server: Cloud) -> None:
    flow = served.save(named("Asks", node("one", "llm", {"prompt": "?"}), node("two", "llm", {"prompt": "!"})))
    served.run(flow)
    good(v1(served.caller(["models"]), "/chat/completions", {"messages": HELLO}))
    used = wait_for(lambda: _used(served.owner, "/usage?workspace=*&by=flow&by=node&by=model", 3), "three lines")
    lines = [(one["flow"], one["node"], one["model"], one["calls"]) for one in used["items"]]
    assert lines == [
        ("", "test", "cloud/small", 1),
        (flow, "one", "cloud/small", 1),
        (flow, "two", "cloud/small", 1),
    ]
    total = used["total"]
    assert total["cost"] == pytest.approx((total["tokens_in"] * 1000 + total["tokens_out"] * 2000) / 1e6)
    mine = served.owner.get("/usage?by=day")
    assert [one["day"] for one in mine["items"]] == [used["today"]]
    assert (mine["total"]["calls"], mine["budgets"]) == (2, [])
    assert served.owner.get(f"/usage?flow={flow}")["total"]["calls"] == 2
    assert served.owner.get("/usage?flow=other")["total"]["calls"] == 0
    served.owner.do("PATCH", "/settings", {"values": {"model_budget_day": 5.0}})
    (budget,) = served.owner.get("/usage?workspace=*")["budgets"]
    assert (budget["setting"], budget["bound"]) == ("model_budget_day", 5.0)
    assert budget["spent"] == pytest.approx(total["cost"])


def test_accounts_outlive_the_kernel_and_the_flow(served: Home, server: Cloud) -> None:
    flow = served.save(named("Passing", node("one", "llm", {"prompt": "?"})))
    served.run(flow)
    before = served.owner.get("/usage?workspace=*")["total"]
    assert before["calls"] == 1
    served.owner.do("DELETE", f"/flows/{flow}")
    served.start_kernel()
    assert served.owner.get("/usage?workspace=*")["total"] == before


def _used(caller: Caller, path: str, lines: int) -> Any:
    found = caller.get(path)
    return found if len(found["items"]) == lines else None


def test_who_watches_a_run_sees_a_models_words_within_moments(served: Home, server: Cloud) -> None:
    flow = served.save(named("Watched", node("ask", "llm", {"prompt": "?"})))
    other = served.save(named("Other", node("ask", "llm", {"prompt": "!"})))
    process = Served(served.data)
    try:
        server.hold("Good ", "day.")
        with (
            watching(process, headers=served.owner.headers) as panel,
            watching(process, f"?flow={other}", headers=served.owner.headers) as elsewhere,
        ):
            panel.until(lambda event: event["type"] == "hello")
            elsewhere.until(lambda event: event["type"] == "hello")
            run = served.owner.do("POST", f"/flows/{flow}/runs", {})["run"]
            first = panel.until(lambda event: event["type"] == "stream")
            assert (first["run"], first["flow"], first["node"]) == (run, flow, "ask")
            assert (first["from"], first["text"], "id" in first) == (0, "Good ", False)
            began = time.monotonic()
            server.go.set()
            second = panel.until(lambda event: event["type"] == "stream" and event["from"] > 0)
            waited = time.monotonic() - began
            assert (second["from"], second["text"]) == (5, "day.")
            ended = panel.until(lambda event: event["type"] == "run" and event["state"] == "succeeded")
            assert ended["run"] == run
            assert waited < 2.0, f"{waited}: a busy machine; on an idle one it is some 40 ms"
            served.run(other)
            mine = elsewhere.until(lambda event: event["type"] == "stream")
            assert mine["flow"] == other, "words of flows that are not watched do not come"
        # What was shown is not kept: who comes back is told of the run, and reads the words there.
        with watching(process, f"?after={ended['id']}", headers=served.owner.headers) as panel:
            panel.until(lambda event: event["type"] == "run" and event["flow"] == other)
            assert not [event for event in panel.events if event["type"] == "stream"]
    finally:
        process.stop()
