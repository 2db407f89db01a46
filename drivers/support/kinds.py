"""What each kind of announced entity has: its fields (topic, template, how to read it) and its orders.

One function a kind, named in :data:`KINDS` as Home Assistant names its MQTT components. They may raise ``ValueError``,
``TypeError``, ``KeyError`` or ``BadTemplate`` for an announcement that makes no sense.

Source: https://www.home-assistant.io/integrations/mqtt/ and the page of each component there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from drivers.support.discovery import BadTemplate
from drivers.support.parts import (
    BOOL,
    UNREAD,
    Field,
    Json,
    Order,
    Parts,
    any_text,
    choices_of,
    either,
    found,
    numeric,
    one_of,
    order,
    orders_of,
    plain,
    reader,
    span,
    switching,
    text_of,
    topic_of,
    within,
)
from drivers.support.templates import Template


def _sensor(config: Json) -> Parts:
    is_number = any(config.get(key) for key in ("unit_of_measurement", "state_class", "suggested_display_precision"))
    fields = found(config, "value", "state_topic", "value_template", numeric if is_number else plain)
    return Parts("number" if is_number else "text", fields)


def _binary_sensor(config: Json) -> Parts:
    states = either(config, ("payload_on",), ("payload_off",), ("ON", "OFF"))
    return Parts("binary", found(config, "value", "state_topic", "value_template", states))


def _switch(config: Json) -> Parts:
    states = either(config, ("state_on", "payload_on"), ("state_off", "payload_off"), ("ON", "OFF"))
    fields = found(config, "value", "state_topic", "value_template", states)
    writes = order(config, "command_topic", "command_template", BOOL, switching(config))
    return Parts("binary", fields, orders_of(value=writes), bool(fields) and config.get("optimistic") is not True)


def _siren(config: Json) -> Parts:
    parts = _switch({"value_template": config.get("state_value_template")} | config)
    parts.confirms = False
    return parts


def _light(config: Json) -> Parts:
    return {"json": _json_light, "template": _template_light}.get(str(config.get("schema", "basic")), _basic_light)(
        config
    )


def _basic_light(config: Json) -> Parts:
    scale = float(config.get("brightness_scale", 255))
    states = either(config, ("payload_on",), ("payload_off",), ("ON", "OFF"))
    fields = found(config, "value", "state_topic", "state_value_template", states)
    fields += found(
        config, "brightness", "brightness_state_topic", "brightness_value_template", _scaled_by(255 / scale)
    )
    fields += found(config, "color_temp", "color_temp_state_topic", "color_temp_value_template", numeric)
    fields += found(config, "effect", "effect_state_topic", "effect_value_template", plain)
    fields += found(config, "rgb", "rgb_state_topic", "rgb_value_template", _rgb)
    bright = {"type": "integer", "minimum": 0, "maximum": 255}
    warm, warmth = span(config, "min_mireds", "max_mireds", (153, 500))
    effects, effect = one_of(choices_of(config, "effect_list"))
    rgb = {"type": "array", "items": bright, "minItems": 3, "maxItems": 3}
    orders = orders_of(
        value=order(config, "command_topic", "", BOOL, switching(config)),
        brightness=order(
            config,
            "brightness_command_topic",
            "brightness_command_template",
            bright,
            within(0, 255, scale / 255),
        ),
        color_temp=order(config, "color_temp_command_topic", "color_temp_command_template", warm, warmth),
        effect=order(config, "effect_command_topic", "effect_command_template", effects, effect),
        rgb=order(config, "rgb_command_topic", "", rgb, lambda value: ",".join(map(str, _three(value)))),
    )
    return Parts("binary", fields, orders, bool(fields) and config.get("optimistic") is not True, optional=True)


def _json_light(config: Json) -> Parts:
    scale = float(config.get("brightness_scale", 255))
    modes = set(choices_of(config, "supported_color_modes"))
    coloured = bool(modes - {"onoff", "brightness", "color_temp"}) or config.get("rgb") is True
    warm, warmth = span(config, "min_mireds", "max_mireds", (153, 500))
    effects, effect = one_of(choices_of(config, "effect_list"))
    topic = topic_of(config, "command_topic")
    orders = {"value": Order(topic, lambda value: switching(config)(value), BOOL)}
    if config.get("brightness") is True or modes - {"onoff"}:
        bright = {"type": "integer", "minimum": 0, "maximum": 255}
        orders["brightness"] = Order(topic, lambda value: str(within(0, 255)(value)), bright)
    if config.get("color_temp") is True or "color_temp" in modes:
        orders["color_temp"] = Order(topic, lambda value: str(warmth(value)), warm)
    if coloured:
        orders["color"] = Order(topic, _colour, {"type": "object"})
    if config.get("effect") is True:
        orders["effect"] = Order(topic, effect, effects)
    orders["transition"] = Order(topic, lambda value: str(within(0, 3600)(value)), {"type": "number", "minimum": 0})

    def read(text: str) -> Any:
        try:
            said = json.loads(text)
        except ValueError:
            raise BadTemplate("the light's state is not JSON") from None
        if not isinstance(said, dict):
            raise BadTemplate("the light's state is not a JSON object")
        names = ("color_temp", "color", "color_mode", "effect")
        news: Json = {name: said[name] for name in names if said.get(name) is not None}
        if said.get("state") in ("ON", "OFF"):
            news["value"] = said["state"] == "ON"
        if isinstance(said.get("brightness"), int | float):
            news["brightness"] = round(said["brightness"] * 255 / scale)
        return news or UNREAD

    def together(command: Json) -> tuple[str, str]:
        on = command.get("value", True)
        message: Json = {"state": "ON" if on else "OFF"}
        message |= {name: value for name, value in command.items() if name != "value"}
        if "brightness" in message:
            message["brightness"] = round(message["brightness"] * scale / 255)
        return topic, json.dumps(message)

    place = topic_of(config, "state_topic")
    fields = [Field("*", place, read)] if place else []
    confirms = bool(fields) and config.get("optimistic") is not True
    return Parts("binary", fields, orders if topic else {}, confirms, together, optional=True)


def _template_light(config: Json) -> Parts:
    states = either({}, (), (), ("on", "off"))
    fields = found(config, "value", "state_topic", "state_template", states)
    fields += found(config, "brightness", "state_topic", "brightness_template", numeric)
    fields = [each for each in fields if each.name == "value" or text_of(config, "brightness_template")]
    topic = topic_of(config, "command_topic")
    on, off = Template(text_of(config, "command_on_template")), Template(text_of(config, "command_off_template"))

    def together(command: Json) -> tuple[str, str]:
        lit = command.get("value", True)
        return topic, (on if lit else off).render({"state": "on" if lit else "off", **command})

    orders = {
        "value": Order(topic, lambda value: switching(config)(value), BOOL),
        "brightness": Order(topic, lambda value: str(within(0, 255)(value)), {"type": "integer", "maximum": 255}),
    }
    return Parts("binary", fields, orders if topic else {}, bool(fields), together, optional=True)


def _cover(config: Json) -> Parts:
    closed, opened = float(config.get("position_closed", 0)), float(config.get("position_open", 100))
    names = ("open", "opening", "closed", "closing", "stopped")
    words = {str(config.get(f"state_{name}", name)): name for name in names}
    fields = found(config, "value", "state_topic", "value_template", lambda text: words.get(text, UNREAD))

    def position(text: str) -> Any:
        value = numeric(text)
        return UNREAD if value is UNREAD else round((value - closed) * 100 / (opened - closed))

    fields += found(config, "position", "position_topic", "position_template", position)
    if not any(each.name == "value" for each in fields):
        fields += found(
            config,
            "value",
            "position_topic",
            "position_template",
            lambda text: UNREAD if (found := position(text)) is UNREAD else "open" if found else "closed",
        )
    payloads = {"open": "OPEN", "close": "CLOSE", "stop": "STOP"}
    said = {
        name: str(config.get(f"payload_{name}", word))
        for name, word in payloads.items()
        if config.get(f"payload_{name}", word) is not None
    }
    choices, choice = one_of(list(said))
    percent = {"type": "number", "minimum": 0, "maximum": 100}

    def place(value: Any) -> int:
        part: float = within(0, 100)(value) / 100
        return round(closed + part * (opened - closed))

    orders = orders_of(
        value=order(config, "command_topic", "", choices, lambda value: said[choice(value)]),
        position=order(config, "set_position_topic", "set_position_template", percent, place, "position"),
    )
    return Parts("text", fields, orders, optional=True)


def _valve(config: Json) -> Parts:
    parts = _cover(config)
    parts.orders.pop("position", None)
    return parts


def _number_entity(config: Json) -> Parts:
    schema, word = span(config, "min", "max", (1, 100))
    fields = found(config, "value", "state_topic", "value_template", numeric)
    writes = order(config, "command_topic", "command_template", schema, word)
    return Parts("number", fields, orders_of(value=writes), bool(fields))


def _select(config: Json) -> Parts:
    schema, word = one_of(choices_of(config, "options"))
    fields = found(config, "value", "state_topic", "value_template", plain)
    writes = order(config, "command_topic", "command_template", schema, word)
    return Parts("text", fields, orders_of(value=writes), bool(fields))


def _text_entity(config: Json) -> Parts:
    fields = found(config, "value", "state_topic", "value_template", plain)
    writes = order(config, "command_topic", "command_template", {"type": "string"}, any_text)
    return Parts("text", fields, orders_of(value=writes), bool(fields))


def _button(config: Json) -> Parts:
    payload = str(config.get("payload_press", config.get("payload_on", "PRESS")))
    schema, word = one_of(["press"])
    writes = order(config, "command_topic", "command_template", schema, lambda value: word(value) and payload)
    return Parts("event", [], orders_of(value=writes), is_event=True)


def _lock(config: Json) -> Parts:
    names = ("locked", "unlocked", "locking", "unlocking", "jammed")
    words = {str(config.get(f"state_{name}", name.upper())): name for name in names}
    fields = found(config, "value", "state_topic", "value_template", lambda text: words.get(text, UNREAD))
    said = {"lock": str(config.get("payload_lock", "LOCK")), "unlock": str(config.get("payload_unlock", "UNLOCK"))}
    choices, choice = one_of(list(said))
    writes = order(config, "command_topic", "command_template", choices, lambda value: said[choice(value)])
    return Parts("text", fields, orders_of(value=writes))


def _fan(config: Json) -> Parts:
    parts = _switch({"value_template": config.get("state_value_template")} | config)
    lowest, highest = float(config.get("speed_range_min", 1)), float(config.get("speed_range_max", 100))
    scale = (highest - lowest + 1) / 100
    parts.fields += found(
        config, "percentage", "percentage_state_topic", "percentage_value_template", _scaled_by(1 / scale)
    )
    parts.fields += found(config, "preset_mode", "preset_mode_state_topic", "preset_mode_value_template", plain)
    presets, preset = one_of(choices_of(config, "preset_modes"))
    percent = {"type": "number", "minimum": 0, "maximum": 100}
    parts.orders |= orders_of(
        percentage=order(
            config, "percentage_command_topic", "percentage_command_template", percent, within(0, 100, scale)
        ),
        preset_mode=order(config, "preset_mode_command_topic", "preset_mode_command_template", presets, preset),
    )
    parts.optional = True
    return parts


def _climate(config: Json) -> Parts:
    fields = found(config, "value", "mode_state_topic", "mode_state_template", plain)
    fields += found(config, "temperature", "temperature_state_topic", "temperature_state_template", numeric)
    fields += found(config, "current_temperature", "current_temperature_topic", "current_temperature_template", numeric)
    fields += found(config, "action", "action_topic", "action_template", plain)
    fields += found(config, "preset_mode", "preset_mode_state_topic", "preset_mode_value_template", plain)
    fields += found(config, "fan_mode", "fan_mode_state_topic", "fan_mode_state_template", plain)
    modes, mode = one_of(choices_of(config, "modes", ("auto", "off", "cool", "heat", "dry", "fan_only")))
    presets, preset = one_of([*choices_of(config, "preset_modes"), "none"])
    fans, fan = one_of(choices_of(config, "fan_modes", ("auto", "low", "medium", "high")))
    degrees, degree = span(config, "min_temp", "max_temp", (7, 35))
    orders = orders_of(
        value=order(config, "mode_command_topic", "mode_command_template", modes, mode),
        temperature=order(config, "temperature_command_topic", "temperature_command_template", degrees, degree),
        preset_mode=order(config, "preset_mode_command_topic", "preset_mode_command_template", presets, preset),
        fan_mode=order(config, "fan_mode_command_topic", "fan_mode_command_template", fans, fan),
    )
    has_mode = any(each.name == "value" for each in fields)
    return Parts("text", fields, orders, has_mode, optional=True)


def _event(config: Json) -> Parts:
    read = reader(config, "value_template", plain)

    def happened(text: str) -> Any:
        said = read(text)
        try:
            value = json.loads(said) if isinstance(said, str) else None
        except ValueError:
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("event_type"), str):
            return UNREAD
        return {"value": value.pop("event_type"), **value}

    place = topic_of(config, "state_topic")
    return Parts("event", [Field("*", place, happened)] if place else [], is_event=True)


def _device_automation(config: Json) -> Parts:
    """A press of a remote control, announced once for each way to press."""
    read, wanted = reader(config, "value_template", plain), config.get("payload")

    def happened(text: str) -> Any:
        said = read(text)
        if wanted is not None and said != str(wanted):
            return UNREAD
        return {"value": str(config.get("subtype", said)), "type": str(config.get("type", ""))}

    place = topic_of(config, "topic")
    return Parts("event", [Field("*", place, happened)] if place else [], is_event=True)


def _scene(config: Json) -> Parts:
    payload = str(config.get("payload_on", "ON"))
    schema, word = one_of(["activate"])
    writes = order(config, "command_topic", "", schema, lambda value: word(value) and payload)
    return Parts("event", [], orders_of(value=writes), is_event=True)


def _scaled_by(factor: float) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        value = numeric(text)
        return UNREAD if value is UNREAD else round(value * factor)

    return convert


def _rgb(text: str) -> Any:
    parts = text.split(",")
    return (
        [int(each) for each in parts] if len(parts) == 3 and all(each.strip().isdigit() for each in parts) else UNREAD
    )


def _three(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("the value is a list of red, green and blue, 0 to 255")
    return [int(within(0, 255)(each)) for each in value]


def _colour(value: Any) -> str:
    if not isinstance(value, dict) or not value or not all(isinstance(each, int | float) for each in value.values()):
        raise ValueError('the value is a colour such as {"r": 255, "g": 0, "b": 0} or {"x": 0.3, "y": 0.3}')
    return json.dumps(value)


KINDS: dict[str, Callable[[Json], Parts]] = {
    "binary_sensor": _binary_sensor,
    "button": _button,
    "climate": _climate,
    "cover": _cover,
    "device_automation": _device_automation,
    "event": _event,
    "fan": _fan,
    "light": _light,
    "lock": _lock,
    "number": _number_entity,
    "scene": _scene,
    "select": _select,
    "sensor": _sensor,
    "siren": _siren,
    "switch": _switch,
    "text": _text_entity,
    "valve": _valve,
}
