"""Tasmota's own discovery, told in the words of :mod:`drivers.support.discovery`.

Since version 9.2 Tasmota announces itself at ``tasmota/discovery/<mac>/config`` (its topics, names and relays) and
``.../sensors`` (an example of what it will send to ``tele/<topic>/SENSOR``). Relays and lights become switches and
lights, readings become sensors, wall switches become binary sensors. Shutters and fan controllers are left out.

Source: https://tasmota.github.io/docs/MQTT/ and the firmware's ``xdrv_12_discovery.ino``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from drivers.support.discovery import LARGEST, Announced, BadAnnouncement

PREFIX = "tasmota/discovery"
Json = dict[str, Any]
_RELAY, _LIGHT = 1, 2
#: What Tasmota's readings are measured in, where the reading does not say (``TempUnit`` says it for temperatures).
_UNITS = {
    "Temperature": "°C",
    "DewPoint": "°C",
    "Humidity": "%",
    "Pressure": "hPa",
    "SeaPressure": "hPa",
    "Illuminance": "lx",
    "Distance": "cm",
    "CarbonDioxide": "ppm",
    "eCO2": "ppm",
    "TVOC": "ppb",
    "PM2.5": "µg/m³",
    "PM10": "µg/m³",
    "Power": "W",
    "ApparentPower": "VA",
    "ReactivePower": "var",
    "Voltage": "V",
    "Current": "A",
    "Total": "kWh",
    "Today": "kWh",
    "Yesterday": "kWh",
    "Factor": "",
}


def place(topic: str) -> tuple[str, str] | None:
    """MAC address and ``config`` or ``sensors``; nothing for any other topic."""
    levels = topic.split("/")
    if len(levels) != 4 or not topic.startswith(PREFIX + "/") or levels[3] not in ("config", "sensors"):
        return None
    return levels[2], levels[3]


def parse(payload: bytes) -> Json:
    """Raises ``BadAnnouncement``; empty for one that takes back."""
    if len(payload) > LARGEST:
        raise BadAnnouncement(f"it has more than {LARGEST:,} bytes")
    try:
        raw = json.loads(payload or b"{}")
    except (ValueError, RecursionError) as exc:
        raise BadAnnouncement(f"it is not JSON: {exc}") from None
    if not isinstance(raw, dict):
        raise BadAnnouncement("it is not a JSON object")
    return raw


def entities(mac: str, config: Json, sensors: Json) -> list[Announced]:
    """What a device has, from its two messages (either may still be empty). Raises ``BadAnnouncement``."""
    if not config:
        return []
    try:
        return list(_entities(mac, config, sensors))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as exc:
        raise BadAnnouncement(f"it lacks something: {type(exc).__name__}: {exc}") from None


def _entities(mac: str, config: Json, sensors: Json) -> Iterator[Announced]:
    command, state, telemetry = (_topic(config, index) for index in range(3))
    name = str(config["dn"])
    shared = {
        "availability_topic": telemetry + "LWT",
        "payload_available": config["onln"],
        "payload_not_available": config["ofln"],
    }
    off, on = str(config["state"][0]), str(config["state"][1])
    relays = [(index, kind) for index, kind in enumerate(config["rl"], 1) if kind in (_RELAY, _LIGHT)]
    for index, kind in relays:
        power = "POWER" if len(relays) == 1 and not config["so"].get("26") else f"POWER{index}"
        own = str((config["fn"][index - 1] if index <= len(config["fn"]) else "") or f"{name} {index}")
        answers = {"state_topic": state + "RESULT", "command_topic": command + power, "payload_on": on}
        answers |= {"payload_off": off, **shared}
        reads = f"{{{{ value_json.{power} }}}}"
        if kind == _LIGHT and config.get("lt_st", 0) >= 1:
            light = {"state_value_template": reads, "brightness_state_topic": state + "RESULT", "brightness_scale": 100}
            light |= {"brightness_value_template": "{{ value_json.Dimmer }}"}
            light |= {"brightness_command_topic": command + "Dimmer"}
            yield Announced("light", f"light.{mac}_{index}", own, name, answers | light)
        else:
            yield Announced("switch", f"switch.{mac}_{index}", own, name, answers | {"value_template": reads})
    for path, value in _readings(sensors.get("sn", {})):
        reads = "{{ value_json" + "".join(f"[{json.dumps(key)}]" for key in path) + " }}"
        title = " ".join((name, *path))
        both = {"state_topic": telemetry + "SENSOR", "value_template": reads, **shared}
        if isinstance(value, str):
            both |= {"payload_on": on, "payload_off": off}
            yield Announced("binary_sensor", f"binary_sensor.{mac}_{'_'.join(path)}", title, name, both)
        else:
            both |= {"unit_of_measurement": _unit(path[-1], sensors["sn"]), "state_class": "measurement"}
            yield Announced("sensor", f"sensor.{mac}_{'_'.join(path)}", title, name, both)


def _topic(config: Json, prefix: int) -> str:
    full = str(config["ft"]).replace("%prefix%", str(config["tp"][prefix])).replace("%topic%", str(config["t"]))
    full = full.replace("%hostname%", str(config.get("hn", ""))).replace("%id%", str(config.get("mac", ""))[-6:])
    return full if full.endswith("/") else full + "/"


def _readings(shown: Json) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each number with its place, and each wall switch (``Switch1``), which is a text."""
    for key, value in shown.items():
        if isinstance(value, dict):
            yield from (((key, *path), each) for path, each in _readings(value))
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int | float) or (key.startswith("Switch") and isinstance(value, str)):
            yield (key,), value


def _unit(reading: str, shown: Json) -> str:
    unit = _UNITS.get(reading, "")
    return f"°{shown.get('TempUnit', 'C')}" if unit == "°C" else unit
