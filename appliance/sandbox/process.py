"""The ``Sandbox`` of contracts/: scripts, commands and calls in child processes.

Nothing is started before the first job, and an idle sandbox has no child left. Python forks a warm template
for each script; a child of any other language serves one script, and the next one is started meanwhile.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from appliance.contracts import ConfigError, Done, Limits, NodeError
from appliance.sandbox import answers, confine, languages
from appliance.sandbox.languages import LANGUAGES, Language
from appliance.sandbox.launch import Launcher, check_command, script_bounds
from appliance.sandbox.pool import Pool
from appliance.sandbox.seats import Outcome, Seat

_MODULE = re.compile(r"appliance\.nodes\.[a-z][a-z0-9_]*")
#: Most warm children that wait for work.
_MOST_IDLE = 6
#: Seconds until the next interpreter is started, so that this does not slow down a short script.
_HEADSTART = 0.01


class ProcessSandbox:
    """Runs children for one event loop, the first that uses it.

    ``data`` is the engine's data folder, hidden from scripts and commands except for ``shared`` folders in it,
    which commands see (``home``: a folder around ``data`` that is hidden in its place). At most ``scripts``,
    ``commands`` and ``calls`` run at a time; more wait their turn (their timeout starts when they do). A warm child
    ends after ``idle`` (calls: ``call_idle``) seconds.
    ``bubblewrap=False`` does without it, as on a machine that has none.
    """

    def __init__(
        self,
        data: Path,
        shared: Sequence[Path] = (),
        *,
        home: Path | None = None,
        scripts: int = max(2, os.cpu_count() or 1),
        commands: int = 8,
        calls: int = 2,
        idle: float = 60.0,
        call_idle: float = 20.0,
        bubblewrap: bool = True,
    ) -> None:
        #: Interpreters started so far, by language, and jobs that had to wait for one to start.
        self.starts: Counter[str] = Counter()
        self.cold: Counter[str] = Counter()
        self._data = data.resolve()
        self._hidden = (home or data).resolve()
        self._shared = [folder.resolve() for folder in shared]
        self._most = {"script": scripts, "command": commands, "call": calls}
        self._idle = idle
        self._call_idle = call_idle
        self._bubblewrap = bubblewrap
        self._pool = Pool(_MOST_IDLE)
        self._seats: set[Seat] = set()
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._launcher: Launcher | None = None
        self._closed = True

    def open(self) -> None:
        """Be ready for work. Starts nothing; removes what a killed engine left in the data folder."""
        self._closed = False
        shutil.rmtree(self._data / "tmp" / "sandbox", ignore_errors=True)

    def close(self) -> None:
        """End all children and wait until they are gone. From any thread; twice is fine."""
        self._closed = True
        loop = self._loop
        if loop is None:
            return
        if loop.is_running() and loop is not _running_loop():
            done = threading.Event()
            loop.call_soon_threadsafe(self._end_all, done)
            while not done.wait(0.1):
                if not loop.is_running():  # it stopped before it came to this
                    self._end_all(done)
        else:
            self._end_all(threading.Event())

    def languages(self) -> dict[str, str]:
        """Usable script languages and the path of each interpreter."""
        return languages.usable()

    def status(self) -> dict[str, Any]:
        """For the health page: how children are confined (and why not), and what is running."""
        wrap = self._wrap()
        return {
            "confined": bool(wrap.program),
            "how": "bubblewrap" if wrap.program else "process groups and resource limits",
            "why": wrap.why_not,
            "children": sum(seat.child.alive for seat in self._seats),
            "idle": self._pool.count(),
            "starts": dict(self.starts),
            "cold": dict(self.cold),
        }

    async def script(self, language: str, code: str, payload: Any, limits: Limits) -> Done:
        """Run a script; see docs/decisions/sandbox.md for what each language sees and answers.

        Raises ``ConfigError`` for a language that is not here, ``TimedOut``, and ``NodeError``.
        """
        known = _known(language, code)
        self._require(limits)
        key = _key(known, limits)
        request, stdin = _request(known, code, payload, limits)
        async with self._seat("script"):
            loop = asyncio.get_running_loop()
            seat = self._pool.take(key)
            if seat is None:
                self.cold[language] += 1
                seat = self._start_script(key, known, limits)
            if not known.forks:
                loop.call_later(_HEADSTART, self._refill, key, known, limits)
            outcome = await self._use(seat, request, stdin, limits, self._idle)
        return answers.of_script(known, outcome, limits)

    async def command(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        limits: Limits,
    ) -> Done:
        """Run a program with a clean environment and ``env``, in ``cwd`` or a temporary folder of its own.

        Any exit code is a result. Raises ``ConfigError`` if there is no such program, ``TimedOut``, and
        ``NodeError`` if a limit ended it.
        """
        check_command(argv, env or {}, cwd)
        self._require(limits)
        async with self._seat("command"):
            loop = asyncio.get_running_loop()
            seat = self._keep(self._launch().command(loop, argv, env or {}, cwd, limits))
            outcome = await self._use(seat, b"", stdin, limits, 0.0)
        return answers.of_command(outcome, limits)

    async def call(self, module: str, function: str, arguments: Any, limits: Limits) -> Any:
        """Call ``function(arguments)`` of a module in ``appliance.nodes``, in a child that stays warm.

        Raises what the function raised, if it is one of contracts' errors, else ``NodeError``.
        """
        if not _MODULE.fullmatch(module):
            raise ConfigError(f"{module} is not a module of appliance.nodes")
        cpu = math.ceil(limits.cpu)
        request = _framed({"module": module, "function": function, "arguments": arguments, "cpu": cpu})
        async with self._seat("call"):
            key = ("call", limits.memory_mb)
            seat = self._pool.take(key)
            if seat is None:
                self.cold["call"] += 1
                self.starts["call"] += 1
                loop = asyncio.get_running_loop()
                seat = self._keep(self._launch().callee(loop, key, limits))
            outcome = await self._use(seat, request, b"", limits, self._call_idle)
        return answers.of_call(outcome, limits)

    @asynccontextmanager
    async def _seat(self, kind: str) -> AsyncIterator[None]:
        """Wait for a turn."""
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._move_to(loop)
        async with self._gates[kind]:
            self._check_open()
            yield

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None:
            if not self._loop.is_closed():
                raise RuntimeError("this sandbox belongs to another event loop")
            self._end_all(threading.Event())
        self._loop = loop
        self._gates = {kind: asyncio.Semaphore(most) for kind, most in self._most.items()}

    def _check_open(self) -> None:
        if self._closed:
            raise NodeError("the engine is stopping")

    def _require(self, limits: Limits) -> None:
        wrap = self._wrap()
        if limits.confined and not wrap.program:
            raise ConfigError(
                f"this machine cannot keep a script from its files and network: {wrap.why_not}. Mend that, "
                "or choose an effect for the node, so that the engine knows what running it twice would do"
            )

    def _wrap(self) -> confine.Bubblewrap:
        return confine.bubblewrap() if self._bubblewrap else confine.Bubblewrap(why_not="it is switched off")

    def _launch(self) -> Launcher:
        if self._launcher is None:
            self._launcher = Launcher(self._data, self._hidden, self._shared, self._wrap())
        return self._launcher

    def _keep(self, seat: Seat) -> Seat:
        """Remember a seat until its child is gone."""
        self._seats.add(seat)
        seat.child.exited.add_done_callback(lambda _: self._seats.discard(seat))
        return seat

    def _start_script(self, key: Hashable, language: Language, limits: Limits) -> Seat:
        seat = self._launch().script(asyncio.get_running_loop(), key, language, limits)
        self.starts[language.name] += 1
        return self._keep(seat)

    def _refill(self, key: Hashable, language: Language, limits: Limits) -> None:
        """Start the interpreter that the next script of the kind will find waiting."""
        if self._closed or self._pool.has(key):
            return
        try:
            seat = self._start_script(key, language, limits)
        except (NodeError, ConfigError):
            return  # the next script starts its own and says what is wrong
        self._pool.give(asyncio.get_running_loop(), seat, self._idle)

    async def _use(self, seat: Seat, request: bytes, stdin: bytes, limits: Limits, idle: float) -> Outcome:
        """Run a job in a seat; keep the seat if it can serve another."""
        try:
            outcome = await seat.run(request, stdin, limits)
        finally:
            if seat.reusable and not self._closed:
                self._pool.give(asyncio.get_running_loop(), seat, idle)
            else:
                seat.retire()
        self._check_open()
        return outcome

    def _end_all(self, done: threading.Event) -> None:
        self._pool.clear()
        seats = list(self._seats)
        for seat in seats:
            if seat.child.alive:
                seat.child.strike()  # all of them, before one is waited for
        for seat in seats:
            seat.end()
        self._seats.clear()
        done.set()


def _known(language: str, code: str) -> Language:
    known = LANGUAGES.get(language)
    if known is None:
        raise ConfigError(f"{language!r} is no script language; there are {', '.join(LANGUAGES)}")
    if "\0" in code:
        raise ConfigError("the code holds a NUL byte")
    if known.longest and len(code.encode()) > known.longest:
        raise ConfigError(f"a {language} script may have at most {known.longest} bytes")
    return known


def _key(language: Language, limits: Limits) -> Hashable:
    """What a warm interpreter can serve: one that forks sets the limits of each script anew."""
    if language.forks:
        return language.name, limits.network
    return language.name, limits.network, math.ceil(limits.cpu), limits.memory_mb


def _request(language: Language, code: str, payload: Any, limits: Limits) -> tuple[bytes, bytes]:
    """What goes into an interpreter: the request, and its standard input."""
    if language.by_stdio:
        return code.encode(), msgspec.json.encode(payload)
    job = {"code": code, "payload": payload}
    if language.forks:
        return _framed(job | {"limits": script_bounds(language, limits)}), b""
    return msgspec.json.encode(job), b""


def _framed(job: dict[str, Any]) -> bytes:
    data = msgspec.json.encode(job)
    return len(data).to_bytes(4, "big") + data


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
