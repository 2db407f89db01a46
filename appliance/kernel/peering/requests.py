"""What a peer is sent to do a step: the node, its filled-in config, what came in, and what its expressions read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from appliance.contracts import NodeError
from appliance.engine import configs, expressions, trace
from appliance.kernel.context import steps_view
from appliance.kernel.peering import wire
from appliance.kernel.peering.away import Away
from appliance.security.scrub import Scrubber

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine

#: Bytes of a request at most: a link takes 3 MB in one message.
LARGEST = 2_500_000


def request_for(engine: Engine, away: Away) -> dict[str, Any]:
    """The body of ``step``, for a step whose config is rendered. Raises ``NodeError``."""
    run, node, flight = away.run, away.run.node(away.index), away.flight
    assert flight.ctx is not None
    blobs = engine.services.blobs
    names = _names(engine, away)
    spec = msgspec.to_builtins(node.spec)
    sources = list(run.walk.inputs_of(away.index))
    body = {
        "id": away.request,
        "key": flight.ctx.idempotency_key,
        "node": {name: spec[name] for name in ("id", "type", "name", "config", "timeout")},
        "config": away.config,
        "payload": wire.light(flight.payload, blobs),
        "sources": sources if len(sources) > 1 else [],
        "event": run.event,
        "names": wire.light(names, blobs) if names else {},
        "workspace": run.flow.workspace,
        "flow": run.flow.name,
        "run": run.text,
        "attempt": away.attempt,
    }
    if "secrets" in _read(away):
        # Not among the names: what is large goes as a blob, and no blob holds a secret.
        body["secrets"] = dict(engine.services.secrets.get(run.flow.workspace, {}))
    packed = trace.pack(body)
    if len(packed) > LARGEST:
        raise NodeError(
            f"{len(packed):,} bytes are too many for a peer; put what is large into a blob", retryable=False
        )
    body["hide"] = _hidden(engine, run.flow.workspace, packed)
    return body


def _read(away: Away) -> set[str]:
    """The names that the node's own expressions read; templates are filled in already."""
    node, wanted = away.run.node(away.index), set[str]()
    for _, source, kind, _ in configs.texts(node.kind.Config, node.spec.config):
        if kind == "expression":
            wanted |= expressions.expression(source).names
    return wanted


def _names(engine: Engine, away: Away) -> dict[str, Any]:
    run, services, wanted = away.run, engine.services, _read(away)
    found: dict[str, Any] = {}
    if "steps" in wanted:
        found["steps"] = steps_view(run.walk)
    if "vars" in wanted:
        found["vars"] = dict(services.variables.get(run.flow.workspace, {}))
    if "state" in wanted:
        found["state"] = {k: v for k, v in services.states.of(run.flow.num).items() if not k.startswith("@")}
    if "run" in wanted:
        found["run"] = {"id": run.text, "flow": run.flow.id, "attempt": away.attempt}
    return found


def _hidden(engine: Engine, workspace: str, packed: bytes) -> list[str]:
    """The workspace's secrets that are in what is sent: the peer hides them as this engine does."""
    if not engine.keeper.found_secret(packed):
        return []
    # In whatever form: a template may have encoded it.
    return [
        value for value in engine.services.secrets.get(workspace, {}).values() if Scrubber([value]).found_in(packed)
    ]
