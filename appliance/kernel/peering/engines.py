"""Implements ``ctx.engines``: who is meant by a name, and what a step sends to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from appliance.contracts import ConfigError
from appliance.contracts.peers import Peers, PeerState
from appliance.engine import trace
from appliance.engine.needs import Need, needs_of, satisfies

if TYPE_CHECKING:
    from appliance.kernel.context import StepContext

HERE, ALL, OTHERS = "here", "all", "others"
PAIRED = ("connected", "away", "refused")
LARGEST = 2_000_000


class StepEngines:
    """For one attempt at a step."""

    def __init__(self, peers: Callable[[], Peers | None], ctx: StepContext) -> None:
        self._peers = peers
        self._ctx = ctx

    def called(self, wanted: Sequence[str]) -> list[str]:
        return [state.name for state in self._meant(wanted, lambda state: state.connected and state.allows.may("run"))]

    def emit(self, topic: str, payload: Any, to: Sequence[str]) -> list[str]:
        if not topic:
            raise ConfigError("an event needs a topic")
        if len(trace.pack(payload)) > LARGEST:
            raise ConfigError("the payload is larger than 2 MB; put it into a blob and send the reference")
        meant = [state for state in self._meant(to, lambda state: True) if state.state != "self"]
        for state in meant:
            self._ctx.outgoing.append((state.id, topic, payload))
        return [state.name for state in meant]

    def _meant(self, wanted: Sequence[str], among_all: Callable[[PeerState], bool]) -> list[PeerState]:
        peers = self._peers()
        if peers is None:
            raise ConfigError("this kernel has no links to other engines")
        me, *rest = peers.states()
        others = [state for state in rest if state.state in PAIRED]
        found: dict[str, PeerState] = {}
        for name in (part.strip() for text in wanted for part in text.split(",")):
            for state in _one(name, me, others, among_all):
                found[state.id] = state
        return list(found.values())


def _one(
    name: str, me: PeerState, others: list[PeerState], among_all: Callable[[PeerState], bool]
) -> Sequence[PeerState]:
    if not name:
        return ()
    if name == HERE:
        return (me,)
    if name in (ALL, OTHERS):
        return [*((me,) if name == ALL else ()), *(state for state in others if among_all(state))]
    if ":" in name:
        needs = needs_of(name)
        if not needs:
            raise ConfigError(f"to: {name!r} is no engine and nothing that an engine has")
        return [state for state in (me, *others) if satisfies(state, needs[0]) and (state is me or among_all(state))]
    named = [state for state in (me, *others) if satisfies(state, Need("engine", name))]
    if not named:
        known = ", ".join(state.name for state in (me, *others))
        raise ConfigError(f"to: no engine here is called {name!r}; there are {known}")
    return named[:1]
