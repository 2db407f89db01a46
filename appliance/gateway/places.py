"""What is looked up before an endpoint is called, and the workspace that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.contracts import FlowError
from appliance.gateway.naming import head_of, no_run
from appliance.gateway.services import Gateway
from appliance.security.roles import Identity, allowed
from appliance.store.errors import NotFound
from appliance.store.history import RunHead
from appliance.store.people import TokenRow
from appliance.store.records import Flow

#: The pattern of each parameter's text in the path.
FLOW_ID = "^[a-z0-9][a-z0-9-]{0,62}$"
RUN_ID = "^[0-9A-HJKMNP-TV-Z]{13}$"
TOKEN_ID = "^[0-9a-hjkmnp-tv-z]{13}$"  # noqa: S105  # a pattern


def find_flow(gateway: Gateway, text: str) -> tuple[Flow, str]:
    """A flow by its id. Raises ``NotFound``."""
    flow = gateway.store.flows.get(text)
    return flow, flow.workspace


def find_run(gateway: Gateway, text: str) -> tuple[RunHead, str]:
    """A run by its id; its flow may have been deleted since. Raises ``NotFound``."""
    head = head_of(gateway.history, text)
    return head, gateway.names.flow(head.flow).workspace


def find_token(gateway: Gateway, text: str) -> tuple[TokenRow, str]:
    """A token by its id. Raises ``NotFound``."""
    token = gateway.store.people.tokens.get(text)
    if token is None:
        raise NotFound(f"there is no token {text[:40]!r}")
    return token, token.workspace


#: By the type of a parameter: how it is found, its pattern, what it is, and who may know that it is there.
FOUND: Mapping[Any, tuple[Callable[[Any, str], tuple[Any, str]], str, str, str]] = {
    Flow: (find_flow, FLOW_ID, "A flow's id", "flows:read"),
    RunHead: (find_run, RUN_ID, "A run's id", "runs:read"),
    TokenRow: (find_token, TOKEN_ID, "A token's id", "tokens:read"),
}


def is_found(kind: Any) -> bool:
    """Whether a parameter of this type is looked up."""
    return isinstance(kind, type) and kind in FOUND


def look_up(gateway: Gateway, identity: Identity, permission: str, kind: Any, text: str) -> tuple[Any, str]:
    """The thing and its workspace. What the caller may not even see does not exist for it. Raises ``NotFound``."""
    find, _, _, seen_with = FOUND[kind]
    thing, workspace = find(gateway, text)
    if not allowed(identity, permission, workspace) and not allowed(identity, seen_with, workspace):
        raise _hidden(kind, text)
    return thing, workspace


def _hidden(kind: Any, text: str) -> FlowError:
    if kind is RunHead:
        return no_run(text)
    if kind is TokenRow:
        return NotFound(f"there is no token {text[:40]!r}")
    return NotFound(f"there is no flow {text!r}; `flowork flow list` names them all")
