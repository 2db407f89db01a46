"""Where engines lie in a data folder, which of them is this machine's, and how making one goes.

models/engine/state.json         how the newest try to make one goes or went
models/engine/<key>/             an engine; whole once it holds ``complete.json``
models/engine/wheels/<key>/      the compiled wheel alone, from which an engine is put together in seconds
models/engine/work/              what is half made, and build.log
"""

from __future__ import annotations

import fcntl
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from appliance.ai.building import recipe
from appliance.contracts import FlowError

COMPLETE = "complete.json"
LOG = "build.log"
#: ``cut``: it was stopped or the power went; it goes on where it was. ``refused``: this machine cannot.
State = Literal["none", "running", "ready", "cut", "cancelled", "failed", "refused"]


class UnderWay(FlowError):
    """Somebody else makes the engine at this moment."""

    id = "setup-under-way"


class Complete(Struct, frozen=True, kw_only=True):
    """What an engine is. One of the ``kind`` xllamacpp was not compiled here and can less, one of the ``kind`` onnx
    runs ONNX models alone; ``lacks`` says why, and what helps.
    """

    kind: Literal["llama_cpp", "xllamacpp", "onnx"]
    version: str
    portable: bool = False
    seconds: float = 0.0
    lacks: str = ""


class Setup(Struct, kw_only=True):
    """How making the engine goes. ``phase`` is ``check``, ``tools``, ``source``, ``compile``, ``libraries`` or ``try``;
    ``done`` of ``total`` files are compiled; ``percent`` is of the whole. Times in Unix seconds.
    """

    state: State = "none"
    key: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0
    percent: int = 0
    text: str = ""
    began: float = 0.0
    ended: float = 0.0
    portable: bool = False


class Places:
    """The paths in one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.root = data / "models" / "engine"
        self.wheels = self.root / "wheels"
        self.work = self.root / "work"
        self.log = self.work / LOG
        self.state = self.root / "state.json"

    def engine(self, key: str) -> Path:
        return self.root / key

    def kept_wheel(self, key: str) -> Path | None:
        """A wheel that was compiled before: here, or by the tests or the installer beside the program."""
        for folder in (self.wheels / key, Path(sys.prefix, "wheels", key)):
            found = sorted(folder.glob("*.whl"))
            if found:
                return found[0]
        return None


def engine_path(data: Path) -> Path | None:
    """The folder to append to ``sys.path`` for the engine of this machine; None if none is made that fits it.

    To the end of it: the program's own libraries go first.
    """
    found = _find(Places(data))
    return None if found is None else found[0]


def use_engine(data: Path) -> None:
    """Have this process import what the engine brings along, from now on. Twice is fine."""
    found = engine_path(data)
    if found is not None and str(found) not in sys.path:
        sys.path.append(str(found))
        importlib.invalidate_caches()


def engine_facts(data: Path) -> Complete | None:
    """What the engine of this machine is."""
    found = _find(Places(data))
    return None if found is None else found[1]


def made(data: Path, *, portable: bool) -> Complete | None:
    """The engine of one kind for this machine, if it is there and whole."""
    return facts_of(Places(data).engine(recipe.engine_key(recipe.wheel_key(portable=portable))))


def facts_of(folder: Path) -> Complete | None:
    """What the engine in a folder is; None if it is not whole."""
    try:
        return msgspec.json.decode((folder / COMPLETE).read_bytes(), type=Complete)
    except (OSError, msgspec.MsgspecError):
        return None


def _find(places: Places) -> tuple[Path, Complete] | None:
    """The one for this very CPU goes before a portable one, and that before one without llama.cpp."""
    if not places.root.is_dir():
        return None
    keys = [recipe.wheel_key(portable=False), recipe.onnx_key()]
    if recipe.portable_runs():
        keys.insert(1, recipe.wheel_key(portable=True))
    for key in keys:
        folder = places.engine(recipe.engine_key(key))
        facts = facts_of(folder)
        if facts is not None:
            return folder, facts
    return None


def read_state(data: Path) -> Setup:
    """How the newest try goes or went. One that nobody works at any more was cut off."""
    places = Places(data)
    try:
        state = msgspec.json.decode(places.state.read_bytes(), type=Setup)
    except (OSError, msgspec.MsgspecError):
        state = Setup()
    if state.state == "running" and not under_way(data):
        state.state = "cut"
    if state.state == "ready" and engine_path(data) is None:
        # The data folder came to another machine, or Python or a library became newer.
        state = Setup(text="the engine that was made does not fit this machine, or this version of Flowork")
    if state.state != "running" and engine_path(data) is not None:
        state.state, state.percent = "ready", 100
    return state


def write_state(data: Path, state: Setup) -> None:
    """Keep it; a disk that is full must not end the work by this."""
    places = Places(data)
    fresh = places.state.with_name(f"state.{os.getpid()}")
    with suppress(OSError):
        places.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.encode(state))
        fresh.replace(places.state)


def under_way(data: Path) -> bool:
    """Whether an engine is being made, by whomever."""
    try:
        handle = os.open(Places(data).root / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def making(data: Path) -> str:
    """How far the engine is that is being made, in words; empty if none is."""
    state = read_state(data)
    return f"it is being made, {state.percent} % are done" if state.state == "running" else ""


@contextmanager
def turn(data: Path) -> Iterator[int]:
    """The right to make the engine; the lock's descriptor, for compilers to share. Raises ``UnderWay``."""
    root = Places(data).root
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnderWay("the model engine is being made already; see `flowork models status`") from None
        yield handle
    finally:
        os.close(handle)
