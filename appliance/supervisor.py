"""Keeps a few child processes running: forks them, restarts the ones that die, stops them in order.

It knows nothing of what the children do; ``appliance.startup`` says which there are. They are forked from
this process after it has imported what they share, so that its memory is paid for once. Nothing here
polls: one ``select`` sleeps until a signal arrives, a restart is due, or somebody calls for a child that is
only started then.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Program:
    """One kind of child. ``main`` runs in the child and returns its exit code.

    ``grace`` is how many seconds it gets between SIGTERM and SIGKILL. With ``restart`` false it may end.
    ``saw_end`` is told how it ended before it is started again. With ``door``, a socket that listens, it is started
    when somebody connects there, accepts the connections itself, and may end when nobody does.
    """

    name: str
    main: Callable[[], int]
    grace: float = 10.0
    restart: bool = True
    saw_end: Callable[[str], None] = lambda how: None
    door: socket.socket | None = None


@dataclass(frozen=True)
class Backoff:
    """Seconds before a restart: ``first``, doubled each time up to ``longest``; anew after ``healthy``."""

    first: float = 0.1
    longest: float = 30.0
    healthy: float = 30.0

    def delay(self, failures: int) -> float:
        """The wait after so many failures in a row (1 or more)."""
        return min(self.longest, self.first * 2.0 ** min(failures - 1, 32))


@dataclass
class _Child:
    """``due`` is when it may be started next; None while it runs, or if it is not to be started again."""

    program: Program
    pid: int = 0
    born: float = 0.0
    failures: int = 0
    due: float | None = field(default=0.0)

    def waits_at_door(self, now: float) -> bool:
        """Whether it would be started at once if somebody connected."""
        return self.program.door is not None and self.due is not None and self.due <= now


class Supervisor:
    """Runs ``programs`` until SIGTERM, SIGINT or SIGHUP; starts them in order and stops them in reverse."""

    def __init__(self, programs: Sequence[Program], say: Callable[[str], None], backoff: Backoff | None = None) -> None:
        self._children = [_Child(program) for program in programs]
        self._say = say
        self._backoff = backoff or Backoff()
        self._wake, self._ring = socket.socketpair()
        self._stopping = False
        self._hurry = False

    def run(self) -> int:
        """Returns 0 after a clean stop, 1 if a child had to be killed. For the main thread only."""
        self._listen_to_signals()
        gc.collect()
        gc.freeze()  # else the first collection in a child would copy every shared page
        called: list[_Child] = []
        while not self._stopping:
            self._start_due(called)
            now = time.monotonic()
            waiting = [child for child in self._children if child.waits_at_door(now)]
            moments = (child.due for child in self._children if child not in waiting and child.due is not None)
            called = self._sleep(min(moments, default=None), waiting)
        return self._stop()

    # --- signals ---------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        self._wake.setblocking(False)
        self._ring.setblocking(False)
        signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
        for number in (*_STOP, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGCHLD:
                signal.signal(number, self._note)  # nohup ignores SIGHUP, and means it

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number in _STOP:
            self._hurry = self._stopping
            self._stopping = True

    def _sleep(self, until: float | None, waiting: Sequence[_Child] = ()) -> list[_Child]:
        """Until a signal, the monotonic time ``until``, or a call for one of ``waiting``; then bury whoever has died.
        Returns those that are called.
        """
        wait = None if until is None else max(0.0, until - time.monotonic())
        doors = [child.program.door for child in waiting if child.program.door is not None]
        ready = select.select([self._wake, *doors], [], [], wait)[0]
        if self._wake in ready:
            self._wake.recv(4096)
        while any(child.pid for child in self._children):  # waitid raises where there is none
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None:
                break
            # Before it is reaped its pid, and so its group's id, can belong to nobody else.
            _kill_group(dead.si_pid)
            _, status = os.waitpid(dead.si_pid, 0)
            self._bury(dead.si_pid, os.waitstatus_to_exitcode(status))
        return [child for child in waiting if child.program.door in ready]

    # --- a child's life --------------------------------------------------------------------------

    def _start_due(self, called: Sequence[_Child]) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.program.door is not None and child not in called:
                continue
            if child.due is not None and child.due <= now and not self._stopping:
                child.due, child.born = None, now
                try:
                    child.pid = self._fork(child.program)
                except OSError as exc:  # out of memory or of processes, which may pass
                    self._retry(child, exc.strerror or str(exc))

    def _fork(self, program: Program) -> int:
        # Blocked, so that a signal cannot reach the child while it still has our handlers.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP, signal.SIGCHLD))
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
            if pid == 0:
                self._become(program, parent, old)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return pid

    def _become(self, program: Program, parent: int, mask: set[signal.Signals | int]) -> None:
        """In the child: never returns."""
        code = 1
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _libc.prctl(_PR_SET_NAME, f"flowork-{program.name}".encode()[:15])
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()  # Ctrl-C at a terminal is for the supervisor alone
            signal.set_wakeup_fd(-1)
            self._wake.close()
            self._ring.close()
            for number in (*_STOP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = program.main()
        except SystemExit as exc:
            code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            try:
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def _bury(self, pid: int, code: int) -> None:
        child = next((c for c in self._children if c.pid == pid), None)
        if child is None:
            return  # an orphan that this process inherited as the first one of a container
        child.pid = 0
        if child.program.door is not None and code == 0:
            child.failures, child.due = 0, 0.0  # nobody needed it any more
        elif child.program.restart and not self._stopping:
            how = _describe(code)
            child.program.saw_end(how)
            self._retry(child, how)

    def _retry(self, child: _Child, why: str) -> None:
        now = time.monotonic()
        if now - child.born >= self._backoff.healthy:
            child.failures = 0
        child.failures += 1
        delay = self._backoff.delay(child.failures)
        child.due = now + delay
        when = f"in {delay:g} s" + (", if it is needed" if child.program.door is not None else "")
        self._say(f"{child.program.name} ended ({why}); starting it again {when}")

    # --- the end ---------------------------------------------------------------------------------

    def _stop(self) -> int:
        clean = True
        for child in reversed(self._children):
            if child.pid:
                self._say(f"stopping {child.program.name}")
                clean = self._end(child) and clean
        signal.set_wakeup_fd(-1)
        self._wake.close()
        self._ring.close()
        self._say("stopped" if clean else "stopped, by force")
        return 0 if clean else 1

    def _end(self, child: _Child) -> bool:
        deadline = time.monotonic() + child.program.grace
        os.kill(child.pid, signal.SIGTERM)
        while child.pid and not self._hurry and time.monotonic() < deadline:
            self._sleep(deadline)
        if not child.pid:
            return True
        self._say(f"{child.program.name} did not stop in time; killing it")
        _kill_group(child.pid)
        while child.pid:
            self._sleep(None)
        return False


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # the child died before it had a group of its own, or nobody is left in it


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
