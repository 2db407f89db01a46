"""Two runs step by step: what differs between them."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from appliance.engine.diff import Change, diff
from appliance.engine.steps_view import Step
from appliance.gateway.answers import plain
from appliance.gateway.run_views import RunView, run_view
from appliance.gateway.services import Gateway
from appliance.store.history import RunDetail, RunHead

_PARTS = ("input", "output", "port", "error", "config")


class StepComparison(Struct, frozen=True, kw_only=True):
    """One node in both runs; a state is null where that run's version has no such node.

    ``changes`` are the values that differ (``input.t``, ``output[2]``); values that were put aside are compared
    by their content, and told as references.
    """

    node: str
    left: str | None
    right: str | None
    same: bool
    changes: list[Change]


class RunComparison(Struct, frozen=True):
    """Two runs, the first one's nodes first."""

    left: RunView
    right: RunView
    event: list[Change]
    steps: list[StepComparison]


def compare_runs(gateway: Gateway, left: RunHead, right: RunHead) -> RunComparison:
    """What differs. Raises ``NotFound`` for a run whose version is lost."""
    first, second = gateway.teller.load(left.id), gateway.teller.load(right.id)
    ours = {step.node: step for step in gateway.teller.story(first).steps}
    theirs = {step.node: step for step in gateway.teller.story(second).steps}
    return RunComparison(
        run_view(gateway.names, left),
        run_view(gateway.names, right),
        _differences({"payload": _payload(first)}, {"payload": _payload(second)}),
        [_step(node, ours.get(node), theirs.get(node)) for node in dict.fromkeys([*ours, *theirs])],
    )


def _payload(detail: RunDetail) -> Any:
    return detail.event[2]


def _step(node: str, left: Step | None, right: Step | None) -> StepComparison:
    changes = _differences(_parts(left), _parts(right)) if left is not None and right is not None else []
    states = (None if left is None else left.state, None if right is None else right.state)
    same = not changes and states[0] == states[1]
    return StepComparison(node=node, left=states[0], right=states[1], same=same, changes=changes)


def _parts(step: Step | None) -> dict[str, Any]:
    values = {name: getattr(step, name) for name in _PARTS}
    return {name: value for name, value in values.items() if value is not UNSET and value not in ("", None)}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    # The comparison of flows takes any keys but its own (nodes, edges …), which are none of ours.
    return diff(plain(old), plain(new)).other
