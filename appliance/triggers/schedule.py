"""Starts a run by the clock: a cron line, an interval, or sunrise and sunset.

Give one of `cron` (five fields, or six with seconds first), `every` (such as `15m`) or `sun`. A cron line follows
`timezone` through summer and winter time. `every` counts from `anchor`, so a restart does not shift it. `sun` needs
`latitude` and `longitude`; `offset` moves it (`-30m` is half an hour before). What was due while the engine was off
follows `missed`: `skip` it, run the `latest` only, or `all` (at most 1,000). Nothing fires before the system clock is
known to be right. The payload is `{"scheduled": "2026-11-21T07:00:00+01:00", "unix": 1795240800, "late": 0.0}`.

    {"cron": "30 6 * * MON-FRI", "timezone": "Europe/Berlin"}
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta

from appliance.contracts import (
    Busy,
    Config,
    ConfigError,
    Duration,
    Event,
    Problem,
    Trigger,
    TriggerContext,
    World,
    decode,
    seconds,
)
from appliance.triggers._slots import Cron, Every, Slots, Sun, due

#: The most slots that ``missed: all`` makes up for.
MOST_MISSED = 1000
_SHORTEST = 1.0
#: A slot that is so many seconds late was not missed: the machine was only slow.
_GRACE = 60.0
_CLOCK_RECHECK = 5.0
#: Where the distances between slots are measured: the start of 2024.
_SOME_DAY = 1_704_067_200.0
#: Looked again at least so often: whoever keeps the timers may not notice every jump of the clock.
_LONGEST_WAIT = 900.0

_Latitude = Annotated[float, Meta(ge=-90, le=90)]
_Longitude = Annotated[float, Meta(ge=-180, le=180)]


class ScheduleConfig(Config, frozen=True):
    cron: Annotated[str, Meta(title="Cron line", description="minute hour day month weekday", max_length=200)] = ""
    every: Annotated[Duration | None, Meta(title="Every", description="An interval of a second or more")] = None
    sun: Annotated[Literal["sunrise", "sunset"] | None, Meta(title="Sun")] = None
    timezone: Annotated[str, Meta(description="IANA name, such as Europe/Berlin; the machine's own if empty")] = ""
    anchor: Annotated[str, Meta(description="What `every` counts from, ISO 8601; the start of 1970 if empty")] = ""
    offset: Annotated[float | str, Meta(description="Before (-30m) or after (1h) sunrise or sunset")] = 0.0
    latitude: Annotated[_Latitude | None, Meta(description="Degrees north")] = None
    longitude: Annotated[_Longitude | None, Meta(description="Degrees east")] = None
    missed: Annotated[
        Literal["skip", "latest", "all"], Meta(description="What to do about slots that the engine was off for")
    ] = "latest"
    jitter: Annotated[Duration, Meta(description="Fire up to this much later, each slot differently")] = 0.0


class Schedule(Trigger[ScheduleConfig]):
    Config = ScheduleConfig
    title = "Schedule"
    icon = "clock"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        if "{{" in str(config) or "{%" in str(config):
            return  # known only when it is attached
        try:
            slots_of(decode(ScheduleConfig, config))
        except ConfigError as exc:
            field, colon, text = exc.message.partition(": ")
            known = bool(colon) and field in ScheduleConfig.__struct_fields__
            yield Problem(field, text) if known else Problem("", exc.message)

    def attach(self, ctx: TriggerContext, config: ScheduleConfig) -> Callable[[], None]:
        slots, zone = slots_of(config)
        ticker = _Ticker(ctx, config, slots, zone)
        ticker.tick()
        return ticker.stop

    def next_times(self, config: ScheduleConfig, now: float, count: int = 5) -> list[float]:
        return list(islice(slots_of(config)[0].after(now), count))


class _Ticker:
    """One attached schedule. Every look at the clock arms the next one; nothing else is remembered than the last
    slot, which is the cursor and so survives a restart.
    """

    def __init__(self, ctx: TriggerContext, config: ScheduleConfig, slots: Slots, zone: tzinfo) -> None:
        self._ctx = ctx
        self._config = config
        self._slots = slots
        self._zone = zone
        self._jitter = seconds(config.jitter)
        self._last: float | None = None
        self._awake_since = 0.0
        self._cancel: Callable[[], None] = _nothing
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        self._cancel()

    def tick(self) -> None:
        """Fire what is due and arm the next moment."""
        if self._stopped:
            return
        now = self._ctx.now()
        if not self._ctx.clock_ok():
            self._ctx.status(None, "waiting until the system clock is known to be right")
            self._arm(now + _CLOCK_RECHECK)
            return
        last = self._begin(now)
        try:
            for slot in self._chosen(last, now):
                if self._delayed(slot) > now:
                    self._arm(self._delayed(slot))
                    return
                self._fire(slot, now)
        except Busy as busy:
            self._ctx.status(False, "waiting: the queue is full")
            self._arm(now + busy.retry_after)
            return
        self._arm_next(now)

    def _begin(self, now: float) -> float:
        """The last slot that is done with."""
        if self._last is None:
            cursor = self._ctx.cursor
            self._last = float(cursor) if isinstance(cursor, int | float) else now
            self._awake_since = now
        if self._last > now + _GRACE:
            # The clock was ahead and has been set back. What comes again has an id that was seen before.
            self._last = now
        return self._last

    def _chosen(self, last: float, now: float) -> list[float]:
        """The slots to fire, oldest first, according to the policy for missed ones."""
        if self._config.missed == "all":
            return due(self._slots, last, now, MOST_MISSED)
        newest = due(self._slots, last, now, 1)
        if self._config.missed == "skip" and newest:
            missed = newest[0] < self._awake_since or now - self._delayed(newest[0]) > _GRACE
            if missed:
                self._last = newest[0]
                return []
        return newest

    def _fire(self, slot: float, now: float) -> None:
        scheduled = datetime.fromtimestamp(slot, self._zone).isoformat()
        number = int(slot) if slot.is_integer() else slot
        payload = {"scheduled": scheduled, "unix": number, "late": round(max(0.0, now - self._delayed(slot)), 3)}
        event = Event(payload=payload, id=f"slot:{number}", meta={"scheduled": scheduled}, unique=True, cursor=number)
        self._ctx.emit(event)
        self._last = slot

    def _arm_next(self, now: float) -> None:
        coming = next(iter(self._slots.after(self._last if self._last is not None else now)), None)
        if coming is None:
            self._ctx.status(False, "there is no such moment in the coming year")
            self._arm(now + _LONGEST_WAIT)
            return
        self._ctx.status(True, "running")  # when the next ones are due is told by next_times
        self._arm(max(now, self._delayed(coming)))

    def _arm(self, when: float) -> None:
        self._cancel = self._ctx.call_at(min(when, self._ctx.now() + _LONGEST_WAIT), self.tick)

    def _delayed(self, slot: float) -> float:
        """The slot with its jitter, which is the same after a restart."""
        if not self._jitter:
            return slot
        digest = blake2b(f"{self._ctx.flow}/{self._ctx.trigger}/{slot}".encode(), digest_size=8).digest()
        return slot + self._jitter * int.from_bytes(digest, "big") / 2**64


def slots_of(config: ScheduleConfig) -> tuple[Slots, tzinfo]:
    """The series of moments of a config, and the zone to show them in. Raises ``ConfigError``."""
    slots, zone = _series(config)
    jitter = _field("jitter", seconds, config.jitter)
    if jitter:
        first = list(islice(slots.after(_SOME_DAY), 50))
        if any(later - earlier < jitter for earlier, later in pairwise(first)):
            raise ConfigError("jitter: is longer than the time between two runs")
    return slots, zone


def _series(config: ScheduleConfig) -> tuple[Slots, tzinfo]:
    given = [name for name in ("cron", "every", "sun") if getattr(config, name) not in ("", None)]
    if len(given) != 1:
        raise ConfigError(f"give one of cron, every and sun, not {' and '.join(given) or 'none of them'}")
    zone = _zone(config.timezone)
    if config.cron:
        return Cron(config.cron, zone), zone
    if config.every is not None:
        period = _field("every", seconds, config.every)
        if period < _SHORTEST:
            raise ConfigError("every: is shorter than a second")
        return Every(period, _anchor(config.anchor, zone)), zone
    if config.latitude is None or config.longitude is None:
        raise ConfigError("latitude: sunrise and sunset need latitude and longitude")
    offset = _field("offset", _signed, config.offset)
    return Sun(config.sun == "sunrise", config.latitude, config.longitude, offset), zone


def _field(name: str, convert: Callable[[Any], float], value: Any) -> float:
    try:
        return convert(value)
    except ConfigError as exc:
        raise ConfigError(f"{name}: {exc.message}") from None


def _signed(value: float | str) -> float:
    """A duration that may be negative, a day at most."""
    text = str(value).strip()
    found = -seconds(text[1:]) if text.startswith("-") else seconds(text.removeprefix("+"))
    if abs(found) > 86400:
        raise ConfigError(f"{value!r} is more than a day")
    return found


def _anchor(text: str, zone: tzinfo) -> float:
    if not text:
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"anchor: {text!r} is not a time; write 2026-11-21T06:00:00") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()


def _zone(name: str) -> tzinfo:
    """A time zone by name, or the machine's own. Raises ``ConfigError``."""
    if not name:
        return _machine_zone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"timezone: {name!r} is not known; write an IANA name such as Europe/Berlin") from None


def _machine_zone() -> tzinfo:
    """``$TZ``, else what /etc/localtime points to, else UTC. An offset alone would not know of DST."""
    name = os.environ.get("TZ", "").removeprefix(":")
    try:
        return ZoneInfo(name or str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")[2])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def _nothing() -> None:
    """The cancel of a timer that was never set."""
