"""Safe mode: after repeated crashes the kernel rests instead of crashing again, and says why.

At rest no trigger is attached and no run goes on. The gateway serves the panel, flows can be looked at and mended, and
what comes in by webhook is kept on disk for later. The state is one small file in the data folder, written when a
kernel begins and ends. A power cut is no crash (crashes count within one boot), and neither is a kernel that somebody
kills.

It ends when somebody says so (``flowork safe-mode off``, the panel), at the next boot, and by itself after a pause that
grows from an hour to a day: a box on a roof is to try again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.kernel.clock import boot_id

STATE = "kernel.state"
#: What whoever started the kernel has seen of its end: the supervisor's words, or systemd's (flowork-kernel.service).
END = "kernel.end"
#: So many crashes within so many seconds are too many; the first can be set, 0 means never.
CRASHES, WINDOW = 4, 600.0
VARIABLE = "FLOWORK_SAFE_MODE_CRASHES"
FIRST_PAUSE, LONGEST_PAUSE = 3600.0, 86400.0
_CLEAN = ("success", "exit code 0")
#: Somebody ended it (or its supervisor too, and nobody saw it): no crash, unless the system did so for lack of memory.
_FROM_OUTSIDE = ("", "SIGKILL")


class Rest(Struct, frozen=True, kw_only=True):
    """Safe mode is on: since when and until when (Unix seconds; None: until somebody ends it), and why."""

    since: float
    until: float | None
    reason: str


class Crash(Struct, frozen=True):
    """One end that nobody wanted: seconds since the boot, and how it ended."""

    at: float
    how: str


class State(Struct, kw_only=True):
    """What the file holds. ``running``: seconds since the boot at which the kernel began; None if none runs.

    ``wakes``: seconds since the boot at which safe mode ends by itself. ``tries``: how often it did so already.
    """

    boot: str = ""
    running: float | None = None
    crashes: list[Crash] = []
    rest: Rest | None = None
    wakes: float | None = None
    tries: int = 0
    #: The kernel that begins next ends the runs that were under way.
    cancel_runs: bool = False
    #: Processes that the system had ended for lack of memory when the kernel began.
    oom_kills: int = 0


def uptime() -> float:
    """Seconds since the boot, those asleep too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def oom_kills() -> int:
    """How many processes the system has ended for lack of memory since the boot (proc(5), vmstat)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class SafeMode:
    """The file of one data folder. Every method reads it anew: kernel, gateway and command line share it."""

    def __init__(
        self,
        data: Path,
        *,
        now: Callable[[], float] = time.time,
        since_boot: Callable[[], float] = uptime,
        boot: Callable[[], str] = boot_id,
        oom_kills: Callable[[], int] = oom_kills,
        crashes: int | None = None,
    ) -> None:
        self._path = data / STATE
        self._end = data / END
        self._now = now
        self._since_boot = since_boot
        self._boot = boot
        self._oom_kills = oom_kills
        self._limit = crashes

    def state(self) -> State:
        """As it is now. A file that cannot be read counts as none: it must not keep the engine from starting."""
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return State()
        if state.wakes is not None and self._since_boot() >= state.wakes:
            state.rest = state.wakes = None
        return state

    def on(self) -> Rest | None:
        """Why the kernel rests; None if it does not."""
        return self.state().rest

    def begin(self) -> Rest | None:
        """A kernel wants to begin: count how the last one ended, and say whether this one is to rest."""
        state = self.state()
        now = self._since_boot()
        how = self._seen()
        # Asked for here alone: a unit and a shell of one machine may see different ids (containers).
        boot = self._boot()
        if state.boot != boot:
            by_hand = state.rest if state.rest is not None and state.rest.until is None else None
            state = State(boot=boot, rest=by_hand)
        if state.running is not None:
            if now - state.running > WINDOW:
                state.tries = 0
            if how in _FROM_OUTSIDE and self._oom_kills() > state.oom_kills:
                how = in_words("oom-kill")
            if how not in (*_CLEAN, *_FROM_OUTSIDE):
                state.crashes.append(Crash(now, how))
        state.crashes = [crash for crash in state.crashes if now - crash.at <= WINDOW]
        if state.rest is None and self._too_many(state):
            self._rest_after(state, now)
        state.running = now if state.rest is None else None
        state.oom_kills = self._oom_kills()
        self._write(state)
        return state.rest

    def ended(self, failure: str = "") -> None:
        """The kernel has ended by itself, well or with a reason."""
        state = self.state()
        if failure:
            state.crashes.append(Crash(self._since_boot(), failure))
        elif state.running is not None and self._since_boot() - state.running > WINDOW:
            state.tries = 0
        state.running = None
        self._write(state)

    def saw(self, how: str) -> None:
        """Whoever started the kernel saw it end so."""
        with suppress(OSError):
            self._end.write_text(how)

    def enter(self, reason: str) -> Rest:
        """Turn it on by hand, until it is turned off. A running kernel looks when its method ``rest`` is called."""
        state = self.state()
        state.rest = Rest(since=self._now(), until=None, reason=reason)
        state.wakes = None
        self._write(state)
        return state.rest

    def leave(self, cancel_runs: bool = False) -> bool:
        """Turn it off and forget the crashes; False if it was not on. The resting kernel goes on within a second.

        With ``cancel_runs`` the runs that were under way end: one of them may be what the kernel dies of.
        """
        state = self.state()
        was = state.rest is not None
        state.rest = state.wakes = None
        state.crashes, state.tries = [], 0
        state.cancel_runs = was and cancel_runs
        self._write(state)
        return was

    def take_cancel(self) -> bool:
        """Whether this start is to end the runs that were under way; asked for once."""
        state = self.state()
        if state.cancel_runs:
            state.cancel_runs = False
            self._write(state)
            return True
        return False

    def _too_many(self, state: State) -> bool:
        limit = self._limit if self._limit is not None else crashes_allowed()
        return limit > 0 and (len(state.crashes) >= limit or (state.tries > 0 and bool(state.crashes)))

    def _rest_after(self, state: State, now: float) -> None:
        pause = min(FIRST_PAUSE * 2.0**state.tries, LONGEST_PAUSE)
        last = state.crashes[-1].how
        times = f"{len(state.crashes)} times" if len(state.crashes) > 1 else "again"
        reason = f"the kernel ended unexpectedly {times} within {WINDOW / 60:.0f} minutes, at last: {last}"
        state.rest = Rest(since=self._now(), until=self._now() + pause, reason=reason)
        state.wakes = now + pause
        state.tries += 1
        state.crashes = []

    def _seen(self) -> str:
        """What was seen of the last end, in words; taken away."""
        try:
            text = self._end.read_text(errors="replace").strip()[:200]
            self._end.unlink()
        except OSError:
            return ""
        return in_words(text)

    def _write(self, state: State) -> None:
        fresh = self._path.with_name(f"{STATE}.{os.getpid()}")
        try:
            fresh.write_bytes(msgspec.json.encode(state))
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)  # a full or read-only disk: the kernel says so itself
            return


def in_words(seen: str) -> str:
    """systemd's ``$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS`` in words; anything else as it is."""
    result, _, rest = seen.partition(" ")
    code, _, status = rest.partition(" ")
    match result:
        case "oom-kill":
            return "ended by the system for lack of memory"
        case "watchdog":
            return "it hung (the watchdog ended it)"
        case "timeout":
            return "it did not come up in time"
        case "signal" | "core-dump":
            return f"SIG{status}"
        case "exit-code" if code == "exited":
            return f"exit code {status}"
        case "success":
            return result
    return seen


def crashes_allowed() -> int:
    """How many crashes are too many: the environment's word, or the default."""
    text = os.environ.get(VARIABLE, "").strip()
    return int(text) if text.isdigit() else CRASHES
