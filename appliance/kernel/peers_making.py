"""The peers of a kernel: what they are told of this engine, and what it has to offer to others."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from appliance.contracts import ModelOffer, PeerOffers
from appliance.fleet.peers.beacon import Beacon
from appliance.fleet.peers.book import PeerBook
from appliance.fleet.peers.hardware import marks
from appliance.fleet.peers.peers import EnginePeers
from appliance.fleet.peers.surroundings import Surroundings
from appliance.kernel.core import Core
from appliance.running import gateway_port
from appliance.security.audit import AuditLog
from appliance.security.files import keys_folder
from appliance.security.keys import read_engine
from appliance.security.owner import read_address

#: Bytes to which free memory is rounded, and load: what changes all the time is not told all the time.
_GRAIN, _LOAD = 64 << 20, 0.1
#: Entities that are told at most.
_ENTITIES = 500


def make_peers(
    kernel: Core, beacon: Beacon, book: PeerBook | None = None, mark: str = "", name: str = ""
) -> EnginePeers:
    """They are not started yet. ``book``, ``mark`` (of the hardware) and ``name`` are other than those of one machine
    in a cluster, which is one engine to its peers on whichever machine it has the links.
    """
    settings, data = kernel.store.settings.load(), kernel.data
    engine = read_engine(data).id
    log = AuditLog(kernel.store.audit, data)

    def audit(action: str, target: str, detail: Mapping[str, Any]) -> None:
        log.append("engine", action, target, detail)

    about = Surroundings(
        engine=engine,
        name=settings.engine_name or name or socket.gethostname().split(".")[0] or engine[:8],
        software=version("flowork"),
        machine=mark or marks(),
        port=settings.peer_port,
        discovery=settings.peer_discovery,
        listed=settings.peers,
        owned=lambda: read_address(keys_folder(data)) is not None,
        panel=lambda known: gateway_port(data, known),
        offers=lambda: offers(kernel),
        aside=kernel.engine.steps.io.call,
        wall=kernel.services.wall,
        tell=kernel.tell_live,
        audit=audit,
    )
    return EnginePeers(book or PeerBook(data), kernel.blobs, beacon, about)


def offers(kernel: Core) -> PeerOffers:
    """What this engine has at this moment. Reads the models' folder: not for a thread that may not wait."""
    from appliance.ai.library.cards import all_models  # which a kernel without peers never needs

    memory, free = _memory()
    cores = os.cpu_count() or 1
    devices = []
    for agent in kernel.fleet.agents() if kernel.fleet is not None else ():
        if agent.online:
            runs = {str(driver["driver"]) for driver in agent.drivers if driver["ok"]}
            runs |= {name for name, why_not in agent.available.items() if not why_not}
            devices += [f"{agent.name}/{driver}" for driver in sorted(runs)]
    if kernel.fleet is not None:
        entities = (one for one in kernel.fleet.entities() if one.online)
        devices += [f"{one.agent}/{one.driver}/{one.id}" for one in itertools.islice(entities, _ENTITIES)]
    return PeerOffers(
        models=tuple(
            ModelOffer(model.name, model.kind, model.context) for model in all_models(kernel.data) if not model.trouble
        ),
        devices=tuple(devices),
        nodes=tuple(sorted(kernel.registry.nodes)),
        memory=memory,
        memory_free=free // _GRAIN * _GRAIN,
        cores=cores,
        load=round(os.getloadavg()[0] / cores / _LOAD) * _LOAD,
        runs=len(kernel.engine.runs) - kernel.engine.keeper.waiting,
    )


def _memory() -> tuple[int, int]:
    """Bytes in all, and available (proc(5))."""
    found = {}
    with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 it is no file of anybody's
        for line in file:
            name, _, rest = line.partition(":")
            if name in {"MemTotal", "MemAvailable"}:
                found[name] = int(rest.split()[0]) * 1024
    return found.get("MemTotal", 0), found.get("MemAvailable", 0)
