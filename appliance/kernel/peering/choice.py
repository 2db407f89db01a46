"""Which engine does a step: this one if it has what is needed, else the least loaded peer that has it and lets us."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from appliance.contracts.peers import PeerState
from appliance.engine.needs import ANY, Need, satisfies

#: The answer "this engine".
HERE: Any = object()


def choose(
    states: Sequence[PeerState],
    needs: Sequence[Need],
    kind: str,
    mine: Mapping[str, int],
    passed_over: Collection[str] = (),
) -> PeerState | Any | None:
    """The engine for a step of this ``kind``: ``HERE``, a peer, or None. ``mine`` are the steps at each peer by now.

    What an engine says of its load is a few seconds old, so the steps that it was given meanwhile count on top.
    """
    me = next((state for state in states if state.state == "self"), None)
    others = [state for state in states if usable(state, needs, kind) and state.id not in passed_over]
    free = [need for need in needs if need.kind != ANY]
    if me is not None and all(satisfies(me, need) for need in needs):
        # Who needs something gets it where it is; who needs nothing goes where there is room.
        if free or not others:
            return HERE
        best = min(others, key=lambda state: burden(state, mine))
        return best if burden(best, mine) + _MARGIN < burden(me, mine) else HERE
    return min(others, key=lambda state: burden(state, mine), default=None)


#: So much less load has another engine to have before work is carried there for nothing else.
_MARGIN = 0.25


def burden(state: PeerState, mine: Mapping[str, int]) -> float:
    """How loaded an engine is, per core."""
    return state.offers.load + mine.get(state.id, 0) / max(1, state.offers.cores)


def usable(state: PeerState, needs: Sequence[Need], kind: str) -> bool:
    """Whether a peer can be asked now for a step of this kind."""
    return (
        state.connected
        and state.allows.may("run")
        and (not state.offers.nodes or kind in state.offers.nodes)
        and all(satisfies(state, need) for need in needs)
    )


def why_nobody(states: Sequence[PeerState], needs: Sequence[Need], kind: str) -> str:
    """Why no engine can do it, in words that name what is missing and who comes closest."""
    peers = [state for state in states if state.state in ("connected", "away", "refused", "clone")]
    reasons = []
    for need in needs:
        having = [state for state in states if satisfies(state, need)]
        if not having:
            reasons.append(f"nobody has {need}")
    for state in peers:
        if not all(satisfies(state, need) for need in needs):
            continue
        if not state.connected:
            reasons.append(f"{state.name} is {'away' if state.state == 'away' else state.text or state.state}")
        elif not state.allows.may("run"):
            reasons.append(f"{state.name} does not let this engine run steps there")
        elif state.offers.nodes and kind not in state.offers.nodes:
            reasons.append(f"{state.name} has no node type {kind!r}")
        else:
            reasons.append(f"{state.name} is busy")
    if not reasons:
        reasons.append(f"no engine has all of {', '.join(map(str, needs))} together" if needs else "there is none")
    if not peers:
        reasons.append("no engine is paired with this one")
    return "; ".join(reasons)
