"""Starting runs for people and programs: by hand, or as if a trigger had fired."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from appliance.contracts import Event, FlowError, decode
from appliance.engine.flow import TriggerSpec, parse
from appliance.gateway.answers import plain
from appliance.gateway.problems import Invalid
from appliance.gateway.routing import Call
from appliance.gateway.services import Gateway
from appliance.kernel.client import KernelAway
from appliance.store.errors import NotFound
from appliance.store.records import Flow, Version

MANUAL = "manual"


class Started(Struct, frozen=True, kw_only=True):
    """A run that was started; ``repeated`` says that the same request had started it before.

    After waiting, ``state`` and ``output`` or ``error`` tell how it ended; ``timeout`` that it still goes on.
    ``kernel`` is false if no kernel runs: the run is on disk, and begins when there is one.
    """

    run: str
    repeated: bool = False
    state: str | UnsetType = UNSET
    output: Any | UnsetType = UNSET
    error: Any | UnsetType = UNSET
    timeout: bool = False
    kernel: bool = True


def version_for(gateway: Gateway, flow: Flow, number: int | None) -> Version:
    """The version to run: the given one, else the live one, else the newest. Raises ``Invalid``, ``NotFound``."""
    wanted = number if number is not None else flow.live_number
    version = gateway.store.flows.numbered(flow.id, wanted)
    # What is live was checked when it was deployed; another may be a draft, or older than its nodes.
    if version.id != flow.live and (problems := gateway.book.problems(version.body, flow.id, flow.workspace)):
        raise Invalid(problems, f"version {version.number}")
    return version


def start_by_hand(call: Call[Any, Any], flow: Flow, given: Any, number: int | None, wait: float) -> Started:
    """Start a run with a payload that its manual trigger, if there is one, has checked."""
    version = version_for(call.gateway, flow, number)
    trigger = next((spec for spec in parse(version.body).triggers if spec.type == MANUAL), None)
    payload = given if trigger is None else accepted(call.gateway, trigger, given)
    event = Event(payload=payload, id=call.key, unique=bool(call.key), meta={"by": call.identity.label})
    return start(call, flow, version, trigger.id if trigger is not None else MANUAL, MANUAL, event, wait=wait)


def accepted(gateway: Gateway, trigger: TriggerSpec, given: Any) -> Any:
    """The payload as the trigger takes it from a person. Raises ``ConfigError``."""
    kind = gateway.registry.triggers[trigger.type]
    try:
        config = decode(kind.Config, trigger.config)
    except FlowError:
        return given  # templates in its config are only known to the kernel
    return kind.accept(config, given)


def find_trigger(version: Version, trigger: str) -> TriggerSpec:
    """A version's trigger. Raises ``NotFound``."""
    for spec in parse(version.body).triggers:
        if spec.id == trigger:
            return spec
    raise NotFound(f"version {version.number} has no trigger {trigger!r}")


def start(
    call: Call[Any, Any],
    flow: Flow,
    version: Version,
    trigger: str,
    kind: str,
    event: Event,
    *,
    wait: float = 0.0,
    starts_run: bool = True,
) -> Started:
    """Have the kernel start a run; without a kernel the run is put down for it."""
    gateway = call.gateway
    params = {
        "flow": flow.num,
        "version": version.id,
        "trigger": trigger,
        "kind": kind,
        "payload": event.payload,
        "id": event.id,
        "meta": event.meta,
        "unique": event.unique,
        "starts_run": starts_run,
        "wait": wait,
    }
    try:
        answer = gateway.call("submit", wait + 30.0, **params)
    except KernelAway as exc:
        # Without a key nobody could tell whether the kernel has taken it before it went away.
        if (exc.sent and not event.unique) or not starts_run:
            raise
        run = gateway.accept(flow.num, version.id, trigger, kind, event)
        return Started(run=run, kernel=False)
    if "state" in answer and not answer.get("timeout"):
        call.status = 200
    return Started(
        run=answer["run"],
        repeated=answer.get("repeated", False),
        state=answer.get("state", UNSET),
        output=plain(answer.get("output", UNSET)),
        error=plain(answer.get("error", UNSET)),
        timeout=answer.get("timeout", False),
    )
