"""Upstreams: other places with models that this engine may ask, by name; kept in the setting ``model_upstreams``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.ai.gateway.names import Entry, Upstreams, read
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.errors import NotFound

noun = Noun("upstreams", "Other places with models that this engine may ask: any server with the OpenAI API.")

SETTING = "model_upstreams"
UpstreamName = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,39}$", description="An upstream's name")]


class UpstreamView(Struct, frozen=True, kw_only=True):
    """An upstream as it is set up. `place` is the host that sees what it is asked, empty for this machine; `error` says
    why it cannot be used.
    """

    name: str
    upstream: dict[str, Any]
    place: str
    error: str


class AllUpstreams(Struct, frozen=True):
    """All that are set up. `providers` are the kinds that there are, each with the JSON Schema of its config; `schema`
    is that of the rest. `overruled`: the environment sets them, and changes here count for nothing.
    """

    items: list[UpstreamView]
    providers: dict[str, Any]
    schema: dict[str, Any]
    overruled: bool


class TriedUpstream(Struct, frozen=True, kw_only=True):
    """What an upstream answered when it was asked for its models; `error` instead, if it did not."""

    ok: bool
    models: list[str]
    error: str
    seconds: float


@noun.get("/upstreams", permission="settings:read", etag=True)
def list_upstreams(call: Call[Nothing, Nothing]) -> AllUpstreams:
    """All upstreams, and what one is made of."""
    kinds = {name: kind for name, kind in call.gateway.registry.providers.items() if not kind.builtin}
    providers = {
        name: {"title": kind.title, "schema": msgspec.json.schema(kind.Config)} for name, kind in kinds.items()
    }
    source = next(one.source for one in call.gateway.store.settings.describe() if one.name == SETTING)
    return AllUpstreams(_views(call), providers, msgspec.json.schema(Entry), source == "environment")


@noun.put("/upstreams/{name}", permission="settings:write", audit="upstream.set", atomic=True)
def save(call: Call[Nothing, Entry], name: UpstreamName) -> UpstreamView:
    """Set an upstream up, or change it. Keys are secrets of the default workspace, and go in by their names."""
    given = {field: value for field, value in msgspec.to_builtins(call.body).items() if value is not None}
    read(call.gateway.registry.providers, name, given)
    call.note(name, upstream=given)
    _store(call, {**_raw(call), name: given})
    return next(view for view in _views(call) if view.name == name)


@noun.delete("/upstreams/{name}", permission="settings:write", errors=(404,), audit="upstream.delete", atomic=True)
def delete(call: Call[Nothing, Nothing], name: UpstreamName) -> None:
    """Forget an upstream. Steps that name its models pass it over, or fail."""
    raw = _raw(call)
    if name not in raw:
        raise NotFound(f"there is no upstream {name!r}")
    call.note(name)
    _store(call, {other: entry for other, entry in raw.items() if other != name})


@noun.post("/upstreams/{name}/try", permission="settings:write", errors=(404, 503), unaudited="changes nothing")
def try_(call: Call[Nothing, Nothing], name: UpstreamName) -> TriedUpstream:
    """Ask an upstream for its models: whether its address and key are right."""
    if name not in _raw(call):
        raise NotFound(f"there is no upstream {name!r}")
    (told,) = call.gateway.call("model_list", 40.0, upstream=name) or [{"error": "the kernel does not know it yet"}]
    models = [model["name"] for model in told.get("models", ())]
    error = told.get("error", "")
    return TriedUpstream(ok=not error, models=models, error=error, seconds=told.get("seconds", 0.0))


def _raw(call: Call[Any, Any]) -> dict[str, Any]:
    return dict(call.gateway.store.settings.load().model_upstreams)


def _store(call: Call[Any, Any], raw: dict[str, Any]) -> None:
    call.gateway.store.settings.set({SETTING: raw})
    call.after.append(call.gateway.reload)


def _views(call: Call[Any, Any]) -> list[UpstreamView]:
    raw = _raw(call)
    found = Upstreams(call.gateway.registry.providers, raw)
    return [
        UpstreamView(
            name=name,
            upstream=entry,
            place=found.known[name].place if name in found.known else "",
            error=found.broken.get(name, ""),
        )
        for name, entry in sorted(raw.items())
    ]
