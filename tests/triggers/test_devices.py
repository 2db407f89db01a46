"""Triggers on devices: what is asked of the agent, which events start runs, what is acknowledged when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Busy, ConfigError, Trigger, decode
from appliance.fleet.book import Book, Paired
from appliance.registry import Registry
from tests.support.context import FakeWorld
from tests.support.devices import FakeDevices
from tests.support.triggers import FakeTriggerContext, attach

TRIGGERS = Registry().scan().triggers
#: By trigger: a config that is good, the driver, what the driver is given, and a kind that starts a run.
KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any], str]] = {
    "gpio": (
        {"line": 17, "bias": "pull-up", "active_low": True, "debounce": "20ms", "options": {"max_rate": 10}},
        "gpio",
        {"line": 17, "bias": "pull-up", "active_low": True, "debounce": 0.02, "max_rate": 10},
        "changed",
    ),
    "serial": (
        {"port": "/dev/ttyUSB0", "baud": 9600, "format": "json", "options": {"parity": "even"}},
        "serial",
        {"port": "/dev/ttyUSB0", "baud": 9600, "format": "json", "parity": "even"},
        "received",
    ),
    "process": (
        {"name": "backup.sh", "cpu": 90, "hold": "1m"},
        "process",
        {"name": "backup.sh", "cpu": 90.0, "hold": 60.0},
        "exited",
    ),
    "file": (
        {"folder": "/srv/in", "patterns": ["*.pdf"], "settle": "1s", "options": {"poll": 5}},
        "files",
        {"folder": "/srv/in", "patterns": ["*.pdf"], "settle": 1.0, "poll": 5, "changes": ["created", "changed"]},
        "created",
    ),
    "system": (
        {"metric": "temperature", "above": 75, "hysteresis": 5, "hold": "30s", "interval": "1m"},
        "system",
        {
            "metrics": ["temperature"],
            "limits": [{"metric": "temperature", "above": 75.0, "below": None, "hysteresis": 5.0, "hold": 30.0}],
            "interval": 60.0,
        },
        "high",
    ),
    "device": (
        {"driver": "sim", "config": {"name": "board"}, "entity": "a *"},
        "sim",
        {"name": "board"},
        "changed",
    ),
}


@pytest.fixture
def devices() -> FakeDevices:
    return FakeDevices()


@pytest.fixture
def ctx(devices: FakeDevices) -> FakeTriggerContext:
    return FakeTriggerContext(devices=devices, cursor=["outbox", 7])


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def listen(kind: str, ctx: FakeTriggerContext, **more: Any) -> Callable[[], None]:
    return attach(TRIGGERS[kind], {**KINDS[kind][0], **more}, ctx)


def faults(kind: str, config: dict[str, Any], data: Path | None = None) -> list[tuple[str, str]]:
    return [(problem.path, problem.message) for problem in TRIGGERS[kind].check(config, FakeWorld(data=data))]


# --- all of them ---


def test_each_trigger_on_devices_is_here() -> None:
    on_agents = {name for name, trigger in TRIGGERS.items() if "agent" in trigger.Config.__struct_fields__}
    assert on_agents == set(KINDS)


def test_the_driver_is_given_what_was_set_and_no_more(kind: str, ctx: FakeTriggerContext, devices: FakeDevices) -> None:
    detach = listen(kind, ctx, agent="shed")
    watched = devices.watched
    assert (watched.agent, watched.driver, watched.config) == ("shed", *KINDS[kind][1:3])
    assert (watched.watcher, watched.cursor) == ("flow/t1", ["outbox", 7])
    assert ctx.states == [(None, "waits for the agent shed")]
    watched.on_status(True, "open")
    assert ctx.states[-1] == (True, "open")
    detach()
    assert watched.stopped == 1


def test_an_event_starts_a_run_and_is_acknowledged_behind_its_commit(
    kind: str, ctx: FakeTriggerContext, devices: FakeDevices
) -> None:
    ctx.auto_commit = False
    listen(kind, ctx)
    starts = KINDS[kind][3]
    devices.happen(devices.event(8, starts, 3, attrs={"unit": "°C", "value": "no"}), devices.event(9, "unheard of"))
    assert devices.acked == [9]
    ctx.commit()
    assert devices.acked == [9, 8]
    (event,) = ctx.runs
    assert event.payload == {
        "unit": "°C",
        "value": 3,
        "kind": starts,
        "source": "a source",
        "time": 1795262400.5,
    }
    assert event.meta == {"agent": "", "driver": KINDS[kind][1], "source": "a source", "kind": starts}
    assert (event.id, event.time, event.cursor) == ("outbox:8", 1795262400.5, ["outbox", 8])


def test_a_full_queue_takes_nothing_of_a_batch(kind: str, ctx: FakeTriggerContext, devices: FakeDevices) -> None:
    ctx.room = 1
    listen(kind, ctx)
    batch = [devices.event(1, KINDS[kind][3]), devices.event(2, "unheard of"), devices.event(3, KINDS[kind][3])]
    with pytest.raises(Busy):
        devices.happen(*batch)
    assert (ctx.runs, devices.acked) == ([], [])
    ctx.room = 2
    devices.happen(*batch)
    assert len(ctx.runs) == 2
    assert sorted(devices.acked) == [1, 2, 3]


def test_what_starts_runs_can_be_chosen(kind: str, ctx: FakeTriggerContext, devices: FakeDevices) -> None:
    other = {"system": "normal", "file": "lost"}.get(kind, "overflow")
    listen(kind, ctx, events=[other])
    devices.happen(devices.event(1, other), devices.event(2, KINDS[kind][3]))
    assert [event.meta["kind"] for event in ctx.runs] == [other]


def test_a_good_config_is_found_good_and_an_agent_must_be_paired(kind: str, tmp_path: Path) -> None:
    config = KINDS[kind][0]
    assert faults(kind, config, tmp_path) == []
    ((path, message),) = faults(kind, {**config, "agent": "shed"}, tmp_path)
    assert (path, "flowork agent pair" in message) == ("agent", True)
    (tmp_path / "keys").mkdir()
    Book(tmp_path).write(Paired(name="shed", id="1", certificate=""))
    assert faults(kind, {**config, "agent": "shed"}, tmp_path) == []
    assert faults(kind, {**config, "agent": "{{ vars.agent }}"}, tmp_path) == []


def test_an_unknown_field_is_refused(kind: str) -> None:
    trigger: Trigger[Any] = TRIGGERS[kind]
    with pytest.raises(ConfigError, match="colour"):
        decode(trigger.Config, {**KINDS[kind][0], "colour": "red"})


# --- each of them ---


@pytest.mark.parametrize(
    ("kind", "config", "path", "words"),
    [
        ("gpio", {"line": 17, "options": {"biass": 1}}, "", "biass"),
        ("gpio", {"line": 17, "options": {"max_rate": 0}}, "", "max_rate"),
        ("serial", {"port": "/dev/x", "options": {"longest": "x"}}, "", "longest"),
        ("process", {}, "name", "which programs"),
        ("file", {"folder": "in"}, "folder", "absolute"),
        ("file", {"folder": "/in", "patterns": []}, "", "patterns"),
        ("system", {"metric": "cpu"}, "above", "say when"),
        ("system", {"metric": "cpu", "every": 5, "options": {"pth": "/"}}, "", "pth"),
        ("device", {"driver": "teleporter"}, "driver", "teleporter"),
        ("device", {"driver": "sim", "config": {"interval": -1}}, "config", "interval"),
    ],
)
def test_faults_that_are_found_on_save(kind: str, config: dict[str, Any], path: str, words: str) -> None:
    ((where, message),) = faults(kind, config)
    assert where == path
    assert words in message


def test_templates_are_not_judged_before_they_are_filled() -> None:
    assert faults("device", {"driver": "{{ vars.driver }}"}) == []
    assert faults("device", {"driver": "sim", "config": {"interval": "{{ vars.often }}"}}) == []


def test_a_setting_that_has_a_field_is_not_given_twice(ctx: FakeTriggerContext) -> None:
    with pytest.raises(ConfigError, match="chip"):
        attach(TRIGGERS["gpio"], {"line": 1, "chip": "a", "options": {"chip": "b"}}, ctx)


def test_a_pin_that_a_template_gave_is_a_number(ctx: FakeTriggerContext, devices: FakeDevices) -> None:
    attach(TRIGGERS["gpio"], {"line": "17"}, ctx)
    assert devices.watched.config == {"line": 17}
    attach(TRIGGERS["gpio"], {"line": "GPIO17"}, ctx)
    assert devices.watched.config == {"line": "GPIO17"}


def test_a_program_has_to_be_named_also_by_a_template(ctx: FakeTriggerContext) -> None:
    with pytest.raises(ConfigError, match="which programs"):
        attach(TRIGGERS["process"], {"name": ""}, ctx)


def test_health_needs_a_limit_unless_it_is_true_or_false(ctx: FakeTriggerContext, devices: FakeDevices) -> None:
    with pytest.raises(ConfigError, match="say when"):
        attach(TRIGGERS["system"], {"metric": "cpu"}, ctx)
    attach(TRIGGERS["system"], {"metric": "undervoltage"}, ctx)
    assert devices.watched.config == {"metrics": ["undervoltage"]}
    attach(TRIGGERS["system"], {"metric": "cpu", "every": "1m"}, ctx)
    assert devices.watched.config == {"metrics": ["cpu"], "readings": 60.0}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({}, 4),
        ({"entity": "sensor.a"}, 1),
        ({"entity": "sensor.*"}, 2),
        ({"entity": "[nobody]"}, 0),
        ({"to": True}, 1),
        ({"to": 1}, 1),
        ({"entity": "switch.*", "to": False}, 0),
        ({"events": []}, 5),
        ({"events": ["lost"]}, 1),
    ],
)
def test_a_device_by_its_entity_and_its_value(
    ctx: FakeTriggerContext, devices: FakeDevices, config: dict[str, Any], count: int
) -> None:
    attach(TRIGGERS["device"], {"driver": "sim", **config}, ctx)
    devices.happen(
        devices.event(1, "changed", 1, source="sensor.a"),
        devices.event(2, "changed", 2.5, source="sensor.b"),
        devices.event(3, "changed", True, source="switch.c"),
        devices.event(4, "pressed", "single", source="button.d"),
        devices.event(5, "lost", "gone", source="switch.c"),
    )
    assert len(ctx.runs) == count
    assert sorted(devices.acked) == [1, 2, 3, 4, 5]
