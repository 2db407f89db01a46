"""Which models lie in ``<data>/models/``: files ``NAME.gguf``, and folders ``NAME/`` with a ``model.onnx``.

A large language model may lie in several files, ``NAME-00001-of-00003.gguf`` and so on. LoRA adapters of one are the
GGUF files in ``NAME.adapters/``; the model with one is ``NAME+ADAPTER``. By ``NAME.mmproj.gguf`` it sees pictures.
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
#: What turns a picture into something that the language model beside it reads, as llama.cpp's tools call it.
PROJECTOR = ".mmproj.gguf"
#: One of the files of a model that is split, as llama.cpp's tools write them.
SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
#: Between the name of a model and that of its adapter.
WITH = "+"
Kind = Literal["language", "onnx"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
#: A name that says more is not believed.
_MOST_PARTS = 1000


class Found(Struct, frozen=True):
    """One model on the disk. ``stamp`` changes when it has to be loaded anew; ``about`` is what its JSON file says.

    ``path`` is the first of its files, ``rest`` are the others of one that is split (there or not).
    """

    name: str
    kind: Kind
    path: Path
    size: int
    created: int
    stamp: tuple[int, ...]
    about: dict[str, Any]
    adapters: dict[str, Path] = {}
    rest: tuple[Path, ...] = ()
    projector: Path | None = None

    @property
    def names(self) -> list[str]:
        """By what it can be asked: itself, and with each of its adapters."""
        return [self.name, *(f"{self.name}{WITH}{adapter}" for adapter in self.adapters)]


def look(data: Path) -> list[Found]:
    """All models of a data folder, by name. What is there twice is the language model."""
    found: dict[str, Found] = {}
    try:
        entries = sorted((data / FOLDER).iterdir(), key=lambda path: path.suffix != GGUF)
    except OSError:
        return []
    for path in entries:
        name = _name_of(path)
        if name not in found and (one := _at(path, name)):
            found[name] = one
    return [found[name] for name in sorted(found)]


def find(data: Path, name: str) -> Found | None:
    """The model of that name, if there is one."""
    if not _NAME.fullmatch(name):
        return None
    folder = data / FOLDER
    whole = _at(folder / f"{name}{GGUF}", name)
    first = None if whole else next(folder.glob(f"{name}-00001-of-*{GGUF}"), None)
    return whole or (first and _at(first, name)) or _at(folder / name, name)


def parts(path: Path) -> tuple[Path, ...]:
    """All files of a model, by the name of any of them: one, unless that is a part's."""
    split = SPLIT.fullmatch(path.name)
    if split is None:
        return (path,)
    count = min(int(split[3]), _MOST_PARTS)
    return tuple(path.with_name(f"{split[1]}-{number:05}-of-{split[3]}{GGUF}") for number in range(1, count + 1))


def _name_of(path: Path) -> str:
    """What a file or folder in ``models/`` would be called as a model; empty for what belongs to another."""
    if path.name.endswith(PROJECTOR):
        return ""
    if split := SPLIT.fullmatch(path.name):
        return split[1] if int(split[2]) == 1 else ""
    return path.stem if path.suffix == GGUF else path.name


def _at(path: Path, name: str) -> Found | None:
    kind: Kind = "language" if path.suffix == GGUF else "onnx"
    file = path if kind == "language" else path / ONNX
    try:
        status = file.stat()
    except OSError:
        return None
    if not _NAME.fullmatch(name) or not file.is_file():
        return None
    described = path.with_name(f"{name}.json") if kind == "language" else path / MANIFEST
    adapters = _adapters(path.with_name(f"{name}{ADAPTERS}")) if kind == "language" else {}
    rest = parts(path)[1:] if kind == "language" else ()
    projector = path.with_name(f"{name}{PROJECTOR}") if kind == "language" else None
    projector = projector if projector is not None and projector.is_file() else None
    together = [*rest, *([projector] if projector else [])]
    size = status.st_size + sum(map(_bytes, together)) if kind == "language" else _size(path)
    beside = [described] if kind == "onnx" else [*adapters.values(), *together]
    return Found(
        name=name,
        kind=kind,
        path=path,
        size=size,
        created=int(status.st_mtime),
        stamp=(status.st_ino, status.st_mtime_ns, status.st_size, *(part for one in beside for part in _stamp(one))),
        about=_about(described),
        adapters=adapters,
        rest=rest,
        projector=projector,
    )


def _adapters(folder: Path) -> dict[str, Path]:
    return {one.stem: one for one in sorted(folder.glob(f"*{GGUF}")) if _NAME.fullmatch(one.stem)}


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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
