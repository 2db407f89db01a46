"""Runs Huey's consumer inside the calling process, in threads, without touching its signal handlers.

Beside Huey's workers and scheduler there is one thread for the memory lane, so that a wake-up never waits
behind a task and all wake-ups are executed by the same thread, and one that looks after the others: it
restarts those that died and renews the leases of the tasks under way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from huey.consumer import BaseProcess, Consumer, Worker

from appliance.queue.errors import Outage, Unserializable
from appliance.queue.tasks import Delivery, TaskQueue

logger = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
#: Seconds between attempts while the queue cannot be read: the first, and the longest.
_RETRY, _RETRY_MAX = 0.1, 2.0


class QueueWorker(Worker):
    """Takes tasks, lets Huey execute them (which decides on retries), and acknowledges them afterwards."""

    huey: TaskQueue

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._outage = Outage(logger, "The queue cannot be read")

    def loop(self, now: datetime | None = None) -> None:
        try:
            delivery = self.huey.take()
        except Exception as exc:
            # Any exception, a mistake of ours too: dying of it would only mean a restart into the same.
            self._outage.failed(exc)
            self.sleep()
            return
        self._outage.worked()
        self.delay = self.default_delay
        if delivery is not None:
            self._execute(delivery, now)
        elif not self.huey.storage.blocking:
            self.sleep()

    def _execute(self, delivery: Delivery, now: datetime | None) -> None:
        """What the task raises is Huey's to handle; what comes out here went wrong around it."""
        try:
            self.huey.execute(delivery.task, now)
        except Unserializable as exc:
            logger.error("What follows from task %s cannot be enqueued: %s", delivery.task, exc)
            self.huey.give_up(delivery.claim, str(exc))
        except Exception:
            logger.exception("Task %s could not be finished and is left to be tried again", delivery.task)
            self.huey.abandon(delivery.claim)
        except BaseException:
            # sys.exit() in a task ends this thread; the task counts as cut off.
            self.huey.abandon(delivery.claim)
            raise
        else:
            self.huey.settle(delivery.claim)

    def shutdown(self) -> None:
        super().shutdown()
        self.huey.end_thread()


class LaneWorker(BaseProcess):
    """Executes the wake-ups of the memory lane."""

    process_name = "LaneWorker"
    huey: TaskQueue

    def loop(self, now: datetime | None = None) -> None:
        task = self.huey.lane.get()
        if task is not None:
            self.huey.execute(task, now)


class EmbeddedConsumer(Consumer):
    """Huey's consumer with our workers, looked after by a thread of its own. See :func:`start_consumer`."""

    worker_class = QueueWorker
    huey: TaskQueue

    def __init__(self, huey: TaskQueue, workers: int) -> None:
        super().__init__(huey, workers=workers, initial_delay=_RETRY, max_delay=_RETRY_MAX)
        self.lane_thread = self._create_lane()
        self._keeper = threading.Thread(target=self._look_after, name="Keeper", daemon=True)
        self._outage = Outage(logger, "The leases of the tasks under way cannot be renewed")

    def _create_lane(self) -> threading.Thread:
        lane = LaneWorker(self.huey, self.stop_flag)
        thread: threading.Thread = self._create_process(lane, "Lane")
        return thread

    def _set_signal_handlers(self) -> None:
        """Signals belong to the process that this consumer is a part of."""

    def start(self) -> None:
        self.huey.lane.open()
        super().start()
        self.lane_thread.start()
        self._keeper.start()

    def _look_after(self) -> None:
        while not self.stop_flag.wait(_LOOK_EVERY):
            try:
                self.check_worker_health()
                if self.huey.leases is not None:
                    self.huey.leases.keep()
            except Exception as exc:
                self._outage.failed(exc)
            else:
                self._outage.worked()

    def check_worker_health(self) -> bool:
        if self.stop_flag.is_set():
            return True  # They are ending because they shall.
        healthy: bool = super().check_worker_health()
        if not self.lane_thread.is_alive():
            logger.warning("The memory lane's thread died, restarting it.")
            self.lane_thread = self._create_lane()
            self.lane_thread.start()
            healthy = False
        return healthy

    def threads(self) -> Iterator[threading.Thread]:
        """All threads; the one that may replace others comes first."""
        yield self._keeper
        yield self.lane_thread
        yield self.scheduler
        yield from (thread for _, thread in self.worker_threads)


class RunningConsumer:
    """The handle of a consumer that was started."""

    def __init__(self, consumer: EmbeddedConsumer) -> None:
        self._consumer = consumer

    def stop(self, timeout: float = 30.0) -> bool:
        """Take no more tasks and wait at most ``timeout`` seconds for those under way. Twice is fine.

        False if one is still under way. With leases it is executed again once this process has ended.
        Wake-ups that were pending in memory are dropped.
        """
        consumer, queue = self._consumer, self._consumer.huey
        deadline = time.monotonic() + timeout
        consumer.stop_flag.set()
        queue.lane.close()
        for thread in consumer.threads():
            while thread.is_alive():
                if time.monotonic() >= deadline:
                    logger.warning("The queue's thread %s is still busy after %s s", thread.name, timeout)
                    queue.notify_interrupted_tasks()
                    return False
                if queue.leases is not None:
                    queue.leases.wake()  # Again and again: a worker may just have been about to wait.
                thread.join(min(0.02, max(deadline - time.monotonic(), 0)))
        return True


def start_consumer(huey: TaskQueue, workers: int = 2) -> RunningConsumer:
    """Execute the queue's tasks in ``workers`` threads of this process, and its wake-ups in one more.

    Declare the tasks before. The queue's storage stays the caller's to close after the handle's ``stop``.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    consumer = EmbeddedConsumer(huey, workers)
    consumer.start()
    return RunningConsumer(consumer)
