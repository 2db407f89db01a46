"""Reading the parameters of a call to the kernel."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.kernel.maintenance import Unknown
from appliance.kernel.server import BadRequest, Params
from appliance.store.runids import from_text

T = TypeVar("T", bound=Struct)


class NotNow(FlowError):
    """The run or step is not in a state in which that can be done."""

    id = "conflict"
    retryable = False


def arguments(params: Params, form: type[T]) -> T:
    """The parameters of a call, checked. Raises ``BadRequest``."""
    try:
        return msgspec.convert(params, form)
    except msgspec.ValidationError as exc:
        raise BadRequest(str(exc)) from None


def text(params: Params, name: str, default: str | None = None) -> str:
    """A parameter that is text. Raises ``BadRequest``."""
    value = params[name] if default is None else params.get(name) or default
    if not isinstance(value, str):
        raise BadRequest(f"the parameter {name!r} must be text")
    return value


def run_number(params: Params) -> int:
    try:
        return from_text(text(params, "run"))
    except ValueError as exc:
        raise Unknown(str(exc)) from None
