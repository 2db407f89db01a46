"""Remembering, recalling and forgetting: by meaning, by words, newer before older, and what a change of models does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.ai.memory import vectors
from appliance.ai.memory.episodes import Episodes, Place
from appliance.ai.memory.store import FILE, EpisodeStore, Wanted
from appliance.contracts import ConfigError, Episode, NodeError
from tests.ai.memory.embedder import Embedder, NoModel

DAY = 86_400.0
NOON = 1_795_262_400.0


class Rig:
    """An engine's memory with clocks that a test moves."""

    def __init__(self, data: Path, models: Embedder | None = None) -> None:
        self.store = EpisodeStore(data, sync=False)
        self.models = models or Embedder()
        self.now = NOON
        self.ticks = 0.0
        self.secret = ""
        self.episodes = Episodes(self.store, self._clean, lambda: self.models, lambda: self.now, lambda: self.ticks)
        self._loop = asyncio.new_event_loop()
        self._number = 0

    def _clean(self, value: Any) -> Any:
        if not self.secret:
            return value
        if isinstance(value, list):
            return [self._clean(one) for one in value]
        if isinstance(value, dict):
            return {key: self._clean(one) for key, one in value.items()}
        return value.replace(self.secret, "•••") if isinstance(value, str) else value

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)

    def remember(self, text: str, *, key: str = "", workspace: str = "home", ago: float = 0.0, **more: Any) -> int:
        self._number += 1
        self.now -= ago
        given = {"outcome": "", "tags": (), "data": None, "lifetime": None, "keep": 20_000, **more}
        place = Place(workspace, given.pop("flow", "f"), "RUN")
        key = key or f"key {self._number}"
        work = self.episodes.remember(place, self.models, text, key, **given)
        try:
            return int(self.do(work))
        finally:
            self.now += ago

    def recall(self, query: str, limit: int = 5, prefer: str = "", least: float = 0.0, **more: Any) -> list[Episode]:
        wanted = Wanted(**{"workspace": "home", **more})
        return list(self.do(self.episodes.recall(wanted, self.models, query, limit, prefer, least)))

    def texts(self, query: str, **more: Any) -> list[str]:
        return [episode.text for episode in self.recall(query, **more)]

    def forget(self, keep: int | None = None, **more: Any) -> int:
        return int(self.do(self.episodes.forget(Wanted(**{"workspace": "home", **more}), keep)))

    def idle(self) -> None:
        self.do(self.episodes.idle())

    def close(self) -> None:
        self.store.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(models: Embedder | None = None) -> Rig:
        made.append(Rig(tmp_path, models))
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


def test_it_recalls_by_meaning(rig: Rig) -> None:
    rig.remember("The basin ran over")
    rig.remember("The bulb in the hall was broken")
    rig.remember("Nobody locked the gate")
    assert rig.texts("flood", limit=1) == ["The basin ran over"]
    (first, *_) = rig.recall("Where is it dark?")
    assert first.text == "The bulb in the hall was broken"
    assert first.meaning == pytest.approx(1.0)
    assert 0 < first.score <= 1


