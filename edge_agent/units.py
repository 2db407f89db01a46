"""Drivers that run: one unit for each driver and config, shared by all who want the same.

What a unit does with its driver (open, command, close) it does one after the other on a thread of its own, which lives
only as long as there is something to do: a driver that hangs or fails holds up no other.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from drivers.base import Driver, DriverError, Entity, Observation, Stop, decode, find
from edge_agent.memory import Outcome
from edge_agent.protocol.messages import LARGEST_EVENT, NO_VALUES, STARTING, Body, DriverReport, encode

logger = logging.getLogger(__name__)

FIRST_RETRY, LONGEST_RETRY = 0.5, 5.0
#: A driver that says that trying again is of no use is tried all the same: somebody may have mended the machine.
HOPELESS_RETRY = 60.0
#: Commands that may wait for one driver.
QUEUE = 100
#: Sources of a driver whose last value is remembered, and the bytes of one that is.
MOST_VALUES, LARGEST_VALUE = 2_000, 2_000
#: Seconds that stopping waits for a driver that hangs.
PATIENCE = 5.0


def key_of(driver: str, config: Mapping[str, Any]) -> str:
    """The same for equal drivers and configs, also over restarts."""
    packed = msgspec.json.encode(config, order="deterministic")
    return f"{driver}-{hashlib.blake2b(packed, digest_size=8).hexdigest()}"


class Machine:
    """What a driver receives (:class:`drivers.base.Host`)."""

    def __init__(self, folder: Path, keep_blob: Callable[[bytes, str], dict[str, Any]]) -> None:
        self._folder = folder
        self.blob = keep_blob

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def state(self, name: str) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder / name


class Claims:
    """Who holds what there is only one of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, Unit] = {}

    def take(self, unit: Unit, wanted: tuple[str, ...]) -> None:
        """All or none. What only commands had opened is let go of for somebody else; raises ``DriverError``."""
        for resource in wanted:
            holder = self._holders.get(resource)
            if holder is not None and holder is not unit and not holder.give_way():
                raise DriverError(f"{resource} is already used by {holder.users()} with other settings")
        with self._lock:
            for resource in wanted:
                holder = self._holders.get(resource)
                if holder is not None and holder is not unit:
                    raise DriverError(f"{resource} is already used by {holder.users()} with other settings")
            for resource in wanted:
                self._holders[resource] = unit

    def free(self, unit: Unit) -> None:
        with self._lock:
            for resource in [name for name, holder in self._holders.items() if holder is unit]:
                del self._holders[resource]


Put = Callable[[tuple[str, ...], Body, float, int], None]


