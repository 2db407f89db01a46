"""The schedule trigger: DST, missed slots, a clock that is wrong or jumps, restarts; and the sun."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import ConfigError, decode
from appliance.triggers._slots import Cron, Every, Sun, due
from appliance.triggers._sun import sun_time
from appliance.triggers.schedule import MOST_MISSED, Schedule, ScheduleConfig
from tests.support.context import NOON, FakeWorld
from tests.support.triggers import FakeTriggerContext, attach

BERLIN = "Europe/Berlin"
HOUR, DAY = 3600.0, 86400.0


def unix(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def coming(config: dict[str, Any], since: str, count: int) -> list[str]:
    zone = ZoneInfo(config["timezone"])
    moments = Schedule().next_times(decode(ScheduleConfig, config), unix(since, config["timezone"]), count)
    return [datetime.fromtimestamp(moment, zone).isoformat(timespec="minutes") for moment in moments]


def fired(ctx: FakeTriggerContext) -> list[float]:
    return [event.payload["unix"] for event in ctx.runs]


# --- which moments ---


def test_a_cron_line_in_a_time_zone() -> None:
    assert coming({"cron": "30 6 * * MON-FRI", "timezone": BERLIN}, "2026-11-20 12:00", 3) == [
        "2026-11-23T06:30+01:00",
        "2026-11-24T06:30+01:00",
        "2026-11-25T06:30+01:00",
    ]


def test_a_time_that_summer_time_skips_runs_right_after_the_gap() -> None:
    assert coming({"cron": "30 2 * * *", "timezone": BERLIN}, "2026-03-28 12:00", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]


def test_a_time_that_comes_twice_runs_once() -> None:
    assert coming({"cron": "30 2 * * *", "timezone": BERLIN}, "2026-10-24 12:00", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]


def test_every_hour_keeps_running_through_both_changes() -> None:
    for start, end in (("2026-03-29 00:30", "2026-03-29 06:30"), ("2026-10-25 00:30", "2026-10-25 06:30")):
        slots = Cron("0 * * * *", ZoneInfo(BERLIN))
        found = due(slots, unix(start), unix(end), 100)
        assert {later - earlier for earlier, later in pairwise(found)} == {HOUR}


def test_cron_with_seconds() -> None:
    slots = Cron("*/20 * * * * *", UTC)
    assert [slot % 60 for slot in islice(slots.after(NOON), 3)] == [20, 40, 0]


@given(
    line=st.sampled_from(["30 2 * * *", "0 3 * * *", "*/20 * * * *", "15 1-3 * * *", "0 0 1 * *", "59 1 * * SUN"]),
    start=st.sampled_from(["2026-03-28 20:00", "2026-10-24 20:00", "2026-06-30 23:00"]),
    offset=st.integers(0, 12 * 3600),
    zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"]),
)
def test_the_series_is_the_same_wherever_one_begins_to_count(line: str, start: str, offset: int, zone: str) -> None:
    """So a restart, or looking back for missed slots, names the same slots as before."""
    slots, since = Cron(line, ZoneInfo(zone)), unix(start, zone)
    whole = list(islice(slots.after(since), 200))
    assert whole == sorted(set(whole))
    middle = since + offset
    assert next(slots.after(middle)) == next(slot for slot in whole if slot > middle)


def test_intervals_are_aligned_to_the_anchor() -> None:
    assert list(islice(Every(900.0, 0.0).after(unix("2026-11-21 12:07")), 2)) == [
        unix("2026-11-21 12:15"),
        unix("2026-11-21 12:30"),
    ]
    config = {"every": "6h", "anchor": "2026-11-01T05:00:00", "timezone": BERLIN}
    assert coming(config, "2026-11-21 12:00", 2) == ["2026-11-21T17:00+01:00", "2026-11-21T23:00+01:00"]
    assert coming(config, "2026-10-01 12:00", 1) == ["2026-10-01T18:00+02:00"]  # before the anchor, too


def test_looking_back_over_years_is_bounded_work() -> None:
    counted = 0

    class Counting(Every):
        def after(self, moment: float) -> Any:
            nonlocal counted
            for slot in super().after(moment):
                counted += 1
                yield slot

    found = due(Counting(1.0, 0.0), NOON - 5 * 365 * DAY, NOON, 1000)
    assert found == [NOON - 999 + n for n in range(1000)]
    assert counted < 50_000


# --- the sun ---


@pytest.mark.parametrize(
    ("day", "rise", "sets"),
    [
        # timeanddate.com, London (51.5° N, 0.1° W), UTC
        ("2015-01-01", "08:06", "16:01"),
        ("2015-12-01", "07:43", "15:55"),
        ("2015-12-02", "07:45", "15:54"),
        ("2015-12-03", "07:46", "15:54"),
        ("2015-12-12", "07:56", "15:51"),
        ("2015-12-25", "08:05", "15:55"),
    ],
)
def test_sunrise_and_sunset_are_those_that_are_published(day: str, rise: str, sets: str) -> None:
    for rising, published in ((True, rise), (False, sets)):
        found = sun_time(_number(day), 51.5, -0.12, rising)
        expected = unix(f"{day} {published}", "UTC")
        assert found is not None
        assert abs(found - expected) < 90


@pytest.mark.parametrize(
    ("latitude", "published"),
    # "Astronomy Answers" (aa.quae.nl), table 1: local mean times of sunrise on 1 January 2002
    [(0, "06:00"), (10, "06:17"), (40, "07:22"), (50, "07:59"), (-40, "04:35"), (-60, "02:43"), (-64, "01:43")],
)
def test_sunrise_at_many_latitudes(latitude: float, published: str) -> None:
    found = sun_time(_number("2002-01-01"), latitude, 0.0, True)
    assert found is not None
    assert abs(found - unix(f"2002-01-01 {published}", "UTC")) < 90


def test_longitude_moves_the_sun_by_four_minutes_a_degree() -> None:
    middle = sun_time(_number("2026-06-01"), 50.0, 0.0, True)
    east = sun_time(_number("2026-06-01"), 50.0, 15.0, True)
    assert middle is not None
    assert east is not None
    assert abs(middle - east - HOUR) < 10


def test_the_sun_that_does_not_set_is_left_out() -> None:
    """Tromsø has midnight sun from about 18 May to 26 July, and polar night from 27 November to 15 January."""
    slots = Sun(False, 69.65, 18.96, 0.0)
    before = next(slots.after(unix("2026-05-10 00:00", "UTC")))
    after = next(slots.after(unix("2026-05-25 00:00", "UTC")))
    assert datetime.fromtimestamp(before, UTC).date() == date(2026, 5, 10)
    assert date(2026, 7, 20) < datetime.fromtimestamp(after, UTC).date() < date(2026, 8, 1)
    winter = next(Sun(True, 69.65, 18.96, 0.0).after(unix("2026-12-01 00:00", "UTC")))
    assert date(2027, 1, 10) < datetime.fromtimestamp(winter, UTC).date() < date(2027, 1, 20)


@given(st.floats(-65, 65), st.floats(-180, 180), st.integers(-12 * 3600, 12 * 3600))
def test_the_sun_rises_once_a_day_everywhere(latitude: float, longitude: float, offset: int) -> None:
    found = list(islice(Sun(True, latitude, longitude, float(offset)).after(NOON), 30))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert all(DAY - 600 < gap < DAY + 600 for gap in gaps)
    assert NOON < found[0] <= NOON + DAY + 600


def test_the_offset_moves_the_slot_and_no_slot_is_lost() -> None:
    plain = Schedule().next_times(decode(ScheduleConfig, _sun()), NOON, 3)
    before = Schedule().next_times(decode(ScheduleConfig, _sun(offset="-1h30m")), NOON - 5400, 3)
    after = Schedule().next_times(decode(ScheduleConfig, _sun(offset=600)), NOON + 600, 3)
    assert [slot + 5400 for slot in before] == plain
    assert [slot - 600 for slot in after] == plain


def _sun(**more: Any) -> dict[str, Any]:
    return {"sun": "sunset", "latitude": 52.5, "longitude": 13.4, **more}


def _number(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)).days


# --- firing ---


def test_it_fires_at_each_slot_with_a_predictable_id() -> None:
    ctx = FakeTriggerContext()
    detach = attach(Schedule(), {"every": "1h", "timezone": BERLIN}, ctx)
    assert ctx.states == [(True, "running")]
    ctx.advance(3 * HOUR)
    assert fired(ctx) == [NOON + HOUR, NOON + 2 * HOUR, NOON + 3 * HOUR]
    event = ctx.runs[0]
    assert event.id == f"slot:{int(NOON + HOUR)}"
    assert event.unique
    assert event.payload == {"scheduled": "2026-11-21T14:00:00+01:00", "unix": int(NOON + HOUR), "late": 0.0}
    assert ctx.cursor == int(NOON + 3 * HOUR)
    detach()
    detach()
    ctx.advance(DAY)
    assert len(ctx.runs) == 3


def test_a_new_schedule_makes_up_for_nothing() -> None:
    ctx = FakeTriggerContext(clock=NOON + 10)
    attach(Schedule(), {"every": "1h", "missed": "all"}, ctx)
    assert fired(ctx) == []


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("skip", []), ("latest", [NOON + 5 * HOUR]), ("all", [NOON + n * HOUR for n in range(1, 6)])],
)
def test_slots_of_the_time_when_the_engine_was_off(missed: str, expected: list[float]) -> None:
    config = {"every": "1h", "missed": missed}
    before = FakeTriggerContext()
    attach(Schedule(), config, before)
    before.advance(0)
    ctx = before.restarted(clock=NOON + 5 * HOUR + 600, cursor=int(NOON))
    attach(Schedule(), config, ctx)
    assert fired(ctx) == expected
    assert [event.payload["late"] for event in ctx.runs[-1:]] == [600.0] * bool(expected)
    ctx.advance(HOUR)
    assert fired(ctx) == [*expected, NOON + 6 * HOUR]


def test_skip_also_leaves_out_a_slot_that_was_missed_by_seconds() -> None:
    ctx = FakeTriggerContext(clock=NOON + HOUR + 5, cursor=NOON)
    attach(Schedule(), {"every": "1h", "missed": "skip"}, ctx)
    assert fired(ctx) == []


def test_all_is_bounded_and_takes_the_newest() -> None:
    ctx = FakeTriggerContext(clock=NOON, cursor=NOON - 30 * DAY)
    attach(Schedule(), {"every": "1m", "missed": "all"}, ctx)
    assert len(ctx.runs) == MOST_MISSED
    assert fired(ctx)[-1] == NOON


def test_a_restart_does_not_fire_a_slot_twice_even_if_the_cursor_was_not_stored() -> None:
    ctx = FakeTriggerContext()
    attach(Schedule(), {"every": "1h"}, ctx)
    ctx.advance(HOUR)
    again = ctx.restarted(cursor=int(NOON))
    attach(Schedule(), {"every": "1h"}, again)
    assert [event.id for event in again.events] == [ctx.runs[0].id]
    assert again.runs == []


def test_nothing_fires_before_the_clock_is_right() -> None:
    ctx = FakeTriggerContext(clock=DAY, clock_right=False, cursor=int(NOON - HOUR))
    attach(Schedule(), {"every": "1h"}, ctx)
    ctx.advance(10 * HOUR)
    assert ctx.events == []
    assert ctx.states == [(None, "waiting until the system clock is known to be right")]
    ctx.clock_right = True
    ctx.jump(NOON + 60)
    assert fired(ctx) == [NOON]
    assert ctx.states[-1][0]


def test_a_new_schedule_on_a_machine_without_clock_makes_up_for_no_fifty_years() -> None:
    ctx = FakeTriggerContext(clock=0.0, clock_right=False)
    attach(Schedule(), {"every": "1h", "missed": "all"}, ctx)
    ctx.clock_right = True
    ctx.jump(NOON + 60)
    ctx.advance(HOUR)
    assert fired(ctx) == [NOON + HOUR]


def test_a_clock_that_is_set_back_fires_nothing_twice_and_goes_on() -> None:
    ctx = FakeTriggerContext()
    attach(Schedule(), {"every": "1h"}, ctx)
    ctx.advance(3 * HOUR)
    ctx.jump(NOON + HOUR + 1800)
    ctx.advance(3 * HOUR)
    assert fired(ctx) == [NOON + n * HOUR for n in (1, 2, 3, 4)]


def test_a_clock_that_was_years_ahead_does_not_silence_the_schedule() -> None:
    ctx = FakeTriggerContext(cursor=NOON + 10 * 365 * DAY)
    attach(Schedule(), {"every": "1h"}, ctx)
    ctx.advance(2 * HOUR)
    assert fired(ctx) == [NOON + HOUR, NOON + 2 * HOUR]


@pytest.mark.parametrize(("missed", "count"), [("skip", 0), ("latest", 1), ("all", 8)])
def test_a_machine_that_slept_follows_the_same_policy(missed: str, count: int) -> None:
    ctx = FakeTriggerContext()
    attach(Schedule(), {"every": "1h", "missed": missed}, ctx)
    ctx.jump(NOON + 8 * HOUR + 1800)
    assert len(ctx.runs) == count
    ctx.advance(HOUR)
    assert fired(ctx)[-1] == NOON + 9 * HOUR


def test_a_full_queue_delays_and_loses_nothing() -> None:
    ctx = FakeTriggerContext(cursor=int(NOON - 5 * HOUR), room=2, retry_after=7.0)
    attach(Schedule(), {"every": "1h", "missed": "all"}, ctx)
    assert len(ctx.runs) == 2
    assert ctx.timers == [NOON + 7]
    assert ctx.states[-1] == (False, "waiting: the queue is full")
    ctx.room = None
    ctx.advance(7)
    assert fired(ctx) == [NOON - n * HOUR for n in (4, 3, 2, 1, 0)]


def test_jitter_is_the_same_after_a_restart_and_does_not_change_the_slot() -> None:
    config = {"every": "1h", "jitter": "30m"}
    ctx = FakeTriggerContext()
    attach(Schedule(), config, ctx)
    delays = []
    for hour in range(1, 20):
        ctx.advance(NOON + hour * HOUR - ctx.clock)
        assert len(ctx.runs) == hour - 1
        while len(ctx.runs) < hour:
            ctx.advance(1)
        delays.append(round(ctx.clock - NOON - hour * HOUR))
        assert ctx.runs[-1].payload["unix"] == NOON + hour * HOUR
    assert all(0 <= delay <= 1800 for delay in delays)
    assert len(set(delays)) > 10
    again = FakeTriggerContext(cursor=int(NOON), clock=NOON + HOUR)
    attach(Schedule(), config, again)
    assert again.runs == []
    again.advance(delays[0])
    assert fired(again) == [NOON + HOUR]


def test_it_wakes_up_now_and_then_even_when_nothing_is_near() -> None:
    ctx = FakeTriggerContext()
    attach(Schedule(), {"cron": "0 0 1 12 *", "timezone": "UTC"}, ctx)
    assert ctx.timers == [NOON + 900]
    ctx.advance(10 * DAY)
    assert [datetime.fromtimestamp(slot, UTC).date() for slot in fired(ctx)] == [date(2026, 12, 1)]


def test_a_moment_that_never_comes_is_said() -> None:
    ctx = FakeTriggerContext()
    attach(Schedule(), {"sun": "sunrise", "latitude": 90, "longitude": 0}, ctx)
    assert ctx.states == [(False, "there is no such moment in the coming year")]


# --- configs ---


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, ""),
        ({"cron": "0 * * * *", "every": "1h"}, ""),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "@daily"}, "cron"),
        ({"cron": "0 7 * * *", "timezone": "Mars/Olympus"}, "timezone"),
        ({"cron": "0 7 * * *", "timezone": "../../etc/passwd"}, "timezone"),
        ({"every": "soon"}, "every"),
        ({"every": "10ms"}, "every"),
        ({"every": "1h", "anchor": "yesterday"}, "anchor"),
        ({"sun": "sunrise"}, "latitude"),
        ({"sun": "sunrise", "latitude": 1, "longitude": 1, "offset": "-2d"}, "offset"),
        ({"every": "1m", "jitter": "2m"}, "jitter"),
        ({"cron": "0,1 * * * *", "jitter": "2m"}, "jitter"),
    ],
)
def test_a_bad_config_is_found_on_save_with_its_field(config: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in Schedule().check(config, FakeWorld())] == [path]
    with pytest.raises(ConfigError):
        attach(Schedule(), config, FakeTriggerContext())


@pytest.mark.parametrize(
    "config",
    [{"cron": "{{ vars.when }}"}, {"every": "1h"}, {"cron": "0 7 * * *", "timezone": BERLIN}, {"every": 3600}],
)
def test_a_good_config_has_no_problem(config: dict[str, Any]) -> None:
    assert list(Schedule().check(config, FakeWorld())) == []


def test_the_machines_own_zone_is_used_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    (moment,) = Schedule().next_times(decode(ScheduleConfig, {"cron": "0 7 * * *"}), NOON, 1)
    assert datetime.fromtimestamp(moment, UTC).hour == 22
    monkeypatch.setenv("TZ", "Nowhere/Land")
    (moment,) = Schedule().next_times(decode(ScheduleConfig, {"cron": "0 7 * * *"}), NOON, 1)
    assert datetime.fromtimestamp(moment, UTC) - datetime.fromtimestamp(NOON, UTC) == timedelta(hours=19)
