"""The versions of the agent's code that came from its appliance, in ``versions/`` of its state folder.

==================  ==================================================================================
``state.json``      which one runs (none: the code that is installed), which is on trial, what came of the last
``NAME/``           one version: its code, and ``manifest`` with what each file has to be
``incoming/``       a package on its way: ``DIGEST.offer``, ``DIGEST.part``
==================  ==================================================================================

``state.json`` is written by the launcher and by the version that runs, of whatever release each is: fields may be
added, and never change their meaning.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from edge_agent.config import write_atomic
from edge_agent.protocol.messages import Update

logger = logging.getLogger(__name__)

FOLDER, INCOMING, STATE, MANIFEST = "versions", "incoming", "state.json", "manifest"


class Trial(Struct):
    """A version that has to show that it is well. ``starts`` were begun; ``ran`` are the drivers that it has to run,
    as the version before it did.
    """

    name: str
    version: str
    starts: int = 0
    ran: list[str] = []


class State(Struct):
    """What ``state.json`` holds; ``chosen`` is a name, "" is the installed code."""

    chosen: str = ""
    trial: Trial | None = None
    last: Update | None = None


class _File(Struct, array_like=True):
    path: str
    size: int
    digest: str


class _Manifest(Struct):
    version: str
    files: list[_File]


class Versions:
    """The folder. Used by one thread at a time."""

    def __init__(self, state: Path) -> None:
        self.folder = state / FOLDER

    @property
    def incoming(self) -> Path:
        """Where packages on their way lie."""
        return self.folder / INCOMING

    def read(self) -> State:
        """The state; a new one if there is none that can be read."""
        try:
            return msgspec.json.decode((self.folder / STATE).read_bytes(), type=State)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as exc:
            logger.error("which version of the agent was chosen cannot be read, the installed one runs: %s", exc)
        return State()

    def write(self, state: State) -> None:
        """Keep it. Raises ``OSError``."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self.folder / STATE, msgspec.json.encode(state))

    def place(self, name: str) -> Path:
        """Where a version's code lies."""
        return self.folder / name

    def version(self, name: str) -> str:
        """The version that a name stands for."""
        return name.partition("-")[0]

    def damage(self, name: str) -> str:
        """What is wrong with a version on disk, or nothing: cards lose bits, and power cuts files."""
        place = self.place(name)
        try:
            manifest = msgspec.msgpack.decode((place / MANIFEST).read_bytes(), type=_Manifest)
            for file in manifest.files:
                if hashlib.sha256((place / file.path).read_bytes()).hexdigest() != file.digest:
                    return f"{file.path} is damaged"
        except OSError as exc:
            return f"{exc.filename}: {(exc.strerror or str(exc)).lower()}"
        except msgspec.DecodeError:
            return "its manifest is damaged"
        return ""

    def prune(self, keep: Callable[[str], bool]) -> None:
        """Remove versions and what is left of packages, but for those whose names are to be kept."""
        gone = [path for path in self.folder.iterdir() if path.is_dir()] if self.folder.exists() else []
        for path in gone:
            if not keep(path.name):
                import shutil  # with all that it brings: only where there is something to remove

                shutil.rmtree(path, ignore_errors=True)
