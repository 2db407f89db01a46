"""Importing models that lie on this machine: a file, or a USB stick's folder.

for local in look_at(Path("/media/usb")):
    bring(data, local, tell)
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from appliance.ai.host import files
from appliance.ai.library import cards, fetch, parts
from appliance.ai.library.arrival import check_gguf, finish_onnx, place_gguf
from appliance.ai.library.cards import Card
from appliance.ai.library.errors import BadModel, ModelIsThere, NoSuchModel
from appliance.ai.library.fetch import Tell
from appliance.ai.library.orders import folder_of
from appliance.ai.library.room import need_room, room
from appliance.contracts import ConfigError

_COPY_BLOCK = 1 << 22


class Local(Struct, frozen=True, kw_only=True):
    """A model that lies somewhere on this machine: a GGUF file, or a folder with ``model.onnx``.

    ``rest`` are the other files of one that is split.
    """

    name: str
    path: Path
    bytes: int
    onnx: bool
    rest: tuple[Path, ...] = ()
    projector: Path | None = None


def look_at(path: Path, projector: Path | None = None) -> list[Local]:
    """The models at a place: the file itself, or all in a folder and right below it. Raises ``NoSuchModel``.

    ``projector`` is what makes a model see; else one that lies beside it is taken.
    """
    if path.is_file() or (path / files.ONNX).is_file():
        return [_local(path, projector)]
    if not path.is_dir():
        raise NoSuchModel(f"there is no file or folder {path}")
    found = [_local(each, None) for each in _candidates(path)]
    if not found:
        raise NoSuchModel(f"there is no model in {path}: neither a .gguf file nor a folder with {files.ONNX}")
    if projector is not None:
        raise ConfigError("give the model's own file with its projector")
    return found


def _candidates(folder: Path) -> Iterator[Path]:
    yield from _firsts(folder)
    for each in sorted(folder.iterdir()):
        if each.name.startswith(".") or not each.is_dir():
            continue
        if (each / files.ONNX).is_file():
            yield each
        else:
            yield from _firsts(each)


def _firsts(folder: Path) -> list[Path]:
    """The files in a folder that are models, or the first parts of some."""
    found = []
    for each in sorted(folder.iterdir()):
        split = files.SPLIT.fullmatch(each.name)
        other = each.name.startswith(".") or _projects(each) or (split is not None and int(split[2]) > 1)
        if each.suffix.lower() == files.GGUF and each.is_file() and not other:
            found.append(each)
    return found


def _projects(path: Path) -> bool:
    """Whether a file is a projector, by its name: ``mmproj-…`` or ``….mmproj.gguf``, as they are called everywhere."""
    return "mmproj" in path.name.lower()


def _local(path: Path, projector: Path | None) -> Local:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        return Local(name=cards.name_from(path.name), path=path, bytes=size, onnx=True)
    together = files.parts(path)
    if gone := [each.name for each in together if not each.is_file()]:
        raise ConfigError(f"{path.name} is one of {len(together)} files of a model, and {gone[0]} is not beside it")
    if projector is not None and not projector.is_file():
        raise NoSuchModel(f"there is no file {projector}")
    projector = projector or (None if _projects(path) else _projector_of(path))
    size = sum(each.stat().st_size for each in (*together, *([projector] if projector else [])))
    name = cards.name_from(path.name)
    return Local(name=name, path=together[0], rest=together[1:], bytes=size, onnx=False, projector=projector)


def _projector_of(path: Path) -> Path | None:
    """The projector beside a model's file: the one of its name, or the only one where there is only one model."""
    own = path.with_name(f"{path.stem}{files.PROJECTOR}")
    if own.is_file():
        return own
    there = [each for each in path.parent.glob(f"*{files.GGUF}") if _projects(each) and each.is_file()]
    return there[0] if len(there) == 1 and len(_firsts(path.parent)) == 1 else None


