"""The engines that this one is paired with: a file each in ``keys/peers/``, so that copying the folder moves them.

A file holds the peer's certificate, and so is all that makes it known, and what it may do here. No secret is in it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError, PeerRoles
from appliance.security.files import keys_folder, remove, write_atomic
from edge_agent.protocol import certificates

logger = logging.getLogger(__name__)

#: The files with which this engine shows itself: its private key, then the certificate.
IDENTITY = (certificates.KEY, certificates.CERTIFICATE)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_ID = re.compile(r"[0-9a-z]{1,40}")


class Known(Struct, kw_only=True):
    """One peer. ``id`` is its engine's, ``fingerprint`` its certificate's (SHA-256, hex), ``machine`` are marks of the
    hardware that it ran on last, ``addresses`` where it was reached last (``host:port``).
    """

    id: str
    name: str
    fingerprint: str
    certificate: str
    calls_itself: str = ""
    machine: str = ""
    at: float = 0.0
    version: str = ""
    panel: int = 0
    addresses: list[str] = []
    roles: PeerRoles = PeerRoles()
    allows: PeerRoles = PeerRoles()


def check_name(name: str) -> str:
    """A name for a peer. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a name for a peer: small letters, digits, - and _, at most 40")
    return name


def check_id(engine: str) -> str:
    """An engine's id, which becomes the name of a file. Raises ``ConfigError``."""
    if not _ID.fullmatch(engine):
        raise ConfigError(f"{engine[:60]!r} is not the id of an engine")
    return engine


def name_from(text: str) -> str:
    """A name made of what an engine calls itself; empty if nothing of it can be used."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:40]


class PeerBook:
    """The paired engines of a data folder; another process may read it at any time."""

    def __init__(self, data: Path) -> None:
        self.folder = keys_folder(data) / "peers"

    def certificate(self, name: str) -> bytes:
        """This engine's own, PEM; made, with its key, when it is first wanted. Raises ``OSError``."""
        return certificates.ensure(self.folder, name)

    def all(self) -> list[Known]:
        """By name. A file that cannot be read is left out, and said so."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Known))
            except (OSError, msgspec.DecodeError) as exc:
                logger.error("the peer in %s is not known any more: %s", path, exc)
        return sorted(found, key=lambda peer: peer.name)

    def write(self, peer: Known) -> None:
        """Keep a peer, durably. Raises ``OSError``."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self.folder / f"{check_id(peer.id)}.json", msgspec.json.encode(peer))

    def remove(self, engine: str) -> None:
        """Forget one; one that is not there is fine. Raises ``OSError``."""
        remove(self.folder / f"{check_id(engine)}.json")
