"""The release file: a tar archive of a manifest, its signature, and the files that the manifest names by their hashes.

``manifest.json`` comes first and ``manifest.sig`` (Ed25519 over the manifest's bytes) second, so that who reads the
archive from its start knows after some kilobytes whether to go on. Nothing else is looked at before the signature has
been verified with a trusted key, and no file is used before its hash has been.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.security import signatures

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
#: Bytes of a manifest, of one file and of a whole release, at most.
_LONGEST, _LARGEST, ALL = 4_000_000, 4_000_000_000, 6_000_000_000
_CHUNK = 1 << 20


class BadRelease(FlowError):
    """A release file that is damaged, not signed by a trusted key, or not for this machine."""

    id = "bad-release"
    retryable = False


class File(Struct, frozen=True):
    """One file of a release."""

    size: int
    sha256: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a release is. ``kind``: ``wheels`` (for an installed Flowork) or ``slot`` (a whole system, for an image).

    ``machine`` is as ``uname -m`` says, ``python`` like ``3.11`` (wheels only), ``schema`` the number of the database's
    form that it writes, ``made`` Unix seconds.
    """

    kind: Literal["wheels", "slot"]
    version: str
    machine: str
    python: str
    schema: int
    made: int
    files: dict[str, File]


def pack(sources: Mapping[str, Path], target: Path, key: str, **about: object) -> Manifest:
    """Write a release of these files (by their names in it), signed with the private ``key``.

    ``about`` are the manifest's other fields. The same input gives the same bytes. Raises ``OSError``, ``ValueError``.
    """
    files = {name: File(path.stat().st_size, _hash(path)) for name, path in sorted(sources.items())}
    manifest = msgspec.convert({**about, "files": msgspec.to_builtins(files)}, Manifest)
    told = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1)
    unfinished = target.with_name(f"{target.name}.part")
    with tarfile.open(unfinished, "w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, MANIFEST, io.BytesIO(told), len(told))
        _add(archive, SIGNATURE, io.BytesIO(signatures.sign(key, told)), signatures.SIGNATURE)
        for name, path in sorted(sources.items()):
            with path.open("rb") as opened:
                _add(archive, name, opened, files[name].size)
    unfinished.rename(target)
    return manifest


def _add(archive: tarfile.TarFile, name: str, data: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, data)


def _hash(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def open_file(path: Path) -> IO[bytes]:
    """Open a file that somebody else has left: no link is followed, no pipe waited for, nothing overly large taken.

    Raises ``BadRelease`` and ``OSError``.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    opened = os.fdopen(handle, "rb")
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_size > ALL:
        opened.close()
        raise BadRelease(f"{path} is no release file")
    return opened


class Release:
    """A release file that is read from its start to its end, once. Raises ``BadRelease`` and ``OSError``."""

    def __init__(self, opened: IO[bytes], trusted: Iterable[str]) -> None:
        self._opened = opened
        self._trusted = list(trusted)

    def open(self) -> Manifest:
        """Verify the signature; what the release is. Nothing behind the signature has been read then."""
        if not self._trusted:
            raise BadRelease("no key is trusted yet to sign releases; give it with `sudo flowork-updater trust KEY`")
        try:
            self._archive = tarfile.open(fileobj=self._opened, mode="r|")  # noqa: SIM115  # closed by whoever opened it
            told = self._first(MANIFEST, _LONGEST)
            signature = self._first(SIGNATURE, signatures.SIGNATURE)
        except tarfile.TarError as exc:
            raise BadRelease(f"this is no release file: {exc}") from None
        if not any(signatures.verified(key, told, signature) for key in self._trusted):
            raise BadRelease("the release is not signed by a key that is trusted here; nothing of it was used")
        try:
            self.manifest = msgspec.json.decode(told, type=Manifest)
        except msgspec.DecodeError as exc:
            raise BadRelease(f"the release is of a form that this version does not know: {exc}") from None
        return self.manifest

    def _first(self, name: str, most: int) -> bytes:
        member = self._archive.next()
        if member is None or member.name != name or not member.isreg() or member.size > most:
            raise BadRelease(f"this is no release file: it has no {name} in its place")
        data = self._archive.extractfile(member)
        return data.read() if data is not None else b""

    def unpack(self, folder: Path) -> None:
        """Write the files into ``folder``, each checked. On an error the folder holds what must not be used."""
        left = dict(self.manifest.files)
        try:
            while (member := self._archive.next()) is not None:
                wanted = left.pop(member.name, None)
                data = self._archive.extractfile(member) if member.isreg() else None
                if wanted is None or data is None or member.size != wanted.size or wanted.size > _LARGEST:
                    raise BadRelease(f"{member.name}: not the file that the release was signed with")
                _write(data, _inside(folder, member.name), wanted)
        except tarfile.TarError as exc:
            raise BadRelease(f"the release file is damaged: {exc}") from None
        if left:
            raise BadRelease(f"the release file is cut off: {min(left)} is missing")


def _inside(folder: Path, name: str) -> Path:
    """The place of a file; the manifest is signed, and still its names are not trusted to stay in the folder."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise BadRelease(f"{name!r} is not a name within a release")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _write(data: IO[bytes], target: Path, wanted: File) -> None:
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
    if digest.hexdigest() != wanted.sha256:
        target.unlink()
        raise BadRelease(f"{target.name} is damaged: its bytes are not those that were signed")