class Unit:
    """One driver with one config. ``changed`` is called whenever its report is another one; safe from any thread."""

    def __init__(
        self, driver: str, config: dict[str, Any], host: Machine, claims: Claims, put: Put, changed: Callable[[], None]
    ) -> None:
        self.key = key_of(driver, config)
        self.type = driver
        self.config = config
        self.ok = False
        self.text = STARTING
        self.commanded = False
        self.retry_at = 0.0
        self.heard = False
        self._nudged = False
        self._host = host
        self._claims = claims
        self._put = put
        self._changed = changed
        self._watches: tuple[str, ...] = ()
        #: The last that watched: for the log, which has to tell one sensor from the next.
        self._known_by: tuple[str, ...] = ()
        self._driver: Driver[Any] | None = None
        self._stop: Stop | None = None
        self._failures = 0
        self._entities: list[Entity] = []
        #: What each source last said, as it went out: the newest last.
        self._last: dict[str, tuple[Any, str, float]] = {}
        self._lock = threading.Lock()
        #: Held while the driver is opened, commanded or closed.
        self._busy = threading.RLock()
        self._tasks: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None

    # --- from the agent's thread ----------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nobody wants it, and it holds nothing."""
        return not self._watches and self._driver is None and self._thread is None

    @property
    def watches(self) -> tuple[str, ...]:
        return self._watches

    def want(self, watches: tuple[str, ...]) -> None:
        """Who watches from now on."""
        if watches != self._watches:
            self._watches, self._known_by = watches, watches or self._known_by
            self._post(self._adjust)

    def retry(self) -> None:
        """Try again to come up."""
        self.retry_at = 0.0
        self._post(self._adjust)

    def command(self, command: Mapping[str, Any], done: Callable[[Outcome], None]) -> None:
        """Carry out; ``done`` is called from the unit's thread."""
        if len(self._tasks) >= QUEUE:
            done(Outcome(None, f"{self.type} is busy: {QUEUE} commands wait already"))
            return
        self._post(lambda: done(self._write(command)))

    def make_safe(self) -> None:
        """Put the outputs into their safe state."""
        self._post(self._safe)

    def end(self) -> None:
        """Safe state, close; begun here, waited for by :meth:`join`. What the driver sees until then is still taken."""
        self._tasks.clear()
        self._post(self._end)

    def join(self, seconds: float = PATIENCE) -> bool:
        """Wait for what was asked to be done."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def report(self, *, values: bool) -> DriverReport:
        """As it is now; with ``values`` also what the entities last said, for an appliance that has just come up."""
        entities = [msgspec.to_builtins(entity) for entity in self._entities]
        found = DriverReport(self.type, self.config, self.ok, self.text, list(self._watches), entities)
        if values:
            with self._lock:
                last = dict(self._last)
            found.values = {entity.id: last[entity.id] for entity in self._entities if entity.id in last}
        return found

    def look_again(self) -> None:
        """Some drivers learn of their entities as they go."""
        if self.heard:
            self.heard = self._nudged = False
            self._post(self._learn)

    def users(self) -> str:
        """For people: who wants it."""
        return " and ".join(self._watches) or f"a command to {self.type}"

    # --- on the unit's thread -------------------------------------------------------------------

    def _post(self, task: Callable[[], None]) -> None:
        with self._lock:
            self._tasks.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"unit {self.type}", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    self._thread = None
                    return
                task = self._tasks.popleft()
            try:
                with self._busy:
                    task()
            except Exception:
                logger.exception("the driver %s failed", self.type)

    def _adjust(self) -> None:
        """Open, and begin or end to watch, as is wanted."""
        if not self._watches and not self.commanded:
            self._close()
            return
        try:
            driver = self._opened()
            if self._watches and self._stop is None:
                self._stop = driver.events(self._emit)
            elif not self._watches:
                self._stop_watching()
        except Exception as exc:
            self._failed(exc)
            return
        self._failures = 0
        self._learn()
        self._say(True, "running")

    def _opened(self) -> Driver[Any]:
        if self._driver is not None:
            return self._driver
        kind = find(self.type)
        if why := kind.unavailable():
            raise DriverError(why, retryable=False)
        driver = kind(decode(kind.Config, self.config), self._host)
        self._claims.take(self, driver.claims())
        try:
            driver.open()
        except BaseException:
            driver.close()
            self._claims.free(self)
            raise
        self._driver = driver
        return driver

    def _failed(self, exc: Exception) -> None:
        if not isinstance(exc, DriverError):
            logger.exception("the driver %s cannot start", self.type)
        self._failures += 1
        hopeless = isinstance(exc, DriverError) and not exc.retryable
        pause = HOPELESS_RETRY if hopeless else min(FIRST_RETRY * 2.0 ** min(self._failures, 10), LONGEST_RETRY)
        self._say(False, _words(exc))
        self.retry_at = time.monotonic() + pause
        self._changed()

    def _write(self, command: Mapping[str, Any]) -> Outcome:
        try:
            driver = self._opened()
            value = driver.write(command)
        except Exception as exc:
            if not isinstance(exc, DriverError):
                logger.exception("a command to %s failed", self.type)
            if self._driver is None and not self._watches:
                self._say(False, _words(exc))
            return Outcome(None, _words(exc), not isinstance(exc, DriverError) or exc.retryable)
        if not self.ok and not self._watches:
            self._learn()
            self._say(True, "running")
        return Outcome(value)

    def _safe(self) -> None:
        if self._driver is not None:
            self._driver.safe_state()

    def _learn(self) -> None:
        entities = self._driver.entities() if self._driver is not None else []
        if entities != self._entities:
            self._entities = entities
            self._changed()

    def _end(self) -> None:
        self._close()
        self._watches = ()

    def give_way(self) -> bool:
        """Close if only commands had opened it; called by another unit's thread."""
        if self._watches or not self._busy.acquire(timeout=PATIENCE):
            return False
        try:
            if not self._watches:
                self._close(safe=False)
        finally:
            self._busy.release()
        return True

    def _close(self, safe: bool = True) -> None:
        self._stop_watching()
        driver, self._driver = self._driver, None
        if driver is not None:
            if safe:
                driver.safe_state()
            driver.close()
        self._claims.free(self)
        self.commanded = False
        self._say(False, "stopped")

    def _stop_watching(self) -> None:
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def _say(self, ok: bool, text: str) -> None:
        if (ok, text) != (self.ok, self.text):
            self.ok, self.text = ok, text
            level = logging.INFO if ok or text == "stopped" else logging.WARNING
            users = f" for {' and '.join(self._known_by)}" if self._known_by else ""
            logger.log(level, "%s%s: %s", self.type, users, text)
            self._changed()

    def _emit(self, seen: Observation) -> None:
        body = Body(seen.source, seen.kind, seen.value, seen.attrs)
        size = len(encode(body))
        if size > LARGEST_EVENT:
            body = Body(seen.source, seen.kind, None, {"error": f"left out: larger than {LARGEST_EVENT:,} bytes"})
        self.heard = True
        if seen.kind in ("found", "gone") and not self._nudged:
            self._nudged = True
            self._changed()  # so that somebody looks soon
        if size <= LARGEST_VALUE and seen.kind not in NO_VALUES:
            with self._lock:
                self._last.pop(seen.source, None)
                self._last[seen.source] = (seen.value, seen.kind, seen.at)
                while len(self._last) > MOST_VALUES:
                    del self._last[next(iter(self._last))]
        self._put(self._watches, body, seen.at, seen.priority)


def _words(exc: Exception) -> str:
    return exc.message if isinstance(exc, DriverError) else f"{type(exc).__name__}: {exc}"
