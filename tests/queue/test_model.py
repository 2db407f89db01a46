"""The storage against a model of what it promises, in every order that hypothesis can think of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.queue.storage import Claim, LeasedSqliteStorage

LEASE, ATTEMPTS = 60.0, 3
workers = st.integers(0, 1)


@dataclass
class Task:
    number: int
    priority: int
    attempts: int = 0
    holder: int | None = None
    claim: Claim | None = None
    until: float = 0.0

    @property
    def waits(self) -> bool:
        return self.until == 0.0


class Leases(RuleBasedStateMachine):
    """Two workers, as if in two processes, and time that moves on by at least a second between claims."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1000.0
        self.folder = tempfile.TemporaryDirectory(prefix="flowork-queue-")
        self.storages = [self.open() for _ in range(2)]
        self.tasks: list[Task] = []
        self.dead: list[int] = []
        self.count = 0

    def open(self) -> LeasedSqliteStorage:
        path = Path(self.folder.name) / "queue.db"
        return LeasedSqliteStorage("q", path=path, lease=LEASE, max_attempts=ATTEMPTS, clock=lambda: self.time)

    def teardown(self) -> None:
        for storage in self.storages:
            storage.close()
        self.folder.cleanup()

    @rule(worker=workers, priority=st.integers(-2, 2))
    def enqueue(self, worker: int, priority: int) -> None:
        self.count += 1
        self.storages[worker].enqueue(b"%d" % self.count, priority)
        self.tasks.append(Task(self.count, priority))

    @rule(worker=workers)
    def claim(self, worker: int) -> None:
        self.time += 1
        self.lose_leases(worker)
        waiting = sorted((task for task in self.tasks if task.waits), key=lambda task: (-task.priority, task.number))
        claim = self.storages[worker].claim(timeout=0)
        if not waiting:
            assert claim is None
            return
        assert claim is not None
        task = waiting[0]
        assert (int(claim.data), claim.attempts) == (task.number, task.attempts + 1)
        task.attempts, task.holder, task.claim, task.until = claim.attempts, worker, claim, self.time + LEASE

    def lose_leases(self, worker: int) -> None:
        """What a look for lost leases does; a worker does not take away its own."""
        for task in list(self.tasks):
            if not task.waits and task.until <= self.time and task.holder != worker:
                task.until = 0.0
                if task.attempts >= ATTEMPTS:
                    self.tasks.remove(task)
                    self.dead.append(task.number)

    def held_by(self, worker: int) -> list[Task]:
        return [task for task in self.tasks if task.holder == worker and not task.waits]

    @rule(worker=workers, which=st.integers(0, 10))
    def acknowledge(self, worker: int, which: int) -> None:
        if held := self.held_by(worker):
            task = held[which % len(held)]
            assert task.claim is not None
            assert self.storages[worker].acknowledge(task.claim)
            self.tasks.remove(task)

    @rule(worker=workers)
    def acknowledge_late(self, worker: int) -> None:
        """Of every task whose lease this worker has lost."""
        for task in self.tasks:
            if task.claim is not None and task.holder == worker and task.waits:
                assert not self.storages[worker].acknowledge(task.claim)

    @rule(worker=workers)
    def abandon(self, worker: int) -> None:
        for task in self.held_by(worker)[:1]:
            assert task.claim is not None
            self.storages[worker].abandon(task.claim)
            task.holder = None

    @rule(worker=workers)
    def keep(self, worker: int) -> None:
        held = self.held_by(worker)
        if any(task.until < self.time + LEASE * 2 / 3 for task in held):
            for task in held:
                task.until = self.time + LEASE
        self.storages[worker].keep()

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def wait(self, seconds: int) -> None:
        self.time += seconds

    @rule(worker=workers)
    def crash(self, worker: int) -> None:
        """Its claims are forgotten, but the process is not seen to be dead: only the leases end them."""
        self.storages[worker].close()
        self.storages[worker] = self.open()
        for task in self.held_by(worker):
            task.holder = None

    @invariant()
    def nothing_is_lost(self) -> None:
        storage = self.storages[0]
        assert storage.queue_size() == sum(task.waits for task in self.tasks)
        assert storage._db.query("select count(*) from task") == [(len(self.tasks),)]
        assert sorted(int(task.data) for task in storage.dead.tasks()) == sorted(self.dead)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
