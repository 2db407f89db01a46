"""Whose model a name means, and who sees what it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.ai.gateway.names import KnownModels, Upstreams, read
from appliance.ai.providers.local import Local
from appliance.ai.providers.openai import OpenAI
from appliance.contracts import ConfigError

PROVIDERS: dict[str, Any] = {"local": Local(), "openai": OpenAI()}
RAW = {
    "cloud": {"config": {"url": "https://api.example/v1"}},
    "here": {"config": {"url": "http://127.0.0.1:11434/v1"}},
    "ollama": {"provider": "openai", "config": {"url": "http://ollama.lan:11434/v1"}, "at_once": 1},
}


@pytest.mark.parametrize(
    ("name", "upstream", "model", "place", "shown"),
    [
        ("qwen", "local", "qwen", "", "qwen"),
        ("local/qwen", "local", "qwen", "", "qwen"),
        ("", "local", "", "", "the first model of this machine"),
        ("cloud/gpt", "cloud", "gpt", "api.example", "cloud/gpt"),
        ("cloud/meta/llama", "cloud", "meta/llama", "api.example", "cloud/meta/llama"),
        (" cloud/ ", "cloud", "", "api.example", "cloud"),
        ("here/llama", "here", "llama", "", "here/llama"),
    ],
)
def test_a_name_means_a_model_somewhere(name: str, upstream: str, model: str, place: str, shown: str) -> None:
    target = Upstreams(PROVIDERS, RAW).target(name)
    assert (target.upstream.name, target.model, target.upstream.place, str(target)) == (upstream, model, place, shown)


def test_names_are_tried_once_each_and_the_default_where_none_is_given() -> None:
    upstreams = Upstreams(PROVIDERS, RAW)
    assert upstreams.names(("a", " a ", "b", ""), ("c",)) == ["a", "b"]
    assert upstreams.names((), ("c", "d")) == ["c", "d"]
    assert upstreams.names(("",), ()) == [""]


@pytest.mark.parametrize(
    ("name", "entry", "fault"),
    [
        ("Cloud", {}, "cannot be an upstream's name"),
        ("local", {}, "is built in"),
        ("x", [], "Expected `object`"),
        ("x", {"provider": "local"}, "there is no provider 'local'; there are: openai"),
        ("x", {"provider": "nonsense"}, "there is no provider 'nonsense'"),
        ("x", {"config": {}}, "missing required field `url`"),
        ("x", {"config": {"url": "ollama:11434"}}, "is not an http(s) URL"),
        ("x", {"config": {"url": "http://[::1"}}, "is not an http(s) URL"),
        ("x", {"config": {"url": "http://a"}, "at_once": -1}, "`int` >= 0"),
        ("x", {"config": {"url": "http://a"}, "atonce": 1}, "unknown field `atonce`"),
    ],
)
def test_what_is_wrong_with_an_upstream_is_said(name: str, entry: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(PROVIDERS, name, entry)
    assert fault in caught.value.message


def test_who_looks_at_a_flow_learns_where_prompts_go() -> None:
    known = KnownModels(Upstreams(PROVIDERS, RAW), {"language": ["cloud/gpt", "qwen"], "embed": ["here/e5"]})
    assert known.places([], "language") == ["api.example"]
    assert known.places([], "embed") == []
    assert known.places(["qwen", "here/x"], "language") == []
    assert known.places(["ollama/x", "cloud/y", "ollama/z", "nowhere/z"], "language") == ["ollama.lan", "api.example"]
    assert known.places(["{{ vars.model }}"], "language") == ["?"]
    asked = [[], ["qwen"], ["local/qwen"], ["peer/laptop/qwen"], ["cloud/x", "{{ vars.model }}"], ["cloud/x", "here/y"]]
    assert [known.may_be_own(names, "language") for names in asked] == [True, True, True, True, True, False]
    assert known.fault("cloud/gpt") == ""
    assert "no upstream 'nowhere'" in known.fault("nowhere/x")
    nothing = KnownModels(None, {})
    assert (nothing.fault("nowhere/x"), nothing.places(["cloud/x"], "language")) == ("", [])
