"""Announcements of devices over MQTT, in the form that Home Assistant's MQTT discovery gave them.

``<prefix>/<component>/[<node>/]<object>/config`` announces one entity, ``<prefix>/device/[<node>/]<object>/config`` a
device with all of its entities. Keys may be abbreviated (``stat_t`` for ``state_topic``), and ``~`` at either end of a
topic stands for a base topic. An empty message takes back what its topic had announced.

Source: https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

#: Bytes of one announcement; a Zigbee device with many entities needs about 30,000.
LARGEST = 256_000
#: Of the keys that are used here.
_ABBREVIATIONS = """
    act_t=action_topic act_tpl=action_template avty=availability avty_mode=availability_mode avty_t=availability_topic
    avty_tpl=availability_template bri_cmd_t=brightness_command_topic bri_cmd_tpl=brightness_command_template
    bri_scl=brightness_scale bri_stat_t=brightness_state_topic bri_tpl=brightness_template
    bri_val_tpl=brightness_value_template clr_temp_cmd_t=color_temp_command_topic
    clr_temp_cmd_tpl=color_temp_command_template clr_temp_stat_t=color_temp_state_topic clr_temp_tpl=color_temp_template
    clr_temp_val_tpl=color_temp_value_template cmd_off_tpl=command_off_template cmd_on_tpl=command_on_template
    cmd_t=command_topic cmd_tpl=command_template cmps=components curr_temp_t=current_temperature_topic
    curr_temp_tpl=current_temperature_template dev=device dev_cla=device_class evt_typ=event_types
    fan_mode_cmd_t=fan_mode_command_topic fan_mode_cmd_tpl=fan_mode_command_template
    fan_mode_stat_t=fan_mode_state_topic fan_mode_stat_tpl=fan_mode_state_template frc_upd=force_update
    fx_cmd_t=effect_command_topic fx_cmd_tpl=effect_command_template fx_list=effect_list fx_stat_t=effect_state_topic
    fx_tpl=effect_template fx_val_tpl=effect_value_template max_mirs=max_mireds min_mirs=min_mireds
    mode_cmd_t=mode_command_topic mode_cmd_tpl=mode_command_template mode_stat_t=mode_state_topic
    mode_stat_tpl=mode_state_template on_cmd_type=on_command_type ops=options opt=optimistic p=platform
    pct_cmd_t=percentage_command_topic pct_cmd_tpl=percentage_command_template pct_stat_t=percentage_state_topic
    pct_val_tpl=percentage_value_template pl=payload pl_avail=payload_available pl_cls=payload_close
    pl_lock=payload_lock pl_not_avail=payload_not_available pl_off=payload_off pl_on=payload_on pl_open=payload_open
    pl_prs=payload_press pl_stop=payload_stop pl_unlk=payload_unlock pos_clsd=position_closed pos_open=position_open
    pos_t=position_topic pos_tpl=position_template pow_cmd_t=power_command_topic pr_mode_cmd_t=preset_mode_command_topic
    pr_mode_cmd_tpl=preset_mode_command_template pr_mode_stat_t=preset_mode_state_topic
    pr_mode_val_tpl=preset_mode_value_template pr_modes=preset_modes ret=retain rgb_cmd_t=rgb_command_topic
    rgb_cmd_tpl=rgb_command_template rgb_stat_t=rgb_state_topic rgb_val_tpl=rgb_value_template
    set_pos_t=set_position_topic set_pos_tpl=set_position_template spd_rng_max=speed_range_max
    spd_rng_min=speed_range_min stat_cla=state_class stat_clsd=state_closed stat_closing=state_closing
    stat_locked=state_locked stat_off=state_off stat_on=state_on stat_open=state_open stat_opening=state_opening
    stat_stopped=state_stopped stat_t=state_topic stat_tpl=state_template stat_unlocked=state_unlocked
    stat_val_tpl=state_value_template stype=subtype sup_clrm=supported_color_modes t=topic
    temp_cmd_t=temperature_command_topic temp_cmd_tpl=temperature_command_template temp_stat_t=temperature_state_topic
    temp_stat_tpl=temperature_state_template temp_unit=temperature_unit uniq_id=unique_id
    unit_of_meas=unit_of_measurement val_tpl=value_template
