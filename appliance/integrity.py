"""The installed files, as they were when root installed them: a signed list of their hashes, and what differs from it.

The list is ``manifest.json`` beside the installed program, with ``manifest.sig`` (Ed25519) by a key that only root can
read. A checkout has no list: its files are meant to be changed. What is found is a fault of the disk, or somebody's
doing; who is root can always make a new list, so this tells of accidents and of what was changed without root's rights.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.security import signatures

LIST, SIGNATURE, KEY = "manifest.json", "manifest.sig", "manifest.key"
#: Flowork's own packages: what is looked at before the kernel starts. All else is looked at once a day.
OURS = ("appliance", "edge_agent", "drivers")


class Seal(Struct, frozen=True):
    """The list: hashes (SHA-256) by path."""

    files: dict[str, str]


class Checked(Struct, frozen=True, kw_only=True):
    """What was found. Not ``sealed``: there is no list. ``fault`` is what is wrong with the list itself."""

    sealed: bool
    fault: str = ""
    changed: list[str] = []
    missing: list[str] = []
    added: list[str] = []

    @property
    def well(self) -> bool:
        return not (self.fault or self.changed or self.missing or self.added)

    def text(self) -> str:
        """In a line; empty if all is as it was."""
        if self.fault:
            return self.fault
        parts = []
        for word, names in (("changed", self.changed), ("missing", self.missing), ("added", self.added)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{word}: {', '.join(names[:3])}{more}")
        return "; ".join(parts)


def installed_at() -> Path:
    """Where the program that runs is installed."""
    return Path(sys.prefix)


def seal(release: Path, private: str) -> None:
    """Write the list of all files of a release, and sign it. Raises ``OSError``, ``ValueError``."""
    data = msgspec.json.encode(Seal({name: _hash(release / name) for name in _files(release)}), order="sorted")
    (release / LIST).write_bytes(data)
    (release / SIGNATURE).write_bytes(signatures.sign(private, data))
    (release / KEY).write_text(signatures.public_of(private), encoding="ascii")
    for name in (LIST, SIGNATURE, KEY):
        (release / name).chmod(0o644)


def check(release: Path, *, ours_only: bool = False) -> Checked:
    """Compare the files with the list; with ``ours_only`` Flowork's own alone."""
    try:
        data = (release / LIST).read_bytes()
        signature, public = (release / SIGNATURE).read_bytes(), (release / KEY).read_text(encoding="ascii")
    except FileNotFoundError:
        return Checked(sealed=(release / LIST).exists(), fault=_torn(release))
    except OSError as exc:
        return Checked(sealed=True, fault=f"the list of installed files cannot be read: {exc.strerror}")
    try:
        if not signatures.verified(public, data, signature):
            return Checked(sealed=True, fault="the list of installed files is not the one that was signed")
        known = msgspec.json.decode(data, type=Seal).files
    except (ValueError, msgspec.DecodeError):
        return Checked(sealed=True, fault="the list of installed files is damaged")
    here = {name for name in _files(release) if not ours_only or _is_ours(name)}
    wanted = {name: digest for name, digest in known.items() if not ours_only or _is_ours(name)}
    return Checked(
        sealed=True,
        changed=sorted(name for name in here & wanted.keys() if _hash(release / name) != wanted[name]),
        missing=sorted(wanted.keys() - here),
        added=sorted(here - wanted.keys()),
    )


def _torn(release: Path) -> str:
    return "the list of installed files has lost its signature" if (release / LIST).exists() else ""


def _files(release: Path) -> Iterator[str]:
    """All files of a release by their path in it, but for what Python makes itself and the list's own."""
    for folder, folders, names in os.walk(release):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() or (Path(folder) == release and name in (LIST, SIGNATURE, KEY, "complete")):
                continue
            yield str(path.relative_to(release))


def _is_ours(name: str) -> bool:
    parts = Path(name).parts
    return "site-packages" in parts and parts[parts.index("site-packages") + 1] in OURS


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as exc:
        return f"unreadable: {exc.strerror}"


def must_refuse(policy: str, release: Path) -> str:
    """Why the kernel is to rest, where the policy is ``refuse`` and Flowork's own files are not as installed."""
    if policy != "refuse":
        return ""
    found = check(release, ours_only=True)
    return "" if found.well else f"the installed files are not as they were installed: {found.text()}"


def private_key(file: Path) -> str:
    """Root's own key, made at the first call. Raises ``ConfigError`` for a file that is no key."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        text = file.read_text(encoding="ascii").strip()
        try:
            signatures.public_of(text)
        except ValueError as exc:
            raise ConfigError(f"{file}: {exc}") from None
        return text
    made = signatures.new_key()
    with os.fdopen(handle, "w", encoding="ascii") as out:
        out.write(made + "\n")
    return made
