"""One child process: started, listened to, and ended together with all that it started."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance.sandbox.pipes import Reader, Writer

#: Seconds between two attempts to end a child, and after which it is done the hard way.
_STRIKE = 0.005
_HARD = 2.0


class Child:
    """A process on the running loop. Whoever starts one calls :meth:`kill` or waits for ``exited``.

    ``exited`` is its exit status, 128 + signal for a signal, once it is gone. In bubblewrap and under the guard
    that is the moment at which everything it started is gone too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pipes: Sequence[Reader | Writer]) -> None:
        self.exited: asyncio.Future[int] = loop.create_future()
        self.on_exit: Callable[[], None] = lambda: None
        self._loop = loop
        self._pipes = list(pipes)
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._lifeline = -1
        self._first_strike = 0.0

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.returncode is None

    @property
    def pid(self) -> int:
        """Of the outermost process, the leader of its own session."""
        assert self._popen is not None
        return self._popen.pid

    def start(
        self,
        argv: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        cwd: Path | None,
        stdin: Writer | None,
        out: Reader,
        err: Reader,
        guarded: bool,
    ) -> None:
        """Start; ``argv`` is called with the descriptor of the guard's lifeline (-1 without a guard).

        Raises ``OSError`` if it cannot be started; the pipes are closed then.
        """
        theirs = -1
        if guarded:
            theirs, self._lifeline = os.pipe()
        try:
            self._popen = subprocess.Popen(
                argv(theirs),
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL if stdin is None else stdin.theirs,
                stdout=out.theirs,
                stderr=err.theirs,
                pass_fds=[pipe.theirs for pipe in self._pipes if pipe not in (stdin, out, err)]
                + ([theirs] if guarded else []),
                start_new_session=True,
            )
        except BaseException:
            self.release()
            raise
        finally:
            if theirs >= 0:
                os.close(theirs)
        for pipe in self._pipes:
            pipe.start()
        self._pidfd = os.pidfd_open(self._popen.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def kill(self) -> None:
        """End it and all that it started. Returns at once; ``exited`` says when it is done. Twice is fine."""
        if self.alive:
            self.strike()
            self._loop.call_later(_STRIKE, self.kill)

    def end(self) -> None:
        """The same, but wait for it, with the loop standing still or closed. Twice is fine."""
        gone = select.poll()
        if self.alive:
            gone.register(self._pidfd, select.POLLIN)
        while self.alive:
            self.strike()
            if gone.poll(_STRIKE * 1000):
                self._on_exit()
        self.release()

    def release(self) -> None:
        """Close the pipes of a child that is gone; twice is fine."""
        for pipe in self._pipes:
            pipe.close()
        self._cut_lifeline()

    def strike(self) -> None:
        """Try to end a child that is alive; one that is only just starting needs another try."""
        now = time.monotonic()
        self._first_strike = self._first_strike or now
        if self._lifeline >= 0:
            self._cut_lifeline()
            return
        # Process 1 of the namespace goes first: bubblewrap ends after it, so its own end means that all
        # is gone. Before it has a child it could leave one behind that waits for it for ever.
        for pid in _children(self.pid):
            _kill(pid)
        if now - self._first_strike > _HARD:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _on_exit(self) -> None:
        assert self._popen is not None
        if self._popen.poll() is None:
            return
        pidfd, self._pidfd = self._pidfd, -1
        if not self._loop.is_closed():
            self._loop.remove_reader(pidfd)
            code = self._popen.returncode
            if not self.exited.done():
                self.exited.set_result(code if code >= 0 else 128 - code)
            self.on_exit()
        os.close(pidfd)

    def _cut_lifeline(self) -> None:
        lifeline, self._lifeline = self._lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
