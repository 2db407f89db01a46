"""The start trigger: once for each life of the engine."""

from __future__ import annotations

import subprocess
import sys

from appliance.triggers.start import Start
from tests.support.triggers import FakeTriggerContext, attach


def test_it_fires_when_the_engine_comes_up() -> None:
    ctx = FakeTriggerContext(starting=True)
    attach(Start(), {}, ctx)
    assert [event.payload for event in ctx.runs] == [{"started": "2026-11-21T12:00:00+00:00"}]


def test_a_deploy_into_a_running_engine_does_not_fire_it() -> None:
    ctx = FakeTriggerContext(starting=False)
    detach = attach(Start(), {}, ctx)
    ctx.advance(3600)
    detach()
    assert ctx.events == []
    assert ctx.states == [(True, "waits for the next start of the engine")]


def test_attached_again_in_the_same_life_it_starts_nothing_twice() -> None:
    ctx = FakeTriggerContext(starting=True)
    attach(Start(), {}, ctx)()
    attach(Start(), {}, ctx)
    assert len(ctx.events) == 2
    assert len(ctx.runs) == 1


def test_another_life_has_another_id() -> None:
    code = "from appliance.triggers.start import _LIFE; print(_LIFE)"
    lives = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(lives) == 2


def test_the_delay_is_waited_for_and_can_be_cancelled() -> None:
    ctx = FakeTriggerContext(starting=True)
    detach = attach(Start(), {"delay": "10s"}, ctx)
    ctx.advance(9)
    assert ctx.runs == []
    ctx.advance(1)
    assert len(ctx.runs) == 1
    detach()
    ctx = FakeTriggerContext(starting=True)
    attach(Start(), {"delay": "10s"}, ctx)()
    ctx.advance(60)
    assert ctx.events == []


def test_a_full_queue_delays_it() -> None:
    ctx = FakeTriggerContext(starting=True, room=0, retry_after=3.0)
    detach = attach(Start(), {}, ctx)
    assert ctx.refusals == 1
    ctx.room = 1
    ctx.advance(3)
    assert len(ctx.runs) == 1
    detach()
