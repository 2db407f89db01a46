"""What nodes with a body share: what they run for each item, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from appliance.contracts import Problem, World

#: Errors of runs that were ended because of another, or never began: never the cause of a failure.
_FOLLOWED = frozenset({"cancelled", "not-started"})


def check_body(config: Mapping[str, Any], world: World) -> Iterable[Problem]:
    """Whether a config names one thing to run: a ``body`` or a ``flow``."""
    flow, body = config.get("flow"), config.get("body")
    if bool(flow) == bool(body):
        yield Problem("body", "give either `body` (nodes and edges) or `flow` (the id of a flow)")
    if flow and "{" not in flow and not world.flow_exists(flow):
        yield Problem("flow", f"there is no flow {flow!r}")


def is_cause(result: Mapping[str, Any]) -> bool:
    """Whether a run that did not succeed failed by itself."""
    return (result.get("error") or {}).get("id") not in _FOLLOWED
