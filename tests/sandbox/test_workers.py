"""A call finds an interpreter waiting, and an idle sandbox has none. Counted, not timed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from tests.sandbox.conftest import LIMITS, Bench

ONE = {"javascript": "return 1", "bash": "echo 1", "php": "return 1;", "perl": "return 1;", "ruby": "1"}


def test_nothing_is_started_before_the_first_use(bench: Bench) -> None:
    assert bench.sandbox.status()["children"] == 0
    assert not bench.sandbox.starts


def test_python_starts_once(bench: Bench) -> None:
    pids = {bench.script("python", "import os\nreturn os.getpid()").output for _ in range(5)}
    assert len(pids) == 5
    assert bench.sandbox.starts == {"python": 1}
    assert bench.sandbox.cold == {"python": 1}


def test_another_python_bound_needs_no_other_start(bench: Bench) -> None:
    for megabytes in (64, 128):
        code = "import resource\nreturn resource.getrlimit(resource.RLIMIT_DATA)[0]"
        limits = LIMITS.__class__(memory_mb=megabytes)
        assert bench.script("python", code, limits=limits).output == (megabytes + 16) << 20
    assert bench.sandbox.starts["python"] == 1


@pytest.mark.parametrize("language", sorted(ONE))
def test_the_next_script_finds_an_interpreter_waiting(bench: Bench, language: str) -> None:
    for turn in range(4):
        assert bench.script(language, ONE[language]).output == 1
        bench.settle(lambda: bench.sandbox.status()["idle"] == 1)
        # One served each script; one more waits.
        assert bench.sandbox.starts[language] == turn + 2
    assert bench.sandbox.cold[language] == 1


def test_scripts_at_once_get_an_interpreter_each(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(scripts=3)

    async def scenario() -> list[int]:
        code = "import time, os\ntime.sleep(0.2)\nreturn os.getppid()"
        works = [bench.sandbox.script("python", code, None, LIMITS) for _ in range(6)]
        return [done.output for done in await asyncio.gather(*works)]

    bench.do(scenario())
    assert bench.sandbox.starts["python"] == 3


def test_an_idle_sandbox_has_no_children(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(idle=0.05, call_idle=0.05)
    bench.script("python", "return 1")
    bench.script("php", "return 1;")
    bench.do(bench.sandbox.call("appliance.nodes.script", "_python_fault", "x = 1", LIMITS))
    bench.settle(lambda: bench.sandbox.status()["children"] == 0)
    assert bench.script("python", "return 2").output == 2


def test_few_wait_at_a_time(bench: Bench) -> None:
    for megabytes in range(100, 112):
        bench.script("bash", "echo 1", limits=LIMITS.__class__(memory_mb=megabytes))
    bench.settle(lambda: bench.sandbox.status()["children"] <= 6)
    assert bench.sandbox.status()["idle"] <= 6


@pytest.mark.parametrize("language", ["python", "php"])
def test_a_waiting_interpreter_that_died_is_replaced(bench: Bench, language: str) -> None:
    code = {"python": "return 1", "php": "return 1;"}[language]
    bench.script(language, code)
    bench.settle(lambda: bench.sandbox.status()["idle"] == 1)
    for seat in bench.sandbox._seats:
        os.killpg(seat.child.pid, signal.SIGKILL)
    bench.settle(lambda: bench.sandbox.status()["children"] == 0)
    assert bench.script(language, code).output == 1


def test_one_sandbox_serves_one_loop(bench: Bench) -> None:
    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            await bench.sandbox.script("python", "return 1", None, LIMITS)

    bench.script("python", "return 1")
    asyncio.run(elsewhere())


def test_a_closed_loop_is_followed_by_another(bench: Bench) -> None:
    for _ in range(2):
        done = asyncio.run(bench.sandbox.script("python", "return 1", None, LIMITS))
        assert done.output == 1
    assert bench.sandbox.starts["python"] == 2
