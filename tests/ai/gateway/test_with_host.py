"""The whole way: a step in a real kernel, the real model host, a real (tiny) model in llama.cpp."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.ai.host.errors import Stopping, body_of
from appliance.ai.providers._openai_api import Api, told_of
from appliance.ai.providers.peer import Peer, PeerConfig
from appliance.contracts import ModelFacts, NodeError
from appliance.contracts.peers import PeerFailed
from appliance.kernel.http import HttpClient
from tests.ai.host.conftest import SLOW
from tests.support.kernels import LocalKernel, wait_for
from tests.support.modelhost import Link, ModelHost
from tests.support.tinyeyes import TOKENS, picture, tiny_projector
from tests.support.tinymodel import tiny_adapter, tiny_embedder, tiny_model


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKernel]:
    made = LocalKernel(tmp_path_factory.mktemp("house") / "data")
    models = {"tiny": tiny_model(), "slow": tiny_model(layers=SLOW), "a-vectors": tiny_embedder()}
    with ModelHost(made.data, models={**models, "with-eyes": tiny_model()}):
        tiny_projector(made.data / "models" / "with-eyes.mmproj.gguf")
        made.start()
        yield made
        made.close()


def run(house: LocalKernel, kind: str, config: dict[str, Any], payload: Any = None, **more: Any) -> Any:
    """Run a flow of one node to its end."""
    flow = house.deploy({"nodes": [{"id": "step", "type": kind, "config": config, **more}]})
    house.client.call("reload")
    return house.submit(flow, payload, wait=50.0)


def output(ended: Any) -> Any:
    assert ended["state"] == "succeeded", ended
    return ended["output"]


def stats(data: Path) -> list[dict[str, Any]]:
    link = Link(data)
    try:
        link.request("GET", "/stats")
        found: list[dict[str, Any]] = json.loads(link.getresponse().read())["models"]
        return found
    finally:
        link.close()


def test_the_first_language_model_answers_where_none_is_named(house: LocalKernel) -> None:
    found = output(run(house, "llm", {"prompt": "Hello", "max_tokens": 8}))
    assert (found["model"], found["provider"], found["cost"]) == ("slow", "local", 0.0), "a-vectors cannot talk"
    assert found["tokens_in"] > 0
    assert 0 < found["tokens_out"] <= 8


def test_a_known_answer_is_not_given_for_another_model_of_that_name(house: LocalKernel, tmp_path: Path) -> None:
    file = house.data / "models" / "changing.gguf"
    shutil.copy(tiny_model(), file)
    ask = {"prompt": "What is new?", "max_tokens": 12, "models": ["changing"]}
    first = output(run(house, "llm", ask))
    assert output(run(house, "llm", ask)) == {**first, "from_cache": True, "seconds": 0.0, "first": 0.0}
    tiny_adapter(tmp_path / "new.gguf", strength=3.0)
    file.with_suffix(".adapters").mkdir()
    (tmp_path / "new.gguf").rename(file.with_suffix(".adapters") / "own.gguf")
    adapted = output(run(house, "llm", {**ask, "models": ["changing+own"]}))
    tiny_adapter(tmp_path / "new.gguf", seed=1, strength=3.0)
    (tmp_path / "new.gguf").rename(file.with_suffix(".adapters") / "own.gguf")
    other = output(run(house, "llm", {**ask, "models": ["changing+own"]}))
    assert not other["from_cache"] and other["text"] != adapted["text"]
    shutil.copy(tiny_model(seed=1), tmp_path / "other.gguf")
    (tmp_path / "other.gguf").rename(file)
    assert output(run(house, "llm", ask))["text"] != first["text"]


def test_an_answer_fits_its_schema_whatever_the_weights_are(house: LocalKernel) -> None:
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "room": {"enum": ["hall", "bath"]}},
        "required": ["on", "room"],
        "additionalProperties": False,
    }
    config = {"text": "Light in the hall, please.", "schema": schema, "models": ["tiny"], "max_tokens": 60}
    found = output(run(house, "extract", config))["data"]
    assert found.keys() == {"on", "room"}
    assert found["room"] in {"hall", "bath"}


def test_a_step_shows_a_picture_to_a_model_of_this_machine(house: LocalKernel) -> None:
    (house.data / "files").mkdir(exist_ok=True)
    (house.data / "files" / "gate.png").write_bytes(picture((200, 20, 20)))
    look = {"prompt": "Who is at the gate?", "images": ["{{ payload }}"], "max_tokens": 8, "cache": False}

    def run_with(*models: str) -> Any:
        flow = house.deploy(
            {
                "nodes": [
                    {"id": "read", "type": "file_read", "config": {"path": "gate.png", "format": "bytes"}},
                    {"id": "look", "type": "llm", "config": {**look, "models": list(models)}},
                ],
                "edges": [{"from": "read", "to": "look"}],
            }
        )
        house.client.call("reload")
        return house.submit(flow, None, wait=50.0)

    seen = output(run_with("with-eyes"))
    blind = output(run(house, "llm", {**look, "images": [], "models": ["with-eyes"]}))
    assert (seen["model"], seen["tokens_in"]) == ("with-eyes", blind["tokens_in"] + TOKENS)
    assert output(run_with("tiny", "with-eyes"))["text"] == seen["text"], "one that sees nothing is passed over"
    failed = run_with("tiny")
    assert failed["state"] == "failed"
    assert "sees no pictures: with-eyes can" in failed["error"]["message"]


def test_a_label_is_one_of_the_labels(house: LocalKernel) -> None:
    config = {"text": "Cheap!", "labels": {"bill": "money", "spam": "", "rest": ""}, "models": ["tiny"]}
    assert output(run(house, "classify", config))["label"] in {"bill", "spam", "rest"}


def test_vectors_come_from_the_model_that_makes_them(house: LocalKernel) -> None:
    found = output(run(house, "embed", {"text": ["the light is on", "the light is on"]}))
    assert found["model"] == "a-vectors"
    assert found["vectors"][0] == found["vectors"][1]
    assert sum(value * value for value in found["vector"]) == pytest.approx(1.0, abs=1e-4)
    labels = {"same": ["the light is on"], "other": ["xq zzk"]}
    near = output(run(house, "classify", {"text": "the light is on", "labels": labels, "by": "distance"}))
    assert (near["label"], near["scores"]["same"]) == ("same", 1.0)


def test_a_text_longer_than_the_context_is_summed_up(house: LocalKernel) -> None:
    text = "\n\n".join(f"Paragraph {number} tells of the garden and of the rain." for number in range(150))
    config = {"text": text, "models": ["tiny"], "max_tokens": 16, "part_tokens": 700}
    found = output(run(house, "summarize", config, timeout="5m"))
    assert found["parts"] > 2


def test_words_are_shown_as_they_come(house: LocalKernel) -> None:
    flow = house.deploy({"nodes": [{"id": "step", "type": "llm", "config": {
        "prompt": "Tell a story.", "models": ["slow"], "max_tokens": 40}}]})  # fmt: skip
    house.client.call("reload")
    stream = house.client.stream("live", after=None)
    try:
        items = stream.items(timeout=20.0)
        assert next(items)["type"] == "hello"
        ended = house.submit(flow, wait=50.0)
        text = ""
        for item in items:
            if item["type"] == "stream":
                assert item["from"] == len(text)
                text += item["text"]
            elif item["type"] == "run" and item["state"] == "succeeded":
                break
        assert output(ended)["text"].startswith(text)
        assert text
    finally:
        stream.close()


def test_cancelling_a_run_ends_the_work_in_the_host(house: LocalKernel) -> None:
    config = {"prompt": "Tell a long story.", "models": ["slow"], "max_tokens": 1500}
    flow = house.deploy({"nodes": [{"id": "step", "type": "llm", "config": config}]})
    house.client.call("reload")
    started = house.submit(flow)["run"]
    wait_for(lambda: any(one["working_for"] for one in stats(house.data)))
    house.client.call("cancel", run=started, by="ann")
    wait_for(lambda: not any(one["working_for"] for one in stats(house.data)))


def test_a_prompt_that_is_too_long_and_a_model_that_is_not_there(house: LocalKernel) -> None:
    ended = run(house, "llm", {"prompt": "word " * 5000, "models": ["tiny"]}, retry={"attempts": 1})
    assert "context" in ended["error"]["message"]
    ended = run(house, "llm", {"prompt": "?", "models": ["nobody"]})
    assert ended["error"]["id"] == "no-model"
    assert ended["error"]["message"].startswith("there is no model 'nobody' here"), "no figures of HTTP"
    answered = output(run(house, "llm", {"prompt": "?", "models": ["nobody", "tiny"], "max_tokens": 4}))
    assert answered["model"] == "tiny"


def test_a_failed_step_has_the_hosts_own_error(house: LocalKernel, tmp_path: Path) -> None:
    (house.data / "models" / "cut.gguf").write_bytes(tiny_model().read_bytes()[:100_000])
    ended = run(house, "llm", {"prompt": "?", "models": ["cut"]})
    assert (ended["error"]["id"], ended["state"]) == ("model-unusable", "failed")
    kernel = LocalKernel(tmp_path / "small")
    with ModelHost(kernel.data, models={"tiny": tiny_model()}, memory_mb=100):
        kernel.start()
        try:
            ended = run(kernel, "llm", {"prompt": "?", "models": ["tiny"]}, retry={"attempts": 3})
        finally:
            kernel.close()
    assert (ended["error"]["id"], ended["error"]["detail"]["status"]) == ("model-too-large", 507)


@pytest.mark.parametrize("begun", [False, True])
def test_a_host_that_is_stopped_at_work_says_so_in_the_step(tmp_path: Path, begun: bool) -> None:
    """``begun``: whether a word of the answer has come."""
    api = Api(http=HttpClient(), url="http://models/v1", name="the model host", socket=tmp_path / "models.sock")
    body = json.dumps(body_of(Stopping("it is being stopped"))).encode()
    found = api.broken_off(told_of(body)) if begun else api.error_of(503, body, {})
    assert (found.id, found.retryable, type(found)) == ("model-host-away", True, NodeError)
    assert NodeError.id == "node-failed", "only this one error is called so"


def test_a_peers_model_host_says_so_too() -> None:
    class Peers:
        def offered(self) -> Any:
            return [("laptop", ModelFacts(name="big", provider=""))]

        async def ask(self, peer: str, *arguments: Any) -> Any:
            raise PeerFailed("it takes 9 GB", error_id="model-too-large", retryable=False)

    work = Peer().embed(SimpleNamespace(peers=Peers()), PeerConfig(), "big", ["x"])
    with pytest.raises(NodeError, match="at laptop: it takes 9 GB") as failed:
        asyncio.run(work)
    assert (failed.value.id, failed.value.retryable) == ("model-too-large", False)


def test_what_is_known_without_loading_a_model(house: LocalKernel) -> None:
    (local,) = house.client.call("model_list", upstream="local")
    facts = {model["name"]: model for model in local["models"]}
    assert (facts["tiny"]["task"], facts["tiny"]["context"], facts["a-vectors"]["task"]) == ("language", 2048, "embed")


def test_all_of_it_is_on_the_account_and_free(house: LocalKernel) -> None:
    rows = house.client.call("model_usage")["rows"]
    assert {row["model"] for row in rows} >= {"tiny", "slow", "a-vectors"}
    assert sum(row["cost"] for row in rows) == 0.0
    assert sum(row["tokens_out"] for row in rows) > 0
