"""Two or more whole kernels on this machine, paired over real links on 127.0.0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.broker import free_port
from tests.support.kernels import KernelHouse, LocalKernel, wait_for

EVERYTHING = {"rights": ["run", "models", "events", "flows"], "workspaces": ["*"]}


def box(folder: Path, name: str, local: bool = True, **settings: Any) -> Any:
    """An engine that can be paired; in this process, or in one of its own. It is started."""
    house = (LocalKernel if local else KernelHouse)(folder / name)
    house.settings(engine_name=name, peer_port=free_port(), peer_discovery="never", **settings)
    house.start()
    return house


def peers_of(house: KernelHouse) -> dict[str, dict[str, Any]]:
    """The paired engines by name."""
    found: dict[str, dict[str, Any]] = {state["name"]: state for state in house.client.call("peers")[1:]}
    return found


def join(one: KernelHouse, other: KernelHouse, roles: Any = None, back: Any = None) -> None:
    """Pair them: ``roles`` is what ``one`` may do at ``other``, ``back`` the other way round."""
    made = other.client.call("peer_pair", roles=roles or EVERYTHING)
    address = f"127.0.0.1:{made['port']}"
    one.client.call("peer_join", 30.0, code=made["code"], address=address, roles=back or EVERYTHING)
    linked(one, other.data.name)
    linked(other, one.data.name)


def linked(house: KernelHouse, name: str) -> Any:
    """Wait until a peer is there, and has told what it offers."""
    return wait_for(lambda: (state := peers_of(house).get(name)) and state["state"] == "connected" and state)
