"""Which models lie in ``<data>/models/``: files ``NAME.gguf``, and folders ``NAME/`` with a ``model.onnx``.

LoRA adapters of a language model are the GGUF files in ``NAME.adapters/``; the model with one is ``NAME+ADAPTER``.
Nothing is opened but the small JSON files that describe them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

FOLDER = "models"
GGUF = ".gguf"
ONNX = "model.onnx"
MANIFEST = "model.json"
ADAPTERS = ".adapters"
#: Between the name of a model and that of its adapter.
WITH = "+"
Kind = Literal["language", "onnx"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Found(Struct, frozen=True):
    """One model on the disk. ``stamp`` changes when it has to be loaded anew; ``about`` is what its JSON file says."""

    name: str
    kind: Kind
    path: Path
    size: int
    created: int
    stamp: tuple[int, ...]
    about: dict[str, Any]
    adapters: dict[str, Path] = {}


def look(data: Path) -> list[Found]:
    """All models of a data folder, by name. What is there twice is the language model."""
    found: dict[str, Found] = {}
    try:
        entries = sorted((data / FOLDER).iterdir(), key=lambda path: path.suffix != GGUF)
    except OSError:
        return []
    for path in entries:
        name = path.stem if path.suffix == GGUF else path.name
        if name not in found and (one := _at(path, name)):
            found[name] = one
    return [found[name] for name in sorted(found)]


def find(data: Path, name: str) -> Found | None:
    """The model of that name, if there is one."""
    if not _NAME.fullmatch(name):
        return None
    folder = data / FOLDER
    return _at(folder / f"{name}{GGUF}", name) or _at(folder / name, name)


def _at(path: Path, name: str) -> Found | None:
    kind: Kind = "language" if path.suffix == GGUF else "onnx"
    file = path if kind == "language" else path / ONNX
    try:
        status = file.stat()
    except OSError:
        return None
    if not _NAME.fullmatch(name) or not file.is_file():
        return None
    described = path.with_suffix(".json") if kind == "language" else path / MANIFEST
    size = status.st_size if kind == "language" else _size(path)
    adapters = _adapters(path) if kind == "language" else {}
    beside = [described] if kind == "onnx" else list(adapters.values())
    return Found(
        name=name,
        kind=kind,
        path=path,
        size=size,
        created=int(status.st_mtime),
        stamp=(status.st_ino, status.st_mtime_ns, status.st_size, *(part for one in beside for part in _stamp(one))),
        about=_about(described),
        adapters=adapters,
    )


def _adapters(path: Path) -> dict[str, Path]:
    return {one.stem: one for one in sorted(path.with_suffix(ADAPTERS).glob(f"*{GGUF}")) if _NAME.fullmatch(one.stem)}


def _size(folder: Path) -> int:
    """The graph and the weights beside it, as some models keep them."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_ino, status.st_mtime_ns)


def _about(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}
