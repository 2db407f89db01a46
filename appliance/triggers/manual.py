"""Started by a person, the command line or the API, with a form of declared inputs.

Each input has a name and a type (`string`, `number`, `boolean`, `choice`, `text`); what is missing gets its default,
what does not fit is refused. The payload is an object of the inputs. Without inputs any JSON may be given.

    {"inputs": [{"name": "room", "type": "choice", "choices": ["kitchen", "hall"], "required": true}]}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from appliance.contracts import Config, ConfigError, Problem, Trigger, TriggerContext, World, decode


class Input(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One field of the form."""

    name: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="The name in the payload")]
    type: Annotated[Literal["string", "number", "boolean", "choice", "text"], Meta(description="What may be given")] = (
        "string"
    )
    title: Annotated[str, Meta(max_length=120, description="The label in the form")] = ""
    required: Annotated[bool, Meta(description="Must be given")] = False
    default: Annotated[Any, Meta(description="Used when nothing is given")] = None
    choices: Annotated[list[str], Meta(max_length=200, description="What can be chosen (type `choice`)")] = []


class ManualConfig(Config, frozen=True):
    inputs: Annotated[list[Input], Meta(max_length=50, description="The form's fields")] = []


_TYPES: dict[str, tuple[type, ...]] = {"number": (int, float), "boolean": (bool,)}


class Manual(Trigger[ManualConfig]):
    Config = ManualConfig
    title = "Manual"
    icon = "play"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        try:
            inputs = decode(ManualConfig, config).inputs
        except ConfigError:  # a template in a place where only its value will fit
            return
        seen: set[str] = set()
        for index, field in enumerate(inputs):
            if field.name in seen:
                yield Problem(f"inputs[{index}].name", f"{field.name!r} is declared twice")
            seen.add(field.name)
            if field.type == "choice" and not field.choices:
                yield Problem(f"inputs[{index}].choices", "a choice needs something to choose from")
            elif field.default is not None and (fault := _misfit(field, field.default)):
                yield Problem(f"inputs[{index}].default", fault)

    def attach(self, ctx: TriggerContext, config: ManualConfig) -> Callable[[], None]:
        return lambda: None

    def accept(self, config: ManualConfig, payload: Any) -> Any:
        return validate_inputs(config, payload)


def validate_inputs(config: ManualConfig, values: Any) -> Any:
    """The payload for what a person has given; anything if no inputs are declared.

    Raises ``ConfigError`` naming the field.
    """
    if not config.inputs:
        return values
    given = {} if values is None else values
    if not isinstance(given, dict):
        raise ConfigError("input: must be an object with the declared inputs")
    unknown = sorted(set(given) - {field.name for field in config.inputs})
    if unknown:
        known = ", ".join(field.name for field in config.inputs)
        raise ConfigError(f"input.{unknown[0]}: is not declared; there are {known}")
    return {field.name: _value(field, given.get(field.name)) for field in config.inputs}


def _value(field: Input, value: Any) -> Any:
    if value is None:
        value = field.default
    if value is None or (field.required and value == ""):
        if field.required:
            raise ConfigError(f"input.{field.name}: is required")
        return value
    if fault := _misfit(field, value):
        raise ConfigError(f"input.{field.name}: {fault}")
    return value


def _misfit(field: Input, value: Any) -> str:
    """Why a value is not one of this field, or nothing."""
    if not isinstance(value, _TYPES.get(field.type, (str,))) or (field.type == "number" and isinstance(value, bool)):
        return f"must be a {field.type}"
    if field.type == "choice" and value not in field.choices:
        return f"must be one of {', '.join(field.choices)}"
    return ""
