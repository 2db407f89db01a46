"""Several at once, beginnings that are kept, and what is on disk: the answers stay the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.ai.host.llama import load
from appliance.ai.host.work import Answer, Ask, Language
from appliance.contracts import Busy
from tests.ai.llama.talking import Asked, chat, options, say
from tests.ai.llama.trails import Trail, alike
from tests.support.tinymodel import tiny_adapter, tiny_model

SEED = 3
RULES = "You look after the pumps of a greenhouse and say what is to be done. " * 6
OTHERS = "You look after the lamps of a stable, and of nothing else in the world. " * 6


@pytest.fixture(autouse=True)
def trails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer's choices are written down."""
    monkeypatch.setattr("appliance.ai.host.llama.job.Choice", Trail)


@pytest.fixture
def loading() -> Iterator[Callable[..., Language]]:
    """Loads tiny models and closes them in the end."""
    loaded: list[Language] = []

    def opened(**changed: Any) -> Language:
        loaded.append(load(tiny_model(seed=SEED, context=changed.pop("trained", 2048)), options(**changed)))
        return loaded[-1]

    yield opened
    for language in loaded:
        language.close()


def alone(ask: Ask) -> Trail:
    """How a fresh model answers."""
    language = load(tiny_model(seed=SEED), options())
    trail = followed(language, ask)[1]
    language.close()
    return trail


def followed(language: Language, ask: Ask) -> tuple[Answer, Trail]:
    """Ask and wait; the answer and how it came about."""
    asked, trail = Asked(language, ask), Trail.newest
    return asked.answer(), trail


def held(language: Language) -> tuple[Asked, threading.Event]:
    """A generation that stands still at its first piece until the event is set: what comes meanwhile waits."""
    go_on = threading.Event()

    def wait(text: str) -> None:
        assert go_on.wait(50)

    asked = Asked(language, Ask(prompt="Hold", max_tokens=4, priority=9), wait)
    assert asked.first.wait(50)
    return asked, go_on


@pytest.mark.parametrize("count", [2, 3, 4, 9, 20])
def test_answers_made_together_are_those_made_alone(loading: Callable[..., Language], count: int) -> None:
    asks = [Ask(messages=chat(f"Rule {n % 3}. " * (n % 5 * 9), f"Question {n}"), max_tokens=12) for n in range(count)]
    language = loading()
    holding, go_on = held(language)
    together = [(Asked(language, ask), Trail.newest) for ask in asks]
    go_on.set()
    for (asked, trail), ask in zip(together, asks, strict=True):
        asked.answer()
        alike(trail, alone(ask))
    assert holding.answer().finish == "length"


def test_a_shared_beginning_is_evaluated_once_for_flows_taking_turns(loading: Callable[..., Language]) -> None:
    language = loading()
    asks = [
        Ask(messages=chat(rules, f"What about number {turn}?"), shared=1, max_tokens=8)
        for turn in range(4)
        for rules in (RULES, OTHERS)
    ]
    answers, made = zip(*(followed(language, ask) for ask in asks), strict=True)
    assert [answer.tokens_cached > 90 for answer in answers] == [False, False, *[True] * 6]
    assert all(answer.tokens_in - answer.tokens_cached < 30 for answer in answers[2:])
    for trail, ask in zip(made, asks, strict=True):
        alike(trail, alone(ask))
    assert len(language.describe()["prefixes"]) == 2


