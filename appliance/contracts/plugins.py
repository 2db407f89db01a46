"""Nodes and triggers: what one is, what it receives, what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol

from msgspec import Struct

from appliance.contracts.config import C, Config, Problem
from appliance.contracts.devices import Devices
from appliance.contracts.engines import Engines
from appliance.contracts.errors import FlowError
from appliance.contracts.memory import Memory
from appliance.contracts.models import Models
from appliance.contracts.overview import Overview
from appliance.contracts.results import Effect, Result, Wake
from appliance.contracts.services import Blobs, Files, Http, Mqtt, Sandbox, State
from appliance.contracts.workshop import Workshop


class Context(Protocol):
    """What a node receives beside its config and payload."""

    @property
    def flow(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def step(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def deadline(self) -> float:
        """Seconds that this attempt may take."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this step, also after a crash."""

    @property
    def event(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, Any]:
        """What came in over each edge that fired, by the id of the node it came from."""

    @property
    def state(self) -> State: ...
    @property
    def http(self) -> Http: ...
    @property
    def mqtt(self) -> Mqtt: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def sandbox(self) -> Sandbox: ...
    @property
    def files(self) -> Files: ...
    @property
    def blobs(self) -> Blobs: ...
    @property
    def models(self) -> Models: ...
    @property
    def memory(self) -> Memory: ...
    @property
    def overview(self) -> Overview: ...
    @property
    def workshop(self) -> Workshop: ...
    @property
    def engines(self) -> Engines: ...

    def now(self) -> float:
        """Unix seconds, UTC."""

    def eval(self, expression: str, payload: Any = ..., **names: Any) -> Any:
        """The value of an :data:`Expression`; other payload or extra names if given."""

    def log(self, message: str, level: str = "info") -> None:
        """A line kept with the step."""

    def stream(self, text: str) -> None:
        """A piece of the output as it comes, shown to whoever watches the run; not kept. Safe from any thread."""

    def signal(self, name: str, value: Any = None) -> None:
        """Wake the parked steps of this flow that wait for ``name``, with this step's commit."""

    def on_cancel(self, abort: Callable[[], None]) -> None:
        """For blocking nodes: how to end the work now (timeout, cancel). Called at most once."""


class World(Protocol):
    """What :meth:`Node.check` may ask about this machine and engine while a flow is being saved."""

    def languages(self) -> Mapping[str, str]: ...
    def has_program(self, name: str) -> bool: ...
    def has_module(self, name: str) -> bool: ...

    def confined(self) -> bool:
        """Scripts can be kept from files and network here (bubblewrap is installed and works)."""

    def flow_exists(self, flow: str) -> bool: ...

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        """What is wrong with a driver's config (as saved) on an agent, in words; empty if nothing is known to be."""

    def model_fault(self, name: str) -> str:
        """What is wrong with a model's name, in words; empty if nothing is known to be."""

    def model_places(self, names: Sequence[str], kind: str) -> Sequence[str]:
        """Hosts that see what these models are asked (none: the default ones of this ``kind``); none for this machine.

        ``?`` stands for what a template names: only a run can tell.
        """

    def schema_fault(self, schema: Any, names: Sequence[str]) -> str:
        """Why a model of an engine, if one may be asked under these names (none: the default ones), cannot be held to
        a JSON Schema; empty if it can.
        """


class Node(Generic[C]):
    """One kind of step. Subclass it in a file of its own; one instance serves all runs (keep no state)."""

    Config: ClassVar[type[Config]] = Config
    title: ClassVar[str] = ""
    category: ClassVar[str] = "logic"
    icon: ClassVar[str] = "box"
    effect: ClassVar[Effect] = Effect.PURE
    ports: ClassVar[tuple[str, ...]] = ("out",)
    #: ``run`` takes microseconds and blocks on nothing: it is called on the engine's own thread.
    inline: ClassVar[bool] = False
    #: The config has a ``body`` (nodes and edges) that :class:`Spawn` runs per item.
    has_body: ClassVar[bool] = False
    #: Fields of the config that name models (one, or a list), and of which kind: ``language`` or ``embed``.
    model_fields: ClassVar[Mapping[str, str]] = {}

    def ports_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Ports of a node with this config (as saved, templates not rendered); ``error`` is always there."""
        return self.ports

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        """The effect with this config (as saved, templates not rendered)."""
        return self.effect

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        """Faults that the types cannot express, found on save."""
        return ()

    def sends_to(self, config: Mapping[str, Any], world: World) -> Iterable[str]:
        """Hosts that see what a step with this config (as saved) works on, because it asks models there."""
        return dict.fromkeys(
            place
            for field, kind in self.model_fields.items()
            for place in world.model_places(names_in(config.get(field)), kind)
        )

    def schemas(self, config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
        """The JSON Schemas in a config (as saved) by which the models that it asks answer, each with its place."""
        return ()

    def run(self, ctx: Context, config: C, payload: Any) -> Result:
        """Do the work. Plain ``def`` (a thread, unless ``inline``) or ``async def``."""
        raise NotImplementedError

    def resume(self, ctx: Context, config: C, payload: Any, wake: Wake) -> Result:
        """Go on after a :class:`Park` or :class:`Spawn`."""
        return payload


def names_in(value: Any) -> list[str]:
    """The names of models in a field of a config as saved: one, or a list of them."""
    found = value if isinstance(value, list) else [value]
    return [name for name in found if isinstance(name, str) and name.strip()]


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened.

    ``id`` makes delivery idempotent: with ``unique`` it is remembered and starts one run at most;
    with ``redelivered`` (a source that marks its repetitions) the trigger's recent runs are searched.
    ``meta`` is what templates see as ``event`` beside id, time, type and trigger. ``cursor`` (JSON) is
    stored with the run, in one transaction, and is ``TriggerContext.cursor`` from then on.
    """

    payload: Any = None
    id: str = ""
    meta: dict[str, Any] = {}
    time: float | None = None
    unique: bool = False
    redelivered: bool = False
    cursor: Any = None


