"""What an agent is updated with: the code of its appliance's release, signed by the appliance.

A package is a manifest, a signature over it, and a payload. The manifest (msgpack) says the version, where it can run,
and each file with its size and SHA-256; the payload is the files in that order, compressed (zlib, RFC 1950). The
signature is ECDSA over P-256 with SHA-256 (FIPS 186-5), by the key whose certificate the agent pinned when it was
paired. Nothing of a package is used before the signature, the payload's digest and each file's digest were right.
"""

from __future__ import annotations

import ast
import hashlib
import platform
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

MAGIC = b"FLOWORK-UPDATE-1\0"
#: The folders of the code, and which files of them.
FOLDERS = ("edge_agent", "drivers")
_PATH = re.compile(r"(edge_agent|drivers)(/[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*\.py")
#: Bytes of a manifest, of a payload, and of all files together; files; bytes of one piece on its way.
LARGEST_MANIFEST, LARGEST, LARGEST_UNPACKED, MOST_FILES, PIECE = 500_000, 8_000_000, 32_000_000, 2_000, 131_072
#: Libraries without which nothing of the agent runs; each of the others is needed by some driver.
CORE = ("msgspec", "cryptography")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,5}")
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)")
_MACHINES = re.compile(r"platform_machine in [\"']([^\"']*)[\"']")


class PackageError(Exception):
    """It cannot be used; the text is for people."""


class File(Struct, array_like=True, frozen=True):
    """One file of the code: its path, bytes, and SHA-256 (hex)."""

    path: str
    size: int
    digest: str


class Requirement(Struct, array_like=True, frozen=True):
    """A library: the least version that will do, and the machines that it is for (none: all)."""

    name: str
    least: str
    machines: tuple[str, ...] = ()


