"""The way to an appliance on another machine, and the pairing before it.

TLS to the last address that worked, to those that were given, and to what mDNS finds.
"""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.config import SettingsError, address, host_name, write_atomic
from edge_agent.dialer import Dial
from edge_agent.protocol import certificates, pairing
from edge_agent.protocol.channel import tune

logger = logging.getLogger(__name__)

PAIRED = "paired.json"
#: Seconds that a connection may take, and that mDNS is listened to.
PATIENCE, BROWSE = 5.0, 2.0
#: Seconds between two searches, at least: each is a process that takes a second of a small machine.
SEARCH_EVERY = 30.0


class Appliance(Struct):
    """Whom this agent belongs to."""

    name: str
    engine: str
    certificate: str
    address: str = ""


class Found(Struct):
    """An appliance on the local network."""

    engine: str
    host: str
    addresses: list[str]
    port: int


def paired(folder: Path) -> Appliance | None:
    """The appliance that this agent was paired with. Raises ``SettingsError`` if that cannot be read."""
    try:
        return msgspec.json.decode((folder / PAIRED).read_bytes(), type=Appliance)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as exc:
        raise SettingsError(f"{folder / PAIRED} cannot be read ({exc}); remove it and pair again") from None


def pair(folder: Path, code: str, given: Sequence[str], machine: str, *, search: bool) -> Appliance:
    """Become an agent of the appliance that shows ``code``. Raises ``pairing.PairingError``, ``SettingsError``."""
    pairing.split(code)
    certificate = certificates.ensure(folder, f"flowork agent {host_name()}")
    mine = pairing.Request(certificate, machine, host_name())
    why = "no appliance was found; give its address: --appliance HOST"
    for where in _all_addresses(given, search):
        host, port = address(where)
        try:
            with socket.create_connection((host, port), PATIENCE) as link:
                link.settimeout(PATIENCE * 2)
                answer = pairing.request(link, code, mine)
        except OSError as exc:
            why = f"{where}: {(exc.strerror or str(exc)).lower()}"
            continue
        except pairing.WrongCode as exc:
            raise pairing.PairingError(f"{where}: {exc}") from None
        except pairing.PairingError as exc:
            why = f"{where}: {exc}"
            continue
        made = Appliance(answer.name, answer.engine, answer.certificate.decode(), where)
        write_atomic(folder / PAIRED, msgspec.json.encode(made))
        return made
    raise pairing.PairingError(why)


def _all_addresses(given: Sequence[str], search: bool) -> Iterator[str]:
    yield from given
    if search:
        for found in browse(BROWSE):
            for each in found.addresses:
                yield _join(each, found.port)


class Network:
    """Implements :class:`edge_agent.dialer.Route`. ``browse(seconds)`` is injected in tests."""

    first, longest = 0.5, 20.0

    def __init__(
        self,
        folder: Path,
        appliance: Appliance,
        given: Sequence[str],
        *,
        search: bool,
        find: Callable[[float], Iterator[Found]] | None = None,
    ) -> None:
        self._folder = folder
        self._appliance = appliance
        self._given = list(given)
        self._search = search
        self._find = find or browse
        self._searched_at = -SEARCH_EVERY

    @property
    def identity(self) -> str:
        """The fingerprint of this agent's own certificate."""
        return certificates.fingerprint((self._folder / certificates.CERTIFICATE).read_bytes())

    def ways(self) -> Iterator[tuple[str, Dial]]:
        """The last that worked, the given ones, then what can be found."""
        tried = set()
        for where in [self._appliance.address, *self._given]:
            if where and where not in tried:
                tried.add(where)
                yield where, partial(self._dial, where)
        if self._search and time.monotonic() >= self._searched_at + SEARCH_EVERY:
            self._searched_at = time.monotonic()
            for found in self._find(BROWSE):
                if found.engine != self._appliance.engine:
                    continue
                for each in found.addresses:
                    if (where := _join(each, found.port)) not in tried:
                        tried.add(where)
                        yield where, partial(self._dial, where)

    def worked(self, name: str) -> None:
        """Next time, this one first."""
        if name != self._appliance.address:
            self._appliance.address = name
            try:
                write_atomic(self._folder / PAIRED, msgspec.json.encode(self._appliance))
            except OSError as exc:
                logger.warning("the appliance's address cannot be kept: %s", exc.strerror)

    def _dial(self, where: str) -> socket.socket:
        try:
            host, port = address(where)
        except SettingsError as exc:
            raise OSError(str(exc)) from None
        # As bytes: a name of ASCII needs no IDNA, nor the library's tables for it.
        link = socket.create_connection((host.encode() if host.isascii() else host, port), PATIENCE)  # type: ignore[arg-type]
        try:
            link.settimeout(PATIENCE)
            tune(link)
            trusted = [self._appliance.certificate.encode()]
            context = certificates.context(self._folder, server=False, trusted=trusted)
            secure = context.wrap_socket(link, server_hostname=None)
            secure.settimeout(PATIENCE)
        except ssl.SSLError as exc:
            link.close()
            raise OSError(
                f"it is not the appliance that this agent was paired with, or it does not know this agent any more "
                f"({exc.reason or exc})"
            ) from None
        except BaseException:
            link.close()
            raise
        return secure


def browse(seconds: float) -> Iterator[Found]:
    """What answers on the local network, as it comes. Reads the answers in a process of its own."""
    import subprocess

    command = [sys.executable, "-m", "edge_agent.protocol.discovery", "browse", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    yield msgspec.json.decode(line, type=Found)
                except msgspec.DecodeError:
                    continue
        finally:
            process.terminate()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
