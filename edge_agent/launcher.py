"""Starts the version of the agent that is to run: the installed one, or a newer one that came from its appliance.

This is code of the installed release, and stays in charge whatever comes over the link. A version that has been tried
replaces this process. One on trial is a child of it, until it says over a pipe (:data:`TRIAL`) that it is well, or it
ends, or its time is up: then it is gone, and the version before it runs again. A power cut leaves the trial in
``state.json``; it begins anew, and not for ever.

What a version may rely on, and what it has to keep to, for good: the names of the environment below; exit code
:data:`AGAIN` for "start me anew"; ``state.json`` (:mod:`edge_agent.versions`).
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import msgspec

from edge_agent import __version__
from edge_agent.machine import is_running
from edge_agent.protocol.messages import Update
from edge_agent.versions import State, Trial, Versions

logger = logging.getLogger(__name__)

#: The exit code of an agent that wants to be started anew.
AGAIN = 75
#: Names in the environment of a version: its name, how the launcher was started, the pipe and the place for last words
#: of one on trial.
VERSION, ORIGIN, TRIAL, FAULT = (f"FLOWORK_AGENT_{name}" for name in ("VERSION", "ORIGIN", "TRIAL", "FAULT"))
#: What one on trial writes when it is well.
WELL = b"w"
#: Trials of one version that may be cut off: by the power, or by whoever kills the launcher.
MOST_STARTS = 2
#: Seconds that a version whose time is up has to end.
LAST_SECONDS = 5
#: What says where Python looks for code.
_PATHS = ("PYTHONPATH", "PYTHONSAFEPATH")
_PR_SET_PDEATHSIG = 1
_PASSED_ON = {signal.SIGTERM, signal.SIGINT}

_BEGIN = f"""
import os, sys
try:
    from edge_agent.main import main
    code = main()
except Exception as exc:
    if place := os.environ.get({FAULT!r}):
        with open(place, "w") as file:
            file.write(f"{{type(exc).__name__}}: {{exc}}")
    raise
sys.exit(code)
"""

#: What the launcher becomes when a trial is over: as little as a Python can be.
_WAIT = f"""
import os, signal, sys
pid, told = int(sys.argv[1]), []
def pass_on(number, frame):
    told.append(number)
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, pass_on)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if code == {AGAIN} and not told:
    os.execv(sys.executable, sys.argv[2:])
sys.exit(code if code >= 0 else 128 - code)
"""


def launch(folder: Path, patience: float, here: Callable[[], int]) -> int:
    """Run what is to run; the exit code. ``here`` runs the installed code, ``patience`` is a trial's, in seconds."""
    versions = Versions(folder)
    state = versions.read()
    if state.trial is not None:
        code, state = _try(versions, state, state.trial, patience)
        if code is not None:
            return code
    if name := _choice(versions, state):
        os.execve(sys.executable, _command(), _environ(versions.place(name), name))  # noqa: S606 itself
    return here()


def again() -> None:
    """Begin anew, with the installed code. Does not return."""
    origin = msgspec.json.decode(os.environ[ORIGIN]) if ORIGIN in os.environ else _origin()
    ours = {VERSION, ORIGIN, TRIAL, FAULT, *_PATHS}
    environ = {name: value for name, value in os.environ.items() if name not in ours} | origin["paths"]
    sys.stderr.flush()
    os.execve(sys.executable, origin["arguments"], environ)  # noqa: S606 itself


def _choice(versions: Versions, state: State) -> str:
    """The name of the version to run, or "" for the installed one. What is not needed any more is removed."""
    if not (name := state.chosen):
        return ""
    from edge_agent.protocol.package import is_newer  # only where there are versions to choose from

    if not is_newer(versions.version(name), __version__):
        logger.info("the installed version %s is as new as %s, and takes over", __version__, versions.version(name))
        name = ""
    elif why := versions.damage(name):
        text = f"the installed version {__version__} runs again: on disk, {why}"
        logger.error("version %s cannot run any more: %s", versions.version(name), text)
        state.last, name = Update(versions.version(name), "rolled back", text, time.time()), ""
    if name != state.chosen:
        state.chosen = name
        _keep(versions, state)
    return name


