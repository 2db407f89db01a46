"""Models of this machine: their files, the engine that runs them, what could be fetched and what is on its way."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.ai.building import place
from appliance.ai.building.place import Complete, Setup
from appliance.ai.library.cards import ModelView
from appliance.ai.library.catalogue import CatalogueEntry
from appliance.ai.library.jobs import Job
from appliance.ai.library.orders import Order
from appliance.gateway.common import Body, Query
from appliance.gateway.routing import Call, Nothing, Noun

noun = Noun(
    "models",
    "Models of this machine: their files, the engine that runs them, the catalogue, and what is being fetched. They "
    "belong to the engine, not to a workspace. Live events of type `models` tell how `setup` and each `pull` go.",
)

ModelName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,255}$", description="A model's name")]
PullId = Annotated[str, Meta(pattern="^[0-9a-f]{12}$", description="A pull's id")]


class Listed(Struct, frozen=True, kw_only=True):
    """The models that are here. `loaded` are those in memory, with what the model host says of them (none if it does
    not run); `default` and `embed` are taken where a step names none; `engine` runs them, if it was made.
    """

    items: list[ModelView]
    loaded: list[Any]
    default: list[str]
    embed: str
    engine: Complete | None


class All(Struct, frozen=True):
    """The whole catalogue."""

    items: list[CatalogueEntry]


class SetupView(Struct, frozen=True, kw_only=True):
    """The engine that was made for this machine, if there is one, and how making it goes or went; `wanted` is the
    setting `models_setup`.
    """

    engine: Complete | None
    setup: Setup
    wanted: str


class Recommended(Struct, frozen=True):
    """The machine, and every model that could be here, the best for it first."""

    machine: Any
    items: list[Any]


class Pulls(Struct, frozen=True):
    """What is on its way, what waits, and what ended lately."""

    items: list[Job]


class What(Body, frozen=True):
    """A model: NAME or NAME:QUANTIZATION of the catalogue, or an address of a GGUF file."""

    model: Annotated[str, Meta(min_length=1, max_length=2000, description="What to fetch")]
    name: Annotated[str, Meta(max_length=100, description="What it is called here")] = ""
    sha256: Annotated[str, Meta(max_length=64, description="The checksum that it must have")] = ""
    projector: Annotated[str, Meta(max_length=2000, description="Address of what makes it see pictures")] = ""


class Begin(Body, frozen=True):
    """How to make the engine."""

    again: Annotated[bool, Meta(description="Anew, though it is there")] = False
    portable: Annotated[bool, Meta(description="For other machines of this kind too; slower")] = False


class Chosen(Body, frozen=True):
    """Which model."""

    model: ModelName


@noun.get("/models", permission="models:read", anywhere=True)
def list_models(call: Call[Query, Nothing]) -> Listed:
    """The models that are here, with what is known of each. The model host is not started for it."""
    from appliance.ai.library import cards, host

    gateway, settings = call.gateway, call.gateway.settings
    stats = host.stats(gateway.data)
    return Listed(
        items=cards.all_models(gateway.data),
        loaded=stats["models"] if stats else [],
        default=list(settings.model_default),
        embed=settings.model_embed,
        engine=place.engine_facts(gateway.data),
    )


@noun.get("/models/catalogue", permission="models:read", anywhere=True, errors=(422,))
def list_catalogue(call: Call[Query, Nothing]) -> All:
    """Small open models that can be fetched by name, with sizes and licences. Nothing is fetched unasked."""
    from appliance.ai.library.catalogue import catalogue

    return All(list(catalogue(call.gateway.data).values()))


@noun.get("/models/recommendations", permission="models:read", anywhere=True, errors=(422,))
def recommend(call: Call[Query, Nothing]) -> Recommended:
    """What this machine can run and how fast it will be; its memory is measured for it, which takes half a second."""
    from appliance.ai.library import advice

    gateway = call.gateway
    machine = advice.look(gateway.data, gateway.settings.models_memory_mb * 1_000_000)
    return Recommended(machine, list(advice.recommend(gateway.data, machine)))


@noun.get("/models/setup", permission="models:read", anywhere=True)
def show_setup(call: Call[Query, Nothing]) -> SetupView:
    """The engine for models, and how making it goes."""
    gateway = call.gateway
    return SetupView(
        engine=place.engine_facts(gateway.data),
        setup=place.read_state(gateway.data),
        wanted=gateway.settings.models_setup,
    )


@noun.post("/models/setup", permission="models:manage", errors=(422, 429, 503), audit="models.setup")
def begin_setup(call: Call[Query, Begin]) -> None:
    """Make the engine in the background; it goes on where it was cut off. It is kept up to date from then on."""
    gateway = call.gateway
    gateway.call("model_setup", again=call.body.again, portable=call.body.portable)
    if gateway.settings.models_setup != "on":
        gateway.store.settings.set({"models_setup": "on"})
        gateway.changes.forget()


@noun.delete("/models/setup", permission="models:manage", errors=(503,), audit="models.setup.cancel")
def cancel_setup(call: Call[Query, Nothing]) -> None:
    """End making the engine. What was made of it is kept for the next time."""
    call.gateway.call("model_setup_cancel")


@noun.post(
    "/models/offers",
    permission="models:manage",
    errors=(404, 422, 502),
    unaudited="it only asks a source for the size of a file",
)
def look(call: Call[Query, What]) -> Order:
    """What would be fetched: size, licence, checksum, room on the disk, to be agreed to. Its source is asked."""
    from appliance.ai.library.pull import order_of

    asked = call.body
    return order_of(call.gateway.data, asked.model, name=asked.name, sha256=asked.sha256, projector=asked.projector)


@noun.get("/models/pulls", permission="models:read", anywhere=True, errors=(503,))
def list_pulls(call: Call[Query, Nothing]) -> Pulls:
    """What is being fetched."""
    return Pulls(msgspec.convert(call.gateway.call("model_jobs")["pulls"], list[Job]))


@noun.post(
    "/models/pulls", permission="models:manage", status=201, errors=(404, 409, 422, 503, 507), audit="models.pull"
)
def begin_pull(call: Call[Query, What]) -> Job:
    """Fetch a model in the background, behind those that came before; it goes on after a restart of the engine."""
    from appliance.ai.library.pull import order_of

    asked = call.body
    order = order_of(
        call.gateway.data, asked.model, name=asked.name, sha256=asked.sha256, projector=asked.projector, ask=False
    )
    call.note(order.name, source=order.source)
    return msgspec.convert(call.gateway.call("model_pull", order=msgspec.to_builtins(order)), Job)


@noun.delete("/models/pulls/{pull}", permission="models:manage", errors=(404, 503), audit="models.cancel")
def cancel_pull(call: Call[Query, Nothing], pull: PullId) -> None:
    """End a pull and forget what has come."""
    call.note(pull)
    call.gateway.call("model_pull_cancel", id=pull)


@noun.put("/models/default", permission="models:manage", errors=(404, 422), audit="models.default")
def set_default(call: Call[Query, Chosen]) -> None:
    """Take a model where a step names none: for texts, or for vectors if it makes these."""
    from appliance.ai.library import cards

    view = cards.view(cards.find(call.gateway.data, call.body.model))
    call.note(view.name)
    call.gateway.store.settings.set(cards.as_default(view))
    call.after.append(call.gateway.reload)


@noun.get("/models/{model}", permission="models:read", anywhere=True, errors=(404,), etag=True)
def show(call: Call[Query, Nothing], model: ModelName) -> ModelView:
    """One model."""
    from appliance.ai.library import cards

    return cards.view(cards.find(call.gateway.data, model))


@noun.delete("/models/{model}", permission="models:manage", errors=(404,), audit="models.remove")
def remove(call: Call[Query, Nothing], model: ModelName) -> None:
    """Delete a model from the disk. A step that runs on it goes on to its end."""
    from appliance.ai.library import cards

    call.note(model, bytes=cards.remove(call.gateway.data, model))
