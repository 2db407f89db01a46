"""Getting a model: from the catalogue, an address, a file, or a USB stick's folder; checked before it gets its name.

    order = order_of(data, "qwen2.5-0.5b:Q4_K_M")     # what would be fetched: to be shown, and agreed to
    pull(data, order, tell)

What comes lies in ``models/pulls/`` until it is whole and has proved to be what it should be. Of a model that is split
over several files all are fetched, and with one that sees pictures its projector.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.ai.building import machine
from appliance.ai.host import files
from appliance.ai.host.llama import ggufs
from appliance.ai.library import cards, catalogue, fetch
from appliance.ai.library.cards import Card
from appliance.ai.library.catalogue import ModelPart
from appliance.ai.library.errors import BadModel, CannotFetch, ModelIsThere, NoSuchModel
from appliance.ai.library.fetch import Tell, Wait
from appliance.ai.library.orders import Order, folder_of
from appliance.contracts import ConfigError

#: Checksums of what was once fetched, by address: what comes again must be the same.
_SEEN = "checksums.json"
_COPY_BLOCK = 1 << 22
_ADDRESS = ("http://", "https://")
#: What of a size may differ from what the catalogue says of it.
_OFF = 0.1
_ELSEWHERE = (
    "The catalogue's address is not verified by us and may be wrong: look at {source}, and give the address that you "
    "find there to `flowork models pull`, or put it into models/catalogue.json"
)


def order_of(
    data: Path, what: str, *, name: str = "", sha256: str = "", projector: str = "", ask: bool = True
) -> Order:
    """What ``what`` means: ``NAME``, ``NAME:QUANTIZATION`` or an address. With ``ask`` its source tells the size.

    ``projector`` is the address of what makes it see. Raises ``NoSuchModel``, ``CannotFetch``, ``ConfigError``.
    """
    if what.startswith(_ADDRESS):
        order = _from_address(what, name, sha256, projector)
    elif projector:
        raise ConfigError("a model of the catalogue brings its projector along; leave it out")
    else:
        order = _from_catalogue(data, what, name)
    seen = _seen(data)
    parts = tuple(msgspec.structs.replace(part, sha256=part.sha256 or seen.get(part.url, "")) for part in order.parts)
    order = msgspec.structs.replace(order, parts=parts)
    if not ask:
        return order
    try:
        sizes = [fetch.look(part.url).size for part in order.parts]
    except CannotFetch as exc:
        if not order.note:
            raise
        raise CannotFetch(f"{exc.message}. {_ELSEWHERE.format(source=order.source)}") from None
    free = machine.free_disk(folder_of(data))
    size = sum(sizes) if all(sizes) else order.bytes
    note = order.note
    if note and abs(size - order.bytes) > _OFF * order.bytes:
        said, real = f"{order.bytes / 1e6:,.1f} MB", f"{size / 1e6:,.1f} MB"
        note += f". The catalogue says {said}, its source {real}: it may be another file"
    return msgspec.structs.replace(order, bytes=size, free=free, note=note)


def _from_address(url: str, name: str, sha256: str, projector: str) -> Order:
    sha256 = sha256.lower().strip()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ConfigError("a SHA-256 checksum has 64 hexadecimal digits")
    for path in (each.partition("?")[0] for each in (url, projector) if each):
        if not path.lower().endswith(files.GGUF):
            raise ConfigError(
                "the address of a model ends in .gguf; ONNX models come from the catalogue or from a folder"
            )
    chosen = cards.check_name(name) if name else cards.name_from(url.partition("?")[0])
    parts = _language_parts(chosen, url, sha256, projector)
    if sha256 and len(parts) > 1 + bool(projector):
        raise ConfigError(
            "a model in several files has several checksums: leave it out, they are written down at the first pull"
        )
    return Order(name=chosen, parts=parts, source=url)


def _language_parts(
    name: str, url: str, sha256: str, projector: str, projector_sha256: str = ""
) -> tuple[ModelPart, ...]:
    """The files of a language model: one, or all of those it is split into, and its projector."""
    path, mark, query = url.partition("?")
    wanted = [(f"{name}{files.GGUF}", url, sha256)]
    if files.SPLIT.fullmatch(path.rpartition("/")[2]):
        folder = path.rpartition("/")[0]
        wanted = [
            (f"{name}{theirs[-20:].lower()}", f"{folder}/{theirs}{mark}{query}", sha256)
            for theirs in (each.name for each in files.parts(Path(path)))
        ]
    if projector:
        wanted.append((f"{name}{files.PROJECTOR}", projector, projector_sha256))
    made = []
    for file, address, digest in wanted:
        try:
            made.append(msgspec.convert({"path": file, "url": address, "sha256": digest}, ModelPart))
        except msgspec.ValidationError:
            raise ConfigError(f"{address[:200]!r} is no address that a file can be fetched from") from None
    return tuple(made)


def _from_catalogue(data: Path, what: str, name: str) -> Order:
    entry, variant = catalogue.choose(catalogue.catalogue(data), what)
    tried = catalogue.is_verified(entry, variant)
    onnx = bool(variant.parts)
    chosen = cards.check_name(name) if name else entry.name if onnx else f"{entry.name}-{variant.quantization.lower()}"
    parts = variant.parts or _language_parts(
        chosen, variant.url, variant.sha256, variant.projector, variant.projector_sha256
    )
    return Order(
        name=chosen,
        parts=parts,
        onnx=onnx,
        manifest=variant.manifest,
        title=entry.title,
        quantization=variant.quantization,
        bytes=variant.bytes,
        licence=entry.licence,
        licence_url=entry.licence_url,
        source=entry.source,
        note="" if tried else catalogue.UNVERIFIED,
    )


def pull(
    data: Path,
    order: Order,
    tell: Tell = lambda done, total, what: None,
    *,
    wait: Wait = time.sleep,
    now: Callable[[], float] = time.time,
) -> Card:
    """Fetch, check, and give it its name. Raises ``CannotFetch``, ``BadModel``, ``NoRoom``, ``ModelIsThere``.

    After an error of the network what has come is kept, and the same call goes on with it.
    """
    models = data / files.FOLDER
    folder = folder_of(data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if files.find(data, order.name) is not None:
        raise ModelIsThere(f"there is a model {order.name!r} already; remove it first, or give this one another name")
    pieces = [folder / f"{order.name}.{number}.part" for number in range(len(order.parts))]
    digests = [_fetched(piece, part, tell, wait, order) for piece, part in zip(pieces, order.parts, strict=True)]
    card = Card(
        title=order.title,
        source=order.source,
        licence=order.licence,
        licence_url=order.licence_url,
        sha256=digests[0],
        others={part.path: digest for part, digest in zip(order.parts[1:], digests[1:], strict=True)},
        checked=order.checksum_known,
        size=sum(piece.stat().st_size for piece in pieces),
        added=now(),
    )
    _remember(data, {part.url: digest for part, digest in zip(order.parts, digests, strict=True)})
    if order.onnx:
        _place_onnx(models, order, pieces, card)
    else:
        _place_gguf(models, order.name, dict(zip((part.path for part in order.parts), pieces, strict=True)), card)
    return card


def _fetched(part: Path, wanted: ModelPart, tell: Tell, wait: Wait, order: Order) -> str:
    """Fetch one file; its checksum, which is right."""
    fetch.fetch(wanted.url, part, tell, wait=wait, trust=bool(wanted.sha256))
    digest = fetch.sha256_of(part, tell)
    try:
        fetch.check(wanted.sha256, digest, wanted.url)
        if not order.onnx:
            _check_gguf(part, wanted.path)
    except BadModel:
        fetch.forget(part)
        raise
    return digest


def _check_gguf(path: Path, called: str) -> None:
    """Whether a file is what its place in a model takes. Raises ``BadModel``."""
    split = files.SPLIT.fullmatch(called)
    wanted = (int(split[2]), int(split[3])) if split else (1, 1)
    try:
        part = ggufs.part_of(path)
        if part != wanted:
            raise ConfigError(
                f"it is part {part.number} of {part.parts} of a model, and should be part {wanted[0]} of {wanted[1]}"
            )
        if called.endswith(files.PROJECTOR):
            cards.check_projector(path)
        elif wanted == (1, 1):
            cards.gguf_facts(path)
    except ConfigError as exc:
        raise BadModel(f"this is no model that can be used: {exc.message}") from None


def _place_gguf(models: Path, name: str, pieces: dict[str, Path], card: Card) -> None:
    """Give the files their names, by which they are given here, the first one's at last: by it a model is seen."""
    # The card before it: a power cut in between leaves a card without a model, which nobody sees.
    cards.write_card(models / f"{name}.json", card)
    for file, piece in reversed(pieces.items()):
        fetch.take(piece, models / file)


