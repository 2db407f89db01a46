"""Pins, ports and boards that two flows want with different settings: told while the second is saved.

Which devices a flow wants is what its nodes and triggers ask the check about (``World.device_fault``), so that no kind
of step has to say it twice. What another machine would have to be asked, such as that a pin's name and its number are
one line there, is only found when the second one starts, and is told by its trigger's status.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from appliance.contracts import Problem
from appliance.engine.validate import Catalog, validate
from appliance.fleet.check import claimed
from appliance.world import Machine


class Claim(Struct, frozen=True):
    """What a place in a flow wants of an agent: ``settings`` are the same for two that can share it."""

    place: str
    agent: str
    resources: frozenset[str]
    settings: str


class _Listening(Machine):
    """Notes what is asked about devices; its answer is a mark by which the place is found again."""

    def __init__(self) -> None:
        super().__init__(lambda flow: True)
        self.asked: dict[str, tuple[str, str, Mapping[str, Any]]] = {}

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        mark = f"\0device {len(self.asked)}"
        self.asked[mark] = (agent, driver, config)
        return mark


class DeviceClaims:
    """Looks at flows as they are saved, deployed and switched on."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def clashes(self, body: Any, others: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Problem]:
        """Where ``body`` wants what one of ``others`` (ids and bodies), or another place in it, has otherwise."""
        mine = self.of(body)
        taken = [("", claim) for claim in mine]
        if mine:
            taken += [(f"flow {flow!r}, ", claim) for flow, other in others for claim in self.of(other)]
        for number, claim in enumerate(mine):
            earlier = [*taken[len(mine) :], *taken[:number]]
            for owner, other in earlier:
                both = claim.resources & other.resources
                if both and claim.agent == other.agent and claim.settings != other.settings:
                    thing = min(both).replace("*/", "")
                    yield Problem(
                        claim.place,
                        f"{thing} is used by {owner}{other.place}, with other settings: give both the same, or switch "
                        f"one of them off",
                    )
                    break

    def of(self, body: Any) -> list[Claim]:
        """All that a flow wants, but for what is disabled, or not known before templates are filled in."""
        world, found = _Listening(), []
        for problem in validate(body, self._catalog, world):
            if problem.message in world.asked and not _is_off(body, problem.path):
                agent, driver, config = world.asked[problem.message]
                if (wanted := claimed(agent, driver, config)) is not None:
                    found.append(Claim(problem.path, agent, *wanted))
        return found


def _is_off(body: Mapping[str, Any], place: str) -> bool:
    """Whether the trigger or node that a place lies in is disabled."""
    kind, _, rest = place.partition("[")
    item = body[kind][int(rest.partition("]")[0])]
    return item.get("disabled") is True
