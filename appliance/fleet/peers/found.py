"""Engines that were seen on the network: bounded, and forgotten once they were not seen for long.

What an announcement says is a claim: it is shown, and it says where to call, but proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from appliance.contracts import ModelOffer, PeerOffers, PeerState
from appliance.fleet.peers.beacon import text
from appliance.fleet.peers.hardware import is_same
from appliance.fleet.peers.remote import join, panel_url

#: Engines that are kept, the paired ones not counted; and announcements of one of them.
MOST, MOST_OF_ONE = 256, 8
#: Seconds until one that was asked for by its address, and does not say goodbye, is forgotten.
FORGET = 300.0


class Sighting(Struct):
    """One announcement. ``up`` is when, ``how`` is ``mdns`` or ``list``."""

    key: str
    engine: str
    instance: str
    place: str
    addresses: tuple[str, ...]
    facts: dict[str, str]
    how: str
    up: float
    wall: float


class FoundEngines:
    """Used on the peers' thread; ``states`` by any. ``paired`` are the ids that have to be kept at any rate."""

    def __init__(self, up: Callable[[], float], wall: Callable[[], float], paired: Collection[str]) -> None:
        self._up = up
        self._wall = wall
        self._paired = paired
        self._sightings: dict[str, Sighting] = {}

    def saw(self, key: str, how: str, facts: Mapping[str, str], addresses: list[str], port: int) -> Sighting | None:
        """An announcement; None if it is none of an engine that others can talk to, or there are too many."""
        engine = facts.get("engine", "")[:40]
        if not engine or not port:
            return None
        before = self._sightings.get(key)
        if before is None and self._is_too_much(engine):
            return None
        made = self._sightings[key] = Sighting(
            key=key,
            engine=engine,
            instance=facts.get("instance", "")[:40],
            place=facts.get("place", "")[:120],
            addresses=tuple(join(address, port) for address in _sorted(addresses)),
            facts={name: value[:255] for name, value in facts.items()},
            how=how,
            up=self._up(),
            wall=before.wall if before is not None else self._wall(),
        )
        return made

    def _is_too_much(self, engine: str) -> bool:
        if engine not in self._paired and len(self._sightings) >= MOST:
            return True
        return sum(each.engine == engine for each in self._sightings.values()) >= MOST_OF_ONE

    def gone(self, key: str) -> str:
        """It has said goodbye, or its announcement ran out; whose it was."""
        sighting = self._sightings.pop(key, None)
        return sighting.engine if sighting is not None else ""

    def expire(self) -> list[str]:
        """Forget what was not asked anew for long; whose that was."""
        limit = self._up() - FORGET
        old = [each for each in self._sightings.values() if each.how == "list" and each.up < limit]
        for each in old:
            del self._sightings[each.key]
        return [each.engine for each in old]

    def next_expiry(self) -> float:
        """When something has to be forgotten, by the clock that goes on in sleep."""
        return min((each.up + FORGET for each in self._sightings.values() if each.how == "list"), default=math.inf)

    def of(self, engine: str) -> list[Sighting]:
        """All announcements of one engine, the newest first."""
        return sorted((s for s in list(self._sightings.values()) if s.engine == engine), key=lambda s: -s.up)

    def addresses(self, engine: str) -> list[str]:
        """Where one engine says that it can be called."""
        return list(dict.fromkeys(address for each in self.of(engine) for address in each.addresses))

    def engines(self) -> set[str]:
        """The ids that were seen."""
        return {each.engine for each in list(self._sightings.values())}

    def state(self, engine: str) -> PeerState | None:
        """One engine as its announcements have it."""
        sightings = self.of(engine)
        if not sightings:
            return None
        newest = sightings[0]
        facts = newest.facts
        addresses = tuple(self.addresses(engine))
        places = {each.place for each in sightings}
        copies = any(not is_same(one, other) for one in places for other in places)
        name = facts.get("name", "")
        return PeerState(
            id=engine,
            name=name or engine[:8],
            calls_itself=name,
            fingerprint=facts.get("fp", ""),
            state="clone" if copies else "found",
            text="several machines announce this identity" if copies else "seen on the network, not paired",
            hint="give the copy an identity of its own: stop it, and run `flowork peer new-identity` there"
            if copies
            else "",
            since=min(each.wall for each in sightings),
            addresses=addresses,
            seen=tuple(dict.fromkeys(each.how for each in sightings)),
            version=facts.get("software", ""),
            url=panel_url(addresses[0] if addresses else "", _number(facts.get("panel", ""))),
            offers=offers_of(facts),
        )


def facts_of(offers: PeerOffers) -> dict[str, str]:
    """The coarse things of what there is, for an announcement: lists are cut, numbers rounded, so it seldom changes."""
    drivers = {device.partition("/")[2].partition("/")[0] for device in offers.devices}
    return {
        "models": text(",".join(model.name for model in offers.models), "models"),
        "devices": text(",".join(sorted(drivers)), "devices"),
        "mem": str(round(offers.memory_free / 1e9)),
        "load": f"{min(round(offers.load * 2) / 2, 9):g}",
        "cores": str(offers.cores),
    }


def offers_of(facts: Mapping[str, str]) -> PeerOffers:
    """What an announcement says there is."""
    try:
        load = float(facts.get("load") or 0)
    except ValueError:
        load = 0.0
    return PeerOffers(
        models=tuple(ModelOffer(name) for name in facts.get("models", "").split(",") if name),
        devices=tuple(name for name in facts.get("devices", "").split(",") if name),
        memory_free=_number(facts.get("mem", "")) * 1_000_000_000,
        cores=_number(facts.get("cores", "")),
        load=load,
    )


def _sorted(addresses: list[str]) -> list[str]:
    """IPv4 first, link-local addresses last: these work on the same cable only."""
    return sorted(addresses, key=lambda each: (each.startswith(("fe80", "169.254.")), ":" in each))


def _number(value: str) -> int:
    return int(value) if value.isdigit() and len(value) < 8 else 0
