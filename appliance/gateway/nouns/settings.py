"""Settings of the engine."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.gateway.common import Body
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.settings import schema
from appliance.store.settings_store import Setting

noun = Noun("settings", "What an admin of the whole engine can set. The environment (`FLOWORK_…`) goes before.")

SettingName = Annotated[str, Meta(pattern="^[a-z_]{1,64}$", description="A setting's name")]


class AllSettings(Struct, frozen=True):
    """Every setting with where its value comes from, and the JSON Schema of them all."""

    settings: list[Setting]
    schema: dict[str, Any]


class NewSettings(Body, frozen=True):
    """New values by name, kept all or none."""

    values: Annotated[dict[str, Any], Meta(min_length=1, max_length=100)]


@noun.get("/settings", permission="settings:read", etag=True)
def show(call: Call[Nothing, Nothing]) -> AllSettings:
    """All settings."""
    return _all(call)


@noun.patch("/settings", permission="settings:write", errors=(404,), audit="settings.set", atomic=True)
def change(call: Call[Nothing, NewSettings]) -> AllSettings:
    """Change settings. Those with `x-flowork-restart` in the schema hold from the next start on."""
    call.note(", ".join(sorted(call.body.values)), values=call.body.values)
    call.gateway.store.settings.set(call.body.values)
    call.after.append(call.gateway.reload)
    return _all(call)


@noun.delete("/settings/{name}", permission="settings:write", errors=(404,), audit="settings.reset", atomic=True)
def reset(call: Call[Nothing, Nothing], name: SettingName) -> None:
    """Go back to a setting's default."""
    call.note(name)
    call.gateway.store.settings.reset(name)
    call.after.append(call.gateway.reload)


def _all(call: Call[Nothing, Any]) -> AllSettings:
    return AllSettings(call.gateway.store.settings.describe(), schema())
