"""A sandbox with real children, once in bubblewrap and once under the guard, and eyes on the process table."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.contracts import Done, Limits
from appliance.sandbox import ProcessSandbox, confine

#: Seconds that a test waits at most for something to come true.
PATIENCE = 20.0
LIMITS = Limits(timeout=PATIENCE)


class Bench:
    """A sandbox on an event loop of its own, for plain test functions."""

    def __init__(self, data: Path, bubblewrap: bool, **options: Any) -> None:
        self.data = data
        self.confined = bubblewrap
        self.sandbox = ProcessSandbox(data, [data / "files"], bubblewrap=bubblewrap, **options)
        self._runner = asyncio.Runner()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def script(self, language: str, code: str, payload: Any = None, limits: Limits = LIMITS) -> Done:
        done: Done = self.do(self.sandbox.script(language, code, payload, limits))
        return done

    def command(self, *argv: str, limits: Limits = LIMITS, **options: Any) -> Done:
        done: Done = self.do(self.sandbox.command(argv, limits=limits, **options))
        return done

    def settle(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until the condition holds."""
        self.do(until(condition))

    def close(self) -> None:
        self.sandbox.close()
        self._runner.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait, with the loop turning, until the condition holds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def marker() -> str:
    """Seconds to sleep that no other process names."""
    return f"1000.{uuid.uuid4().int % 10**12:012}"


def marked(mark: str) -> list[psutil.Process]:
    """The living processes with the marker among their arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def need_bubblewrap() -> None:
    if not confine.bubblewrap().program:
        pytest.skip(confine.bubblewrap().why_not)


@pytest.fixture(params=["bubblewrap", "guard"])
def bubblewrap(request: pytest.FixtureRequest) -> bool:
    """Both ways in which children are kept: most tests run once each way."""
    wanted: bool = request.param == "bubblewrap"
    if wanted:
        need_bubblewrap()
    return wanted


@pytest.fixture
def make_bench(tmp_path: Path, bubblewrap: bool) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        bench = Bench(tmp_path / "data", bubblewrap, **options)
        (bench.data / "files").mkdir(parents=True, exist_ok=True)
        bench.sandbox.open()
        made.append(bench)
        return bench

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def confined(tmp_path: Path) -> Iterator[Bench]:
    """Only in bubblewrap: for what the guard does not promise."""
    need_bubblewrap()
    bench = Bench(tmp_path / "data", bubblewrap=True)
    (bench.data / "files").mkdir(parents=True)
    bench.sandbox.open()
    yield bench
    bench.close()