def bring(
    data: Path,
    local: Local,
    tell: Tell = lambda done, total, what: None,
    *,
    link: bool = False,
    now: Callable[[], float] = time.time,
) -> Card:
    """Import a model by copying it, or with ``link`` by a hard link (on the same disk; then nobody may write to the
    file any more). Raises ``BadModel``, ``NoRoom``, ``ModelIsThere``, ``OSError`` for a stick that was pulled out.
    """
    models, folder = data / files.FOLDER, folder_of(data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cards.check_name(local.name)
    if files.find(data, local.name) is not None:
        raise ModelIsThere(f"there is a model {local.name!r} already; remove it first, or give this one another name")
    if not link:
        need_room(folder, local.bytes)
    card = Card(source=str(local.path), size=local.bytes, added=now())
    if local.onnx:
        half = folder / f"{local.name}.folder"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        try:
            for file in sorted(each for each in local.path.iterdir() if each.is_file()):
                _copy(file, half / file.name, tell, link)
        except BaseException:
            shutil.rmtree(half)
            raise
        finish_onnx(models, local.name, half, card)
        return card
    _bring_gguf(models, folder, local, card, tell, link)
    return card


def bring_adapter(
    data: Path,
    path: Path,
    model: str,
    name: str = "",
    tell: Tell = lambda done, total, what: None,
    *,
    now: Callable[[], float] = time.time,
) -> tuple[str, Card]:
    """Import a LoRA adapter of a model that is here; the name of the model with it, and the adapter's card.

    Raises as :func:`bring` does, and ``NoSuchModel``.
    """
    found = cards.find(data, model)
    if found.kind != "language" or files.WITH in model:
        raise ConfigError(f"{model} takes no adapters: language models do")
    called = cards.check_name(name) if name else cards.name_from(path.name)
    whole = f"{model}{files.WITH}{called}"
    if called in found.adapters:
        raise ModelIsThere(f"there is {whole} already; remove it first, or give this one another name")
    if not path.is_file():
        raise NoSuchModel(f"there is no file {path}")
    try:
        cards.check_adapter(path, found.path)
    except ConfigError as exc:
        raise BadModel(f"this cannot be used with {model}: {exc.message}") from None
    folder, target = folder_of(data), data / files.FOLDER / f"{model}{files.ADAPTERS}"
    for each in (folder, target):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    need_room(folder, path.stat().st_size)
    piece = folder / f"{whole}.import"
    _copy(path, piece, tell, link=False)
    card = Card(source=str(path), size=path.stat().st_size, sha256=fetch.sha256_of(piece, tell), added=now())
    cards.write_card(cards.card_path(data, whole, "language"), card)
    parts.take(piece, target / f"{called}{files.GGUF}")
    return whole, card


def _bring_gguf(models: Path, folder: Path, local: Local, card: Card, tell: Tell, link: bool) -> None:
    sources = {_called(local.name, each): each for each in (local.path, *local.rest)}
    if local.projector is not None:
        sources[f"{local.name}{files.PROJECTOR}"] = local.projector
    for called, source in sources.items():
        check_gguf(source, called)
    pieces = {called: folder / f"{called}.import" for called in sources}
    try:
        for called, piece in pieces.items():
            piece.unlink(missing_ok=True)
            _copy(sources[called], piece, tell, link)
        digests = {called: fetch.sha256_of(piece, tell) for called, piece in pieces.items()}
    except BaseException:
        for piece in pieces.values():
            piece.unlink(missing_ok=True)
        raise
    card.sha256, *_ = digests.values()
    card.others = dict(list(digests.items())[1:])
    place_gguf(models, local.name, pieces, card)


def _called(name: str, path: Path) -> str:
    """The name of a model's file here."""
    return f"{name}{path.name[-20:].lower()}" if files.SPLIT.fullmatch(path.name) else f"{name}{files.GGUF}"


def _copy(source: Path, target: Path, tell: Tell, link: bool) -> None:
    if link:
        os.link(source.resolve(), target)
        return
    done, total = 0, source.stat().st_size
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            while block := reader.read(_COPY_BLOCK):
                with room(target.parent, "Nothing of it is kept"):
                    writer.write(block)
                done += len(block)
                tell(done, total, "copying")
            with room(target.parent, "Nothing of it is kept"):
                writer.flush()
                os.fsync(writer.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
