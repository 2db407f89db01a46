"""Flows announced to Home Assistant, on a real Mosquitto; and our own driver finds them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, NodeError, RunEnded
from appliance.fleet.announce import Announcer, Shown
from appliance.kernel.mqtt import MqttHub
from drivers.mqtt_device import MqttDevice, MqttDeviceConfig
from tests.drivers.host import FakeHost, Heard
from tests.support.broker import Mosquitto, Peer, eventually


class Engine:
    """What Home Assistant may see and do."""

    def __init__(self, url: str, hub: MqttHub) -> None:
        self.flows = {"lamp": Shown("lamp", "Lamp", True)}
        self.asked: list[Any] = []
        self.claimed: set[str] = set()
        self.announcer = Announcer(
            hub, url, "homeassistant", lambda: list(self.flows.values()), self.enable, self.run, lambda: 1795262400.0
        )

    def enable(self, flow: str, on: bool) -> None:
        if flow in self.claimed:
            raise ConfigError("its pin is taken")
        self.asked.append((flow, on))
        self.flows[flow] = Shown(flow, self.flows[flow].name, on)

    def run(self, flow: str) -> None:
        self.asked.append(flow)
        if flow == "broken":
            raise NodeError("it cannot be run")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def engine(broker: Mosquitto) -> Iterator[Engine]:
    hub = MqttHub("flowork-0123456789ab", patience=5.0)
    made = Engine(broker.url, hub)
    made.announcer.start()
    yield made
    made.announcer.stop()
    made.announcer.stop()
    hub.close()


@pytest.fixture
def home(broker: Mosquitto, engine: Engine, tmp_path: Path) -> Iterator[MqttDevice]:
    """Another house's view of it: our driver, which reads what Home Assistant reads."""
    driver = MqttDevice(MqttDeviceConfig(broker=broker.url), FakeHost(tmp_path))
    driver.open()
    eventually(lambda: len(driver.entities()) == 3 * len(engine.flows))
    yield driver
    driver.close()


SWITCH = "switch.flowork-0123456789ab_lamp_enabled"
SENSOR = "sensor.flowork-0123456789ab_lamp_state"
BUTTON = "button.flowork-0123456789ab_lamp_run"


def test_a_flow_is_a_switch_a_sensor_and_a_button(engine: Engine, home: MqttDevice) -> None:
    assert {entity.id: entity.name for entity in home.entities()} == {
        SWITCH: "Flowork 01234567 Lamp",
        SENSOR: "Flowork 01234567 Lamp: last run",
        BUTTON: "Flowork 01234567 Lamp: run",
    }


def test_it_is_switched_and_run_from_there(engine: Engine, home: MqttDevice) -> None:
    assert home.write({"entity": SWITCH, "value": False})["confirmed"] is True
    home.write({"entity": BUTTON, "value": "press"})
    eventually(lambda: engine.asked == [("lamp", False), "lamp"])


def test_a_switch_that_is_refused_goes_back(
    broker: Mosquitto, engine: Engine, home: MqttDevice, caplog: pytest.LogCaptureFixture
) -> None:
    engine.enable("lamp", False)
    engine.claimed.add("lamp")
    with Peer(broker) as peer:
        peer.publish("flowork/flowork-0123456789ab/flow/lamp/enabled/set", b"ON")
        peer.subscribe("flowork/flowork-0123456789ab/flow/lamp/enabled")
        while peer.next()[1] != b"OFF":  # first what was told before, kept by the broker
            pass
    assert "its pin is taken" in caplog.text and engine.asked == [("lamp", False)]


def test_the_end_of_a_run_is_told(engine: Engine, home: MqttDevice) -> None:
    heard = Heard()
    home.events(heard)
    engine.announcer.ended(RunEnded("lamp", "0SA", "failed", None, None))
    (told,) = heard.until(lambda each: each.source == SENSOR and each.value == "failed")
    assert told.kind in ("changed", "state")


def test_a_new_flow_appears_and_a_deleted_one_goes(engine: Engine, home: MqttDevice) -> None:
    engine.flows["fan"] = Shown("fan", "Fan", False)
    engine.announcer.changed()
    eventually(lambda: len(home.entities()) == 6)
    del engine.flows["lamp"]
    engine.announcer.changed()
    eventually(lambda: {entity.id.rpartition("_")[0].rpartition("_")[2] for entity in home.entities()} == {"fan"})


def test_all_is_told_again_when_home_assistant_comes_up(broker: Mosquitto, engine: Engine, home: MqttDevice) -> None:
    with Peer(broker) as peer:
        config = "homeassistant/device/flowork-0123456789ab/config"
        peer.publish(config, b"", retain=True)
        eventually(lambda: not home.entities())
        peer.publish("homeassistant/status", b"online")
        eventually(lambda: len(home.entities()) == 3)


def test_it_is_off_line_once_it_stops(broker: Mosquitto, engine: Engine, home: MqttDevice) -> None:
    heard = Heard()
    home.events(heard)
    with Peer(broker) as peer:
        peer.subscribe("flowork/flowork-0123456789ab/status")
        assert peer.next()[1] == b"online"
        engine.announcer.stop()
        assert peer.next()[1] == b"offline"
    assert heard.until(lambda each: (each.source, each.kind) == (SWITCH, "lost"))


def test_nonsense_is_not_obeyed(
    broker: Mosquitto, engine: Engine, home: MqttDevice, caplog: pytest.LogCaptureFixture
) -> None:
    base = "flowork/flowork-0123456789ab/flow"
    engine.flows["broken"] = Shown("broken", "Broken", True)
    with Peer(broker) as peer:
        peer.publish(f"{base}/nobody/run", b"PRESS")
        peer.publish(f"{base}/lamp/enabled/set", b"MAYBE")
        peer.publish(f"{base}/broken/run", b"PRESS")
        peer.publish(f"{base}/lamp/run", b"PRESS")
        eventually(lambda: engine.asked == ["broken", "lamp"])
    assert "nobody" in caplog.text and "it cannot be run" in caplog.text
    assert json.dumps(engine.asked)
