"""JSON out of a model's words: read, compared with its schema, and how to ask again when it does not fit.

A local model is bound by a grammar and always fits; a cloud model may ignore what it was asked for.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import msgspec

from appliance.contracts import ConfigError

#: Times that a model is asked for JSON that fits, in all.
TRIES = 3
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)
_SHOWN = 200


class Unfit(Exception):
    """A text that holds no value of the schema; the message says what is wrong, for the model to read."""


def value_of(text: str, schema: dict[str, Any]) -> Any:
    """The JSON value in a model's text. Raises ``Unfit``, and ``ConfigError`` for a schema that is none."""
    value = _parsed(text)
    check = _validator(msgspec.json.encode(schema, order="sorted"))
    faults = [f"{'/'.join(map(str, error.instance_path)) or 'the value'}: {error.message}" for error in check(value)]
    if faults:
        raise Unfit("; ".join(fault[:_SHOWN] for fault in faults[:3]))
    return value


def ask_again(text: str, fault: str, schema: dict[str, Any]) -> list[dict[str, Any]]:
    """What is added to the messages for another try."""
    wanted = msgspec.json.encode(schema).decode()
    words = (
        f"That is not right: {fault}. Answer again with one JSON value that fits this JSON Schema, "
        f"and with nothing else:\n{wanted}"
    )
    return [{"role": "assistant", "content": text}, {"role": "user", "content": words}]


def _parsed(text: str) -> Any:
    """The whole text as JSON, or what stands in a code fence, or the first object or list in it."""
    fenced = _FENCE.search(text)
    for candidate in (text, fenced[1] if fenced else ""):
        try:
            return msgspec.json.decode(candidate.strip())
        except (msgspec.DecodeError, RecursionError):
            continue
    start = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=-1)
    if start < 0:
        raise Unfit("it holds no JSON")
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except (ValueError, RecursionError) as exc:
        raise Unfit(f"it is not valid JSON ({exc})") from None


@lru_cache(maxsize=32)
def _validator(schema: bytes) -> Any:
    import jsonschema_rs

    try:
        # Offline: a `$ref` must not fetch what its author cannot. Patterns take linear time, whoever wrote them.
        linear = jsonschema_rs.RegexOptions()
        checker = jsonschema_rs.validator_for(msgspec.json.decode(schema), offline=True, pattern_options=linear)
    except ValueError as exc:
        raise ConfigError(f"schema: is no JSON Schema: {str(exc).partition(chr(10))[0]}") from None
    return checker.iter_errors
