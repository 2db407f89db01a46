"""Devices announced over MQTT, on a real Mosquitto; a paho client plays the devices."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.base import DriverError, Observation
from drivers.mqtt_device import MqttDevice, MqttDeviceConfig
from tests.drivers import announcements as said
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard
from tests.support.broker import Mosquitto, Peer, RawBroker, eventually, free_port

PLUG = "switch.0x0017880104e45524_switch_zigbee2mqtt"
TEMPERATURE = "sensor.0x0017880104e45522_temperature_zigbee2mqtt"
REMOTE = "device_automation.0x0017880104e45520_action_single"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def peer(broker: Mosquitto) -> Iterator[Peer]:
    with Peer(broker) as client:
        yield client


@pytest.fixture
def driver(broker: Mosquitto, host: FakeHost) -> Iterator[MqttDevice]:
    made = MqttDevice(MqttDeviceConfig(broker=broker.url, confirm=5.0), host)
    yield made
    made.close()


def announce(peer: Peer, *messages: tuple[str, str]) -> None:
    for topic, payload in messages:
        peer.publish(topic, payload, retain=True)


def tell(peer: Peer, topic: str, state: Any, retain: bool = False) -> None:
    peer.publish(topic, state if isinstance(state, str) else json.dumps(state), retain=retain)


def known(driver: MqttDevice, *ids: str) -> None:
    eventually(lambda: set(ids) <= {entity.id for entity in driver.entities()}, f"{ids} were not announced")


def ready(driver: MqttDevice, peer: Peer, heard: Heard, *ids: str) -> None:
    """Returns when the driver hears what these entities say (it subscribes in the order of the announcements)."""
    known(driver, *ids)
    number = len(heard.all)
    tell(peer, f"ready/{number}", "yes", retain=True)
    announce(peer, (f"homeassistant/sensor/ready{number}/config", f'{{"stat_t":"ready/{number}"}}'))
    heard.until(of(f"sensor.ready{number}", "state"))


def of(source: str, kind: str) -> Any:
    return lambda each: (each.source, each.kind) == (source, kind)


class TestContract(Contract):
    """What every driver keeps to, with a plug and a thermometer announced."""

    @pytest.fixture(autouse=True)
    def _devices(self, peer: Peer) -> None:
        announce(peer, said.Z2M_PLUG, said.Z2M_TEMPERATURE)


def test_what_is_announced_appears_and_tells(driver: MqttDevice, peer: Peer, heard: Heard, host: FakeHost) -> None:
    announce(peer, said.Z2M_TEMPERATURE, said.DEVICE)
    driver.open()
    stop = driver.events(heard)
    announce(peer, said.Z2M_PLUG, said.TASMOTA_CONFIG, said.TASMOTA_SENSORS)
    ready(driver, peer, heard, TEMPERATURE, PLUG, "sensor.temp01ae_t", "fan.fan01", "switch.E09806F17F56_1")
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 21.5, "humidity": 40})
    tell(peer, "bla/kitchen/state", {"temperature": 19})
    tell(peer, "tele/tasmota_F17F56/SENSOR", {"ENERGY": {"Power": 42}})
    reading = heard.until(of(TEMPERATURE, "changed"))[0]
    assert (reading.value, reading.attrs) == (
        21.5,
        {"name": "weather_sensor temperature", "device": "weather_sensor", "unit": "°C"},
    )
    assert heard.until(of("sensor.temp01ae_t", "changed"))[0].value == 19
    assert heard.until(of("sensor.E09806F17F56_ENERGY_Power", "changed"))[0].value == 42
    observed(heard, host)
    stop()
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 22})
    entities = {entity.id: entity for entity in driver.entities()}
    assert (entities[TEMPERATURE].kind, entities[TEMPERATURE].unit) == ("number", "°C")
    assert entities[PLUG].writable
    assert not entities[TEMPERATURE].writable
    assert len(heard.all) == len(heard.until(lambda each: each.value != 22))


def test_what_the_broker_kept_is_told_as_state(driver: MqttDevice, peer: Peer, heard: Heard) -> None:
    announce(peer, said.Z2M_TEMPERATURE)
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 18}, retain=True)
    driver.open()
    driver.events(heard)
    assert heard.until(of(TEMPERATURE, "state"))[0].value == 18
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 18})
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 18.5})
    assert [each.value for each in heard.until(of(TEMPERATURE, "changed"))] == [18.5]


def test_every_press_of_a_remote_is_told_but_none_that_the_broker_kept(
    driver: MqttDevice, peer: Peer, heard: Heard
) -> None:
    announce(peer, said.Z2M_REMOTE)
    driver.open()
    driver.events(heard)
    ready(driver, peer, heard, REMOTE)
    tell(peer, "zigbee2mqtt/button/action", "single", retain=True)
    for _ in range(2):
        tell(peer, "zigbee2mqtt/button/action", "single")
    presses = heard.until(of(REMOTE, "event"), 3)
    assert {(each.value, each.attrs["type"]) for each in presses} == {("single", "action")}
    driver.close()
    driver.open()
    driver.events(later := Heard())
    ready(driver, peer, later, REMOTE)
    assert (REMOTE, "event") not in {(each.source, each.kind) for each in later.all}


class Plug:
    """A plug that does what it is told and tells so, as Zigbee2MQTT does for it."""

    def __init__(self, peer: Peer, answers: bool = True) -> None:
        self._peer, self._answers = peer, answers
        peer.subscribe("zigbee2mqtt/plug/set")
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        topic, payload = self._peer.next()
        assert topic == "zigbee2mqtt/plug/set"
        if self._answers:
            tell(self._peer, "zigbee2mqtt/plug", {"state": payload.decode()})


def test_a_command_is_done_when_the_device_has_told_its_new_state(driver: MqttDevice, peer: Peer) -> None:
    announce(peer, said.Z2M_PLUG)
    plug = Plug(peer)
    driver.open()
    done = driver.write({"entity": PLUG, "value": True})
    assert done == {"entity": PLUG, "value": True, "topics": ["zigbee2mqtt/plug/set"], "confirmed": True}
    plug.thread.join()


def test_a_device_that_does_not_confirm_is_an_error(broker: Mosquitto, peer: Peer, host: FakeHost) -> None:
    announce(peer, said.Z2M_PLUG)
    plug = Plug(peer, answers=False)
    driver = MqttDevice(MqttDeviceConfig(broker=broker.url, confirm=0.2), host)
    driver.open()
    with pytest.raises(DriverError, match=r"plug has not confirmed within 0\.2 s"):
        driver.write({"entity": PLUG, "value": True})
    plug.thread.join()
    driver.close()


def test_a_device_that_is_off_line_is_told_nothing(driver: MqttDevice, peer: Peer, heard: Heard) -> None:
    announce(peer, said.Z2M_PLUG)
    tell(peer, "zigbee2mqtt/bridge/state", {"state": "online"}, retain=True)
    tell(peer, "zigbee2mqtt/plug/availability", {"state": "online"}, retain=True)
    driver.open()
    driver.events(heard)
    ready(driver, peer, heard, PLUG)
    peer.subscribe("zigbee2mqtt/plug/set")
    tell(peer, "zigbee2mqtt/plug/availability", {"state": "offline"}, retain=True)
    eventually(lambda: heard.until(of(PLUG, "lost"))[-1])
    with pytest.raises(DriverError, match="plug is off line") as caught:
        driver.write({"entity": PLUG, "value": True})
    assert caught.value.retryable
    assert peer.empty()
    tell(peer, "zigbee2mqtt/plug/availability", {"state": "online"}, retain=True)
    assert heard.until(of(PLUG, "back"))


def test_an_entity_that_nobody_announced_is_named(driver: MqttDevice) -> None:
    driver.open()
    with pytest.raises(DriverError, match=r"switch\.nowhere") as caught:
        driver.write({"entity": "switch.nowhere", "value": True})
    assert "flowork device list" in caught.value.message


def test_what_is_taken_back_is_gone(driver: MqttDevice, peer: Peer, heard: Heard) -> None:
    announce(peer, said.Z2M_PLUG, said.DEVICE)
    driver.open()
    driver.events(heard)
    known(driver, PLUG, "fan.fan01", "sensor.temp01ae_t")
    assert heard.until(of(PLUG, "found"))[0].value == "plug"
    announce(peer, (said.Z2M_PLUG[0], ""), said.DEVICE_WITHOUT_FAN)
    assert heard.until(of(PLUG, "gone"))[0].value == "plug"
    eventually(lambda: {entity.id for entity in driver.entities()} == {"sensor.temp01ae_t"})
    ready(driver, peer, heard)
    tell(peer, "bla/kitchen/state", {"temperature": 3})
    assert heard.until(of("sensor.temp01ae_t", "changed"))[0].value == 3


def test_a_device_that_announces_itself_again_keeps_its_state(driver: MqttDevice, peer: Peer, heard: Heard) -> None:
    announce(peer, said.Z2M_TEMPERATURE)
    driver.open()
    driver.events(heard)
    ready(driver, peer, heard, TEMPERATURE)
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 21})
    heard.until(of(TEMPERATURE, "changed"))
    announce(peer, said.Z2M_TEMPERATURE, said.Z2M_HUMIDITY)
    known(driver, "sensor.0x0017880104e45522_humidity_zigbee2mqtt")
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 21, "humidity": 40})
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 22, "humidity": 40})
    assert [each.value for each in heard.until(of(TEMPERATURE, "changed"), 2)] == [21, 22]


def test_a_broker_that_goes_away_is_told_and_comes_back(broker: Mosquitto, driver: MqttDevice, heard: Heard) -> None:
    driver.open()
    driver.events(heard)
    broker.kill()
    assert heard.until(of("broker", "lost"))
    with pytest.raises(DriverError):
        driver.write({"entity": PLUG, "value": True})
    broker.start()
    assert heard.until(of("broker", "gap"))[0].value > 0
    with Peer(broker) as peer:
        announce(peer, said.Z2M_TEMPERATURE)
        ready(driver, peer, heard, TEMPERATURE)
        tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 21})
        assert heard.until(of(TEMPERATURE, "changed"))


def test_what_changed_while_the_broker_was_away_is_news(tmp_path: Path, host: FakeHost, heard: Heard) -> None:
    with Mosquitto(tmp_path, persistence=True) as broker:
        driver = MqttDevice(MqttDeviceConfig(broker=broker.url), host)
        with Peer(broker) as peer:
            announce(peer, said.Z2M_TEMPERATURE)
            tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 18}, retain=True)
            driver.open()
            driver.events(heard)
            assert heard.until(of(TEMPERATURE, "state"))[0].value == 18
        broker.stop()
        assert heard.until(of("broker", "lost"))
        broker.start()
        with Peer(broker) as peer:
            tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 3}, retain=True)
            assert heard.until(of(TEMPERATURE, "changed"))[0].value == 3
        driver.close()


def test_announcements_that_make_no_sense_harm_nobody(
    driver: MqttDevice, peer: Peer, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    driver.open()
    driver.events(heard)
    announce(
        peer,
        ("homeassistant/sensor/garbage/config", "{"),
        ("homeassistant/sensor/list/config", "[1]"),
        ("homeassistant/sensor/bomb/config", '{"stat_t":"a","val_tpl":"{{ \'x\' * 10**9 }}","uniq_id":"bomb"}'),
        ("homeassistant/sensor/wild/config", '{"stat_t":"#","uniq_id":"wild"}'),
        ("homeassistant/vacuum/robot/config", '{"stat_t":"a"}'),
        ("homeassistant/device/none/config", '{"cmps":7}'),
        ("tasmota/discovery/X/config", '{"dn":7}'),
        ("homeassistant/sensor/huge/config", '{"stat_t":"' + "x" * 300_000 + '"}'),
        said.Z2M_TEMPERATURE,
    )
    ready(driver, peer, heard, TEMPERATURE)
    tell(peer, "a", "x")
    tell(peer, "zigbee2mqtt/weather_sensor", "{" * 10_000)
    tell(peer, "zigbee2mqtt/weather_sensor", {"temperature": 21})
    assert heard.until(of(TEMPERATURE, "changed"))[0].value == 21
    assert {entity.id for entity in driver.entities()} >= {TEMPERATURE, "sensor.bomb"}
    assert not {entity.id for entity in driver.entities()} & {"sensor.wild", "sensor.huge", "vacuum.robot"}
    assert "homeassistant/sensor/garbage/config" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_many_entities_are_found_soon_and_bounded(
    driver: MqttDevice, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.mqtt_device.MOST_ENTITIES", 100)
    for number in range(150):
        announce(peer, (f"homeassistant/sensor/many{number}/config", f'{{"stat_t":"many/{number}"}}'))
    announce(peer, said.Z2M_PLUG)
    driver.open()
    eventually(lambda: len(driver.entities()) == 100)
    announce(peer, ("homeassistant/sensor/many0/config", ""))
    eventually(lambda: len(driver.entities()) == 99)


def test_devices_are_asked_for_their_states_where_that_is_wanted(broker: Mosquitto, peer: Peer, host: FakeHost) -> None:
    peer.subscribe("homeassistant/status")
    driver = MqttDevice(MqttDeviceConfig(broker=broker.url, birth=True), host)
    driver.open()
    assert peer.next() == ("homeassistant/status", b"online")
    driver.close()


@pytest.mark.parametrize("url", ["http://box", "mqtt://", "mqtt://box:none", "box", "mqtts://box?ca=/nowhere.pem"])
def test_an_address_that_is_none_is_refused_without_its_password(url: str, host: FakeHost) -> None:
    driver = MqttDevice(MqttDeviceConfig(broker=url.replace("//", "//me:hunter2@", 1)), host)
    with pytest.raises(DriverError) as caught:
        driver.open()
    assert "hunter2" not in caught.value.message
    assert not caught.value.retryable


def test_a_broker_that_is_away_is_an_error_that_says_so(host: FakeHost) -> None:
    port = free_port()
    driver = MqttDevice(MqttDeviceConfig(broker=f"mqtt://me:hunter2@127.0.0.1:{port}"), host)
    with pytest.raises(DriverError, match=f"127.0.0.1:{port}") as caught:
        driver.open()
    assert caught.value.retryable
    assert "hunter2" not in caught.value.message


def test_a_broker_that_refuses_us_says_why(tmp_path: Path, host: FakeHost) -> None:
    with Mosquitto(tmp_path, users={"me": "right"}) as broker:
        driver = MqttDevice(MqttDeviceConfig(broker=broker.login("me", "wrong")), host)
        with pytest.raises(DriverError, match="user and password"):
            driver.open()
        driver = MqttDevice(MqttDeviceConfig(broker=broker.login("me", "right")), host)
        driver.open()
        driver.close()


def test_tls(tmp_path: Path, host: FakeHost) -> None:
    with Mosquitto(tmp_path, tls=True) as broker:
        driver = MqttDevice(MqttDeviceConfig(broker=broker.url), host)
        driver.open()
        driver.close()


def test_a_broker_that_is_silent_is_given_up(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drivers.mqtt_device.PATIENCE", 0.2)
    with RawBroker() as broker:
        driver = MqttDevice(MqttDeviceConfig(broker=broker.url), host)
        before = time.monotonic()
        with pytest.raises(DriverError, match="does not answer"):
            driver.open()
        assert time.monotonic() - before < 10


def test_a_command_from_many_threads_while_devices_talk(driver: MqttDevice, peer: Peer, heard: Heard) -> None:
    announce(peer, said.TASMOTA_RELAY, said.ESPHOME_RESTART)
    driver.open()
    driver.events(heard)
    ready(driver, peer, heard, "switch.877407_RL_1", "button.78e36d645710-button-ba0e8e32")
    results: list[Any] = []
    restart = {"entity": "button.78e36d645710-button-ba0e8e32", "value": "press"}
    threads = [threading.Thread(target=lambda: results.append(driver.write(restart))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for number in range(200):
        tell(peer, "tasmota_outdoor_plug/tele/STATE", {"POWER": "ON" if number % 2 else "OFF"})
    for thread in threads:
        thread.join(20)
    assert len(results) == 20
    changes: list[Observation] = heard.until(of("switch.877407_RL_1", "changed"), 200)
    assert [each.value for each in changes] == [False, True] * 100
