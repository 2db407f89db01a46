"""The nodes that ask models, with models that answer by script: what they ask, and what they give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    ConfigError,
    FlowError,
    ModelFacts,
    NodeError,
    Out,
    Park,
    Vectors,
    Wake,
)
from appliance.nodes import summarize
from appliance.nodes.ai_agent import AiAgent
from appliance.nodes.classify import Classify
from appliance.nodes.council import CouncilNode
from appliance.nodes.embed import Embed
from appliance.nodes.extract import Extract
from appliance.nodes.llm import Llm
from appliance.nodes.summarize import Summarize
from tests.support.cloud import letters
from tests.support.context import FakeContext, FakeWorld, resume_node, run_node


class Scripted:
    """Models in memory: ``answer`` makes each answer; a token is a word."""

    def __init__(self, answer: Callable[[ChatRequest], Any] = lambda request: "yes", context: int = 0) -> None:
        self.answer = answer
        self.context = context
        self.away: set[str] = set()
        self.requests: list[ChatRequest] = []
        self.embedded: list[tuple[list[str], str]] = []

    async def chat(self, request: ChatRequest, on_text: Callable[[str], None] | None = None) -> ChatReply:
        self.requests.append(request)
        made = self.answer(request)
        if isinstance(made, FlowError):
            raise made
        text = made if request.schema is None else msgspec.json.encode(made).decode()
        if on_text is not None:
            on_text(text)
        data = None if request.schema is None else made
        return ChatReply(text=text, data=data, model="small", provider="test", cost=0.5, tokens_in=3, tokens_out=1)

    async def embed(self, texts: Sequence[str], model: str = "", timeout: float = 60.0) -> Vectors:
        self.embedded.append((list(texts), model))
        vectors = []
        for text in texts:
            vector = letters(text)
            length = sum(value * value for value in vector) ** 0.5
            vectors.append([value / length for value in vector])
        return Vectors(vectors=vectors, model="vec", provider="test", tokens=7, cost=0.25)

    async def count(self, text: str, model: str = "") -> int:
        return len(text.split())

    async def facts(self, model: str = "") -> ModelFacts:
        if model in self.away:
            raise NodeError(f"{model} is away")
        return ModelFacts(name=model or "small", provider="test", context=self.context)

    async def infer(self, *arguments: Any, **options: Any) -> Any:
        raise AssertionError("nobody here looks at pictures")


def with_models(models: Scripted) -> FakeContext:
    return FakeContext(models=models)


# --- llm ---------------------------------------------------------------------------------------------------


def test_llm_asks_what_its_config_says() -> None:
    models = Scripted(lambda request: {"t": 3})
    ctx = with_models(models)
    picture = {"$blob": "0" * 64, "size": 1, "type": "image/png"}
    config = {
        "prompt": "How warm?",
        "system": "You garden.",
        "models": ["a", "b/c"],
        "schema": {"type": "object"},
        "images": [picture],
        "temperature": 0.5,
        "max_tokens": 9,
        "stop": ["."],
        "seed": 4,
        "timeout": "2m",
        "cache": False,
    }
    output = run_node(Llm(), config, None, ctx)
    assert (output["data"], output["text"], output["model"], output["cost"]) == ({"t": 3}, '{"t":3}', "small", 0.5)
    (request,) = models.requests
    parts = [{"type": "text", "text": "How warm?"}, {"type": "image", "image": picture}]
    assert request.messages == [{"role": "system", "content": "You garden."}, {"role": "user", "content": parts}]
    assert (request.models, request.shared, request.timeout) == (("a", "b/c"), 1, 120.0)
    assert (request.temperature, request.max_tokens, request.stop, request.seed) == (0.5, 9, (".",), 4)
    assert request.cache is False
    assert ctx.streamed == ['{"t":3}']


def test_llm_keeps_a_picture_that_a_webhook_was_sent_as_a_blob() -> None:
    models = Scripted()
    ctx = with_models(models)
    sent = {"base64": "anBlZw==", "type": "image/jpeg"}
    run_node(Llm(), {"prompt": "?", "images": [sent]}, None, ctx)
    picture = models.requests[0].messages[0]["content"][1]["image"]
    assert (ctx.blobs.get(picture), picture["type"]) == (b"jpeg", "image/jpeg")
    with pytest.raises(ConfigError, match=r"images\[0\]: is not a reference to a blob"):
        run_node(Llm(), {"prompt": "?", "images": [{"path": "door.jpg"}]}, None, ctx)


def test_llm_without_a_system_prompt_shares_nothing() -> None:
    models = Scripted()
    run_node(Llm(), {"prompt": "?"}, None, with_models(models))
    assert models.requests[0].shared == 0
    assert models.requests[0].messages == [{"role": "user", "content": "?"}]


def test_steps_say_where_they_send_what_they_work_on() -> None:
    world = FakeWorld(models={"a/x": "a.example", "here": "", "a/vec": "vec.example"})
    assert list(Llm().sends_to({"prompt": "?", "models": ["here", "a/x"]}, world)) == ["a.example"]
    assert list(Embed().sends_to({"text": "?", "model": "a/vec"}, world)) == ["vec.example"]
    classify = {"text": "?", "labels": {"a": "", "b": ""}, "models": ["a/x"], "embed_model": "a/vec"}
    assert list(Classify().sends_to(classify, world)) == ["a.example"]
    assert list(Classify().sends_to({**classify, "by": "distance"}, world)) == ["vec.example"]
    assert list(AiAgent().sends_to({"task": "?", "tools": [], "models": ["a/x"]}, world)) == ["a.example"]
    roles = [{"name": "plan"}, {"name": "doubt", "models": ["a/vec"]}]
    council = {"question": "?", "roles": roles, "models": ["here"], "judge_models": ["a/x"]}
    assert list(CouncilNode().sends_to(council, world)) == ["vec.example", "a.example"]
    assert list(CouncilNode().sends_to({**council, "decide": "vote"}, world)) == ["vec.example"]


# --- embed -------------------------------------------------------------------------------------------------


def test_embed_gives_a_vector_for_each_text() -> None:
    models = Scripted()
    output = run_node(Embed(), {"text": ["ab", "ba"], "model": "vec"}, None, with_models(models))
    assert output["vectors"][0] == output["vectors"][1] == output["vector"]
    assert (output["tokens"], output["cost"], models.embedded) == (7, 0.25, [(["ab", "ba"], "vec")])
    assert len(run_node(Embed(), {"text": "ab"}, None, with_models(models))["vectors"]) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [([], "not 0"), ("", "text: is empty"), (["a", "  "], r"text\[1\]: is empty"), (["a"] * 1001, "not 1,001")],
)
def test_embed_wants_texts(text: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_node(Embed(), {"text": text}, None, with_models(Scripted()))


# --- classify ----------------------------------------------------------------------------------------------

LABELS = {"bill": "somebody wants money", "spam": ["buy now", "cheap"], "rest": ""}


def test_classify_binds_the_model_to_the_labels() -> None:
    models = Scripted(lambda request: "spam")
    config = {"text": "Cheap!", "labels": LABELS, "about": "Mails of a dentist.", "models": ["a"]}
    output = run_node(Classify(), config, None, with_models(models))
    assert output == Out({"label": "spam", "scores": {}, "model": "small", "provider": "test", "cost": 0.5}, "out")
    (request,) = models.requests
    assert request.schema == {"enum": ["bill", "spam", "rest"]}
    system = request.messages[0]["content"]
    assert system.startswith("Mails of a dentist.\n")
    assert system.endswith("- bill: somebody wants money\n- spam, such as: buy now; cheap\n- rest")
    assert request.messages[1] == {"role": "user", "content": "Cheap!"}


def test_classify_compares_with_examples() -> None:
    models = Scripted()
    labels = {"numbers": ["one two three", "four five"], "fruit": ["apple banana", "cherry"]}
    config = {"text": "banana apple", "labels": labels, "by": "distance", "embed_model": "vec"}
    output = run_node(Classify(), config, None, with_models(models)).value
    assert (output["label"], output["scores"]["fruit"]) == ("fruit", 1.0)
    assert models.embedded == [(["banana apple", "one two three", "four five", "apple banana", "cherry"], "vec")]
    far = run_node(Classify(), {**config, "text": "zzz", "least": 0.5}, None, with_models(models)).value
    assert far["label"] == "other"


def test_classify_has_a_port_for_each_label_if_that_is_wanted() -> None:
    config = {"text": "?", "labels": LABELS, "ports": True}
    assert Classify().ports_of(config) == ("bill", "spam", "rest")
    assert Classify().ports_of({**config, "by": "distance"}) == ("bill", "spam", "rest", "other")
    assert Classify().ports_of({**config, "ports": False}) == ("out",)
    assert run_node(Classify(), config, None, with_models(Scripted(lambda request: "rest"))).port == "rest"


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"labels": {"a": "", " ": ""}}, "labels"),
        ({"labels": {str(number): "" for number in range(101)}}, "labels"),
        ({"labels": {"a": ["x"], "b": []}, "by": "distance"}, "labels.b"),
        ({"labels": {"a": "", "error": ""}, "ports": True}, "labels.error"),
    ],
)
def test_classify_finds_faults_on_save(config: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in Classify().check({"text": "?", **config}, FakeWorld())] == [path]
    assert list(Classify().check({"text": "?", "labels": LABELS}, FakeWorld())) == []


# --- extract -----------------------------------------------------------------------------------------------


def test_extract_reads_by_a_schema() -> None:
    models = Scripted(lambda request: {"total": 12.5})
    schema = {"type": "object", "properties": {"total": {"type": ["number", "null"]}}, "required": ["total"]}
    output = run_node(
        Extract(), {"text": "It is 12.50 in all.", "schema": schema, "about": "A bill."}, None, with_models(models)
    )
    assert (output["data"], output["cost"]) == ({"total": 12.5}, 0.5)
    (request,) = models.requests
    assert (request.schema, request.shared) == (schema, 1)
    assert request.messages[0]["content"].startswith("A bill.\n")
    assert '"required":["total"]' in request.messages[0]["content"]
    assert request.messages[1]["content"] == "It is 12.50 in all."


def test_extract_finds_a_wrong_type_on_save() -> None:
    (problem,) = Extract().check({"text": "?", "schema": {"type": "float"}}, FakeWorld())
    assert problem.path == "schema.type"
    assert list(Extract().check({"text": "?", "schema": {"type": ["number", "null"]}}, FakeWorld())) == []


# --- summarize ---------------------------------------------------------------------------------------------


def story(paragraphs: int, words: int = 50) -> str:
    """A text of many paragraphs; each sentence has ten words and says where it stands."""
    return "\n\n".join(
        " ".join(f"{at}.{word}" + ("." if word % 10 == 9 else "") for word in range(words)) for at in range(paragraphs)
    )


def brief(request: ChatRequest) -> str:
    """The first and the last word of what was to be summed up."""
    words = request.messages[-1]["content"].split()
    return f"{words[0]} to {words[-1]}"


def test_a_short_text_is_summed_up_at_once() -> None:
    models = Scripted(brief)
    output = run_node(Summarize(), {"text": story(2), "how": "In a line."}, None, with_models(models))
    assert (output["text"], output["parts"], output["cost"]) == ("0.0 to 1.49.", 1, 0.5)
    assert models.requests[0].messages[0]["content"].endswith("In a line.")


def test_a_long_text_is_cut_where_it_may_be_and_nothing_is_left_out() -> None:
    models = Scripted(brief, context=1000)
    text = story(40)
    ctx = with_models(models)
    output = run_node(Summarize(), {"text": text, "max_tokens": 100}, None, ctx)
    *parts, last = models.requests
    assert output["parts"] == len(parts) > 3
    assert "".join(request.messages[-1]["content"] for request in parts) == text
    room = 1000 - 160 - 256 - len(summarize._HOW.split())
    for request in parts:
        assert room // 3 < len(request.messages[-1]["content"].split()) <= room or request is parts[-1]
        assert request.messages[-1]["content"].rstrip().endswith("."), "cut behind a sentence"
    assert last.messages[-1]["content"] == "\n\n".join(brief(request) for request in parts)
    assert output["cost"] == 0.5 * (len(parts) + 1)
    assert ctx.streamed[0] == f"[part 1 of {len(parts)}] "


def test_sums_that_are_too_long_together_are_summed_up_again() -> None:
    models = Scripted(lambda request: " ".join(request.messages[-1]["content"].split()[:150]) + ".", context=700)
    output = run_node(Summarize(), {"text": story(60), "max_tokens": 150}, None, with_models(models))
    assert output["parts"] > 5
    assert len(models.requests) > output["parts"] + 1
    endless = Scripted(lambda request: request.messages[-1]["content"], context=700)
    with pytest.raises(NodeError, match="hardly shorter than the text; ask for less"):
        run_node(Summarize(), {"text": story(60), "max_tokens": 150}, None, with_models(endless))


def test_a_text_without_any_joint_is_cut_all_the_same() -> None:
    models = Scripted(lambda request: "short", context=1000)

    async def count(text: str, model: str = "") -> int:
        return len(text)

    models.count = count  # type: ignore[method-assign]
    text = "x" * 5000
    run_node(Summarize(), {"text": text, "max_tokens": 50}, None, with_models(models))
    *parts, _ = models.requests
    assert "".join(request.messages[-1]["content"] for request in parts) == text


def test_what_is_done_is_kept_and_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summarize, "_KEEP_EVERY", -1.0)
    models = Scripted(brief, context=1000)
    config = {"text": story(40), "max_tokens": 100}
    found = run_node(Summarize(), config, None, with_models(models))
    parks = 0
    while isinstance(found, Park):
        parks += 1
        memo = msgspec.json.decode(msgspec.json.encode(found.memo))
        assert len(memo["sums"]) == parks
        found = resume_node(Summarize(), config, None, Wake("time", "", None, memo), with_models(models))
    asked = [request.messages[-1]["content"] for request in models.requests]
    assert parks == found["parts"] - 1
    assert len(set(asked)) == len(asked) == found["parts"] + 1, "nothing was asked twice"


def test_the_first_model_that_can_be_had_is_the_measure() -> None:
    models = Scripted(brief)
    models.away = {"gone"}
    ctx = with_models(models)
    assert run_node(Summarize(), {"text": story(2), "models": ["gone", "b"]}, None, ctx)["text"]
    assert ctx.messages("warning") == ["gone is passed over: gone is away"]
    models.away = {"gone", "b"}
    with pytest.raises(NodeError, match="b is away"):
        run_node(Summarize(), {"text": story(2), "models": ["gone", "b"]}, None, ctx)


@pytest.mark.parametrize(
    ("config", "fault"), [({"text": " \n"}, "is empty"), ({"text": "x", "max_tokens": 900}, "no room")]
)
def test_what_cannot_be_summed_up(config: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        run_node(Summarize(), config, None, with_models(Scripted(context=1000)))
