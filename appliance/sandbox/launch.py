"""Starts children: puts their command lines together, with bubblewrap or under the guard."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from appliance.contracts import ConfigError, Limits, NodeError
from appliance.sandbox import confine, languages
from appliance.sandbox.languages import RUNNERS, Language
from appliance.sandbox.seats import Seat

#: The folder that holds ``appliance``, for children that import it.
_HOME = Path(__file__).resolve().parent.parent.parent


class Launcher:
    """Starts what runs in a seat. ``hidden`` is hidden from children, except for what is ``shared`` in it."""

    def __init__(self, data: Path, hidden: Path, shared: Sequence[Path], wrap: confine.Bubblewrap) -> None:
        self._hide = hidden
        self._shared = shared
        self._wrap = wrap
        self._scratch = data / "tmp" / "sandbox"

    def script(self, loop: asyncio.AbstractEventLoop, key: Hashable, language: Language, limits: Limits) -> Seat:
        """An interpreter that waits for a script. Raises ``NodeError`` if it cannot be started."""
        interpreter = languages.find(language.name)
        if interpreter is None:
            raise ConfigError(f"there is no interpreter for {language.name} on this machine")
        if language.forks:
            channels: tuple[str, ...] = ("request", "reply", "ends")
            # What forks bounds its children itself, each for its own call.
            bounds = confine.limits_of(Limits(cpu=0, memory_mb=0))
        else:
            channels = ("request",) if language.by_stdio else ("request", "reply")
            bounds = script_bounds(language, limits)
        seat = Seat(loop, key, channels, stdin=language.by_stdio)
        runners = confine.INSIDE if self._wrap.program else str(RUNNERS)
        program = [*language.argv(interpreter, runners, limits.memory_mb), *seat.arguments()]
        if self._wrap.program:
            hidden = [*confine.private_folders(interpreter), *self._hidden()]
            view = confine.script_view(self._wrap, limits.network, hidden)
            swept = ["private", confine.TMP, confine.SHARED_MEMORY] if language.forks else []
            return self._start(seat, bounds, view, [*program, *swept])
        scratch = self._make_scratch(seat)
        swept = ["shared", str(scratch)] if language.forks else []
        return self._start(seat, bounds, [], [*program, *swept], cwd=scratch, home=scratch)

    def command(
        self,
        loop: asyncio.AbstractEventLoop,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None,
        limits: Limits,
    ) -> Seat:
        """A program that runs at once. Raises ``NodeError`` if it cannot be started."""
        seat = Seat(loop, None, (), stdin=True)
        bounds = confine.limits_of(limits)
        scratch = self._make_scratch(seat)
        if not self._wrap.program:
            return self._start(seat, bounds, [], argv, env, cwd or scratch, scratch)
        where = cwd or Path(confine.TMP)
        shown = [folder for folder in self._shared if folder.is_dir()]
        view = confine.command_view(limits.network, self._hidden(), shown, scratch, where)
        return self._start(seat, bounds, view, argv, env)

    def callee(self, loop: asyncio.AbstractEventLoop, key: Hashable, limits: Limits) -> Seat:
        """A Python with our code, waiting for calls. Raises ``NodeError`` if it cannot be started."""
        seat = Seat(loop, key, ("request", "reply", "ends"), stdin=False)
        # Isolated mode ignores the environment, so it is told where our own imports come from.
        paths = os.pathsep.join([str(_HOME), *filter(None, sys.path)])
        program = [sys.executable, "-I", str(RUNNERS / "call.py"), paths, *seat.arguments()]
        view = confine.call_view() if self._wrap.program else []
        # Its CPU time is bounded per call, by itself: a warm child has used some before.
        bounds = confine.limits_of(Limits(cpu=0, memory_mb=limits.memory_mb), base_mb=32)
        return self._start(seat, bounds, view, program)

    def _start(
        self,
        seat: Seat,
        bounds: Mapping[str, int],
        view: Sequence[str],
        program: Sequence[str],
        env: Mapping[str, str] = MappingProxyType({}),
        cwd: Path | None = None,
        home: Path = Path(confine.TMP),
    ) -> Seat:
        guarded = not self._wrap.program

        def argv(lifeline: int) -> list[str]:
            if guarded:
                return [*confine.guarded(bounds, lifeline), *program]
            return [*confine.limited(bounds), self._wrap.program, *view, "--", *program]

        try:
            seat.start(argv, confine.environment(env, str(home)), cwd, guarded)
        except (OSError, ValueError) as exc:
            seat.discard()
            raise NodeError(f"{program[0]} could not be started: {exc}") from None
        return seat

    def _hidden(self) -> list[Path]:
        return [self._hide] if self._hide.is_dir() else []

    def _make_scratch(self, seat: Seat) -> Path:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        seat.scratch = Path(tempfile.mkdtemp(dir=self._scratch))
        return seat.scratch


def script_bounds(language: Language, limits: Limits) -> dict[str, int]:
    """The resource limits of a script in a language."""
    return confine.limits_of(limits, language.base_mb, space=not language.reserves, script=True)


def check_command(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> None:
    """Raises ``ConfigError`` for what no program can be started with."""
    if not argv or not argv[0]:
        raise ConfigError("there is no program to run; the first of args must name one")
    for text in (*argv, *env.values(), *env):
        if "\0" in text:
            raise ConfigError(f"{text!r} holds a NUL byte, which no argument can")
    for name in env:
        if not name or "=" in name:
            raise ConfigError(f"{name!r} cannot be the name of a variable")
    if cwd is not None and not cwd.is_dir():
        raise ConfigError(f"there is no folder {cwd} to run in")
    if not _can_run(argv[0], env.get("PATH", languages.PATH), cwd):
        raise ConfigError(f"there is no program {argv[0]!r} on this machine")


def _can_run(program: str, path: str, cwd: Path | None) -> bool:
    if os.sep in program:
        return os.access((cwd or Path(os.sep)) / program, os.X_OK)
    return any(os.access(Path(folder) / program, os.X_OK) for folder in path.split(os.pathsep))