"""
_FULL = dict(pair.split("=") for pair in _ABBREVIATIONS.split())
_LEVEL = re.compile(r"[A-Za-z0-9_-]+")


class BadAnnouncement(Exception):
    """It cannot be read; says why."""


class BadTemplate(Exception):
    """A template that cannot be used, or not for this message; says why."""


class Announced(Struct, frozen=True):
    """One entity as it was announced: ``config`` has full names and whole topics."""

    component: str
    id: str
    name: str
    device: str
    config: dict[str, Any]


def place(topic: str, prefix: str) -> tuple[str, str] | None:
    """Component and object of a discovery topic under a prefix; nothing for any other topic."""
    levels = topic.removeprefix(prefix + "/").split("/")
    if not topic.startswith(prefix + "/") or levels[-1] != "config" or len(levels) not in (3, 4):
        return None
    if not all(_LEVEL.fullmatch(level) for level in levels):
        return None
    return levels[0], "_".join(levels[1:-1])


def read(component: str, name: str, payload: bytes) -> list[Announced]:
    """What a message on a discovery topic announces; nothing if it takes back. Raises ``BadAnnouncement``."""
    if not payload:
        return []
    if len(payload) > LARGEST:
        raise BadAnnouncement(f"it has more than {LARGEST:,} bytes")
    try:
        raw = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise BadAnnouncement(f"it is not JSON: {exc}") from None
    if not isinstance(raw, dict):
        raise BadAnnouncement("it is not a JSON object")
    config = _expanded(raw)
    if component != "device":
        return [_announced(component, name, config)]
    return list(_of_device(name, config))


def _of_device(name: str, config: Mapping[str, Any]) -> Iterator[Announced]:
    """What all entities share stands outside of them, ``availability`` and topics included."""
    parts = config.get("components")
    if not isinstance(parts, dict):
        raise BadAnnouncement("it has no components")
    shared = {key: value for key, value in config.items() if key != "components"}
    for key, raw in parts.items():
        own = _expanded(raw) if isinstance(raw, dict) else {}
        platform = own.pop("platform", "")
        if platform and own:  # with nothing but its platform it is taken back
            yield _announced(str(platform), f"{name}_{key}", _based(shared | own, shared.get("~")))


def _announced(component: str, name: str, config: dict[str, Any]) -> Announced:
    device = config.get("device")
    device = _expanded(device) if isinstance(device, dict) else {}
    whose = str(device.get("name") or "")
    own = config.get("name", config.get("device_class") or name.rpartition("_")[2])
    title = " ".join(part for part in (whose, str(own or "")) if part) or name
    identity = re.sub(r"\s+", "_", str(config.get("unique_id") or name))
    return Announced(component, f"{component}.{identity}"[:200], title[:200], whose[:200], config)


def _expanded(raw: Mapping[str, Any]) -> dict[str, Any]:
    """With full names and whole topics, also inside ``availability``."""
    config = {_FULL.get(str(key), str(key)): value for key, value in raw.items()}
    places = config.get("availability")
    if isinstance(places, dict):
        places = [places]
    if isinstance(places, list):
        config["availability"] = [
            {_FULL.get(str(key), str(key)): value for key, value in each.items()}
            for each in places
            if isinstance(each, dict)
        ]
    return _based(config, config.get("~"))


def _based(config: dict[str, Any], base: Any) -> dict[str, Any]:
    if not isinstance(base, str):
        return config
    based = {key: _whole(value, base) if key.endswith("topic") else value for key, value in config.items()}
    if isinstance(based.get("availability"), list):
        based["availability"] = [
            {key: _whole(value, base) if key == "topic" else value for key, value in each.items()}
            for each in based["availability"]
        ]
    return based


def _whole(topic: Any, base: str) -> Any:
    if isinstance(topic, str) and topic.startswith("~"):
        return base + topic[1:]
    if isinstance(topic, str) and topic.endswith("~"):
        return topic[:-1] + base
    return topic
