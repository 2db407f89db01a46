"""Several real processes on one queue: kill -9, waking, sharing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.queue.app import make_huey
from appliance.queue.storage import LeasedSqliteStorage
from appliance.queue.tasks import TaskQueue
from tests.queue.jobs import Jobs
from tests.queue.support import PATIENCE, until

ROOT = Path(__file__).parents[2]
#: So long that only the bell can wake a worker within a test's patience.
NEVER = 3600.0


@contextmanager
def consumer(folder: Path, workers: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A consumer process; stopped in good order unless it was killed."""
    command = [sys.executable, "-m", "tests.queue.worker", str(folder), str(workers), json.dumps(options)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    try:
        yield process
        if process.poll() is None:
            process.stdin.close()
            assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TaskQueue]:
    queue = make_huey(None, tmp_path)
    yield queue
    queue.close()


@pytest.fixture
def storage(queue: TaskQueue) -> LeasedSqliteStorage:
    assert queue.leases is not None
    return queue.leases


@pytest.fixture
def jobs(queue: TaskQueue, tmp_path: Path) -> Jobs:
    return Jobs(queue, tmp_path)


def rows(folder: Path) -> int:
    """Tasks in the queue, waiting or leased."""
    with closing(sqlite3.connect(folder / "queue.db")) as connection:
        return int(connection.execute("select count(*) from task").fetchone()[0])


def test_what_was_in_flight_at_kill_9_is_executed_again(jobs: Jobs, tmp_path: Path) -> None:
    for number in range(20):
        jobs.job(number)
    jobs.close_gate()
    with consumer(tmp_path, 4) as process:
        until(lambda: len(jobs.lines("start")) == 4)
        process.kill()
        process.wait()
    in_flight = jobs.lines("start")
    jobs.gate.unlink()
    with consumer(tmp_path, 4):
        until(lambda: len(jobs.lines("end")) >= 20)
    assert sorted(jobs.lines("end")) == list(range(20))
    assert Counter(jobs.lines("start")) == Counter([*range(20), *in_flight])
    assert rows(tmp_path) == 0


def test_nothing_is_lost_over_many_kills(storage: LeasedSqliteStorage, jobs: Jobs, tmp_path: Path) -> None:
    for number in range(300):
        jobs.job(number)
    for kill in range(1, 5):
        with consumer(tmp_path, 3) as process:
            until(lambda goal=kill * 50: len(jobs.lines("end")) >= goal)
            process.kill()
            process.wait()
    with consumer(tmp_path, 3):
        until(lambda: set(jobs.lines("end")) == set(range(300)))
        until(lambda: rows(tmp_path) == 0)
    # Only what was cut off may have been done again: three workers, four kills.
    assert len(jobs.lines("end")) <= 300 + 3 * 4
    assert storage.dead.tasks() == []


def test_a_task_that_kills_its_process_is_given_up(storage: LeasedSqliteStorage, jobs: Jobs, tmp_path: Path) -> None:
    jobs.die(1)
    for _ in range(3):
        with consumer(tmp_path, 1, max_attempts=3) as process:
            assert process.wait(PATIENCE) == 9
    jobs.job(2)
    with consumer(tmp_path, 1, max_attempts=3):
        until(lambda: jobs.lines("end") == [2])
    assert jobs.lines("die") == [1, 1, 1]
    (dead,) = storage.dead.tasks()
    assert dead.attempts == 3
    assert dead.reason == "taken 3 times and never finished; the last time the process that worked on it died"


def test_another_process_rings_the_bell(jobs: Jobs, tmp_path: Path) -> None:
    with consumer(tmp_path, 1, recheck=NEVER):
        for number in range(5):
            jobs.job(number)
            until(lambda number=number: number in jobs.lines("end"))


def test_every_waiting_worker_of_every_process_is_woken(jobs: Jobs, tmp_path: Path) -> None:
    jobs.close_gate()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(consumer(tmp_path, 2, recheck=NEVER))
        for number in range(4):
            jobs.job(number)
        until(lambda: sorted(jobs.lines("start")) == [0, 1, 2, 3])
        jobs.open_gate()
        until(lambda: sorted(jobs.lines("end")) == [0, 1, 2, 3])


def test_processes_that_share_a_queue_execute_each_task_once(jobs: Jobs, tmp_path: Path) -> None:
    with consumer(tmp_path, 3), consumer(tmp_path, 3):
        for number in range(300):
            jobs.job(number)
        until(lambda: len(jobs.lines("end")) >= 300)
    assert sorted(jobs.lines("start")) == list(range(300))


def test_the_tasks_of_a_process_that_died_go_to_the_others(jobs: Jobs, tmp_path: Path) -> None:
    jobs.close_gate()
    with consumer(tmp_path, 1, recheck=0.05) as first:
        jobs.job(1)
        until(lambda: jobs.lines("start") == [1])
        with consumer(tmp_path, 1, recheck=0.05):
            first.kill()
            first.wait()
            jobs.gate.unlink()
            until(lambda: jobs.lines("end") == [1])
    assert jobs.lines("start") == [1, 1]


def test_a_child_made_by_fork_has_a_connection_of_its_own(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from appliance.queue.storage import LeasedSqliteStorage
storage = LeasedSqliteStorage("flowork", path=Path(sys.argv[1]) / "queue.db")
storage.enqueue(b"parent")
held = storage.claim(timeout=0)
if not (child := os.fork()):
    storage.enqueue(b"child")
    assert storage.claim(timeout=0).data == b"child"
    storage.wake()
    storage.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert storage._bell.wait(5), "the child rang, and its wake was for its own workers"
assert storage.acknowledge(held)
storage._next_look = 0
assert storage.claim(timeout=5).data == b"child", "the child is dead and left its lease"
storage.close()
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, timeout=PATIENCE)
