"""A driver's thread: it can be woken and stopped at any moment, and stopping waits until it has ended."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable

from drivers.base import DriverError, Emit, Observation, Stop

logger = logging.getLogger(__name__)


class Worker:
    """Runs ``work`` on a thread. It gets the worker, and returns soon after ``pause`` or ``wait`` said so.

    It waits in the kernel for file descriptors, time and an eventfd by which others wake it: no polling.
    """

    def __init__(self, name: str, work: Callable[[Worker], None]) -> None:
        self.stopping = False
        self._work = work
        self._bell = -1
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; from the thread itself it only asks for the end."""
        self.stopping = True
        self.ring()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()

    def ring(self) -> None:
        """End the present or next waiting early."""
        with self._lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def pause(self, seconds: float | None = None) -> bool:
        """Wait that long (``None``: until rung or stopped); false when the work has to end."""
        self.wait((), seconds)
        return not self.stopping

    def wait(self, fds: tuple[int, ...], seconds: float | None = None) -> set[int]:
        """Those of ``fds`` that can be read or have failed; none when the time is over or it was rung."""
        poll = select.poll()
        for fd in (*fds, self._bell):
            poll.register(fd, select.POLLIN | select.POLLPRI)
        # Rounded up: a wait that ends a little early is one that is begun again for nothing.
        ready = {fd for fd, _ in poll.poll(None if seconds is None else max(0, int(seconds * 1000 + 0.999)))}
        if self._bell in ready:
            os.eventfd_read(self._bell)
        return ready - {self._bell}

    def _run(self) -> None:
        try:
            self._work(self)
        except Exception:
            logger.exception("%s ended by an error", self._thread.name)
        finally:
            with self._lock:
                os.close(self._bell)
                self._bell = -1


class Watch:
    """A driver's one watch: what ``events`` begins, and ``close`` ends if its stop was not called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._emit: Emit | None = None

    def begin(self, name: str, emit: Emit, work: Callable[[Worker], None] | None = None) -> Stop:
        """Run ``work`` on a thread, if there is any. Raises ``DriverError`` while another watch goes on.

        Without ``work`` there is no thread: others tell what there is. The stop ends this watch only.
        """
        worker = Worker(name, work or _nothing)
        with self._lock:
            if self._worker is not None:
                raise DriverError(f"{name} is watched already", retryable=False)
            self._worker, self._emit = worker, emit
            if work is not None:
                worker.start()
        return lambda: self._end(worker)

    def tell(self, observation: Observation) -> None:
        """To whoever watches, if anybody does."""
        emit = self._emit
        if emit is not None:
            try:
                emit(observation)
            except Exception:
                logger.exception("%s %s was not taken", observation.source, observation.kind)

    def ring(self) -> None:
        """End the worker's present pause early."""
        worker = self._worker
        if worker is not None:
            worker.ring()

    def end(self) -> None:
        worker = self._worker
        if worker is not None:
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        worker.stop()
        with self._lock:
            if self._worker is worker:
                self._worker = self._emit = None


def _nothing(_: Worker) -> None:
    pass