def _try(versions: Versions, state: State, trial: Trial, patience: float) -> tuple[int | None, State]:
    """Run a version until it is well; its exit code. None: it is gone, and what to start is in the state."""
    held = os.open(versions.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_running(versions.folder.parent):
            raise BlockingIOError
        return _tried(versions, state, trial, patience)
    except BlockingIOError:
        logger.error("another agent runs on %s", versions.folder.parent)
        return 1, state
    finally:
        os.close(held)


def _tried(versions: Versions, state: State, trial: Trial, patience: float) -> tuple[int | None, State]:
    from edge_agent.protocol.package import is_newer

    if not is_newer(trial.version, __version__):
        why = f"the installed version {__version__} is as new"
    elif trial.starts >= MOST_STARTS:
        why = f"it was cut off {trial.starts} times while it was on trial"
    elif not (why := versions.damage(trial.name) or _counted(versions, state, trial)):
        ended = _Child(versions, trial, patience).run()
        if ended.code is not None:
            return ended.code, state
        why, state = ended.why, versions.read()
    if state.trial is not None:  # else it had said that it is well just before it ended
        logger.error("version %s is rolled back: %s", trial.version, why)
        state.last = Update(trial.version, "rolled back", why, time.time())
        state.trial = None
        _keep(versions, state)
    return None, state


def _counted(versions: Versions, state: State, trial: Trial) -> str:
    """Note that a trial begins; why it cannot be noted. What is not counted could begin for ever."""
    trial.starts += 1
    try:
        versions.write(state)
    except OSError as exc:
        return f"the disk did not take the note of its trial: {(exc.strerror or str(exc)).lower()}"
    return ""


def _keep(versions: Versions, state: State) -> None:
    try:
        versions.write(state)
    except OSError as exc:
        logger.error("which version runs cannot be kept: %s", exc.strerror)
        return  # nor is anything removed that the note still names
    versions.prune(lambda name: name == state.chosen)


class _Ended:
    """How a trial ended: with the exit code of this process, or why it is over."""

    def __init__(self, code: int | None, why: str = "") -> None:
        self.code = code
        self.why = why


class _Child:
    """A version on trial."""

    def __init__(self, versions: Versions, trial: Trial, patience: float) -> None:
        self._versions = versions
        self._trial = trial
        self._patience = patience
        self._fault = versions.folder / "fault"
        self._told_to_end = False

    def run(self) -> _Ended:
        """Start it, wait for its word, and then for its end."""
        logger.info("version %s is tried", self._trial.version)
        self._fault.unlink(missing_ok=True)
        heard, speaks = os.pipe2(os.O_CLOEXEC)
        # Signals that come from here on are for the child; there is none yet to whom one could be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            self._become(parent, speaks)
        os.close(speaks)
        for number in _PASSED_ON:
            signal.signal(number, lambda number, frame: self._pass_on(pid, number, frame))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        process = os.pidfd_open(pid)
        try:
            return self._watch(pid, process, heard)
        finally:
            os.close(process)
            os.close(heard)
            signal.alarm(0)
            for number in _PASSED_ON:
                signal.signal(number, signal.SIG_DFL)

    def _become(self, parent: int, speaks: int) -> None:
        """In the child: the version on trial. It ends with its parent, outputs safe."""
        import ctypes

        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                return  # it has died meanwhile
            os.set_inheritable(speaks, True)
            environ = _environ(self._versions.place(self._trial.name), self._trial.name)
            environ |= {TRIAL: str(speaks), FAULT: str(self._fault)}
            if "WATCHDOG_PID" in environ:
                environ["WATCHDOG_PID"] = str(os.getpid())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            os.execve(sys.executable, _command(), environ)  # noqa: S606 itself
        finally:
            os._exit(1)

    def _pass_on(self, pid: int, number: int, frame: FrameType | None) -> None:
        self._told_to_end = True
        _kill(pid, number)
        signal.signal(signal.SIGALRM, lambda *_: _kill(pid, signal.SIGKILL))
        signal.alarm(LAST_SECONDS)

    def _watch(self, pid: int, process: int, heard: int) -> _Ended:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.register(heard, select.POLLIN)
        until = time.monotonic() + self._patience
        while True:
            ready = dict(poll.poll(max(0.0, until - time.monotonic()) * 1000))
            if heard in ready:
                if os.read(heard, 1) == WELL:
                    self._stay(pid)
                poll.unregister(heard)  # it has closed the pipe; it is about to end
            elif process in ready:
                return self._over(_code(pid))
            elif not ready:
                return self._time_is_up(pid, process)

    def _stay(self, pid: int) -> NoReturn:
        """It is well. What is left to do, to pass signals on and its exit code back, needs no launcher's memory."""
        logger.info("version %s has passed its trial", self._trial.version)
        signal.alarm(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        wait = [sys.executable, "-I", "-S", "-c", _WAIT, str(pid), *sys.orig_argv]
        os.execve(sys.executable, wait, os.environ)  # noqa: S606 itself

    def _over(self, code: int) -> _Ended:
        if self._told_to_end:
            state = self._versions.read()
            if state.trial is not None:  # whoever stopped it did not mean the trial
                state.trial.starts -= 1
                with suppress(OSError):  # then it counts
                    self._versions.write(state)
            return _Ended(code if code >= 0 else 128 - code)
        how = f"exit code {code}" if code >= 0 else signal.strsignal(-code) or f"signal {-code}"
        return _Ended(None, f"it ended while it was on trial ({how}){self._last_words(': ')}")

    def _time_is_up(self, pid: int, process: int) -> _Ended:
        why = f"it was not well within {self._patience:g} s"
        _kill(pid, signal.SIGTERM)
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(LAST_SECONDS * 1000):
            why += ", and did not end when it was told to"
            _kill(pid, signal.SIGKILL)
        _code(pid)
        return _Ended(None, why + self._last_words(": "))

    def _last_words(self, before: str) -> str:
        try:
            text = self._fault.read_text(errors="replace").strip()[:500]
        except OSError:
            return ""
        self._fault.unlink(missing_ok=True)
        return before + text if text else ""


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _code(pid: int) -> int:
    """Wait for the end of a child; its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _command() -> list[str]:
    return [sys.executable, "-P", "-c", _BEGIN, *sys.argv[1:]]


def _environ(place: Path, name: str) -> dict[str, str]:
    """Python finds the version's code before the installed one, here and in the programs that it starts."""
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        VERSION: name,
        ORIGIN: msgspec.json.encode(_origin()).decode(),
    }


def _origin() -> dict[str, Any]:
    """How this launcher was started."""
    return {"arguments": sys.orig_argv, "paths": {name: os.environ[name] for name in _PATHS if name in os.environ}}