def _place_onnx(models: Path, order: Order, pieces: list[Path], card: Card) -> None:
    half = folder_of(models.parent) / f"{order.name}.folder"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    for piece, part in zip(pieces, order.parts, strict=True):
        fetch.take(piece, half / part.path)
    (half / files.MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(order.manifest), indent=2))
    _finish_onnx(models, order.name, half, card)


def _finish_onnx(models: Path, name: str, half: Path, card: Card) -> None:
    if not (half / files.ONNX).is_file():
        shutil.rmtree(half)
        raise BadModel(f"{name}: there is no {files.ONNX} in it")
    cards.write_card(half / cards.CARD, card)
    fetch.sync_folder(half)
    half.rename(models / name)
    fetch.sync_folder(models)


# --- from this machine -------------------------------------------------------------------------------


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
        fetch.need_room(folder, local.bytes)
    card = Card(source=str(local.path), size=local.bytes, added=now())
    if local.onnx:
        half = folder / f"{local.name}.folder"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        for file in sorted(each for each in local.path.iterdir() if each.is_file()):
            _copy(file, half / file.name, tell, link)
        _finish_onnx(models, local.name, half, card)
        return card
    _bring_gguf(models, folder, local, card, tell, link)
    return card


def _bring_gguf(models: Path, folder: Path, local: Local, card: Card, tell: Tell, link: bool) -> None:
    sources = {_called(local.name, each): each for each in (local.path, *local.rest)}
    if local.projector is not None:
        sources[f"{local.name}{files.PROJECTOR}"] = local.projector
    for called, source in sources.items():
        _check_gguf(source, called)
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
    _place_gguf(models, local.name, pieces, card)


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
                writer.write(block)
                done += len(block)
                tell(done, total, "copying")
            writer.flush()
            os.fsync(writer.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise


# --- checksums that were seen ------------------------------------------------------------------------


def _seen(data: Path) -> dict[str, str]:
    try:
        return msgspec.json.decode((data / files.FOLDER / _SEEN).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError):
        return {}


def _remember(data: Path, fresh: dict[str, str]) -> None:
    known = _seen(data) | fresh
    path = data / files.FOLDER / _SEEN
    half = path.with_name(f".{_SEEN}.{os.getpid()}")
    half.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2))
    half.replace(path)
