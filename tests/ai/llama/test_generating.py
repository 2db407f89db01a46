"""One answer after the other: text, ends, sampling, schemas, and what is refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from appliance.ai.host.errors import ModelUnusable
from appliance.ai.host.llama import load
from appliance.ai.host.work import Ask, Language
from appliance.contracts import ConfigError, NodeError
from tests.ai.llama.talking import PATIENCE, Asked, chat, options, say
from tests.support.tinymodel import TEMPLATE, tiny_adapter, tiny_embedder, tiny_model

THING = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "n": {"type": "integer"}, "on": {"type": "boolean"}},
    "required": ["name", "n", "on"],
}


@pytest.fixture(scope="module")
def language() -> Iterator[Language]:
    loaded = load(tiny_model(), options())
    yield loaded
    loaded.close()


def test_an_answer_tells_how_it_was_made(language: Language) -> None:
    answer = say(language, messages=chat("Be short.", "Say something about pumps."), max_tokens=20)
    assert answer.finish == "length"
    assert answer.tokens_out == 20
    assert answer.text
    assert answer.tokens_in == pytest.approx(language.count("Be short. Say something about pumps."), abs=20)
    assert 0 <= answer.began <= answer.first <= answer.seconds


def test_at_temperature_0_the_answer_is_always_the_same(language: Language) -> None:
    assert len({say(language, prompt="The pump", max_tokens=30).text for _ in range(3)}) == 1


def test_a_seed_makes_chance_repeatable(language: Language) -> None:
    def once(seed: int) -> str:
        return say(language, prompt="The pump", max_tokens=30, temperature=1.0, top_p=0.95, top_k=40, seed=seed).text

    assert once(1) == once(1) != once(2)
    assert once(-1) == once(-1)


def test_a_repeat_penalty_changes_what_goes_round_in_circles(language: Language) -> None:
    plain = say(language, prompt="water water water", max_tokens=60)
    varied = say(language, prompt="water water water", max_tokens=60, repeat_penalty=1.5)
    assert plain.text != varied.text


def test_a_stop_string_ends_the_answer_and_is_not_in_it(language: Language) -> None:
    whole = say(language, prompt="The pump", max_tokens=30).text
    stop = whole[10:14]
    assert say(language, prompt="The pump", max_tokens=30, stop=(stop,)).text == whole[: whole.index(stop)]


def test_the_models_own_end_token_ends_the_answer(tmp_path: Path) -> None:
    def ends_early(name: str, tensor: np.ndarray) -> np.ndarray:
        if name == "output.weight":
            tensor[:] = 0.0  # all scores are 0 then, and the first of the best is <|endoftext|>
        return tensor

    language = load(tiny_model(spoil=ends_early, path=tmp_path / "quiet.gguf"), options())
    answer = say(language, prompt="The pump")
    language.close()
    assert (answer.finish, answer.text, answer.tokens_out) == ("stop", "", 0)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 2.0])
def test_with_a_schema_the_answer_is_json_that_fits(language: Language, temperature: float) -> None:
    for seed in range(5):
        prompt = f"Make thing {seed}"
        answer = say(language, prompt=prompt, schema=THING, temperature=temperature, seed=seed, max_tokens=300)
        assert answer.finish == "stop"
        jsonschema_rs.validate(THING, json.loads(answer.text))


def test_with_a_schema_cut_off_means_length(language: Language) -> None:
    answer = say(language, prompt="Make a thing", schema=THING, max_tokens=3)
    assert answer.finish == "length"
    with pytest.raises(ValueError):
        json.loads(answer.text)


def test_a_grammar_of_your_own(language: Language) -> None:
    answer = say(language, prompt="Well?", grammar='root ::= ("yes" | "no") "!"')
    assert answer.text in ("yes!", "no!")
    assert answer.finish == "stop"


def test_a_schema_changes_nothing_about_an_answer_that_fits_anyway(language: Language) -> None:
    free = say(language, prompt="The pump", max_tokens=25)
    bound = say(language, prompt="The pump", max_tokens=25, grammar="root ::= [^\\x00]+")
    assert bound.text.startswith(free.text[:10])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "empty"),
    ({"prompt": ""}, "empty"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "not both"),
    ({"prompt": "water " * 3000}, r"the prompt has \d+ tokens, and this model reads 2047 at most"),
    ({"prompt": "half \ud800"}, "no valid Unicode"),
    ({"messages": [{"role": "user", "content": "half \udfff"}]}, "no valid Unicode"),
    ({"messages": [{"content": "who am I"}]}, "message 1 has no role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "reads text only"),
    ({"messages": [{"role": "user", "content": 3}]}, "must be text"),
    ({"prompt": "a", "schema": {"not": {}}}, "schema at #/not"),
    ({"prompt": "a", "schema": {}, "grammar": "root ::= [a]"}, "not both"),
    ({"prompt": "a", "grammar": "root ::= [a"}, "grammar cannot be read"),
    ({"prompt": "a", "grammar": "beginning ::= [a]"}, "grammar cannot be read"),
    ({"prompt": "a", "grammar": 'root ::= root "a"'}, "grammar cannot be read"),
    ({"prompt": "a", "grammar": "root ::= " + "(" * 5000}, "too large"),
    ({"prompt": "a", "grammar": "root ::= [a]" + " " * 300_000}, "too large"),
    ({"prompt": "a", "adapter": "nobody"}, "without an adapter named 'nobody'"),
    ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "a", "temperature": float("nan")}, "temperature"),
    ({"prompt": "a", "top_p": 0.0}, "top_p"),
    ({"prompt": "a", "repeat_penalty": 0.0}, "repeat_penalty"),
]


@pytest.mark.parametrize(("asked", "why"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_asked_is_refused_at_once(language: Language, asked: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        Asked(language, Ask(**asked))
    assert say(language, prompt="The pump", max_tokens=2).tokens_out == 2


def test_a_prompt_that_just_fits_gets_as_many_tokens_as_are_left(language: Language) -> None:
    answer = say(language, prompt=("a" + " a" * 2040), max_tokens=100)
    assert answer.finish == "length"
    assert answer.tokens_in + answer.tokens_out == 2048


def test_a_model_that_computes_no_numbers_is_an_error_and_not_an_answer(tmp_path: Path) -> None:
    def poison(name: str, tensor: np.ndarray) -> np.ndarray:
        return tensor * np.nan if name == "blk.1.ffn_down.weight" else tensor

    language = load(tiny_model(spoil=poison, path=tmp_path / "nan.gguf"), options())
    for asked in ({}, {"schema": THING}, {"temperature": 1.0}):
        with pytest.raises(ModelUnusable, match="NaN"):
            say(language, prompt="The pump", **asked)
    language.close()


def test_who_cannot_take_text_fails_alone(language: Language) -> None:
    def refuse(text: str) -> None:
        raise ValueError("no room")

    failing = Asked(language, Ask(prompt="The pump", max_tokens=20), refuse)
    with pytest.raises(ValueError, match="no room"):
        failing.answer()
    assert say(language, prompt="The pump", max_tokens=20).tokens_out == 20


def test_who_cannot_take_the_last_piece_is_told_too(language: Language) -> None:
    def refuse(text: str) -> None:
        raise ValueError("no room")

    # "!" may begin the stop string, so it is held back until the end.
    failing = Asked(language, Ask(prompt="Well?", grammar='root ::= "!"', stop=("!!",)), refuse)
    with pytest.raises(ValueError, match="no room"):
        failing.answer()


def test_a_text_of_many_brackets_may_be_asked_for(language: Language) -> None:
    assert json.loads(say(language, prompt="(", schema={"const": "(" * 200}, max_tokens=250).text) == "(" * 200


def test_it_makes_no_vectors(language: Language) -> None:
    with pytest.raises(NodeError, match="makes no vectors"):
        language.embed(["a"])


def test_an_adapter_changes_the_answer_and_another_does_not_get_its_memory(tmp_path: Path) -> None:
    adapters = {"loud": tiny_adapter(tmp_path / "loud.gguf", strength=8.0)}
    language = load(tiny_model(), options(adapters=adapters))
    asked = {"messages": chat("You look after a pump. " * 8, "Report."), "shared": 1, "max_tokens": 20}
    plain = say(language, **asked)
    loud = say(language, **asked, adapter="loud")
    assert loud.text != plain.text
    assert loud.tokens_cached == 0
    assert say(language, **asked).text == plain.text
    assert say(language, **asked, adapter="loud").text == loud.text
    both = [Asked(language, Ask(**asked, adapter=name)) for name in ("", "loud", "", "loud")]
    assert [one.answer().text for one in both] == [plain.text, loud.text, plain.text, loud.text]
    language.close()


def test_vectors_leave_no_threads_behind() -> None:
    embedder = load(tiny_embedder(), options(threads=2, prompt_threads=2))
    tasks = Path("/proc/self/task")
    before = {task.name for task in tasks.iterdir()}
    assert len(embedder.embed(["The pump is on", "The pump is off"])) == 2
    deadline = time.monotonic() + PATIENCE
    while not {task.name for task in tasks.iterdir()} <= before:  # a thread ends a moment behind its join
        assert time.monotonic() < deadline, "OpenMP holds some for each thread that has computed"
        time.sleep(0.01)
    embedder.close()


def test_an_adapter_for_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapter wrong\.gguf does not fit"):
        load(tiny_model(), options(adapters={"x": Path(shutil.copy(tiny_embedder(), tmp_path / "wrong.gguf"))}))


def test_describe_and_close(language: Language) -> None:
    facts = language.describe()
    assert facts["name"] == "tiny"
    assert facts["context"] == 2048
    assert facts["bytes"] > 800_000
    assert facts["answer_speed"] > 0
    other = load(tiny_model(template=TEMPLATE), options(name="other"))
    assert other.describe()["name"] == "other"
    other.close()
    other.close()
    with pytest.raises(NodeError, match="closed"):
        say(other, prompt="Still there?")
    with pytest.raises(NodeError, match="closed"):
        other.count("Still there?")
