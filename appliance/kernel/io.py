"""Where steps that wait do so: one asyncio thread for async nodes, a few threads for blocking ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

BLOCKING_THREADS = 16
STEP_THREAD = "step"


class Io:
    """Owner of the asyncio thread and of the thread pool; both start at first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="io", daemon=True)
                self._thread.start()
            return self._loop

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop())

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        """Run a blocking function on a thread."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix=STEP_THREAD)
            return self._pool.submit(work)

    def run_last(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a closing coroutine if the loop was ever used, and wait for it."""
        with self._lock:
            loop = self._loop
        if loop is None:
            work.close()
            return
        asyncio.run_coroutine_threadsafe(work, loop).result(timeout=15)

    def stop(self) -> None:
        """Cancel what runs and end the threads. Twice is fine."""
        with self._lock:
            loop, thread, pool = self._loop, self._thread, self._pool
            self._loop = self._thread = self._pool = None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        if loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(timeout=10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=10)
            loop.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