class Manifest(Struct, frozen=True, kw_only=True):
    """What is in a package: ``payload`` is its SHA-256 (hex), ``size`` its bytes, ``python`` the least version."""

    version: str
    files: tuple[File, ...]
    payload: str
    size: int
    python: tuple[int, int]
    systems: tuple[str, ...] = ("linux",)
    requires: tuple[Requirement, ...] = ()

    @property
    def unpacked(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


class Package(Struct, frozen=True):
    """A package as it travels."""

    manifest: bytes
    signature: bytes
    payload: bytes

    @property
    def digest(self) -> str:
        """What it is known by."""
        return hashlib.sha256(self.manifest).hexdigest()


# --- making: on the appliance -----------------------------------------------------------------------


def code_root() -> Path:
    """Where the code lies that is running."""
    return Path(__file__).parents[2]


def version_of(root: Path) -> str:
    """The version of the agent's code below ``root``. Raises ``PackageError``."""
    try:
        tree = ast.parse((root / "edge_agent" / "__init__.py").read_bytes())
        for statement in tree.body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
                version = str(ast.literal_eval(statement.value))
                numbers(version)
                return version
    except (OSError, SyntaxError, ValueError) as exc:
        raise PackageError(f"the agent's code in {root} cannot be read: {exc}") from None
    raise PackageError(f"the agent's code in {root} has no version")


def make(root: Path, key: bytes, *, python: tuple[int, int], requires: Sequence[Requirement]) -> Package:
    """Pack and sign the code below ``root`` with a private key (PEM). Raises ``PackageError``, ``OSError``."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    files, contents = [], []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py")):
        data = path.read_bytes()
        files.append(File(path.relative_to(root).as_posix(), len(data), hashlib.sha256(data).hexdigest()))
        contents.append(data)
    payload = zlib.compress(b"".join(contents), 9)
    manifest = Manifest(
        version=version_of(root),
        files=tuple(files),
        payload=hashlib.sha256(payload).hexdigest(),
        size=len(payload),
        python=python,
        requires=tuple(requires),
    )
    _bounded(manifest)
    packed = msgspec.msgpack.encode(manifest)
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return Package(packed, private.sign(MAGIC + packed, ec.ECDSA(hashes.SHA256())), payload)


def requirements(lines: Sequence[str], extra: str = "edge") -> list[Requirement]:
    """Those of an extra, from the lines of a distribution's metadata (``Requires-Dist``)."""
    found = []
    for line in lines:
        wanted, _, marker = line.partition(";")
        if f"extra == '{extra}'" not in marker.replace('"', "'"):
            continue
        named = _REQUIREMENT.match(wanted.strip())
        machines = _MACHINES.search(marker)
        if named is not None:
            found.append(Requirement(named[1], named[2], tuple(machines[1].split()) if machines else ()))
    return found


# --- checking: on the agent -------------------------------------------------------------------------


def numbers(version: str) -> tuple[int, ...]:
    """A version as it compares; zeros at the end do not count. Raises ``PackageError``."""
    if not _VERSION.fullmatch(version):
        raise PackageError(f"{version[:40]!r} is not a version; it looks like 1.4.2")
    parts = [int(part) for part in version.split(".")]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def is_newer(version: str, than: str) -> bool:
    """Whether it is. What cannot be compared is not newer."""
    try:
        return numbers(version) > numbers(than)
    except PackageError:
        return False


def read(manifest: bytes) -> Manifest:
    """A manifest, within its bounds. Raises ``PackageError``."""
    if len(manifest) > LARGEST_MANIFEST:
        raise PackageError("the package is not one: its manifest is too large")
    try:
        found = msgspec.msgpack.decode(manifest, type=Manifest)
    except (msgspec.DecodeError, RecursionError):
        raise PackageError("the package is not one that this agent can read") from None
    _bounded(found)
    return found


def _bounded(manifest: Manifest) -> None:
    numbers(manifest.version)
    fitting = 0 < manifest.size <= LARGEST and manifest.unpacked <= LARGEST_UNPACKED
    if not fitting or not 0 < len(manifest.files) <= MOST_FILES or min(file.size for file in manifest.files) < 0:
        raise PackageError("the package is larger than one may be")
    paths = [file.path for file in manifest.files]
    if len(set(paths)) != len(paths) or not all(_PATH.fullmatch(path) for path in paths):
        raise PackageError("the package has files that do not belong into one")


def misfits(manifest: Manifest, running: str) -> str:
    """Why a package is none for this machine, on which the version ``running`` runs; empty if nothing is known."""
    if numbers(manifest.version) == numbers(running):
        return f"version {running} runs here already"
    if not is_newer(manifest.version, running):
        return f"version {manifest.version} is older than {running}, which runs here: an update never goes back"
    if sys.platform not in manifest.systems:
        return f"version {manifest.version} is for {', '.join(manifest.systems)}, and this is {sys.platform}"
    if tuple(manifest.python) > sys.version_info[:2]:
        needed, have = ".".join(map(str, manifest.python)), ".".join(map(str, sys.version_info[:2]))
        return f"version {manifest.version} needs Python {needed}, and this machine has {have}: install it anew there"
    for wanted in manifest.requires:
        if why := _misses(wanted):
            return f"version {manifest.version} needs {why}: install it anew on that machine"
    return ""


def _misses(wanted: Requirement) -> str:
    """What a library lacks. One that is missing altogether only matters if nothing works without it: a driver that
    lacks its library says so, and did before.
    """
    from importlib import metadata

    if wanted.machines and platform.machine() not in wanted.machines:
        return ""
    try:
        have = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name}, which is missing there" if wanted.name in CORE else ""
    begin = re.match(r"\d+(\.\d+)*", have)
    if begin is not None and numbers(begin[0][:60]) < numbers(wanted.least):
        return f"{wanted.name} {wanted.least}, and there is {have}"
    return ""


def verify(manifest: bytes, signature: bytes, certificate: bytes) -> Manifest:
    """The manifest, if the holder of a certificate (PEM) has signed it. Raises ``PackageError``."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = x509.load_pem_x509_certificate(certificate).public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, MAGIC + manifest, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise PackageError("the package was not signed by the appliance that this agent is paired with") from None
    return read(manifest)


def contents(manifest: Manifest, payload: bytes) -> Iterator[tuple[File, bytes]]:
    """Each file with what is in it, once the whole payload was found right. Raises ``PackageError``."""
    if len(payload) != manifest.size or hashlib.sha256(payload).hexdigest() != manifest.payload:
        raise PackageError("the package was damaged on its way")
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(payload, manifest.unpacked + 1)
    except zlib.error:
        raise PackageError("the package was damaged on its way") from None
    if len(data) != manifest.unpacked:
        raise PackageError("the package does not hold what its manifest says")
    found, start = [], 0
    for file in manifest.files:
        part = data[start : start + file.size]
        start += file.size
        if hashlib.sha256(part).hexdigest() != file.digest:
            raise PackageError(f"{file.path} in the package is not what its manifest says")
        found.append((file, part))
    return iter(found)
