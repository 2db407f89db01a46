"""What the host answers, over its real socket with real models."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.ai.host.asks import Sampling
from appliance.ai.host.routes import Routes
from appliance.ai.host.shelf import Shelf
from tests.support.modelhost import Link, ModelHost, chat
from tests.support.pages import ROOT, tables
from tests.support.tinyeyes import TOKENS, picture, tiny_projector
from tests.support.tinymodel import tiny_adapter, tiny_model

SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}, "room": {"enum": ["attic", "cellar"]}},
    "required": ["on", "room"],
    "additionalProperties": False,
}


def test_a_chat_is_answered_as_the_openai_api_does(host: ModelHost) -> None:
    answer = host.chat("tiny", max_tokens=12)
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    (choice,) = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert 0 <= answer["flowork_seconds"]["first"] <= answer["flowork_seconds"]["whole"]


def test_a_stream_says_the_same_as_the_whole_answer(host: ModelHost) -> None:
    whole = host.chat("tiny", max_tokens=30)
    with host.stream("tiny", max_tokens=30, stream_options={"include_usage": True}) as events:
        *chunks, last, usage, done = list(events)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == _text(whole)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 30


def test_a_picture_is_seen_over_http(data: Path) -> None:
    with ModelHost(data, models={"eyes": tiny_model(), "tiny": tiny_model()}) as host:
        tiny_projector(host.folder / "eyes.mmproj.gguf")
        listed = {one["id"]: one["flowork"]["images"] for one in host.ask("/v1/models")[1]["data"]}
        assert listed == {"eyes": True, "tiny": False}
        url = f"data:image/png;base64,{base64.b64encode(picture((200, 20, 20))).decode()}"
        shown = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        seen, blind = (
            host.ask("/v1/chat/completions", _about("eyes", content))[1]["usage"]["prompt_tokens"]
            for content in (shown, "What is it?")
        )
        assert seen == blind + TOKENS
        status, code, message = host.error("/v1/chat/completions", _about("tiny", shown))
        assert (status, code) == (400, "bad-config")
        assert "sees no pictures" in message
        address = [{"type": "image_url", "image_url": {"url": "https://camera.local/now.jpg"}}]
        assert "nothing is fetched" in host.error("/v1/chat/completions", _about("eyes", address))[2]


def _about(model: str, content: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 4}


def test_a_stream_comes_piece_by_piece(host: ModelHost) -> None:
    with host.stream("slow", max_tokens=40) as events:
        pieces = [event for event in events if event != "[DONE]" and event["choices"][0]["delta"].get("content")]
    assert len(pieces) > 10


def test_the_same_question_has_the_same_answer_and_a_seed_decides_about_chance(host: ModelHost) -> None:
    cold = [_text(host.chat("tiny", max_tokens=20)) for _ in range(2)]
    assert cold[0] == cold[1]
    warm = [_text(host.chat("tiny", max_tokens=20, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]


def test_a_stop_text_ends_the_answer_before_it(host: ModelHost) -> None:
    text = _text(host.chat("tiny", max_tokens=40))
    stop = text[8:11]
    answer = host.chat("tiny", max_tokens=40, stop=[stop])
    assert _text(answer) == text[: text.index(stop)]
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_an_answer_by_schema_fits_it(host: ModelHost) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "light", "schema": SCHEMA}}
    found = json.loads(_text(host.chat("tiny", max_tokens=200, response_format=wanted, temperature=1.0, seed=3)))
    assert found.keys() == {"on", "room"}
    assert found["room"] in ("attic", "cellar")
    assert isinstance(found["on"], bool)


def test_what_is_shared_is_not_evaluated_again(host: ModelHost) -> None:
    system = {"role": "system", "content": "You guard a greenhouse. " * 20}
    cached = []
    for text in ("How warm?", "How wet?"):
        body = {"model": "tiny", "messages": [system, {"role": "user", "content": text}], "flowork_shared": 1}
        usage = host.ask("/v1/chat/completions", {**body, "max_tokens": 1})[1]["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
    assert cached[1] > 50 > cached[0]


def test_a_prompt_is_completed_without_a_template(host: ModelHost) -> None:
    status, answer, _ = host.ask("/v1/completions", {"model": "tiny", "prompt": "The kernel", "max_tokens": 5})
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 5


def test_two_models_at_once(host: ModelHost) -> None:
    with host.stream("slow", max_tokens=200) as slow:
        assert next(slow)
        assert _text(host.chat("tiny", max_tokens=10)) != _text(host.chat("other", max_tokens=10))
        assert {"tiny", "other", "slow"} <= host.loaded()
        assert host.stats()["models"]


def test_vectors_have_length_one_and_come_in_base64_too(host: ModelHost) -> None:
    body = {"model": "vectors", "input": ["the door is open", "the door is open", "rain"]}
    status, answer, _ = host.ask("/v1/embeddings", body)
    assert status == 200, answer
    vectors = [one["embedding"] for one in answer["data"]]
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)
    assert sum(value * value for value in vectors[2]) == pytest.approx(1, abs=1e-4)
    assert answer["usage"]["prompt_tokens"] > 0
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    alone = [host.ask("/v1/embeddings", {**body, "input": text})[1]["data"][0]["embedding"] for text in body["input"]]
    # Few tokens and many are added up in another order.
    assert vectors[0] == pytest.approx(alone[0], abs=1e-3), "each in its place, in whatever order they were made"
    assert vectors[2] == pytest.approx(alone[2], abs=1e-3)
    packed = host.ask("/v1/embeddings", {**body, "encoding_format": "base64"})[1]["data"][2]["embedding"]
    raw = base64.b64decode(packed)
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(vectors[2], abs=1e-5)


def test_tokens_are_counted(host: ModelHost) -> None:
    status, answer, _ = host.ask("/v1/tokens", {"model": "tiny", "input": ["the kernel", ""]})
    assert status == 200
    assert answer["counts"][0] > 0
    assert answer["total"] == sum(answer["counts"])


def test_the_list_of_models(host: ModelHost) -> None:
    status, answer, _ = host.ask("/v1/models")
    assert status == 200
    assert [one["id"] for one in answer["data"]] == ["other", "slow", "tiny", "vectors"]
    assert host.ask("/v1/models/tiny")[1]["flowork"]["kind"] == "language"
    assert host.error("/v1/models/nothing")[:2] == (404, "no-model")


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"{", 400, "bad-request", "not JSON"),
        ({"messages": [{}]}, 400, "bad-request", "`model`"),
        ({"model": "tiny", "messages": []}, 400, "bad-request", "$.messages"),
        (chat("tiny", "x", temperature="hot"), 400, "bad-request", "$.temperature"),
        (chat("tiny", "x", max_tokens=0), 400, "bad-request", "$.max_tokens"),
        (chat("tiny", "x", n=2), 400, "bad-request", "n: not offered"),
        (chat("tiny", "x", logprobs=True), 400, "bad-request", "logprobs"),
        (chat("tiny", "x", tools=[{}]), 400, "bad-request", "tools"),
        (chat("tiny", "x", response_format={"type": "xml"}), 400, "bad-request", "response_format"),
        (chat("unknown", "x"), 404, "no-model", "there are other, slow, tiny, vectors"),
        (chat("../../etc/passwd", "x"), 404, "no-model", "there is no model"),
        (chat("tiny", "word " * 9000), 400, "bad-config", "context"),
        ({"model": "tiny", "messages": [{}]}, 400, "bad-config", "message 1"),
    ],
)
def test_what_is_wrong_is_said(host: ModelHost, body: Any, status: int, code: str, says: str) -> None:
    found = host.error("/v1/chat/completions", body)
    assert found[:2] == (status, code)
    assert says in found[2]
    assert host.chat("tiny", max_tokens=1)


def test_a_model_that_makes_no_vectors_says_so(host: ModelHost) -> None:
    status, code, _ = host.error("/v1/embeddings", {"model": "tiny", "input": "x"})
    assert (status, code) in {(500, "node-failed"), (400, "bad-config")}


def test_addresses_and_methods_that_are_none(host: ModelHost) -> None:
    assert host.error("/v2/chat")[:2] == (404, "not-found")
    assert host.error("/v1/chat/completions")[:2] == (405, "method-not-allowed")
    assert host.error("/v1/models/tiny/eat", {})[:2] == (404, "not-found")


def test_a_body_that_is_too_large_is_refused_unread(host: ModelHost) -> None:
    link = Link(host.data)
    link.putrequest("POST", "/v1/infer")
    link.putheader("Content-Length", str(10**9))
    link.endheaders()
    answer = link.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "too-large"
    link.close()


@pytest.mark.parametrize("said", [b"\x16\x03\x01 hello\r\n\r\n", b"GET /health HTTP/1.1\r\nbad header\r\n\r\n"])
def test_what_is_not_http_is_answered_and_cut(host: ModelHost, said: bytes) -> None:
    link = Link(host.data)
    link.connect()
    link.sock.sendall(said)
    assert link.sock.recv(1000).startswith(b"HTTP/1.1 400")
    while link.sock.recv(1000):
        pass
    link.close()
    assert host.ask("/health")[0] == 200


def test_a_link_serves_many_requests_also_sent_ahead(host: ModelHost) -> None:
    link = Link(host.data)
    link.connect()
    request = b"GET /health HTTP/1.1\r\nHost: models\r\n\r\n"
    link.sock.sendall(request * 3)
    said = b""
    while said.count(b'{"status":"ok"}') < 3:
        said += link.sock.recv(1000)
    assert said.count(b"HTTP/1.1 200") == 3
    link.close()


def test_a_caller_that_waits_for_the_hosts_word_gets_it(host: ModelHost) -> None:
    body = json.dumps({"model": "tiny", "input": "x"}).encode()
    link = Link(host.data)
    link.connect()
    head = f"POST /v1/tokens HTTP/1.1\r\nHost: models\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    link.sock.sendall(head.encode())
    assert link.sock.recv(100).startswith(b"HTTP/1.1 100")
    link.sock.sendall(body)
    assert link.sock.recv(1000).startswith(b"HTTP/1.1 200")
    link.close()


def test_a_model_is_unloaded_by_command(host: ModelHost) -> None:
    host.chat("tiny", max_tokens=1)
    assert host.ask("/v1/models/tiny/unload", {})[1] == {"model": "tiny", "unloaded": True}
    assert "tiny" not in host.loaded()
    assert host.ask("/v1/models/tiny/unload", {})[1]["unloaded"] is False
    with host.stream("slow", max_tokens=500) as events:
        assert next(events)
        assert host.error("/v1/models/slow/unload", {})[:2] == (409, "conflict")


def test_a_model_with_an_adapter_is_a_model_of_its_own(host: ModelHost) -> None:
    plain = _text(host.chat("tiny", max_tokens=12))
    (folder := host.folder / "tiny.adapters").mkdir()
    tiny_adapter(folder / "loud.gguf", strength=8.0)
    assert "tiny+loud" in [one["id"] for one in host.ask("/v1/models")[1]["data"]]
    loud = host.chat("tiny+loud", max_tokens=12)
    assert loud["model"] == "tiny+loud"
    assert _text(loud) != plain
    assert _text(host.chat("tiny", max_tokens=12, flowork_adapter="loud")) == _text(loud)
    assert _text(host.chat("tiny", max_tokens=12)) == plain
    assert host.ask("/v1/tokens", {"model": "tiny+loud", "input": "the"})[0] == 200
    status, code, message = host.error("/v1/chat/completions", chat("tiny+soft", "x"))
    assert (status, code, message) == (404, "no-model", "'tiny' has no adapter 'soft' here; it has loud")


def test_the_page_names_every_address_and_field(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "model-host.md").read_text()
    shelf = Shelf(tmp_path, 0, {}, lambda: 0, lambda: 0.0)
    named = {tuple(row[0].strip("`").split(" ")) for _, *rows in tables(page) for row in rows if "/" in row[0]}
    assert set(Routes(tmp_path, shelf, 0.0)._routes) <= named
    for field in msgspec.structs.fields(Sampling):
        assert f"`{field.encode_name}`" in page or field.encode_name in {
            "model",
            "frequency_penalty",
            "presence_penalty",
        }


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])
