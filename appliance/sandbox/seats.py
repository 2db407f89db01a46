"""A child process with the pipes that a job needs, and the running of one job in it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.contracts import Limits, NodeError, TimedOut
from appliance.sandbox.child import Child
from appliance.sandbox.pipes import Reader, Writer

#: Seconds to wait for a killed child before going on without it (one in a hung disk cannot be ended).
_PATIENCE = 5.0
#: Seconds that a child which has given its answer may take to close what it has open.
_GRACE = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a job ended and what came out.

    ``code`` is the exit status (128 + signal for a signal), None for a child that has replied and need not
    have ended yet.
    """

    code: int | None
    stdout: bytes
    stderr: bytes
    reply: bytes = b""

    def detail(self) -> dict[str, Any]:
        """What an error shows of it."""
        code = {} if self.code is None else {"exit_code": self.code}
        return {**code, "stdout": text_of(self.stdout), "stderr": text_of(self.stderr)}


class Seat:
    """Where one job at a time runs.

    ``channels`` names the pipes beside the standard ones whose descriptors the child gets as its last
    arguments: the ``request`` it reads, the ``reply`` (a line) it writes, and ``ends``, by which a child that
    serves many jobs says that one is done. Any other child is done when it has replied or is gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, key: Hashable, channels: Sequence[str], stdin: bool) -> None:
        self.key = key
        self.out = Reader(loop)
        self.err = Reader(loop, tail=True)
        self.reply = Reader(loop) if "reply" in channels else None
        self.ends = Reader(loop) if "ends" in channels else None
        self.request = Writer(loop) if "request" in channels else None
        self.stdin = Writer(loop) if stdin else None
        self.timer: asyncio.TimerHandle | None = None
        self.scratch: Path | None = None
        self._loop = loop
        self._job: asyncio.Future[int | None] | None = None
        self._clean = True
        pipes = [self.out, self.err, self.request, self.reply, self.ends, self.stdin]
        self.child = Child(loop, [pipe for pipe in pipes if pipe is not None])

    def arguments(self) -> list[str]:
        """The descriptors of the channels as the child knows them."""
        return [str(pipe.theirs) for pipe in (self.request, self.reply, self.ends) if pipe is not None]

    def start(
        self,
        argv: Callable[[int], Sequence[str]],
        environment: Mapping[str, str],
        cwd: Path | None,
        guarded: bool,
    ) -> None:
        """Start the child; see :meth:`Child.start`."""
        self.child.on_exit = self._on_exit
        self.child.start(argv, environment, cwd, self.stdin, self.out, self.err, guarded)
        if self.ends is not None:
            self.ends.arrived = self._on_end
        elif self.reply is not None:
            self.reply.arrived = self._on_reply

    @property
    def reusable(self) -> bool:
        """The child waits for another job."""
        return self.ends is not None and self._clean and self.child.alive and self._job is None

    async def run(self, request: bytes, stdin: bytes, limits: Limits) -> Outcome:
        """Send what the job needs and wait for its end.

        Raises ``TimedOut``, and ``NodeError`` for too much output; the child is gone then, as it is when the
        await is cancelled.
        """
        self._job = self._loop.create_future()
        self._bound(limits.output_kb * 1024)
        if not self.child.alive:
            self._job.set_result(await self.child.exited)
        if self.request is not None:
            self.request.send(request, last=self.ends is None)
        if self.stdin is not None:
            self.stdin.send(stdin, last=True)
        try:
            async with asyncio.timeout(limits.timeout):
                code = await self._job
        except TimeoutError:
            await self._ended()
            message = f"it was ended after {limits.timeout:g} s; a longer timeout can be set"
            raise TimedOut(message, detail=self._outcome(None).detail()) from None
        except _TooMuch as exc:
            await self._ended()
            message = f"it wrote more than {limits.output_kb} KiB to {exc.stream}"
            raise NodeError(message, retryable=False, detail=self._outcome(None).detail()) from None
        except asyncio.CancelledError:
            await self._ended()
            raise
        finally:
            self._job = None
        return self._outcome(code)

    def retire(self) -> None:
        """Let the child end by itself, but soon."""
        if self.child.alive:
            self.timer = self._loop.call_later(_GRACE, self.discard)
        else:
            self._release()

    def discard(self) -> None:
        """End the child, if it lives, and give everything back. Returns at once; twice is fine."""
        self._clean = False
        if self.child.alive:
            self.child.kill()
        else:
            self._release()

    def end(self) -> None:
        """The same, but wait until the child is gone; for a loop that stands still or is closed."""
        self.child.end()
        self._release()

    def _bound(self, size: int) -> None:
        for name, reader in (("stdout", self.out), ("stderr", self.err), ("its result", self.reply)):
            if reader is not None:
                reader.limit = size
                reader.overflow = _cutter(self, name)

    def cut(self, stream: str) -> None:
        """A stream has passed its bound."""
        if self._job is not None and not self._job.done():
            self._job.set_exception(_TooMuch(stream))

    def _outcome(self, code: int | None) -> Outcome:
        reply = b"" if self.reply is None else self.reply.take()
        return Outcome(code, self.out.take(), self.err.take(), reply)

    async def _ended(self) -> None:
        self._clean = False
        self.child.kill()
        await asyncio.wait([self.child.exited], timeout=_PATIENCE)

    def _on_end(self) -> None:
        """A resident child says that the job is done: its status, and whether nothing was left behind."""
        assert self.ends is not None
        line = self.ends.line()
        if line is not None and self._job is not None and not self._job.done():
            status, clean = (int(word) for word in line.split())
            self._clean = bool(clean)
            self._job.set_result(128 - status if status < 0 else status or None)

    def _on_reply(self) -> None:
        assert self.reply is not None
        if self.reply.complete and self._job is not None and not self._job.done():
            self._job.set_result(None)

    def _on_exit(self) -> None:
        if self._job is None:
            self._release()
        elif not self._job.done():
            self._job.set_result(self.child.exited.result())

    def _release(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.child.release()
        scratch, self.scratch = self.scratch, None
        if scratch is None:
            return
        try:
            scratch.rmdir()
        except OSError:
            remove_tree(scratch, None if self._loop.is_closed() else self._loop)


class _TooMuch(Exception):
    def __init__(self, stream: str) -> None:
        self.stream = stream


def _cutter(seat: Seat, name: str) -> Callable[[], None]:
    return lambda: seat.cut(name)


def remove_tree(folder: Path, loop: asyncio.AbstractEventLoop | None) -> None:
    """Remove a folder that may hold much: beside the loop if there is one."""
    if loop is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        loop.run_in_executor(None, shutil.rmtree, folder, True)


def text_of(data: bytes) -> str:
    """Output as text; bytes that are not UTF-8 are shown as U+FFFD."""
    return data.decode(errors="replace")
