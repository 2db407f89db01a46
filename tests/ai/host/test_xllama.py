"""The ready-made engine: the same host on a machine where llama_cpp is not there and xllamacpp's wheel is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ai.host.conftest import SLOW
from tests.ai.host.test_requests import SCHEMA, _text
from tests.support.broker import eventually
from tests.support.modelhost import Link, ModelHost, chat
from tests.support.tinymodel import tiny_adapter, tiny_embedder, tiny_model

pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    """Serves ``tiny``, ``slow`` and ``vectors``."""
    folder = tmp_path_factory.mktemp("ready")
    (folder / "shadows" / "llama_cpp").mkdir(parents=True)
    (folder / "shadows" / "llama_cpp" / "__init__.py").write_text("raise ImportError('no llama_cpp here')\n")
    (data := folder / "data").mkdir()
    models: dict[str, Path] = {"tiny": tiny_model(), "slow": tiny_model(layers=SLOW), "vectors": tiny_embedder()}
    with ModelHost(data, models=models, environ={"PYTHONPATH": str(folder / "shadows")}) as made:
        yield made


def test_it_is_the_ready_made_engine_that_answers(host: ModelHost) -> None:
    answer = host.chat("tiny", max_tokens=12)
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["prompt_tokens"] > 5
    assert 0 < answer["flowork_seconds"]["first"] <= answer["flowork_seconds"]["whole"]
    (model,) = (one for one in host.stats()["models"] if one["model"] == "tiny")
    assert model["engine"].startswith("xllamacpp 20")


def test_a_stream_says_the_same_as_the_whole_answer(host: ModelHost) -> None:
    whole = host.chat("tiny", max_tokens=30)
    with host.stream("tiny", max_tokens=30, stream_options={"include_usage": True}) as events:
        *chunks, last, usage, done = list(events)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == _text(whole)
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["usage"]["completion_tokens"] == 30


def test_an_answer_by_schema_fits_it(host: ModelHost) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "light", "schema": SCHEMA}}
    found = json.loads(_text(host.chat("tiny", max_tokens=400, response_format=wanted, temperature=1.0, seed=3)))
    assert found.keys() == {"on", "room"}


def test_a_stop_text_and_a_prompt_as_it_is(host: ModelHost) -> None:
    text = _text(host.chat("tiny", max_tokens=40))
    stop = text[8:11]
    assert _text(host.chat("tiny", max_tokens=40, stop=[stop])) == text[: text.index(stop)]
    status, answer, _ = host.ask("/v1/completions", {"model": "tiny", "prompt": "The kernel", "max_tokens": 5})
    assert (status, answer["usage"]["completion_tokens"]) == (200, 5)


def test_tokens_and_vectors(host: ModelHost) -> None:
    counts = host.ask("/v1/tokens", {"model": "tiny", "input": ["the kernel", "the kernel and the gateway"]})[1][
        "counts"
    ]
    assert 0 < counts[0] < counts[1]
    status, answer, _ = host.ask("/v1/embeddings", {"model": "vectors", "input": ["rain", "sun", "rain"]})
    assert status == 200, answer
    first, _, third = (one["embedding"] for one in answer["data"])
    assert first == pytest.approx(third, abs=1e-4)
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-3)


def working_for(host: ModelHost) -> Any:
    return next((one["working_for"] for one in host.stats()["models"] if one["model"] == "slow"), 0)


def jobs(host: ModelHost) -> Any:
    """Those that the engine works for and those that wait there."""
    return next(one["active"] + one["queued"] for one in host.stats()["models"] if one["model"] == "slow")


def test_a_caller_that_hangs_up_ends_the_work(host: ModelHost) -> None:
    with host.stream("slow", max_tokens=1500) as events:
        assert next(events)
        assert working_for(host) == 1
    eventually(lambda: working_for(host) == 0, "the work has ended")
    eventually(lambda: not any(one.get("active") for one in host.stats()["models"]), "so has the engine's")


def test_two_at_once(host: ModelHost) -> None:
    with host.stream("slow", max_tokens=60) as one, host.stream("slow", max_tokens=60) as other:
        assert next(one)
        assert next(other)
        assert list(one)[-1] == list(other)[-1] == "[DONE]"


def test_two_that_do_not_fit_into_the_context_together_answer_one_after_the_other(host: ModelHost) -> None:
    with host.stream("tiny", "1 hello", max_tokens=1500) as one, host.stream("tiny", "Bye", max_tokens=1500) as other:
        for said in (list(one), list(other)):
            assert said[-1] == "[DONE]", said[-1]
            assert said[-2]["choices"][0]["finish_reason"]


def test_who_hangs_up_while_he_waits_is_gone_at_once(host: ModelHost) -> None:
    """One waits for its part of the context, others for a thread; what works holds all of it."""
    with host.stream("slow", max_tokens=2000) as working:
        assert next(working)
        links = []
        for number in range(1, 4):
            link = Link(host.data)
            link.request("POST", "/v1/chat/completions", json.dumps(chat("slow", "Hello", max_tokens=2000)))
            links.append(link)
            eventually(lambda wanted=number: jobs(host) == 1 + wanted, "it waits")  # type: ignore[misc]
        for number, link in enumerate(links, 1):
            link.close()
            eventually(lambda gone=number: jobs(host) == 4 - gone, "it is gone")  # type: ignore[misc]
        assert next(working), "the work goes on"
        assert working_for(host) == 1


def test_what_is_wrong_is_said(host: ModelHost) -> None:
    status, code, message = host.error("/v1/chat/completions", chat("tiny", "word " * 20_000))
    assert (status, code) == (400, "bad-config"), message
    assert "tokens, and this model reads 2047 at most" in message
    (folder := host.folder / "tiny.adapters").mkdir()
    tiny_adapter(folder / "loud.gguf")
    assert "takes no adapters like 'loud'" in host.error("/v1/chat/completions", chat("tiny+loud", "x"))[2]
    assert host.error("/v1/embeddings", {"model": "tiny", "input": "x"})[:2] == (400, "bad-config")
    assert host.error("/v1/chat/completions", chat("tiny", "x", flowork_adapter="mine"))[:2] == (404, "no-model")
    (host.folder / "noise.gguf").write_bytes(b"noise" * 1000)
    assert host.error("/v1/chat/completions", chat("noise", "x"))[:2] == (422, "model-unusable")
    assert host.chat("tiny", max_tokens=1)


def test_nothing_of_it_is_left(tmp_path: Path) -> None:
    """Neither the folder of its socket nor its process."""
    (shadow := tmp_path / "shadows" / "llama_cpp").mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ImportError('no llama_cpp here')\n")
    (data := tmp_path / "data").mkdir()
    (place := tmp_path / "tmp").mkdir()
    environ = {"PYTHONPATH": str(shadow.parent), "TMPDIR": str(place)}
    with ModelHost(data, models={"tiny": tiny_model()}, environ=environ) as host:
        assert host.chat("tiny", max_tokens=1)
        assert len(list(place.iterdir())) == 1
        assert host.stop() == 0
    assert list(place.iterdir()) == []