def test_a_conversation_that_goes_on_is_not_read_again(loading: Callable[..., Language]) -> None:
    language = loading()
    messages = chat("Talk.", "Tell me about the pump and its valves, slowly and at length.")
    first = say(language, messages=messages, max_tokens=20)
    going_on = [*messages, {"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
    second, trail = followed(language, Ask(messages=going_on, max_tokens=10))
    assert second.tokens_cached >= first.tokens_in
    alike(trail, alone(Ask(messages=going_on, max_tokens=10)))


def test_the_same_prompt_again_is_read_but_for_its_last_token(loading: Callable[..., Language]) -> None:
    language = loading()
    ask = Ask(prompt="The pump is dry, and nobody has looked after it since the water was turned off.", max_tokens=9)
    first, (again, trail) = followed(language, ask)[1], followed(language, ask)
    assert again.tokens_cached == again.tokens_in - 1
    alike(trail, first)


def test_what_was_not_used_for_longest_goes_first_and_shared_beginnings_last(loading: Callable[..., Language]) -> None:
    language = loading(context=512, cells=768, parallel=1)
    shared = {"messages": chat(RULES, "Now?"), "shared": 1, "max_tokens": 4}
    say(language, **shared)
    for turn in range(12):
        say(language, prompt=f"{turn} is a number that is like no other number " * 8, max_tokens=4)
    facts = language.describe()
    assert facts["cells_used"] <= 768
    assert say(language, **shared).tokens_cached > 90
    latest = "11 is a number that is like no other number " * 8
    assert say(language, prompt=latest, max_tokens=4).tokens_cached > 50
    assert say(language, prompt="0" + latest[2:], max_tokens=4).tokens_cached < 5


def test_more_shared_beginnings_than_fit_come_back_from_disk(loading: Callable[..., Language], tmp_path: Path) -> None:
    language = loading(context=512, cells=512, parallel=2, kept_bytes=120_000, state=tmp_path)
    asks = [Ask(messages=chat(f"{n} " + RULES, "Now?"), shared=1, max_tokens=6) for n in range(6)]
    first = [followed(language, ask)[1] for ask in asks]
    again = [followed(language, ask) for ask in asks]
    assert all(answer.tokens_cached > 90 for answer, _ in again)
    for (_, trail), earlier in zip(again, first, strict=True):
        alike(trail, earlier)


class Kept:
    """Asking the same of models that are loaded one after the other, with states in one folder."""

    ask = Ask(messages=chat(RULES, "What is to be done?"), shared=1, max_tokens=12)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, ask: Ask | None = None, path: Path | None = None, **changed: Any) -> Answer:
        language = load(path or tiny_model(seed=SEED), options(**{"state": self.folder, **changed}))
        try:
            answer, self.trail = followed(language, ask or self.ask)
            return answer
        finally:
            language.close()

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


def test_a_shared_beginning_outlives_the_process(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "models" / "state")
    first, trail = kept.answer(), kept.trail
    assert first.tokens_cached == 0
    assert len(kept.files()) == 1
    again = kept.answer()
    assert again.tokens_cached > 90
    alike(kept.trail, trail)
    assert len(kept.files()) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        lambda data: data.replace(b'"tokens"', b'"tokenz"', 1)[::-1],
        lambda data: data[: data.index(b"\n") + 1] + bytes(len(data) - data.index(b"\n") - 1),
        lambda data: b"[]\n" + data,
    ],
)
def test_a_damaged_state_is_as_good_as_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    kept = Kept(tmp_path)
    first = kept.answer()
    (file,) = kept.files()
    good = file.read_bytes()
    file.write_bytes(damage(good))
    again = kept.answer()
    assert (again.tokens_cached, again.text) == (0, first.text)
    assert [path.read_bytes() for path in kept.files()] == [good]  # replaced by a good one


def test_states_belong_to_a_model_and_an_adapter(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "state")
    kept.answer()
    assert kept.answer(path=tiny_model(seed=1)).tokens_cached == 0
    adapters = {"loud": tiny_adapter(tmp_path / "loud.gguf", strength=8.0)}
    loud = Ask(messages=Kept.ask.messages, shared=1, max_tokens=12, adapter="loud")
    first = kept.answer(loud, adapters=adapters)
    assert first.tokens_cached == 0
    assert kept.answer(loud, adapters=adapters).tokens_cached > 90
    adapters = {"loud": tiny_adapter(tmp_path / "loud.gguf", strength=2.0)}
    assert kept.answer(loud, adapters=adapters).tokens_cached == 0


