"""Getting a model: from the catalogue, an address, a file, or a USB stick's folder; checked before it gets its name.

    order = order_of(data, "qwen2.5-0.5b:Q4_K_M")     # what would be fetched: to be shown, and agreed to
    pull(data, order, tell)

What comes lies in ``models/pulls/`` until it is whole and has proved to be what it should be.
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

from appliance.ai.host import files
from appliance.ai.library import cards, catalogue, fetch
from appliance.ai.library.cards import Card
from appliance.ai.library.catalogue import ModelPart
from appliance.ai.library.errors import BadModel, ModelIsThere, NoSuchModel
from appliance.ai.library.fetch import Tell, Wait
from appliance.ai.library.orders import Order, folder_of
from appliance.contracts import ConfigError

#: Checksums of what was once fetched, by address: what comes again must be the same.
_SEEN = "checksums.json"
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$", re.IGNORECASE)
_COPY_BLOCK = 1 << 22


def order_of(data: Path, what: str, *, name: str = "", sha256: str = "", ask: bool = True) -> Order:
    """What ``what`` means: ``NAME``, ``NAME:QUANTIZATION`` or an address. With ``ask`` its source tells the size.

    Raises ``NoSuchModel``, ``CannotFetch``, ``ConfigError``.
    """
    if what.startswith(("http://", "https://")):
        order = _from_address(what, name, sha256)
    else:
        order = _from_catalogue(data, what, name)
    seen = _seen(data)
    parts = tuple(msgspec.structs.replace(part, sha256=part.sha256 or seen.get(part.url, "")) for part in order.parts)
    order = msgspec.structs.replace(order, parts=parts)
    if not ask:
        return order
    sizes = [fetch.look(part.url).size for part in order.parts]
    return msgspec.structs.replace(order, bytes=sum(sizes) if all(sizes) else order.bytes)


def _from_address(url: str, name: str, sha256: str) -> Order:
    sha256 = sha256.lower().strip()
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ConfigError("a SHA-256 checksum has 64 hexadecimal digits")
    path = url.partition("?")[0]
    if _SPLIT.search(path):
        raise ConfigError("this is a part of a model that is split over several files; take one that is in one piece")
    if not path.lower().endswith(".gguf"):
        raise ConfigError("the address of a model ends in .gguf; ONNX models come from the catalogue or from a folder")
    chosen = cards.check_name(name) if name else cards.name_from(path)
    try:
        part = msgspec.convert({"path": f"{chosen[:70]}.gguf", "url": url, "sha256": sha256}, ModelPart)
    except msgspec.ValidationError:
        raise ConfigError(f"{url[:200]!r} is no address that a file can be fetched from") from None
    return Order(name=chosen, parts=(part,), source=url)


def _from_catalogue(data: Path, what: str, name: str) -> Order:
    entry, variant = catalogue.choose(catalogue.catalogue(data), what)
    onnx = bool(variant.parts)
    chosen = cards.check_name(name) if name else entry.name if onnx else f"{entry.name}-{variant.quantization.lower()}"
    parts = variant.parts or (ModelPart(path=f"{chosen[:70]}.gguf", url=variant.url, sha256=variant.sha256),)
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
    digests = [_fetched(folder / f"{order.name}.{number}.part", part, tell, wait, order)
               for number, part in enumerate(order.parts)]  # fmt: skip
    card = Card(
        title=order.title,
        source=order.source,
        licence=order.licence,
        licence_url=order.licence_url,
        sha256=digests[0],
        checked=order.checksum_known,
        size=sum((folder / f"{order.name}.{number}.part").stat().st_size for number in range(len(digests))),
        added=now(),
    )
    _remember(data, {part.url: digest for part, digest in zip(order.parts, digests, strict=True)})
    pieces = [folder / f"{order.name}.{number}.part" for number in range(len(digests))]
    if order.onnx:
        _place_onnx(models, order, pieces, card)
    else:
        _place_gguf(models, order.name, pieces[0], card)
    return card


def _fetched(part: Path, wanted: ModelPart, tell: Tell, wait: Wait, order: Order) -> str:
    """Fetch one file; its checksum, which is right."""
    fetch.fetch(wanted.url, part, tell, wait=wait, trust=bool(wanted.sha256))
    digest = fetch.sha256_of(part, tell)
    try:
        fetch.check(wanted.sha256, digest, wanted.url)
        if not order.onnx:
            _check_gguf(part)
    except BadModel:
        fetch.forget(part)
        raise
    return digest


def _check_gguf(path: Path) -> None:
    try:
        cards.gguf_facts(path)
    except ConfigError as exc:
        raise BadModel(f"this is no model that can be used: {exc.message}") from None


def _place_gguf(models: Path, name: str, part: Path, card: Card) -> None:
    # The card first: a power cut in between leaves a card without a model, which nobody sees.
    cards.write_card(models / f"{name}.json", card)
    fetch.take(part, models / f"{name}.gguf")


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
    """A model that lies somewhere on this machine: a GGUF file, or a folder with ``model.onnx``."""

    name: str
    path: Path
    bytes: int
    onnx: bool


def look_at(path: Path) -> list[Local]:
    """The models at a place: the file itself, or all in a folder and right below it. Raises ``NoSuchModel``."""
    if path.is_file():
        return [_local(path)]
    if (path / files.ONNX).is_file():
        return [_local(path)]
    if not path.is_dir():
        raise NoSuchModel(f"there is no file or folder {path}")
    found = [_local(each) for each in _candidates(path)]
    if not found:
        raise NoSuchModel(f"there is no model in {path}: neither a .gguf file nor a folder with {files.ONNX}")
    return found


def _candidates(folder: Path) -> Iterator[Path]:
    for each in sorted(folder.iterdir()):
        if each.name.startswith("."):
            continue
        if (each.suffix.lower() == files.GGUF and each.is_file()) or (each.is_dir() and (each / files.ONNX).is_file()):
            yield each
        elif each.is_dir():
            yield from (file for file in sorted(each.glob("*.gguf")) if file.is_file())


def _local(path: Path) -> Local:
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        return Local(name=cards.name_from(path.name), path=path, bytes=size, onnx=True)
    if _SPLIT.search(path.name):
        raise ConfigError(f"{path.name} is a part of a split model; join it first: llama-gguf-split --merge")
    return Local(name=cards.name_from(path.name), path=path, bytes=path.stat().st_size, onnx=False)


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
    _check_gguf(local.path)
    part = folder / f"{local.name}.import"
    part.unlink(missing_ok=True)
    _copy(local.path, part, tell, link)
    card.sha256 = fetch.sha256_of(part, tell)
    _place_gguf(models, local.name, part, card)
    return card


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
