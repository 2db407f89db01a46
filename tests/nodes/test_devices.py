"""Nodes that command devices: what is asked of the agent, with which effect, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError, TimedOut, decode
from appliance.registry import Registry
from tests.support.context import FakeContext, FakeWorld, run_node
from tests.support.devices import FakeDevices

NODES = Registry().scan().nodes
SIM: dict[str, Any] = {"driver": "sim", "config": {"name": "board"}}


def asked(node: str, config: dict[str, Any], payload: Any = None) -> dict[str, Any]:
    """What the agent is asked for."""
    devices = FakeDevices(answers=[{"value": "done"}])
    ctx = FakeContext(devices=devices)
    assert run_node(NODES[node], config, payload, ctx) == {"value": "done"}
    (command,) = devices.commands
    assert (command["key"], command["timeout"]) == (ctx.idempotency_key, ctx.deadline)
    return command


@pytest.mark.parametrize(
    ("node", "config", "driver", "command"),
    [
        ("gpio_write", {"line": 27, "value": True}, {"direction": "output", "line": 27}, {"value": True}),
        ("gpio_write", {"line": "27", "value": True}, {"direction": "output", "line": 27}, {"value": True}),
        (
            "gpio_write",
            {"line": "GPIO27", "value": False, "pulse": "500ms", "active_low": True, "safe": True},
            {"direction": "output", "line": "GPIO27", "active_low": True, "safe": True},
            {"value": False, "pulse": 0.5},
        ),
        ("serial_write", {"port": "/dev/x", "value": "M105"}, {"port": "/dev/x"}, {"value": "M105"}),
        ("serial_write", {"port": "/dev/x", "hex": "00 ff"}, {"port": "/dev/x"}, {"hex": "00 ff"}),
        (
            "serial_write",
            {"port": "/dev/x", "baud": 9600, "options": {"parity": "odd"}, "expect": "^ok", "wait": "2s"},
            {"port": "/dev/x", "baud": 9600, "parity": "odd"},
            {"value": {"from": "payload"}, "expect": "^ok", "timeout": 2.0},
        ),
        ("camera_snapshot", {}, {}, {"snapshot": True}),
        (
            "camera_snapshot",
            {"device": "/dev/video2", "width": 640, "options": {"skip": 1}},
            {"device": "/dev/video2", "width": 640, "skip": 1},
            {"snapshot": True},
        ),
        ("device_command", {**SIM, "entity": "lamp", "value": True}, SIM["config"], {"entity": "lamp", "value": True}),
        ("device_command", {**SIM, "value": None}, SIM["config"], {"value": None}),
        (
            "device_command",
            {**SIM, "entity": "light.a", "set": {"brightness": 3}},
            SIM["config"],
            {"entity": "light.a", "brightness": 3},
        ),
    ],
)
def test_what_the_agent_is_asked_for(
    node: str, config: dict[str, Any], driver: dict[str, Any], command: dict[str, Any]
) -> None:
    found = asked(node, config, {"from": "payload"})
    assert (found["agent"], found["config"], found["command"]) == ("", driver, command)
    assert asked(node, {**config, "agent": "shed"}, {"from": "payload"})["agent"] == "shed"


@pytest.mark.parametrize(
    ("node", "config", "effect"),
    [
        ("gpio_write", {"line": 1, "value": True}, Effect.IDEMPOTENT),
        ("gpio_write", {"line": 1, "value": True, "pulse": "1s"}, Effect.ONCE),
        ("camera_snapshot", {}, Effect.IDEMPOTENT),
        ("serial_write", {"port": "/dev/x", "value": "x"}, Effect.ONCE),
        ("serial_write", {"port": "/dev/x", "value": "x", "repeatable": True}, Effect.IDEMPOTENT),
        ("device_command", {**SIM, "value": 1}, Effect.ONCE),
        ("device_command", {**SIM, "value": 1, "repeatable": True}, Effect.IDEMPOTENT),
        ("device_command", {**SIM, "value": 1, "repeatable": "{{ vars.x }}"}, Effect.ONCE),
    ],
)
def test_the_effect_is_what_the_command_does(node: str, config: dict[str, Any], effect: Effect) -> None:
    assert NODES[node].effect_of(config) is effect
    if "{{" not in str(config):
        assert asked(node, config)["repeatable"] is (effect is Effect.IDEMPOTENT)


@pytest.mark.parametrize("error", [NodeError("the pin is gone"), TimedOut("no answer"), ConfigError("no such agent")])
@pytest.mark.parametrize(
    ("node", "config"),
    [
        ("gpio_write", {"line": 1, "value": True}),
        ("serial_write", {"port": "/dev/x", "value": "x"}),
        ("camera_snapshot", {}),
        ("device_command", {**SIM, "value": 1}),
    ],
)
def test_what_the_agent_says_is_the_steps_error(node: str, config: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        run_node(NODES[node], config, None, FakeContext(devices=FakeDevices(answers=[error])))


@pytest.mark.parametrize(
    ("node", "config", "words"),
    [
        ("gpio_write", {"line": 1}, "value"),
        ("gpio_write", {"line": -1, "value": True}, "line"),
        ("gpio_write", {"line": 1, "value": True, "pulse": "2m"}, "pulse"),
        ("gpio_write", {"line": 1, "value": True, "pulse": 0}, "pulse"),
        ("gpio_write", {"line": 1, "value": True, "pulse": "soon"}, "duration"),
        ("gpio_write", {"line": 1, "value": True, "chip": "a", "options": {"chip": "b"}}, "chip"),
        ("camera_snapshot", {"width": 1}, "width"),
        ("serial_write", {"value": "x"}, "port"),
        ("serial_write", {"port": "/dev/x", "value": "x", "hex": "00"}, "not both"),
        ("serial_write", {"port": "/dev/x", "baud": 1}, "baud"),
        ("device_command", {**SIM}, "has to do"),
        ("device_command", {**SIM, "entity": "lamp"}, "has to do"),
        ("device_command", {"value": 1}, "driver"),
    ],
)
def test_a_bad_config_is_refused(node: str, config: dict[str, Any], words: str) -> None:
    devices = FakeDevices()
    with pytest.raises(ConfigError, match=words):
        run_node(NODES[node], config, None, FakeContext(devices=devices))
    assert devices.commands == []


@pytest.mark.parametrize(
    ("node", "config", "path", "words"),
    [
        ("gpio_write", {"line": 1, "value": True, "options": {"biass": 1}}, "", "biass"),
        ("serial_write", {"port": "/dev/x", "value": "x", "hex": "00"}, "hex", "not both"),
        ("serial_write", {"port": "/dev/x", "options": {"longest": -1}}, "", "longest"),
        ("camera_snapshot", {"options": {"zoom": 2}}, "", "zoom"),
        ("device_command", {"driver": "teleporter", "value": 1}, "driver", "teleporter"),
        ("device_command", {"driver": "sim", "config": {"nam": 1}, "value": 1}, "config", "nam"),
        ("device_command", {"driver": "sim"}, "value", "has to do"),
    ],
)
def test_faults_that_are_found_on_save(node: str, config: dict[str, Any], path: str, words: str) -> None:
    ((where, message),) = [(problem.path, problem.message) for problem in NODES[node].check(config, FakeWorld())]
    assert where == path
    assert words in message


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="colour"):
        decode(NODES["gpio_write"].Config, {"line": 1, "value": True, "colour": "red"})
