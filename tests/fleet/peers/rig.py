"""Several engines' peers in one process, over real sockets on 127.0.0.1; what multicast would say is told by hand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.contracts import NodeError, PeerRight, PeerRoles, PeerState
from appliance.fleet.peers.beacon import Beacon
from appliance.fleet.peers.book import PeerBook
from appliance.fleet.peers.peers import EnginePeers
from appliance.fleet.peers.surroundings import Surroundings
from tests.support.broker import free_port

PATIENCE = 20.0


class Blobs:
    """Blobs in memory; ``put_count`` says how many were put."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.put_count = 0

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self.kept[digest] = data
        self.put_count += 1
        return {"$blob": digest, "size": len(data), "type": mime}

    def get(self, reference: Mapping[str, Any]) -> bytes:
        try:
            return self.kept[reference["$blob"]]
        except KeyError:
            raise NodeError("it is gone", retryable=False) from None

    def keep(self, digest: str, size: int) -> bool:
        return len(self.kept.get(digest, b"")) == size and digest in self.kept


class QuietBeacon(Beacon):
    """Says nothing to any network."""

    def _tell(self, again: bool = False) -> None:
        pass


class Engine:
    """One engine's peers, which can be ended and begun again on their folder."""

    def __init__(self, data: Path, engine: str, **changes: Any) -> None:
        (data / "keys").mkdir(parents=True, exist_ok=True)
        self.data = data
        self.port = free_port()
        self.blobs = Blobs()
        self.told: list[dict[str, Any]] = []
        self.audited: list[tuple[str, str, Mapping[str, Any]]] = []
        self.about = replace(
            Surroundings(
                engine=engine,
                name=engine.removeprefix("id"),
                software="1.0",
                machine="",
                port=self.port,
                discovery="never",
                owned=lambda: True,
                panel=lambda known: 5000,
                tell=self.told.append,
                audit=lambda action, target, detail: self.audited.append((action, target, detail)),
            ),
            **changes,
        )
        self.peers = self.begin()

    def begin(self) -> EnginePeers:
        self.peers = EnginePeers(PeerBook(self.data), self.blobs, QuietBeacon(self.about.engine), self.about)
        self.peers.start()
        return self.peers

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def state(self, name: str) -> PeerState | None:
        return next((state for state in self.peers.states() if name in (state.name, state.id)), None)

    def connected(self, name: str) -> bool:
        state = self.state(name)
        return state is not None and state.connected

    def join(self, other: Engine, *rights: PeerRight, code: str = "") -> PeerState:
        """Pair with another; it may do ``rights`` here."""
        roles = PeerRoles(rights=frozenset(rights), workspaces=frozenset({"*"})) if rights else None
        code = code or other.peers.pair("", roles).code
        return self.peers.join(code, other.address, "", roles).result(PATIENCE)

    def ask(self, peer: str, method: str, body: Any = None, timeout: float = 10.0) -> Any:
        return self.peers.request(peer, method, body, timeout).result(PATIENCE)


def until(wanted: Callable[[], Any], what: str) -> None:
    """Look again, for a while."""
    deadline, gate = time.monotonic() + PATIENCE, threading.Event()
    while not wanted():
        assert time.monotonic() < deadline, f"{what} did not come"
        gate.wait(0.005)


class Engines:
    """Makes engines, and ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Engine] = []

    def __call__(self, name: str, folder: str = "", /, **changes: Any) -> Engine:
        made = Engine(self._folder / (folder or name), f"id{name}", **changes)
        self._made.append(made)
        return made

    def pair(self, one: Engine, other: Engine, *rights: PeerRight) -> None:
        """Both may do the same with each other."""
        one.join(other, *rights)
        until(lambda: one.connected(other.about.engine), "the link")
        until(lambda: other.connected(one.about.engine), "the link")

    def close(self) -> None:
        for engine in self._made:
            engine.peers.stop()


@contextmanager
def engines(folder: Path) -> Iterator[Engines]:
    made = Engines(folder)
    try:
        yield made
    finally:
        made.close()
