"""What peers need to know of the engine that they are of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.contracts import PeerOffers
from appliance.fleet.peers.link import boottime


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The callables are safe from any thread; ``offers`` and ``panel`` may block, and are called ``aside``.

    ``machine`` are marks of the hardware, ``port`` where others are let in (0: nowhere). ``discovery`` is ``paired``
    (announce and look only while there is somebody to find), ``always`` or ``never``; ``listed`` are addresses of the
    setting ``peers``. ``panel`` gives the gateway's port for other machines (0: none), told what it was before;
    ``tell`` takes live events. ``up`` is a clock that goes on while the machine sleeps.
    """

    engine: str
    name: str
    software: str
    machine: str
    port: int
    discovery: str
    listed: tuple[str, ...] = ()
    owned: Callable[[], bool]
    panel: Callable[[int], int] = lambda known: 0
    offers: Callable[[], PeerOffers] = PeerOffers
    aside: Callable[[Callable[[], None]], Any] = lambda work: work()
    wall: Callable[[], float] = time.time
    up: Callable[[], float] = boottime
    tell: Callable[[dict[str, Any]], None] = lambda item: None
    audit: Callable[[str, str, Mapping[str, Any]], None] = lambda action, target, detail: None
