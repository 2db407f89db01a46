"""Wakes workers that wait for a task, in this process and in others, without polling.

The bell is a FIFO beside the queue's file. Ringing writes a byte; every idle worker polls it; whoever gets
the bytes takes them all and looks for work. Only idle workers read, so a ring is never swallowed by a
process that is busy. Who took the bytes and finds more than one task rings again for the next worker.

A ring may still be lost (its reader was killed before it looked), so waiting is always bounded.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

#: Seconds between looks where the file system has no FIFOs (exFAT, some network shares).
_WITHOUT_FIFO = 0.25
_PIPE_SIZE = 65536


class Doorbell:
    """One process's end of the bell at ``path``. All methods are safe from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._state = threading.Condition()
        self._fifo = -1
        self._alarm = -1
        self._waiting = 0
        self._closing = False

    def open(self) -> None:
        """Open, making the FIFO if need be. Opening twice is fine."""
        if self._pid != os.getpid():
            self._reset()  # After a fork the alarm and the waiting threads are the parent's.
        with self._state:
            if self._alarm >= 0:
                return
            self._closing = False
            self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                self._fifo = self._open_fifo()
            except OSError as exc:
                logger.warning(
                    "%s cannot be made (%s): workers look for tasks every %s s instead of being woken",
                    self._path,
                    exc.strerror,
                    _WITHOUT_FIFO,
                )

    def _open_fifo(self) -> int:
        try:
            os.mkfifo(self._path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(self._path.lstat().st_mode):
                self._path.unlink()
                os.mkfifo(self._path, 0o600)
        # O_RDWR: opening does not wait for the other side, and a ring waits in the pipe for a reader.
        return os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Wake one idle worker of any process."""
        with self._state:
            if self._fifo < 0:
                return
            try:
                os.write(self._fifo, b"\0")
            except BlockingIOError:
                pass  # Full of rings already: whoever polls wakes.

    def wake(self) -> None:
        """Make the workers of this process that wait now stop waiting."""
        with self._state:
            self._wake()

    def _wake(self) -> None:
        if self._alarm >= 0:
            os.eventfd_write(self._alarm, 1)

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds. True: look for work; False: nothing came, or :meth:`wake`."""
        with self._state:
            if self._alarm < 0 or self._closing:
                return False
            alarm, fifo = self._alarm, self._fifo
            self._waiting += 1
        try:
            return self._poll(alarm, fifo, timeout)
        finally:
            with self._state:
                self._waiting -= 1
                self._state.notify_all()

    @staticmethod
    def _poll(alarm: int, fifo: int, timeout: float) -> bool:
        poller = select.poll()
        poller.register(alarm, select.POLLIN)
        if fifo >= 0:
            poller.register(fifo, select.POLLIN)
        else:
            timeout = min(timeout, _WITHOUT_FIFO)
        ready = {fd for fd, _ in poller.poll(timeout * 1000)}
        if alarm in ready:
            try:
                os.eventfd_read(alarm)
            except BlockingIOError:
                pass  # Another waiting thread has read it: the wake was meant for all.
            return False
        if fifo not in ready:
            return fifo < 0
        try:
            os.read(fifo, _PIPE_SIZE)
        except BlockingIOError:
            pass  # Another worker took the bytes; looking is right all the same.
        return True

    def close(self) -> None:
        """Send the waiting workers away and close. Closing twice is fine."""
        if self._pid != os.getpid():
            self._reset()
        with self._state:
            self._closing = True
            while self._waiting:
                self._wake()
                # Several may wait and one of them can read the wake before another has seen it.
                self._state.wait(0.02)
            for fd in (self._fifo, self._alarm):
                if fd >= 0:
                    os.close(fd)
            self._fifo = self._alarm = -1
