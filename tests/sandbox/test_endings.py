"""Timeout, cancel, close and the death of the engine end a child with all that it started."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Limits, NodeError, TimedOut
from appliance.sandbox import confine
from tests.sandbox.conftest import LIMITS, Bench, marked, marker, until

#: Starts a child, one in a session of its own and one that nobody is the parent of, and waits.
FAMILY = "sleep {0} & setsid sleep {0} & (setsid sleep {0} &) ; trap '' TERM INT HUP; sleep {0}; echo over"


def family(mark: str) -> str:
    return FAMILY.format(mark)


def in_python(mark: str) -> str:
    return f"import subprocess\nsubprocess.run(['bash', '-c', {family(mark)!r}])"


Starter = Callable[[Bench, str, Limits], Coroutine[Any, Any, Any]]
STARTERS: dict[str, Starter] = {
    "bash": lambda bench, mark, limits: bench.sandbox.script("bash", family(mark), None, limits),
    "python": lambda bench, mark, limits: bench.sandbox.script("python", in_python(mark), None, limits),
    "command": lambda bench, mark, limits: bench.sandbox.command(["bash", "-c", family(mark)], limits=limits),
}


@pytest.fixture(params=sorted(STARTERS))
def starter(request: pytest.FixtureRequest) -> Starter:
    return STARTERS[request.param]


def test_cancelling_ends_the_whole_family(bench: Bench, starter: Starter) -> None:
    mark = marker()

    async def scenario() -> int:
        task = asyncio.create_task(starter(bench, mark, LIMITS))
        await until(lambda: len(marked(mark)) == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(marked(mark))

    assert bench.do(scenario()) == 0
    assert bench.script("bash", "echo 1").output == 1


def test_a_timeout_ends_the_whole_family(bench: Bench, starter: Starter) -> None:
    mark = marker()

    async def scenario() -> None:
        with pytest.raises(TimedOut, match=r"after 0\.7 s"):
            await starter(bench, mark, Limits(timeout=0.7))

    bench.do(scenario())
    assert marked(mark) == []


def test_cancelling_at_any_moment_leaves_nothing(bench: Bench) -> None:
    mark = marker()

    async def scenario() -> None:
        for turn in range(12):
            work = bench.sandbox.command(["sleep", mark], limits=LIMITS)
            task = asyncio.create_task(work)
            await asyncio.sleep(turn * 0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: not marked(mark) and bench.sandbox.status()["children"] == 0)

    bench.do(scenario())


def _none(mark: str) -> bool:
    return not marked(mark)


def test_what_a_good_script_left_running_ends_too(bench: Bench) -> None:
    for language, code in (
        ("bash", "setsid sleep {0} >&- 2>&- & echo 1"),
        ("perl", "if (!fork) {{ exec 'setsid', 'sleep', '{0}' }} return 1;"),
        ("python", "import subprocess\nsubprocess.Popen(['setsid', 'sleep', '{0}'])\nreturn 1"),
    ):
        mark = marker()
        assert bench.script(language, code.format(mark)).output == 1
        bench.settle(functools.partial(_none, mark))


def test_close_ends_everything_twice(bench: Bench) -> None:
    mark = marker()

    async def scenario() -> None:
        works = [starter(bench, mark, LIMITS) for starter in STARTERS.values()]
        tasks = [asyncio.create_task(work) for work in works]
        await until(lambda: len(marked(mark)) == 4 * len(works))
        bench.sandbox.close()
        assert marked(mark) == []
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, NodeError)
            assert "stopping" in result.message
        bench.sandbox.close()
        with pytest.raises(NodeError, match="stopping"):
            await bench.sandbox.script("python", "return 1", None, LIMITS)

    bench.do(scenario())
    bench.sandbox.open()
    assert bench.script("python", "return 1").output == 1


def test_close_from_another_thread(bench: Bench) -> None:
    mark = marker()

    async def scenario() -> None:
        task = asyncio.create_task(bench.sandbox.script("bash", family(mark), None, LIMITS))
        await until(lambda: len(marked(mark)) == 4)
        closer = threading.Thread(target=bench.sandbox.close)
        closer.start()
        with pytest.raises(NodeError, match="stopping"):
            await task
        await until(lambda: not closer.is_alive())
        closer.join()

    bench.do(scenario())
    assert marked(mark) == []


def test_close_after_the_loop_is_gone(tmp_path: Path, bubblewrap: bool) -> None:
    bench = Bench(tmp_path, bubblewrap)
    bench.sandbox.open()
    assert bench.script("php", "return 1;").output == 1
    assert bench.script("python", "return 1").output == 1
    bench._runner.close()
    bench.sandbox.close()
    bench.sandbox.close()


ENGINE = """
import asyncio, sys
from pathlib import Path
from appliance.contracts import Limits
from appliance.sandbox import ProcessSandbox

async def main():
    box = ProcessSandbox(Path(sys.argv[1]), bubblewrap=sys.argv[2] == "True")
    box.open()
    limits = Limits(timeout=600)
    await box.script("ruby", "1", None, limits)
    await asyncio.gather(
        box.script("bash", sys.argv[3], None, limits),
        box.script("python", sys.argv[4], None, limits),
        box.command(["bash", "-c", sys.argv[3]], limits=limits),
    )

asyncio.run(main())
"""


def test_nothing_survives_an_engine_that_is_killed(tmp_path: Path, bubblewrap: bool) -> None:
    mark = marker()
    argv = [sys.executable, "-c", ENGINE, str(tmp_path), str(bubblewrap), family(mark), in_python(mark)]
    engine = subprocess.Popen(argv)
    try:
        asyncio.run(until(lambda: len(marked(mark)) == 12))
        children = {child for child in os.listdir("/proc") if child.isdigit() and _ours(child, engine.pid)}
        assert children
    finally:
        engine.send_signal(signal.SIGKILL)
        engine.wait()
    asyncio.run(
        until(lambda: not marked(mark) and not any(Path("/proc", child).exists() for child in _alive(children)))
    )


def _ours(pid: str, engine: int) -> bool:
    """Whether a process descends directly from the engine."""
    try:
        return int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]) == engine
    except OSError:
        return False


def _alive(pids: set[str]) -> list[str]:
    """Those that are not zombies, which only wait for whoever adopted them."""
    found = []
    for pid in pids:
        try:
            if Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found


def test_bubblewrap_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    confine.bubblewrap.cache_clear()
    tried: list[Any] = []
    run = subprocess.run

    def count(argv: Any, **options: Any) -> Any:
        tried.append(argv)
        return run(argv, **options)

    monkeypatch.setattr(subprocess, "run", count)
    assert confine.bubblewrap() is confine.bubblewrap()
    assert len(tried) == 1


def test_no_bubblewrap_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert confine._try(confine.Bubblewrap("/bin/false")) == "exit code 1"
    monkeypatch.setattr(confine, "PATH", "/nowhere")
    confine.bubblewrap.cache_clear()
    try:
        assert "apt install bubblewrap" in confine.bubblewrap().why_not
    finally:
        confine.bubblewrap.cache_clear()


def test_time_does_not_run_while_waiting_for_a_turn(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(commands=1)

    async def scenario() -> list[Any]:
        limits = Limits(timeout=1.5)
        # Each fails if another runs at the same time.
        work = ["sh", "-c", "mkdir lock || exit 9; sleep 0.4; rmdir lock"]
        folder = bench.data / "files"
        works = [bench.sandbox.command(work, cwd=folder, limits=limits) for _ in range(5)]
        return await asyncio.gather(*works)

    assert [done.code for done in bench.do(scenario())] == [0] * 5
