"""``flowork upstream`` and ``flowork usage``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support.cloud import Cloud, cloud
from tests.support.flows import node


@pytest.fixture
def server() -> Iterator[Cloud]:
    with cloud() as made:
        yield made


def test_an_upstream_is_set_up_and_forgotten(box: Box) -> None:
    assert "no upstreams" in box.run("upstream")
    said = box.run("upstream", "set", "openai", "https://api.openai.com/v1", "--secret", "key", "--budget-day", "0.5")
    assert said == "set openai; api.openai.com sees what its models are asked\n"
    assert "there is no secret 'key' yet" in box.last.stderr
    said = box.run(
        "upstream", "set", "here", "http://127.0.0.1:11434/v1", "--model", "a", "--model", "b", "--no-images"
    )
    assert "nobody but this machine sees" in said
    here, openai = box.json("upstream", "list")["items"]
    assert here["upstream"]["config"] == {"url": "http://127.0.0.1:11434/v1", "models": ["a", "b"], "images": False}
    assert (openai["place"], openai["error"], openai["upstream"]["budget_day"]) == ("api.openai.com", "", 0.5)
    assert "this machine alone" in box.run("upstream", "list")
    assert "is not an http(s) URL" in box.fails("upstream", "set", "x", "ollama:11434")
    assert "cannot be an upstream's name" in box.fails("upstream", "set", "My Cloud", "http://x")
    assert "is built in" in box.fails("upstream", "set", "local", "http://x")
    box.run("upstream", "delete", "here", "--yes")
    assert "there is no upstream" in box.fails("upstream", "delete", "here", "--yes", code=3)
    assert [one["name"] for one in box.json("upstream", "list")["items"]] == ["openai"]


def test_what_is_wrong_with_a_stored_upstream_is_shown(box: Box) -> None:
    box.run("settings", "set", 'model_upstreams={"x": {"config": {"url": 7}}, "y": {"provider": "none"}}')
    said = box.run("upstream", "list")
    assert "url: expected `str`" in said
    assert "there is no provider 'none'" in said


def test_trying_an_upstream_and_what_was_used(box: Box, kernel: Kernel, server: Cloud) -> None:
    box.run("upstream", "set", "cloud", server.url, "--price-in", "1000", "--price-out", "2000")
    assert box.run("upstream", "try", "cloud") == "cloud/small\ncloud/large\n"
    assert "there is no upstream" in box.fails("upstream", "try", "other", code=3)
    assert "no model was asked" in box.run("usage")
    server.say("one two three")
    asks = {"name": "Asks", "nodes": [node("ask", "llm", {"prompt": "?", "models": ["cloud/small"]})]}
    box.deploy(asks, "asks")
    box.run("run", "asks")
    answer = box.json("usage", "--by", "flow", "--by", "node")
    assert [(one["flow"], one["node"], one["calls"], one["tokens_out"]) for one in answer["items"]] == [
        ("asks", "ask", 1, 3)
    ]
    text = box.run("usage")
    assert text.splitlines()[0].split() == ["MODEL", "CALLS", "FROM", "MEMORY", "FAILED", "TOKENS", "IN", "OUT", "COST"]
    assert "cloud/small" in text
    box.run("settings", "set", "model_budget_day=2.5", "model_tokens_day=1000")
    kernel.reload(lambda: None, lambda exc: None)
    assert box.json("usage", "--flow", "asks")["total"]["cost"] == answer["total"]["cost"] > 0
    assert "there is no flow" in box.fails("usage", "--flow", "other", code=3)
    box.run("var", "set", "x", "1")  # has the kernel read the settings
    said = box.run("usage")
    assert "model_budget_day: $0." in said
    assert "of $2.5000" in said
    assert "model_tokens_day: " in said
    server.fail(401, "who are you?")
