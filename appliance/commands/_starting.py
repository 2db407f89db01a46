"""Starting a run by hand: which version, as which trigger, and whether what was given fits its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from appliance.commands._session import Session
from appliance.contracts import ConfigError, Trigger, decode
from appliance.engine.validate import validate
from appliance.flowbook import InvalidFlow
from appliance.store.errors import NotFound
from appliance.store.names import slug
from appliance.world import Machine

if TYPE_CHECKING:
    from appliance.store.metadata import Store
    from appliance.store.records import Flow, Version

MANUAL = "manual"


class Start(Struct, frozen=True):
    """What the kernel is told beside the flow."""

    trigger: str
    kind: str
    payload: Any
    starts_run: bool = True
    meta: dict[str, Any] = {}


def version_for(session: Session, flow_id: str, number: int | None) -> tuple[Flow, Version]:
    """The version to run: the given one, else the live one, else the newest. Raises ``InvalidFlow``, ``NotFound``."""
    flow = session.store.flows.get(flow_id)
    version = session.store.flows.numbered(flow_id, number if number is not None else flow.live_number)
    # What is live was checked when it was deployed; another may be a draft, or older than its nodes.
    if version.id != flow.live and (problems := session.book.problems(version.body, flow_id, flow.workspace)):
        raise InvalidFlow(problems)
    return flow, version


def by_hand(body: Mapping[str, Any], kinds: Mapping[str, Trigger[Any]], trigger: str, payload: Any) -> Start:
    """A start as if ``trigger`` had fired; without one, by the flow's manual trigger if it has one.

    Raises ``NotFound``, and ``ConfigError`` for a payload that does not fit the trigger's declared inputs.
    """
    specs = [spec for spec in body.get("triggers") or [] if isinstance(spec, dict)]
    if trigger:
        found = next((spec for spec in specs if spec.get("id") == trigger), None)
        if found is None:
            names = ", ".join(str(spec.get("id")) for spec in specs) or "none"
            raise NotFound(f"the flow has no trigger {trigger!r}; it has: {names}")
    else:
        found = next((spec for spec in specs if spec.get("type") == MANUAL and not spec.get("disabled")), None)
    if found is None:
        return Start(MANUAL, MANUAL, payload)
    kind = kinds.get(str(found.get("type")))
    if kind is not None:
        payload = _accepted(kind, found.get("config", {}), payload)
    return Start(str(found.get("id")), str(found.get("type")), payload, bool(found.get("starts_runs", True)))


def _accepted(kind: Trigger[Any], config: Mapping[str, Any], payload: Any) -> Any:
    try:
        decoded = decode(kind.Config, config)
    except ConfigError:
        return payload  # a template where only its value fits: known once it is attached
    return kind.accept(decoded, payload)


def submission(session: Session, flow: Flow, version: Version, start: Start) -> dict[str, Any]:
    """The parameters of the kernel's ``submit``."""
    return {
        "flow": flow.num,
        "version": version.id,
        "trigger": start.trigger,
        "kind": start.kind,
        "payload": start.payload,
        "meta": {**start.meta, "by": session.identity.label},
        "starts_run": start.starts_run,
    }


def put_alone(session: Session, store: Store, body: dict[str, Any], workspace: str) -> tuple[Flow, Version]:
    """Put a file's flow into a scratch engine, in the place of the flow that has its id. Raises ``InvalidFlow``."""
    wanted = slug(str(body.get("name", "")))
    known = {flow.id for flow, _ in store.flows.live() if flow.workspace == workspace} | {wanted}
    if problems := validate(body, session.registry, Machine(known.__contains__)):
        raise InvalidFlow(problems)
    by = session.identity.label
    try:
        store.flows.delete(wanted, by)
    except NotFound:
        pass
    # It is gone in a moment: nothing of it needs to survive a power cut.
    store.settings.set({"durability": "process"})
    version = store.flows.save(wanted, workspace, body, by)
    return store.flows.deploy(wanted, version.number, by), version
