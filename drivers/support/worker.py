"""A driver's thread: it can be woken and stopped at any moment, and stopping waits until it has ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from drivers.base import DriverError, Emit, Observation, Stop

logger = logging.getLogger(__name__)


class Worker:
    """Runs ``work`` on a thread. ``work`` gets the worker and returns soon after ``stopping`` is set.

    ``wake`` is called by ``stop`` for work that waits on something else than :meth:`pause`.
    """

    def __init__(self, name: str, work: Callable[[Worker], None], wake: Callable[[], None] | None = None) -> None:
        self.stopping = threading.Event()
        self._bell = threading.Event()
        self._work = work
        self._wake = wake
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Stop:
        self._thread.start()
        return self.stop

    def stop(self) -> None:
        """End the thread; from the thread itself it only asks for the end."""
        self.stopping.set()
        self._bell.set()
        if self._wake is not None:
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def ring(self) -> None:
        """End the present :meth:`pause` early."""
        self._bell.set()

    def pause(self, seconds: float | None) -> bool:
        """Wait that long (``None``: until rung or stopped); false when the work has to end."""
        self._bell.wait(seconds)
        self._bell.clear()
        return not self.stopping.is_set()

    def _run(self) -> None:
        try:
            self._work(self)
        except Exception:
            logger.exception("%s ended by an error", self._thread.name)


class Watch:
    """A driver's one watch: what ``events`` begins, and ``close`` ends if its stop was not called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._emit: Emit | None = None

    def begin(
        self, name: str, emit: Emit, work: Callable[[Worker], None], wake: Callable[[], None] | None = None
    ) -> Stop:
        """Run ``work`` on a thread. Raises ``DriverError`` while another watch goes on.

        The stop ends this watch only, and nothing is told once it has returned.
        """
        worker = Worker(name, work, wake)
        with self._lock:
            if self._worker is not None:
                raise DriverError(f"{name} is watched already", retryable=False)
            self._worker, self._emit = worker, emit
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
