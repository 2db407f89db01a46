"""Engines side by side, joined by links that a test holds in its hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Node
from tests.support.peer_net import Net, PeerBench
from tests.support.probes import probes


class House:
    """Several engines; ``again`` starts one of them anew on its folder, as after a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Net()
        self.benches: dict[str, PeerBench] = {}

    def engine(self, name: str, extra: dict[str, Node[Any]] | None = None, link: bool = True) -> PeerBench:
        bench = PeerBench(self.folder / name, self.net, name, extra if extra is not None else probes())
        bench.know()
        self.benches[name] = bench
        if link:
            bench.link()
        return bench

    def again(self, name: str, extra: dict[str, Node[Any]] | None = None) -> PeerBench:
        """Kill it, and start it on the same folder; it recovers before it is let in."""
        old = self.benches[name]
        old.die()
        bench = self.engine(name, extra if extra is not None else _nodes_of(old), link=False)
        bench.flows |= old.flows
        bench.engine.flows |= {num: slot for num, slot in old.engine.flows.items() if num < 900}
        for slot in bench.engine.flows.values():
            slot.active.clear()
            slot.queue.clear()
            slot.inner = 0
        bench.recover()
        bench.link()
        return bench


def _nodes_of(bench: PeerBench) -> dict[str, Node[Any]]:
    return dict(bench.registry._nodes)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for bench in made.benches.values():
        bench.die()


@pytest.fixture
def pair(house: House) -> tuple[PeerBench, PeerBench]:
    """The box by the door and the laptop."""
    return house.engine("pi"), house.engine("laptop")


MakeHouse = Callable[[], House]
