"""Looks at a package, and unpacks it: in a process of its own, so that the agent does not carry the libraries for it.

``python -m edge_agent.install offer FOLDER DIGEST``
    Whether the package that was offered may be had: its signature, and whether it fits this machine.
``python -m edge_agent.install unpack FOLDER DIGEST``
    Everything once more, then the payload; it is unpacked, has to load, and only then gets its name.

``FOLDER`` is ``versions/`` of an agent. What is found is one JSON object on standard output: ``error`` says why not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent import __version__
from edge_agent.config import SettingsError
from edge_agent.network import paired
from edge_agent.protocol import package
from edge_agent.protocol.package import Manifest, PackageError
from edge_agent.versions import INCOMING, MANIFEST

#: What has to load before a version is tried, and the seconds that it may take.
LOADS = "import edge_agent.main, edge_agent.agent, edge_agent.network, edge_agent.units"
PATIENCE = 60.0


class Offered(Struct, array_like=True):
    """``DIGEST.offer``: as it came."""

    manifest: bytes
    signature: bytes


class Found(Struct):
    """The answer."""

    error: str = ""
    version: str = ""
    name: str = ""
    size: int = 0


def look(folder: Path, digest: str) -> Found:
    """Whether an offer may be taken. Raises ``PackageError``, ``OSError``."""
    manifest = _checked(folder, digest)
    needed, free = manifest.size + 2 * manifest.unpacked, shutil.disk_usage(folder).free
    if free < needed:
        raise PackageError(
            f"the update needs {needed / 1e6:.1f} MB on the disk there, and {free / 1e6:.1f} MB are free"
        )
    return _found(manifest, digest)


def unpack(folder: Path, digest: str) -> Found:
    """Put a whole package in its place. Raises ``PackageError``, ``OSError``."""
    manifest = _checked(folder, digest)
    found = _found(manifest, digest)
    payload = (folder / INCOMING / f"{digest}.part").read_bytes()
    beside, place = folder / f"{found.name}.tmp", folder / found.name
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(place, ignore_errors=True)
    for file, data in package.contents(manifest, payload):
        _write(beside / file.path, data)
    _write(beside / MANIFEST, _offered(folder, digest).manifest)
    _try_to_load(beside, manifest)
    for path in [*(each for each in beside.rglob("*") if each.is_dir()), beside]:
        _sync(path)
    beside.rename(place)
    _sync(folder)
    return found


def _offered(folder: Path, digest: str) -> Offered:
    return msgspec.msgpack.decode((folder / INCOMING / f"{digest}.offer").read_bytes(), type=Offered)


def _checked(folder: Path, digest: str) -> Manifest:
    offered = _offered(folder, digest)
    appliance = paired(folder.parent)
    if appliance is None:
        raise PackageError("this agent is not paired")
    manifest = package.verify(offered.manifest, offered.signature, appliance.certificate.encode())
    if why := package.misfits(manifest, __version__):
        raise PackageError(why)
    return manifest


def _found(manifest: Manifest, digest: str) -> Found:
    return Found(version=manifest.version, name=f"{manifest.version}-{digest[:8]}", size=manifest.size)


def _try_to_load(place: Path, manifest: Manifest) -> None:
    environ = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-c", LOADS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environ, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise PackageError(f"version {manifest.version} cannot be loaded on this machine: {last[:300]}")


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """The command line."""
    verb, folder, digest = arguments
    try:
        found = {"offer": look, "unpack": unpack}[verb](Path(folder), digest)
    except (PackageError, SettingsError) as exc:
        found = Found(error=str(exc))
    except msgspec.DecodeError:
        found = Found(error="the offer cannot be read any more; ask for the update again")
    except subprocess.TimeoutExpired:
        found = Found(error=f"the new version did not load within {PATIENCE:g} s")
    except OSError as exc:
        found = Found(error=f"the disk does not take the update: {(exc.strerror or str(exc)).lower()}")
    sys.stdout.write(json.dumps(msgspec.to_builtins(found)))
    return 1 if found.error else 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(sys.argv[1:]))
