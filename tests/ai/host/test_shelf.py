"""Which models are in memory: eviction, refusal, waiting for room, loading once. Loading is made by hand here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.ai.host import files
from appliance.ai.host.errors import InUse, ModelTooLarge, ModelUnusable, NoModel
from appliance.ai.host.shelf import Shelf
from appliance.contracts import Busy


class Book:
    """A model that is only there."""

    def __init__(self, name: str, size: int, closed: list[str]) -> None:
        self.name = name
        self._size = size
        self._closed = closed

    def describe(self) -> dict[str, Any]:
        return {"bytes": self._size}

    def close(self) -> None:
        self._closed.append(self.name)


class Press:
    """Loads at once unless ``gate`` is closed; a model takes as many bytes as its file has."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.closed: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def need(self, found: files.Found) -> int:
        return found.size

    def load(self, found: files.Found, progress: Callable[[float], None]) -> Book:
        progress(0.5)
        assert self.gate.wait(20)
        progress(1.0)
        if found.size == 666:
            raise ModelUnusable("this one is no good")
        self.loaded.append(found.name)
        return Book(found.name, found.size, self.closed)


class House:
    """A shelf of 100 bytes over models ``a`` (50), ``b`` (40), ``c`` (30), ``big`` (101) and ``bad``."""

    def __init__(self, data: Path) -> None:
        self.now = 0.0
        self.free = 1000
        self.press = Press()
        self.folder = data / "models"
        self.folder.mkdir()
        for name, size in {"a": 50, "b": 40, "c": 30, "big": 101, "bad": 666}.items():
            (self.folder / f"{name}.gguf").write_bytes(b"x" * size)
        loaders: Any = {"language": self.press, "onnx": self.press}
        self.shelf = Shelf(data, 100, loaders, lambda: self.free, lambda: self.now, polite=0.01)

    @property
    def half_loaded(self) -> bool:
        return any(loading.progress >= 0.5 for loading in self.shelf.loading.values())

    async def use(self, name: str) -> None:
        self.now += 1
        async with self.shelf.lease(name, "language") as model:
            assert model.name == name


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until it is so."""
    while not condition():  # noqa: ASYNC110  # a state of the shelf, which has no event of its own
        await asyncio.sleep(0.001)


def play(data: Path, scene: Callable[[House], Awaitable[None]]) -> House:
    """Run a scene on a fresh shelf, and put everything away after it."""

    async def whole() -> House:
        house = House(data)
        async with asyncio.timeout(30):
            await scene(house)
            await house.shelf.close()
        assert sorted(house.press.loaded) == sorted(house.press.closed)
        return house

    return asyncio.run(whole())


def test_the_least_recently_used_goes_first(data: Path) -> None:
    async def scene(house: House) -> None:
        await house.use("a")
        await house.use("b")
        await house.use("a")
        await house.use("c")
        assert house.press.closed == ["b"]
        assert sorted(house.shelf.loaded) == ["a", "c"]
        assert house.shelf.used == 80

    play(data, scene)


def test_many_requests_load_a_model_once(data: Path) -> None:
    async def scene(house: House) -> None:
        house.press.gate.clear()
        users = [asyncio.create_task(house.use("a")) for _ in range(20)]
        await until(lambda: house.half_loaded)
        assert house.shelf.busy
        house.press.gate.set()
        await asyncio.gather(*users)
        assert house.press.loaded == ["a"]
        assert not house.shelf.busy

    play(data, scene)


def test_what_works_is_not_put_away_and_the_other_waits(data: Path) -> None:
    async def scene(house: House) -> None:
        async with AsyncExitStack() as held:
            await held.enter_async_context(house.shelf.lease("a"))
            await held.enter_async_context(house.shelf.lease("b"))
            waiting = asyncio.create_task(house.use("c"))
            await until(lambda: "c" in house.shelf.loading)
            done, _ = await asyncio.wait({waiting}, timeout=0.05)
            assert not done
            assert house.press.closed == []
        await waiting
        assert house.press.loaded == ["a", "b", "c"]

    play(data, scene)


def test_who_has_waited_long_enough_comes_before_new_requests(data: Path) -> None:
    """Else a model that is asked without a pause would keep the other out for ever."""

    async def scene(house: House) -> None:
        order: list[str] = []

        async def use(name: str) -> None:
            async with house.shelf.lease(name):
                order.append(name)

        async with AsyncExitStack() as held:
            await held.enter_async_context(house.shelf.lease("a"))
            await held.enter_async_context(house.shelf.lease("b"))
            waiting = asyncio.create_task(use("c"))
            await until(lambda: "c" in house.shelf.loading)

            def patience_is_over() -> bool:
                house.now += 60
                return bool(house.shelf._first)

            await until(patience_is_over)
            late = asyncio.create_task(use("a"))
            await asyncio.sleep(0)
            assert order == []
        await asyncio.gather(waiting, late)
        assert order == ["c", "a"]

    play(data, scene)


def test_one_that_can_never_fit_is_refused_and_nothing_is_put_away_for_it(data: Path) -> None:
    async def scene(house: House) -> None:
        await house.use("a")
        with pytest.raises(ModelTooLarge, match=r"'big' takes 0\.0 MB .* models_memory_mb") as caught:
            await house.use("big")
        assert caught.value.retryable is False
        assert sorted(house.shelf.loaded) == ["a"]

    play(data, scene)


def test_on_a_machine_that_is_full_others_go_first_and_then_it_is_refused(data: Path) -> None:
    async def scene(house: House) -> None:
        await house.use("c")
        house.free = 20
        with pytest.raises(ModelTooLarge, match="free on this machine now") as caught:
            await house.use("b")
        assert caught.value.retryable is True
        assert house.press.closed == ["c"]

    play(data, scene)


def test_one_that_cannot_be_loaded_fails_for_all_who_wait_and_is_tried_again(data: Path) -> None:
    async def scene(house: House) -> None:
        house.shelf.bound = 1000
        results = await asyncio.gather(*(house.use("bad") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ModelUnusable] * 3
        (house.folder / "bad.gguf").write_bytes(b"good")
        await house.use("bad")

    play(data, scene)


def test_a_caller_that_leaves_while_it_is_loaded_holds_nothing(data: Path) -> None:
    async def scene(house: House) -> None:
        house.press.gate.clear()
        users = [asyncio.create_task(house.use("a")) for _ in range(3)]
        await until(lambda: bool(house.shelf.loading))
        users[0].cancel()
        await asyncio.sleep(0)
        house.press.gate.set()
        results = await asyncio.gather(*users, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [None, None]
        assert house.shelf.loaded["a"].users == 0

    play(data, scene)


def test_too_many_that_wait_are_told_to_come_back(data: Path) -> None:
    async def scene(house: House) -> None:
        house.press.gate.clear()
        users = [asyncio.create_task(house.use("a")) for _ in range(70)]
        done, _ = await asyncio.wait(users, return_when=asyncio.FIRST_EXCEPTION)
        assert {type(task.exception()) for task in done} == {Busy}
        house.press.gate.set()
        results = await asyncio.gather(*users, return_exceptions=True)
        assert sum(result is None for result in results) == 64

    play(data, scene)


def test_unloading_waits_for_nobody(data: Path) -> None:
    async def scene(house: House) -> None:
        assert await house.shelf.unload("a") is False
        async with house.shelf.lease("a"):
            with pytest.raises(InUse, match="1 request;"):
                await house.shelf.unload("a")
        assert await house.shelf.unload("a") is True
        assert house.press.closed == ["a"]

    play(data, scene)


def test_stopping_ends_a_load_that_is_under_way(data: Path) -> None:
    async def scene(house: House) -> None:
        house.press.gate.clear()
        user = asyncio.create_task(house.use("a"))
        await until(lambda: house.half_loaded)
        user.cancel()
        closing = asyncio.create_task(house.shelf.close())
        await asyncio.sleep(0)
        house.press.gate.set()
        await closing
        assert house.press.loaded == []

    play(data, scene)


def test_a_model_of_the_other_kind_is_told_so(data: Path) -> None:
    async def scene(house: House) -> None:
        with pytest.raises(NoModel, match="is a language model, which cannot do this"):
            house.shelf.find("a", "onnx")
        for name in ("nothing", "", "../a", "a/b", ".hidden"):
            with pytest.raises(NoModel, match="there are a, b, bad, big, c"):
                house.shelf.find(name, "language")

    play(data, scene)


def test_a_folder_with_strange_things_in_it(data: Path) -> None:
    folder = data / "models"
    folder.mkdir()
    for name in ("good.gguf", "half.gguf.part", "state", "two words.gguf", ".gguf"):
        (folder / name).write_bytes(b"x")
    (folder / "good.json").write_text("not json")
    for name in ("seen", "empty"):
        (folder / name).mkdir()
    (folder / "seen" / files.ONNX).write_bytes(b"12345")
    (folder / "seen" / "model.onnx.data").write_bytes(b"678")
    (folder / "seen" / files.MANIFEST).write_text('{"task": "classify"}')
    (folder / "loop.gguf").symlink_to("loop.gguf")
    found = {one.name: one for one in files.look(data)}
    assert found.keys() == {"good", "seen"}
    assert (found["seen"].kind, found["seen"].size, found["seen"].about["task"]) == ("onnx", 28, "classify")
    assert files.look(data / "nowhere") == []
