"""Announced entities without a broker: what real announcements become, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drivers.base import DriverError
from drivers.support import discovery, tasmota
from drivers.support.announced import Change, Thing
from drivers.support.discovery import Announced, BadAnnouncement, BadTemplate
from drivers.support.templates import Template
from tests.drivers import announcements as said


def announced(message: tuple[str, str]) -> list[Announced]:
    place = discovery.place(message[0], "homeassistant")
    assert place is not None
    return discovery.read(*place, message[1].encode())


def thing(message: tuple[str, str]) -> Thing:
    (one,) = announced(message)
    return Thing(one)


def heard(entity: Thing, topic: str, payload: Any) -> list[Change]:
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return entity.hear(topic, text.encode())


# --- announcements ---


@pytest.mark.parametrize(
    ("message", "identity", "name", "kind"),
    [
        (
            said.Z2M_TEMPERATURE,
            "sensor.0x0017880104e45522_temperature_zigbee2mqtt",
            "weather_sensor temperature",
            "number",
        ),
        (said.Z2M_CONTACT, "binary_sensor.0x00158d00025ae0a1_contact_zigbee2mqtt", "front_door door", "binary"),
        (said.Z2M_PLUG, "switch.0x0017880104e45524_switch_zigbee2mqtt", "plug", "binary"),
        (said.Z2M_BULB, "light.0x0017880104e45553_light_zigbee2mqtt", "bulb", "binary"),
        (said.Z2M_BLIND, "cover.0x0211000000000010_cover_zigbee2mqtt", "Office blind", "text"),
        (said.Z2M_THERMOSTAT, "climate.0x0017882104a44559_climate_zigbee2mqtt", "TRV", "text"),
        (said.Z2M_REMOTE, "device_automation.0x0017880104e45520_action_single", "button single", "event"),
        (said.Z2M_SELECT, "select.0x0017880104e45561_power_on_behavior_zigbee2mqtt", "plug2 Power-on behavior", "text"),
        (said.ESPHOME_DOOR, "cover.78e36d645710-cover-d27845ad", "Single Car Garage Door Opener Door", "text"),
        (said.ESPHOME_NUMBER, "number.78e36d645710-number-1", "Single Car Garage Door Opener Delay", "number"),
        (said.TASMOTA_RELAY, "switch.877407_RL_1", "Tasmota Outside Plug", "binary"),
    ],
)
def test_what_an_announcement_becomes(message: tuple[str, str], identity: str, name: str, kind: str) -> None:
    entity = thing(message)
    assert (entity.id, entity.name, entity.parts.kind) == (identity, name, kind)


def test_a_device_announces_all_of_its_entities_at_once() -> None:
    temperature, fan = map(Thing, announced(said.DEVICE))
    assert (temperature.id, temperature.name, temperature.unit) == ("sensor.temp01ae_t", "Kitchen temperature", "°C")
    assert temperature.topics() == {"bla/kitchen/state", "bla/kitchen/online"}
    assert heard(temperature, "bla/kitchen/state", {"temperature": 21.5})[0].value == 21.5
    assert heard(temperature, "bla/kitchen/online", "0")[0].kind == "lost"
    assert fan.name == "Kitchen Hood"
    messages = [("bla/kitchen/fan/set", "ON"), ("bla/kitchen/fan/speed/set", "2")]
    assert fan.told({"value": True, "percentage": 50}) == messages
    assert heard(fan, "bla/kitchen/fan/speed", "4")[0].attrs == {"percentage": 100}


def test_a_component_with_nothing_but_its_platform_is_taken_back() -> None:
    assert [each.id for each in announced(said.DEVICE_WITHOUT_FAN)] == ["sensor.temp01ae_t"]


def test_an_empty_message_takes_back() -> None:
    assert announced((said.Z2M_PLUG[0], "")) == []


@pytest.mark.parametrize(
    "topic",
    ["homeassistant/status", "homeassistant/sensor/config", "homeassistant/a/b/c/d/config", "other/sensor/x/config",
     "homeassistant/sensor/ü/config", "homeassistant/sensor//config"],
)  # fmt: skip
def test_other_topics_announce_nothing(topic: str) -> None:
    assert discovery.place(topic, "homeassistant") is None


@pytest.mark.parametrize(
    "payload",
    ["{", "[]", "7", '"x"', "[" * 100_000, '{"a": "' + "x" * 300_000 + '"}', "\xff\xfe"],
)
def test_garbage_is_refused_with_a_reason(payload: str) -> None:
    with pytest.raises(BadAnnouncement) as caught:
        discovery.read("sensor", "x", payload.encode())
    assert str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"state_topic": "a/#"},
        {"state_topic": "a/+/b"},
        {"state_topic": "x" * 70_000},
        {"state_topic": "a", "value_template": "{% for i in range(9) %}{{ i }}{% endfor %}"},
        {"state_topic": "a", "value_template": "{{ value_json.x"},
        {"state_topic": "a", "availability": [{"topic": "#"}]},
        {"state_topic": "a", "availability": "nonsense", "availability_topic": 7, "min": "low"},
    ],
)
def test_an_entity_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BadAnnouncement):
        Thing(Announced("number", "number.x", "x", "", config))


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(BadAnnouncement, match="vacuum"):
        Thing(Announced("vacuum", "vacuum.x", "x", "", {}))


# --- what devices say ---


def test_a_reading() -> None:
    entity = thing(said.Z2M_TEMPERATURE)
    assert entity.unit == "°C"
    assert heard(entity, "zigbee2mqtt/weather_sensor", {"temperature": 21.5, "humidity": 40}) == [
        Change("changed", 21.5, {})
    ]
    assert heard(entity, "zigbee2mqtt/weather_sensor", {"temperature": 21.5, "humidity": 41}) == []
    assert heard(entity, "zigbee2mqtt/weather_sensor", {"humidity": 41}) == []
    assert heard(entity, "zigbee2mqtt/weather_sensor", {"temperature": None}) == [Change("changed", None, {})]
    assert heard(entity, "elsewhere", {"temperature": 1}) == []


@pytest.mark.parametrize("payload", ["", "not JSON", "[]", '{"temperature": "warm"}', '{"temperature": 1e999}', "\0"])
def test_a_reading_that_is_none_changes_nothing(payload: str) -> None:
    entity = thing(said.Z2M_TEMPERATURE)
    try:
        assert heard(entity, "zigbee2mqtt/weather_sensor", payload) == []
    except BadTemplate:
        assert entity.value is None


def test_payloads_that_are_no_text_are_compared_as_the_template_says_them() -> None:
    entity = thing(said.Z2M_CONTACT)
    assert heard(entity, "zigbee2mqtt/front_door", {"contact": False})[0].value is True
    assert heard(entity, "zigbee2mqtt/front_door", {"contact": True})[0].value is False


def test_all_places_must_say_that_it_is_on_line_where_that_is_asked() -> None:
    entity = thing(said.Z2M_PLUG)
    assert heard(entity, "zigbee2mqtt/bridge/state", {"state": "online"}) == []
    assert entity.online is None
    assert heard(entity, "zigbee2mqtt/plug/availability", {"state": "online"}) == []
    assert entity.online is True
    assert heard(entity, "zigbee2mqtt/plug/availability", {"state": "offline"})[0].kind == "lost"
    assert entity.online is False
    assert heard(entity, "zigbee2mqtt/plug/availability", {"state": "online"})[0].kind == "back"


def test_one_place_is_enough_where_that_is_asked() -> None:
    places = [{"topic": "a"}, {"topic": "b"}]
    config = {"state_topic": "s", "availability": places, "availability_mode": "any"}
    entity = Thing(Announced("sensor", "sensor.x", "x", "", config))
    assert heard(entity, "a", "offline") == []
    assert entity.online is None
    assert heard(entity, "b", "offline")[0].kind == "lost"
    assert heard(entity, "a", "online")[0].kind == "back"
    assert heard(entity, "a", "nonsense") == []


def test_a_light_tells_more_than_on_and_off() -> None:
    entity = thing(said.Z2M_BULB)
    state = {"state": "ON", "brightness": 127, "color_temp": 300, "color_mode": "color_temp", "linkquality": 90}
    (change,) = heard(entity, "zigbee2mqtt/bulb", state)
    assert (change.value, change.attrs) == (True, {"brightness": 128, "color_temp": 300, "color_mode": "color_temp"})
    (change,) = heard(entity, "zigbee2mqtt/bulb", state | {"brightness": 254})
    assert (change.value, change.attrs["brightness"]) == (True, 255)


def test_a_thermostat_tells_all_it_measures() -> None:
    entity = thing(said.Z2M_THERMOSTAT)
    state = {"system_mode": "heat", "local_temperature": 19.5, "current_heating_setpoint": 21, "running_state": "heat",
             "preset": "manual"}  # fmt: skip
    (change,) = heard(entity, "zigbee2mqtt/TRV", state)
    assert change.value == "heat"
    assert change.attrs == {
        "temperature": 21,
        "current_temperature": 19.5,
        "action": "heating",
        "preset_mode": "manual",
    }


def test_a_cover_tells_its_state_and_position() -> None:
    entity = thing(said.Z2M_BLIND)
    (change,) = heard(entity, "zigbee2mqtt/Office blind", {"state": "OPEN", "position": 40})
    assert (change.value, change.attrs) == ("open", {"position": 40})
    door = thing(said.ESPHOME_DOOR)
    assert heard(door, "esphome/single-car-gdo/cover/door/state", "closing")[0].value == "closing"
    assert heard(door, "esphome/single-car-gdo/cover/door/position/state", "7")[0].attrs == {"position": 7}


def test_every_press_is_an_event() -> None:
    remote = thing(said.Z2M_REMOTE)
    for _ in range(2):
        assert heard(remote, "zigbee2mqtt/button/action", "single") == [Change("event", "single", {"type": "action"})]
    assert heard(remote, "zigbee2mqtt/button/action", "double") == []
    action = thing(said.Z2M_EVENT)
    for _ in range(2):
        assert heard(action, "zigbee2mqtt/button", {"action": "hold"})[0].value == "hold"
    assert heard(action, "zigbee2mqtt/button", {"battery": 90}) == []


# --- commands ---


@pytest.mark.parametrize(
    ("message", "command", "messages"),
    [
        (said.Z2M_PLUG, {"value": True}, [("zigbee2mqtt/plug/set", "ON")]),
        (said.TASMOTA_RELAY, {"value": False}, [("tasmota_outdoor_plug/cmnd/POWER", "OFF")]),
        (said.Z2M_BLIND, {"position": 40}, [("zigbee2mqtt/Office blind/set", '{ "position": 40 }')]),
        (said.Z2M_BLIND, {"value": "close"}, [("zigbee2mqtt/Office blind/set", "CLOSE")]),
        (said.ESPHOME_DOOR, {"value": "stop"}, [("esphome/single-car-gdo/cover/door/command", "STOP")]),
        (said.ESPHOME_DOOR, {"position": 7}, [("esphome/single-car-gdo/cover/door/position/command", "7")]),
        (said.ESPHOME_RESTART, {"value": "press"}, [("esphome/single-car-gdo/button/restart/command", "PRESS")]),
        (said.ESPHOME_NUMBER, {"value": 7.5}, [("esphome/single-car-gdo/number/delay/command", "7.5")]),
        (said.Z2M_SELECT, {"value": "on"}, [("zigbee2mqtt/plug2/set/power_on_behavior", "on")]),
        (
            said.Z2M_THERMOSTAT,
            {"value": "heat", "temperature": 21.5},
            [("zigbee2mqtt/TRV/set/system_mode", "heat"), ("zigbee2mqtt/TRV/set/current_heating_setpoint", "21.5")],
        ),
    ],
)
def test_what_a_command_sends(
    message: tuple[str, str], command: dict[str, Any], messages: list[tuple[str, str]]
) -> None:
    assert thing(message).told(command) == messages


def test_a_light_is_told_everything_in_one_message() -> None:
    ((topic, payload),) = thing(said.Z2M_BULB).told({"value": True, "brightness": 128, "effect": "blink"})
    assert topic == "zigbee2mqtt/bulb/set"
    assert json.loads(payload) == {"state": "ON", "brightness": 127, "effect": "blink"}


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (said.Z2M_TEMPERATURE, {"value": 3}),
        (said.Z2M_PLUG, {}),
        (said.Z2M_PLUG, {"value": "on"}),
        (said.Z2M_PLUG, {"value": True, "brightness": 3}),
        (said.Z2M_BULB, {"brightness": 256}),
        (said.Z2M_BULB, {"effect": "explode"}),
        (said.Z2M_BLIND, {"position": -1}),
        (said.Z2M_BLIND, {"position": True}),
        (said.Z2M_BLIND, {"value": "open!"}),
        (said.Z2M_SELECT, {"value": "maybe"}),
        (said.Z2M_THERMOSTAT, {"temperature": 90}),
        (said.ESPHOME_NUMBER, {"value": float("nan")}),
        (said.ESPHOME_RESTART, {"value": True}),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(message: tuple[str, str], command: dict[str, Any]) -> None:
    with pytest.raises(DriverError) as caught:
        thing(message).told(command)
    assert not caught.value.retryable


def test_the_schema_tells_what_may_be_commanded() -> None:
    schema = thing(said.Z2M_THERMOSTAT).schema()
    assert schema["properties"]["value"] == {"enum": ["heat", "auto", "off"]}
    assert schema["properties"]["temperature"] == {"type": "number", "minimum": 5, "maximum": 35}
    assert thing(said.Z2M_TEMPERATURE).schema() == {}


# --- Tasmota's own discovery ---


def of_tasmota(*messages: tuple[str, str]) -> dict[str, Thing]:
    parts = {}
    for topic, payload in messages:
        place = tasmota.place(topic)
        assert place is not None
        parts[place[1]] = tasmota.parse(payload.encode())
    found = tasmota.entities("E09806F17F56", parts.get("config", {}), parts.get("sensors", {}))
    return {each.id: Thing(each) for each in found}


def test_tasmota_announces_relays_and_readings() -> None:
    things = of_tasmota(said.TASMOTA_CONFIG, said.TASMOTA_SENSORS)
    plug = things["switch.E09806F17F56_1"]
    assert plug.told({"value": True}) == [("cmnd/tasmota_F17F56/POWER", "ON")]
    assert heard(plug, "stat/tasmota_F17F56/RESULT", {"POWER": "ON"})[0].value is True
    assert heard(plug, "tele/tasmota_F17F56/LWT", "Offline")[0].kind == "lost"
    power = things["sensor.E09806F17F56_ENERGY_Power"]
    assert (power.name, power.unit) == ("Tasmota ENERGY Power", "W")
    reading = {"Time": "2023-06-24T09:19:26", "ENERGY": {"Power": 42, "Voltage": 231}}
    assert heard(power, "tele/tasmota_F17F56/SENSOR", reading)[0].value == 42


def test_tasmota_without_its_config_announces_nothing() -> None:
    assert of_tasmota(said.TASMOTA_SENSORS) == {}
    assert tasmota.entities("X", {}, {}) == []
    with pytest.raises(BadAnnouncement):
        tasmota.entities("X", {"dn": "half"}, {})


def test_a_dimmer_of_tasmota_is_a_light() -> None:
    config = json.loads(said.TASMOTA_CONFIG[1]) | {"rl": [2, 0], "lt_st": 1}
    (light,) = (Thing(each) for each in tasmota.entities("M", config, {}))
    assert light.component == "light"
    assert light.told({"value": True, "brightness": 255}) == [
        ("cmnd/tasmota_F17F56/POWER", "ON"),
        ("cmnd/tasmota_F17F56/Dimmer", "100"),
    ]
    (change,) = heard(light, "stat/tasmota_F17F56/RESULT", {"POWER": "ON", "Dimmer": 50})
    assert (change.value, change.attrs) == (True, {"brightness": 127})


# --- templates ---


@pytest.mark.parametrize(
    ("source", "payload", "text"),
    [
        ("{{ value }}", "plain", "plain"),
        ("{{ value_json.a.b }}", '{"a": {"b": 3}}', "3"),
        ("{{ value_json['missing'] }}", "{}", ""),
        ("{{ (value | float * 1.8 + 32) | round(1) }}", "20", "68.0"),
        ("{{ value_json.x | int(0) }}", '{"x": "?"}', "0"),
        ("{{ 'ON' if value_json.p > 0 else 'OFF' }}", '{"p": 3}', "ON"),
        ("{{ value_json.s.split(',')[1] | upper }}", '{"s": "a,b"}', "B"),
        ("{{ iif(value == '1', 'yes', 'no') }}", "1", "yes"),
        ("{{ value_json.list[0].t }}", '{"list": [{"t": 1.5}]}', "1.5"),
    ],
)
def test_templates(source: str, payload: str, text: str) -> None:
    assert Template(source).read(payload) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 10 ** 9999 }}",
        "{{ [1] * 10**9 }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ value | center(10**9) }}",
        "{{ range(10**9) | list }}",
        "{{ value.replace('', value) }}",
        "{{ value | replace('', value) }}",
        "{% for i in value %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set a = value ~ value %}{% set b = a ~ a %}{{ b }}",
        "{% set a %}x{% endset %}",
        "{% include 'x' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ value.nothing.at.all }}",
        "{{ value | float }}",
        "{{ 1 / 0 }}",
        "{{ " + "(" * 500 + ")" * 500 + " }}",
        "x" * 5_000,
        "{{",
    ],
)
def test_templates_that_are_not_for_devices(source: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        Template(source).read("payload")
    assert str(caught.value)


def test_a_huge_message_is_not_given_to_a_template() -> None:
    with pytest.raises(BadTemplate, match="more than"):
        Template("{{ value }}").read("x" * 100_000)
