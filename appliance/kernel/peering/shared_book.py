"""The pairings of a cluster: kept in its database, with a copy in the data folder of each kernel that has the links.

The key with which the engine shows itself to its peers is among them: whichever kernel calls is the same engine to
them. All is sealed with the cluster's key, so who can read or write the database alone is not let in by any peer.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from pathlib import Path

import msgspec

from appliance.contracts import FlowError
from appliance.fleet.peers.book import IDENTITY, Known, PeerBook, check_id
from appliance.security.files import write_atomic
from appliance.security.sealing import Cipher
from appliance.sharing.peers import PeerStore

logger = logging.getLogger(__name__)

_IDENTITY, _PEER = "identity", "peer "


def cluster_mark(key: bytes) -> str:
    """Stands for the hardware of all machines of a cluster (see :mod:`appliance.fleet.peers.hardware`): a scheme of its
    own, so that a peer which knew the engine on one machine lets the cluster in, and each of its kernels.
    """
    return f"cluster:{hashlib.sha256(b'flowork cluster' + key).hexdigest()[:10]}"


class SharedBook(PeerBook):
    """Only the kernel with the links writes. Methods raise ``OSError`` while the database is away."""

    def __init__(self, data: Path, store: PeerStore, cipher: Cipher) -> None:
        super().__init__(data)
        self._store = store
        self._cipher = cipher
        self._lock = threading.RLock()

    def bring(self) -> None:
        """Make the folder what the database says. What this folder has counts if the database knows of no key yet."""
        with self._lock:
            self._bring()

    def _bring(self) -> None:
        try:
            self._offer()
            kept = self._store.values()
        except FlowError as exc:
            raise OSError(exc.message) from None
        if _IDENTITY in kept:
            pair = msgspec.msgpack.decode(self._open(_IDENTITY, kept[_IDENTITY]), type=tuple[bytes, bytes])
            for name, content in zip(IDENTITY, pair, strict=True):
                self._have(name, content)
        peers = {key.removeprefix(_PEER): value for key, value in kept.items() if key.startswith(_PEER)}
        for known in super().all():
            if known.id not in peers:
                super().remove(known.id)
        for engine, value in peers.items():
            self._have(f"{check_id(engine)}.json", self._open(_PEER + engine, value))

    def certificate(self, name: str) -> bytes:
        """As for one engine; the first that is made is that of the whole cluster."""
        if not self._has_key():
            super().certificate(name)
            self.bring()
        return super().certificate(name)

    def write(self, peer: Known) -> None:
        key = _PEER + check_id(peer.id)
        with self._lock:
            try:
                self._store.put(key, self._seal(key, msgspec.json.encode(peer)))
            except FlowError as exc:
                raise OSError(exc.message) from None
            super().write(peer)

    def remove(self, engine: str) -> None:
        with self._lock:
            try:
                self._store.drop(_PEER + check_id(engine))
            except FlowError as exc:
                raise OSError(exc.message) from None
            super().remove(engine)

    def _offer(self) -> None:
        """What a machine brings that was paired before it became a cluster's, or has just made its key."""
        if not self._has_key():
            return
        pair = tuple((self.folder / name).read_bytes() for name in IDENTITY)
        values = {_IDENTITY: self._seal(_IDENTITY, msgspec.msgpack.encode(pair))}
        for known in super().all():
            key = _PEER + check_id(known.id)
            values[key] = self._seal(key, msgspec.json.encode(known))
        if self._store.put_first(_IDENTITY, values):
            logger.info("this engine's %d peers are those of the whole cluster from now on", len(values) - 1)

    def _has_key(self) -> bool:
        return all((self.folder / name).exists() for name in IDENTITY)

    def _have(self, name: str, content: bytes) -> None:
        path = self.folder / name
        if not path.exists() or path.read_bytes() != content:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, content)

    def _seal(self, key: str, data: bytes) -> bytes:
        return self._cipher.seal(data, f"peers {key}".encode())

    def _open(self, key: str, sealed: bytes) -> bytes:
        return self._cipher.open(sealed, f"peers {key}".encode())