def test_states_are_bounded_in_bytes_and_age(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    asks = [Ask(messages=chat(f"{n} " + RULES, "Now?"), shared=1, max_tokens=2) for n in range(5)]
    kept.answer(asks[0])
    size = kept.files()[0].stat().st_size
    for ask in asks[1:]:
        for file in kept.files():
            os.utime(file, (file.stat().st_atime - 10, file.stat().st_mtime - 10))
        kept.answer(ask, state_bytes=3 * size)
    assert len(kept.files()) == 3
    assert [kept.answer(ask).tokens_cached > 90 for ask in asks[-3:]] == [True, True, True]
    for file in kept.files():
        os.utime(file, (0, 0))
    kept.answer(asks[0])
    assert len(kept.files()) == 1
    kept.answer(asks[1], state_bytes=10)
    assert len(kept.files()) == 1


def test_a_folder_that_cannot_be_written_stops_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Kept(tmp_path / "file" / "state").answer().tokens_out == 12


def test_higher_priority_goes_first_and_equal_ones_in_order(loading: Callable[..., Language]) -> None:
    language = loading(parallel=1)
    _, go_on = held(language)
    order: list[str] = []
    asked = [
        Asked(language, Ask(prompt=name, max_tokens=1, priority=priority), lambda text, name=name: order.append(name))
        for name, priority in (("low", -1), ("first", 0), ("second", 0), ("high", 5))
    ]
    go_on.set()
    for one in asked:
        one.answer()
    assert order == ["high", "first", "second", "low"]


def test_past_its_bound_the_queue_says_busy(loading: Callable[..., Language]) -> None:
    language = loading(parallel=1, queue=2)
    holding, go_on = held(language)
    waiting = [Asked(language, Ask(prompt="Next", max_tokens=2)) for _ in range(2)]
    with pytest.raises(Busy) as caught:
        Asked(language, Ask(prompt="Too many", grammar="root ::= [a]"))
    assert caught.value.retry_after >= 1
    assert language.describe()["queued"] == 2
    go_on.set()
    for one in (holding, *waiting):
        one.answer()
    say(language, prompt="There is room again", max_tokens=2)


def test_cancelling_ends_an_answer_in_the_middle(loading: Callable[..., Language]) -> None:
    language = loading()
    asked: list[Asked] = []

    def third(text: str) -> None:
        if len(asked[0].pieces) == 3:
            asked[0].ticket.cancel()

    started = threading.Event()

    def begin(text: str) -> None:
        assert started.wait(50)
        third(text)

    asked.append(Asked(language, Ask(prompt="The pump", max_tokens=1000), begin))
    started.set()
    answer = asked[0].answer()
    asked[0].ticket.cancel()  # twice is fine
    assert answer.finish == "cancelled"
    assert answer.tokens_out < 10
    assert say(language, prompt="The pump", max_tokens=4).tokens_out == 4


def test_cancelling_what_waits_ends_it_before_it_begins(loading: Callable[..., Language]) -> None:
    language = loading(parallel=1)
    holding, go_on = held(language)
    waiting = Asked(language, Ask(prompt="Next", max_tokens=5, grammar="root ::= [a]+"))
    waiting.ticket.cancel()
    go_on.set()
    answer = waiting.answer()
    assert (answer.finish, answer.tokens_out) == ("cancelled", 0)
    assert holding.answer().finish == "length"


def test_closing_ends_everything(loading: Callable[..., Language]) -> None:
    language = loading(parallel=2)
    holding, go_on = held(language)
    more = [Asked(language, Ask(prompt="Next", max_tokens=1000)) for _ in range(5)]
    closing = threading.Thread(target=language.close)
    closing.start()
    go_on.set()
    closing.join(50)
    assert not closing.is_alive()
    assert {one.answer().finish for one in (holding, *more)} <= {"cancelled", "length"}


def test_a_long_prompt_does_not_hold_up_a_short_one(loading: Callable[..., Language]) -> None:
    language = loading(trained=8192, context=8192)
    _, go_on = held(language)
    ended: list[str] = []
    letters = "root ::= [a-z]+"
    slow = Asked(language, Ask(prompt="a b " * 3000, max_tokens=1, grammar=letters), lambda text: ended.append("long"))
    quick = Asked(language, Ask(prompt="short", max_tokens=3, grammar=letters), lambda text: ended.append("short"))
    go_on.set()
    quick.answer(), slow.answer()
    assert ended == ["short", "short", "short", "long"]


turns = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),  # which rules
        st.integers(0, 3),  # which question
        st.sampled_from([0, 1]),  # is the beginning shared
        st.sampled_from([1, 3, 9]),  # how many tokens
        st.sampled_from([None, 'root ::= "{" [a-z]* "}"']),
        st.booleans(),  # wait for it before the next
        st.booleans(),  # cancel it
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def known() -> dict[str, Trail]:
    return {}


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(turns=turns, cells=st.sampled_from([300, 512, 2048]), parallel=st.sampled_from([1, 3, 8]))
def test_whatever_happens_at_once_every_answer_is_the_one_made_alone(
    turns: list[Any], cells: int, parallel: int, known: dict[str, Trail], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("state")
    language = load(
        tiny_model(seed=SEED), options(context=300, cells=cells, parallel=parallel, kept_bytes=120_000, state=folder)
    )
    asked = []
    for rules, question, shared, most, grammar, wait, cancel in turns:
        messages = chat(f"Rule {rules}. " * 20, f"Question {question}")
        ask = Ask(messages=messages, shared=shared, max_tokens=most, grammar=grammar)
        one = Asked(language, ask)
        asked.append((ask, cancel, one, Trail.newest))
        if cancel:
            one.ticket.cancel()
        if wait:
            one.answer()
    for ask, cancel, one, trail in asked:
        one.answer()
        key = repr((ask.messages, ask.max_tokens, ask.grammar))
        if key not in known:
            known[key] = alone(ask)
        alike(trail, known[key], cut=cancel)
    assert language.describe()["cells_used"] <= max(300, cells)
    language.close()
