"""Runs the programs that make an engine: in the background's background, all they say in a log, ended with us."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from appliance.contracts import FlowError

_PR_SET_PDEATHSIG = 1
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13
#: The number of ioprio_set(2), which has no name in the C library.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "armv7l": 314, "armv6l": 314}
#: The kernel ends these first when memory runs out (proc(5), oom_score_adj).
_FIRST_TO_GO = "1000"
_KEPT_LINES = 60
_libc = ctypes.CDLL(None, use_errno=True)


class SetupFailed(FlowError):
    """Making the model engine failed."""

    id = "setup-failed"


class Killed(SetupFailed):
    """A program was ended from outside, most likely for lack of memory."""


def be_modest() -> None:
    """Make this process and its children wait for everybody else. Where that is forbidden it goes without."""
    with suppress(OSError):
        os.nice(19)
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        _libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


class Runner:
    """Runs one program after the other. ``log`` gets all they say; ``hold`` is a descriptor that they keep open."""

    def __init__(self, log: Path, hold: int) -> None:
        self._log = log
        self._hold = hold

    def python(
        self,
        *arguments: str,
        what: str,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        """This Python with arguments; see :meth:`run`."""
        self.run([sys.executable, *arguments], what=what, environ=environ, on_line=on_line)

    def run(
        self,
        argv: Sequence[str],
        *,
        what: str,
        environ: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Wait for a program. Raises ``SetupFailed`` with what it said last; ``what`` names it there.

        However this ends, the program and all that it started have ended.
        """
        parent = os.getpid()

        def child() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        last: deque[str] = deque(maxlen=_KEPT_LINES)
        with (
            self._log.open("a", encoding="utf-8", errors="replace") as log,
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                text=True,
                errors="replace",
                process_group=0,
                preexec_fn=child,
                pass_fds=(self._hold,),
            ) as process,
        ):
            assert process.stdout is not None
            log.write(f"$ {' '.join(argv)}\n")
            try:
                for line in process.stdout:
                    log.write(line)
                    last.append(line.rstrip())
                    on_line(line)
                process.wait()
            finally:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise _failure(what, process.returncode, last)


def _failure(what: str, code: int, said: Sequence[str]) -> SetupFailed:
    text = "\n".join(said)
    if code == -signal.SIGKILL or "Killed signal terminated program" in text or "cc1plus: out of memory" in text:
        return Killed(f"{what}: it was ended, most likely for lack of memory")
    if "No space left on device" in text:
        return SetupFailed(f"{what}: the disk is full")
    # What a compiler or pip itself says, rather than what is said about it.
    errors = [line.strip() for line in said if re.search(r"\berror: |^ERROR: ", line) and "subprocess-" not in line]
    line = (errors or [line.strip() for line in said if line.strip()] or ["it says nothing"])[0 if errors else -1]
    return SetupFailed(f"{what}: {line[:300]}")
