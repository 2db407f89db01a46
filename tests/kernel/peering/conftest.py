"""Engines side by side, joined by links that a test holds in its hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Node
from tests.support.databases import emptied, made_from_template
from tests.support.peer_net import Net, PeerBench
from tests.support.probes import probes


class Places:
    """Where engines keep their runs: in files, or each in a Postgres database of its own."""

    def __init__(self, server: str, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._urls: dict[str, str] = {}

    def of(self, name: str, anew: bool) -> dict[str, str]:
        """The environment of an engine; ``anew``: one that was never there."""
        if not self._server:
            return {}
        if name not in self._urls:
            self._urls[name] = self._stack.enter_context(made_from_template(self._server))
        elif anew:
            emptied(self._urls[name])
        return {"FLOWORK_DATABASE_URL": self._urls[name]}


class House:
    """Several engines; ``again`` starts one of them anew on its folder, as after a kill."""

    def __init__(self, folder: Path, places: Places) -> None:
        self.folder = folder
        self.places = places
        self.net = Net()
        self.benches: dict[str, PeerBench] = {}

    def engine(self, name: str, extra: dict[str, Node[Any]] | None = None, link: bool = True) -> PeerBench:
        environ = self.places.of(name, anew=name not in self.benches)
        bench = PeerBench(self.folder / name, self.net, name, extra if extra is not None else probes(), environ=environ)
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

    def close(self) -> None:
        """End all engines. Twice is fine."""
        for bench in self.benches.values():
            bench.die()
        self.benches.clear()


def _nodes_of(bench: PeerBench) -> dict[str, Node[Any]]:
    return dict(bench.registry._nodes)


MakeHouse = Callable[[], House]


@pytest.fixture(params=["files", "postgres"])
def make_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeHouse]:
    """Makes houses, each with engines that were never there."""
    server = request.getfixturevalue("postgres") if request.param == "postgres" else ""
    with ExitStack() as stack:
        places, numbers = Places(server, stack), itertools.count()

        def make() -> House:
            folder = tmp_path / f"house{next(numbers)}"
            folder.mkdir()
            made = House(folder, places)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    return make_house()


@pytest.fixture
def pair(house: House) -> tuple[PeerBench, PeerBench]:
    """The box by the door and the laptop."""
    return house.engine("pi"), house.engine("laptop")