class RunEnded(Struct, frozen=True):
    """A run that has just ended: ``state`` is succeeded, failed, dead or cancelled.

    ``meta`` is the ``Event.meta`` that had started it.
    """

    flow: str
    run: str
    state: str
    output: Any
    error: Any
    meta: Mapping[str, Any] = {}


Committed = Callable[[str], None]


class TriggerContext(Protocol):
    """What a trigger receives. All methods are safe from any thread.

    ``starting`` is true when the trigger is attached because the engine came up, not by a deploy.
    """

    @property
    def flow(self) -> str: ...
    @property
    def trigger(self) -> str: ...
    @property
    def cursor(self) -> Any:
        """The last committed :attr:`Event.cursor` of this trigger."""

    @property
    def starting(self) -> bool: ...
    @property
    def mqtt(self) -> Mqtt: ...
    @property
    def devices(self) -> Devices: ...

    def emit(self, event: Event, committed: Committed | None = None) -> None:
        """Start a run. ``committed(run_id)`` is called once it is on disk. Raises ``Busy`` past the bound."""

    def emit_many(self, events: Sequence[tuple[Event, Committed | None]]) -> None:
        """The same for a batch, all or none."""

    def dead_letter(self, event: Event, reason: str, committed: Committed | None = None) -> None:
        """Keep an event that no run can be made of (a poison message)."""

    def now(self) -> float: ...

    def clock_ok(self) -> bool:
        """False until the system clock is known to be right."""

    def call_at(self, when: float, function: Callable[[], None]) -> Callable[[], None]:
        """Call once at Unix second ``when`` (UTC); returns the cancel."""

    def on_run_ended(self, function: Callable[[RunEnded], None]) -> Callable[[], None]:
        """Called before the end of a run is committed; what is emitted then is committed with it."""

    def on_peer_event(self, wants: Callable[[str, str], bool]) -> Callable[[], None]:
        """Start a run for each event of a paired engine that is wanted (by the engine's name and the topic)."""

    def status(self, ok: bool | None, text: str) -> None:
        """Shown in the health page and the flow list. ``ok`` is None for what is only on its way (``connecting``)."""


class Trigger(Generic[C]):
    """One kind of run starter."""

    Config: ClassVar[type[Config]] = Config
    title: ClassVar[str] = ""
    icon: ClassVar[str] = "bolt"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        """Faults that the types cannot express, found on save."""
        return ()

    def attach(self, ctx: TriggerContext, config: C) -> Callable[[], None]:
        """Start listening; returns the detach (calling it twice is fine). Raising is shown and retried."""
        raise NotImplementedError

    def accept(self, config: C, payload: Any) -> Any:
        """The payload of an event that a person gives by hand. Raises ``ConfigError`` naming the field."""
        return payload

    def next_times(self, config: C, now: float, count: int = 5) -> list[float]:
        """The next moments it fires (Unix seconds), if that can be known."""
        return []


class WebRequest(Struct, frozen=True):
    """An HTTP request as a web trigger sees it; header names are lower case."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    remote: str


class WebRefusal(FlowError):
    """A web trigger's refusal; ``status`` is the HTTP status."""

    id = "refused"
    retryable = False

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WebTrigger(Trigger[C]):
    """A trigger whose events arrive over HTTP at ``/hooks/<path>``, received by the gateway."""

    def path(self, config: C) -> str:
        raise NotImplementedError

    def receive(self, config: C, request: WebRequest) -> Event:
        """The event of a request. Raises ``WebRefusal``."""
        raise NotImplementedError

    def wait(self, config: C) -> float:
        """Seconds the caller is kept waiting for the result; 0 answers at once with the run id."""
        return 0.0


def driver_faults(raw: Mapping[str, Any], driver: str, names: tuple[str, ...], world: World) -> Iterable[Problem]:
    """What a driver or the list of agents has against a config as saved."""
    config = {name: raw[name] for name in names if name in raw} | dict(raw.get("options", {}))
    if fault := world.device_fault(raw.get("agent", ""), driver, config):
        yield Problem("agent" if fault.startswith("there is no agent") else "", fault)
