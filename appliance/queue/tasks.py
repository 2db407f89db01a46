"""Flowork's Huey: tasks with leases where the storage has them, and wake-ups that cost no disk write.

A task declared with :meth:`TaskQueue.volatile_task` is only a hint that there is something to do; the truth
stands in the journal. In the process that runs the consumer it goes through the memory lane; from any other
it becomes a row, of which one at most waits. It has no retries, result, expiry or pipeline.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from huey.api import Huey, Task, TaskWrapper
from huey.signals import SIGNAL_ENQUEUED
from huey.storage import PostgresStorage, RedisStorage

from appliance.queue import drivers
from appliance.queue.errors import Outage, QueueError
from appliance.queue.lane import MemoryLane
from appliance.queue.serializer import MsgpackSerializer
from appliance.queue.storage import Claim, LeasedSqliteStorage
from appliance.queue.values import Due

logger = logging.getLogger(__name__)

_serialize = MsgpackSerializer().serialize
_PROMOTED_AT_ONCE = 100


class VolatileTask(Task):
    """A wake-up that may be lost with its process and of which one pending is enough."""

    @property
    def key(self) -> bytes:
        """Equal for wake-ups that mean the same: the task with its arguments."""
        name = f"{self.__module__}.{self.name}"
        if not self.args and not self.kwargs:
            return name.encode()
        return bytes(_serialize([name, self.args, sorted(self.kwargs.items())]))


class Delivery(NamedTuple):
    """A task to execute; ``claim`` is None where the storage has no leases."""

    task: Task
    claim: Claim | None


class TaskQueue(Huey):
    """Huey over any storage. Declare tasks with ``task`` and ``volatile_task`` before a consumer starts."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, serializer=MsgpackSerializer(), **options)
        self.lane: MemoryLane[Task] = MemoryLane()
        self._closing = threading.Lock()
        self._schedule_outage = Outage(logger, "The queue's schedule cannot be read")

    @property
    def leases(self) -> LeasedSqliteStorage | None:
        """The storage, if it is the one with leases; Huey's own delete a task before it is executed."""
        return self.storage if isinstance(self.storage, LeasedSqliteStorage) else None

    def volatile_task(
        self, name: str | None = None, priority: float | None = None
    ) -> Callable[[Callable[..., Any]], TaskWrapper]:
        """Decorate a function to be a :class:`VolatileTask`; calling it wakes the consumer."""
        decorate: Callable[[Callable[..., Any]], TaskWrapper] = self.task(
            name=name, priority=priority, task_base=VolatileTask
        )
        return decorate

    def wake_up(self, work: Callable[[], Any], name: str, priority: float) -> Callable[[], None]:
        """Declare ``work`` as a volatile task; returns what asks for it, from any thread.

        The task is made once: a new one would draw a random id at every call, for nobody.
        """
        task = self.volatile_task(name=name, priority=priority)(work).s()
        return lambda: self.enqueue(task)

    def enqueue(self, task: Any) -> Any:
        """As Huey's; a volatile task without a time goes to the memory lane if a consumer runs here.

        Raises ``QueueError`` when the queue cannot be reached or written.
        """
        with _explained():
            if not _is_hint(task):
                return super().enqueue(task)
            if self.immediate:
                self.execute(task)
            elif not self._hint(task):
                self._enqueue_hint(task)
        return None

    def _hint(self, task: VolatileTask) -> bool:
        return self.lane.put(task.key, task, task.priority or 0)

    def _enqueue_hint(self, task: VolatileTask) -> None:
        data = self.serialize_task(task)
        if self.leases is not None:
            self.leases.enqueue_once(task.key, data, task.priority)
        else:
            self.storage.enqueue(data, task.priority)

    def execute(self, task: Task, timestamp: datetime | None = None) -> Any:
        """As Huey's; a volatile task is simply called, and its exception logged."""
        if not _is_hint(task):
            return super().execute(task, timestamp)
        try:
            task.execute()
        except Exception:
            logger.exception("The wake-up %s failed", task.name)
        return None

    def close(self) -> None:
        """Close the storage's files or connections. Closing twice is fine; the next use opens them again."""
        self._close_storage()
        if isinstance(self.storage, RedisStorage):
            self.storage.pool.disconnect()

    def end_thread(self) -> None:
        """Close what the storage keeps for the calling thread: Postgres, the connection that listens."""
        if isinstance(self.storage, PostgresStorage):
            self._close_storage()

    def _close_storage(self) -> None:
        with self._closing:  # Huey's Postgres storage does not stand two threads that close it at once.
            self.storage.close()

    # --- for the consumer ---------------------------------------------------------------------------

    def take(self) -> Delivery | None:
        """The next task for a worker, waiting a while for one. Raises ``QueueError``.

        Wake-ups that came as rows are passed on to the memory lane, so that its one thread executes all.
        """
        with _explained():
            claim, data = self._next()
        if data is None:
            return None
        try:
            task = self.deserialize_task(data)
        except Exception as exc:
            # Any exception: an unknown name, damaged bytes, or arguments that the task's class refuses.
            logger.error("A task in the queue cannot be read and is given up: %s", exc)
            self.give_up(claim, f"it cannot be read: {exc}")
            return None
        if _is_hint(task):
            if not self._hint(task):
                self._enqueue_hint(task)  # The consumer is being stopped: it is for the next one.
            self.settle(claim)
            return None
        return Delivery(task, claim)

    def _next(self) -> tuple[Claim | None, bytes | None]:
        if self.leases is None:
            return None, self.storage.dequeue()
        claim = self.leases.claim()
        return claim, claim.data if claim is not None else None

    def settle(self, claim: Claim | None) -> None:
        """Acknowledge a task that was executed."""
        if self.leases is None or claim is None:
            return
        try:
            if not self.leases.acknowledge(claim):
                logger.warning("A task was done after its lease was lost; it may be executed again")
        except QueueError as exc:
            logger.error("A task that is done cannot be acknowledged yet: %s", exc)

    def give_up(self, claim: Claim | None, reason: str) -> None:
        """Move a task to the dead ones, where there are leases. Raises ``QueueError``."""
        if self.leases is not None and claim is not None:
            self.leases.bury(claim, reason)

    def abandon(self, claim: Claim | None) -> None:
        """Leave a task to be executed again when its lease has run out."""
        if self.leases is not None and claim is not None:
            self.leases.abandon(claim)

    def read_schedule(self, timestamp: datetime | None = None) -> list[Task]:
        """The due tasks for Huey's scheduler to enqueue.

        With leases they are moved to the queue here and the list is empty: Huey takes them out first and
        enqueues them afterwards, and those in between are lost when the power goes.
        """
        try:
            with _explained():
                tasks = self._read_due(timestamp or self._get_timestamp())
        except QueueError as exc:
            self._schedule_outage.failed(exc)
            return []
        self._schedule_outage.worked()
        return tasks

    def _read_due(self, moment: datetime) -> list[Task]:
        if self.leases is None:
            tasks: list[Task] = super().read_schedule(moment)
            return tasks
        while due := self.leases.due(moment, _PROMOTED_AT_ONCE):
            promoted = [self._promotion(self.leases, item) for item in due]
            self.leases.promote([item for item in promoted if item is not None])
        return []

    def _promotion(self, leases: LeasedSqliteStorage, due: Due) -> tuple[Due, bytes, float | None] | None:
        try:
            task = self.deserialize_task(due.data)
        except Exception as exc:
            logger.error("A scheduled task cannot be read and is given up: %s", exc)
            leases.dead.bury_scheduled(due, f"it cannot be read: {exc}")
            return None
        # As Huey's enqueue does: the time to expire counts from now, not from when it was scheduled.
        task.resolve_expires(self.utc)
        self._emit(SIGNAL_ENQUEUED, task)
        return due, self.serialize_task(task), task.priority


def _is_hint(task: Any) -> bool:
    return isinstance(task, VolatileTask) and task.eta is None


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except drivers.failures() as exc:
        raise QueueError(f"the queue's server cannot be used: {exc}") from exc