def test_it_recalls_by_words_where_there_is_no_model(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(NoModel())
    rig.remember("The pumps of the basin ran dry")
    rig.remember("The door was open")
    found = rig.recall("Why does the pump run dry?")
    assert found[0].text == "The pumps of the basin ran dry"
    assert found[0].meaning is None
    assert found[0].words > 0.4
    assert all(episode.score < found[0].score for episode in found[1:])


def test_rare_words_tell_more_than_common_ones(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(NoModel())
    for number in range(50):
        rig.remember(f"the temperature in the hall is {number}")
    rig.remember("zarquon")
    assert rig.texts("the temperature of zarquon", limit=1) == ["zarquon"]


def test_nothing_fits_and_nothing_is_given(rig: Rig) -> None:
    assert rig.recall("anything") == []
    rig.remember("The basin ran over")
    assert rig.recall("burglar") == []
    assert rig.recall("flood", least=0.99) == []
    assert rig.recall("!?") == []


def test_the_newer_of_two_that_fit_alike(rig: Rig) -> None:
    rig.remember("pump old", ago=90 * DAY)
    rig.remember("pump new")
    rig.remember("pump middle", ago=30 * DAY)
    found = rig.recall("pump")
    assert [episode.text for episode in found] == ["pump new", "pump middle", "pump old"]
    assert [episode.recency for episode in found] == pytest.approx([1.0, 0.5, 0.125], abs=1e-3)


def test_an_outcome_is_preferred_or_demanded(rig: Rig) -> None:
    rig.remember("pump one", outcome="failed")
    rig.remember("pump two", outcome="solved", ago=60 * DAY)
    assert rig.texts("pump")[0] == "pump one"
    assert rig.texts("pump", prefer="solved")[0] == "pump two"
    assert rig.texts("pump", outcome="solved") == ["pump two"]


def test_what_is_wanted_can_be_narrowed(rig: Rig) -> None:
    rig.remember("pump a", tags=["cellar", "red"], flow="one")
    rig.remember("pump b", tags=["cell"], flow="two", ago=2 * DAY)
    assert rig.texts("pump", tags=["cell"]) == ["pump b"]
    assert rig.texts("pump", tags=["red", "cellar"]) == ["pump a"]
    assert rig.texts("pump", flow="two") == ["pump b"]
    assert rig.texts("pump", since=NOON - DAY) == ["pump a"]
    assert rig.texts("", limit=1) == ["pump b"]


def test_a_tag_and_an_outcome_are_words_too(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(NoModel())
    rig.remember("it was wet", tags=["cellar"], outcome="mopped")
    rig.remember("it was dry", tags=["attic"], outcome="fine")
    assert rig.texts("mopped", limit=1) == ["it was wet"]
    assert rig.texts("attic", limit=1) == ["it was dry"]


def test_workspaces_do_not_know_of_each_other(rig: Rig) -> None:
    rig.remember("pump here")
    rig.remember("pump there", workspace="work")
    assert rig.texts("pump") == ["pump here"]
    assert rig.texts("pump", workspace="work") == ["pump there"]
    assert rig.forget(keep=0) == 1
    assert rig.texts("pump", workspace="work") == ["pump there"]


@pytest.mark.parametrize(
    "query", ['"', "a OR b", "text : x", "*", "NEAR(a b)", "ä ö 水 🚰", "x" * 5000, "a\x00b", "-a"]
)
def test_a_query_is_only_words(rig: Rig, query: str) -> None:
    rig.remember("水 pump öl")
    rig.recall(query)


def test_a_key_keeps_one_episode(rig: Rig) -> None:
    first = rig.remember("pump", key="run/step")
    assert rig.remember("pump again", key="run/step") == first
    assert rig.texts("pump") == ["pump"]
    assert rig.models.asked.count("pump again") == 0
    assert rig.remember("pump", key="run/step", workspace="work") != first


def test_secrets_never_go_in(rig: Rig, tmp_path: Path) -> None:
    rig.secret = "hunter2secret"
    rig.remember("the pump's key is hunter2secret", data={"key": "hunter2secret"}, tags=["hunter2secret"],
                 outcome="hunter2secret")  # fmt: skip
    rig.store.close()
    assert b"hunter2secret" not in b"".join(path.read_bytes() for path in tmp_path.glob(f"{FILE}*"))
    assert not any("hunter2secret" in text for text in rig.models.asked)


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"text": "x" * 20_001}, {"data": "x" * 100_001}, {"tags": ["a\nb"]}, {"tags": [""]}]
)
def test_what_cannot_be_kept_is_refused(rig: Rig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        rig.remember(**{"text": "pump", **wrong})
    assert rig.do(rig.episodes.summary("home"))["episodes"] == 0


# --- forgetting -----------------------------------------------------------------------------------


def test_the_oldest_go_when_there_are_too_many(rig: Rig) -> None:
    for number in range(12):
        rig.remember(f"pump {number}", keep=10)
    assert len(rig.recall("pump", limit=100)) == 10
    assert "pump 1" not in rig.texts("pump", limit=100)
    assert rig.recall("1") == []


def test_a_lifetime_ends(rig: Rig) -> None:
    rig.remember("pump for a day", lifetime=DAY)
    rig.now += DAY - 1
    assert rig.texts("pump") == ["pump for a day"]
    rig.now += 2
    assert rig.texts("pump") == []
    assert rig.texts("") == []
    rig.remember("lamp")
    assert rig.do(rig.episodes.summary("home"))["episodes"] == 1


def test_it_is_forgotten_by_command(rig: Rig, tmp_path: Path) -> None:
    ids = [rig.remember(f"pump {number} SENTINEL", outcome="old" if number < 3 else "new") for number in range(6)]
    assert rig.recall("pump")
    assert rig.forget(outcome="old") == 3
    assert rig.forget(ids=[ids[3]]) == 1
    assert rig.forget(keep=1) == 1
    assert rig.texts("pump") == ["pump 5 SENTINEL"]
    assert rig.forget(before=NOON) == 0
    assert rig.forget(before=NOON + 1) == 1
    assert rig.texts("pump") == rig.texts("SENTINEL") == []
    rig.store.close()
    with sqlite3.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT count(*) FROM word").fetchone() == (0,)
    connection.close()


# --- models that come, go and change ------------------------------------------------------------------


def test_a_model_that_comes_later_embeds_what_is_there(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(NoModel())
    for number in range(40):
        rig.remember(f"note {number}")
    rig.remember("The basin ran over")
    assert rig.texts("flood") == []
    rig.models = Embedder()
    rig.ticks += 61  # it is not asked for again at once
    rig.recall("flood")
    rig.idle()
    assert rig.texts("flood", limit=1) == ["The basin ran over"]
    assert rig.do(rig.episodes.summary("home"))["vectors"] == {"small": 41}


def test_a_change_of_models_embeds_all_again(rig: Rig) -> None:
    for number in range(20):
        rig.remember(f"note {number}")
    rig.remember("The basin ran over")
    rig.recall("flood")
    rig.models = Embedder("large", size=9)
    assert rig.texts("flood") == []  # vectors of two models say nothing of each other
    rig.idle()
    assert rig.texts("flood", limit=1) == ["The basin ran over"]
    assert rig.do(rig.episodes.summary("home"))["vectors"] == {"large": 21}


def test_a_model_that_does_not_answer_stops_nothing(rig: Rig) -> None:
    rig.remember("The basin ran over")
    rig.models.error = NodeError("the host died")
    rig.remember("The basin is dry")
    assert rig.texts("basin") == ["The basin is dry", "The basin ran over"]
    rig.models.error = None
    rig.ticks += 61
    rig.recall("flood")
    rig.idle()
    assert len(rig.texts("flood")) == 2


def test_an_episode_that_got_its_vector_late_is_found(rig: Rig) -> None:
    rig.models.error = NodeError("busy")
    rig.remember("The basin ran over")
    rig.models.error = None
    rig.ticks += 61
    rig.remember("The bulb broke")
    assert rig.texts("lamp") == ["The bulb broke"]
    rig.idle()
    assert rig.texts("flood") == ["The basin ran over"]


def test_it_works_without_numpy(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "usable", lambda: False)
    rig.remember("The pump ran dry")
    assert rig.texts("pump") == ["The pump ran dry"]
    assert rig.models.asked == []


# --- the file -----------------------------------------------------------------------------------------


def test_it_is_there_after_a_restart(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    number = rig.remember("The basin ran over", data={"n": [1, 2]}, tags=["a", "b"], outcome="ok", key="k")
    rig.store.close()
    again = make_rig()
    (episode,) = again.recall("flood")
    assert (episode.id, episode.data, episode.tags, episode.outcome) == (number, {"n": [1, 2]}, ["a", "b"], "ok")
    assert (episode.flow, episode.run, episode.time) == ("f", "RUN", NOON)
    assert again.remember("The basin ran over", key="k") == number


def test_a_damaged_file_is_a_clear_error(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(NodeError, match="memory cannot be used"):
        make_rig().recall("pump")


def test_a_newer_file_is_left_alone(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(NodeError, match="newer"):
        make_rig().recall("pump")


def test_nobody_but_the_owner_reads_it(rig: Rig, tmp_path: Path) -> None:
    rig.remember("pump")
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_a_text_that_is_too_long_for_the_model_is_embedded_by_its_beginning(rig: Rig) -> None:
    rig.models.most = 300
    rig.remember("The boiler is cold. " * 60)
    rig.remember("Somebody at the gate.")
    (found,) = rig.recall("heat", limit=1)
    assert found.text.startswith("The boiler")
    assert max(map(len, rig.models.asked)) == 250
    rig.models.model = "other"
    rig.recall("heat")
    rig.do(rig.episodes.idle())
    assert rig.store.without("other", 10) == []
