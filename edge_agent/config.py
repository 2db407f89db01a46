"""The agent's own settings: a TOML file (on the SD card beside the system), the command line, or defaults.

The first file that exists of ``--config``, ``flowork-agent.toml`` in the state folder, ``/boot/firmware/``, ``/boot/``
and ``/etc/flowork/`` is read::

    appliance = ["192.168.1.20", "flowork.local:5010"]   # tried beside what mDNS finds
    code = "3-482-913"                                   # shown by `flowork agent pair greenhouse`; used once
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

FILE = "flowork-agent.toml"
PORT = 5010
PLACES = (Path("/boot/firmware"), Path("/boot"), Path("/etc/flowork"))


class SettingsError(Exception):
    """The settings cannot be used; the text says which and why."""


class Settings(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a person may set on the agent's machine."""

    appliance: list[str] = []
    code: str = ""
    discovery: bool = True
    outbox_mb: Annotated[float, Meta(ge=0.1, le=100_000)] = 64.0
    outbox_days: Annotated[float, Meta(gt=0, le=3650)] = 7.0
    #: Whether the appliance may replace this agent's code; for how many seconds a new version has to be connected and
    #: well, and within how many.
    updates: bool = True
    well_for: Annotated[float, Meta(ge=0, le=86_400)] = 60.0
    well_within: Annotated[float, Meta(gt=0, le=604_800)] = 600.0


def state_folder(given: Path | None = None) -> Path:
    """Where the agent keeps its keys and its outbox: ``given``, ``$FLOWORK_AGENT_DATA``, systemd's ``StateDirectory``,
    ``/var/lib/flowork-agent`` for root, else under the user's home.
    """
    if given is not None:
        return given.expanduser().absolute()
    for name in ("FLOWORK_AGENT_DATA", "STATE_DIRECTORY"):
        if chosen := os.environ.get(name):
            return Path(chosen.split(":")[0]).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/flowork-agent")
    return Path.home() / ".local" / "share" / "flowork-agent"


def load(given: Path | None, state: Path) -> Settings:
    """The settings. Raises ``SettingsError``."""
    places = [given] if given is not None else [state / FILE, *(place / FILE for place in PLACES)]
    for path in places:
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            if given is not None:
                raise SettingsError(f"there is no file {path}") from None
            continue
        except OSError as exc:
            raise SettingsError(f"{path} cannot be read: {(exc.strerror or str(exc)).lower()}") from None
        import tomllib

        try:
            return msgspec.convert(tomllib.loads(text.decode()), Settings)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as exc:
            raise SettingsError(f"{path}: {exc}") from None
    return Settings()


def address(text: str) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port``, ``[::1]:port``. Raises ``SettingsError``."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, port = text.strip(), str(PORT)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"{text!r} is not an address; write host, host:port or [::1]:port")
    return host, int(port)


def host_name() -> str:
    """What this machine calls itself."""
    return socket.gethostname().split(".")[0]


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file so that a power cut leaves the old or the new one."""
    beside = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
