"""Safe mode: whether the kernel rests, and the two switches."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from appliance.gateway.common import Body
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.kernel.client import KernelAway
from appliance.safemode import Rest, SafeMode

noun = Noun("safe_mode", "Whether the kernel rests, after crashes or because it was told to: nothing fires then.")


class SafeModeView(Struct, frozen=True, kw_only=True):
    """``since`` and ``until`` in Unix seconds; without ``until`` it lasts until somebody ends it."""

    on: bool
    since: float | None = None
    until: float | None = None
    reason: str = ""


class Wanted(Body, frozen=True):
    """On or off; ``cancel_runs`` ends what was under way when it is turned off."""

    on: bool
    cancel_runs: bool = False
    reason: Annotated[str, Meta(max_length=500, description="Shown on the health page")] = "turned on by hand"


@noun.get("/safe-mode", permission="health:read", anywhere=True)
def show(call: Call[Nothing, Nothing]) -> SafeModeView:
    """Whether safe mode is on, and why."""
    return _view(SafeMode(call.gateway.data).on())


@noun.put("/safe-mode", permission="engine:control", audit="safe_mode.set")
def switch(call: Call[Nothing, Wanted]) -> SafeModeView:
    """Turn it on, or off: then runs under way go on, and what was kept meanwhile is run."""
    call.note("on" if call.body.on else "off", reason=call.body.reason)
    safe = SafeMode(call.gateway.data)
    if not call.body.on:
        safe.leave(call.body.cancel_runs)
        return _view(None)
    rest = safe.enter(call.body.reason)
    try:
        call.gateway.call("rest")
    except KernelAway:
        pass  # it rests as soon as it begins
    return _view(rest)


def _view(rest: Rest | None) -> SafeModeView:
    if rest is None:
        return SafeModeView(on=False)
    return SafeModeView(on=True, since=rest.since, until=rest.until, reason=rest.reason)
