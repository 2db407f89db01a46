"""One cluster for all tests here: starting seven processes for each would take minutes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.queue.support import free_port, redis_server
from tests.support.cluster import Cluster, Gateway, Part, cluster, until
from tests.support.servers import postgres_server


class Running:
    """Two gateways and three kernels."""

    def __init__(self, house: Cluster, gateways: list[Gateway], kernels: dict[str, Part]) -> None:
        self.house = house
        self.gateways = gateways
        self.kernels = kernels

    def all_live(self) -> None:
        """Start again what was killed, and wait until every kernel has its lease."""
        for part in self.kernels.values():
            if not part.alive:
                part.start()
        until(self._all_live, "all kernels live")

    def _all_live(self) -> bool:
        for part in self.kernels.values():
            assert part.alive, f"{part.name} has ended: {part.log.read_text()[-3000:]}"
        return self.house.living().keys() >= self.kernels.keys()

    def home_of(self, flow: int) -> str:
        """The machine of a flow's home; empty while it has none that lives."""
        writer = self.house.members.homes().get(flow)
        return next((name for name, one in self.house.living().items() if one.writer == writer), "")

    def settled(self, *flows: int) -> None:
        """Wait until flows are at home and take events: what was deployed last is known to everybody."""
        until(lambda: all(self.home_of(flow) for flow in flows), "every flow has a home")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("cluster")
        queue = stack.enter_context(redis_server(folder, free_port()))
        house = stack.enter_context(cluster(folder, stack.enter_context(postgres_server()), queue))
        peers = {"peer_port": free_port(), "peer_discovery": "never", "engine_name": "house"}
        house.store.settings.set({"clock": "trust", **peers})
        kernels = {name: house.kernel(name) for name in ("attic", "cellar", "shed")}
        gateways = [house.gateway("east"), house.gateway("west")]
        made = Running(house, gateways, kernels)
        made.all_live()
        yield made
