"""Fetching a model, from the catalogue or an address; checked before it gets its name. (``bring.py``: from a disk.)

    order = order_of(data, "qwen2.5-0.5b:Q4_K_M")     # what would be fetched: to be shown, and agreed to
    pull(data, order, tell)

What comes lies in ``models/pulls/`` until it is whole and has proved to be what it should be. Of a model that is split
over several files all are fetched, and with one that sees pictures its projector.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.ai.building import machine
from appliance.ai.host import files
from appliance.ai.library import cards, catalogue, fetch, parts
from appliance.ai.library.arrival import check_gguf, place_gguf, place_onnx
from appliance.ai.library.cards import Card
from appliance.ai.library.catalogue import ModelPart
from appliance.ai.library.errors import BadModel, CannotFetch, ModelIsThere
from appliance.ai.library.fetch import Tell, Wait
from appliance.ai.library.orders import Order, folder_of
from appliance.ai.library.room import room
from appliance.contracts import ConfigError

#: Checksums of what was once fetched, by address: what comes again must be the same.
_SEEN = "checksums.json"
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
        if not order.note or exc.message.endswith(fetch.OFFLINE):
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
    folder = folder_of(data)
    with room(folder):
        return _pulled(data, order, tell, wait, now)


def came(data: Path, name: str) -> int:
    """Bytes that have come of a model whose pull was cut off."""
    return sum(part.stat().st_size for part in _parts(data, name))


def forget(data: Path, name: str) -> None:
    """Delete what has come of a model. Raises ``ModelIsThere`` while it comes."""
    for part in _parts(data, name):
        with parts.alone(part):
            parts.forget(part)


def _parts(data: Path, name: str) -> list[Path]:
    found = folder_of(data).glob(f"{glob.escape(name)}.*.part")
    return [part for part in found if part.name[len(name) + 1 : -len(".part")].isdigit()]


def _pulled(data: Path, order: Order, tell: Tell, wait: Wait, now: Callable[[], float]) -> Card:
    models, folder = data / files.FOLDER, folder_of(data)
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
        place_onnx(models, order, pieces, card)
    else:
        place_gguf(models, order.name, dict(zip((part.path for part in order.parts), pieces, strict=True)), card)
    return card


def _fetched(part: Path, wanted: ModelPart, tell: Tell, wait: Wait, order: Order) -> str:
    """Fetch one file; its checksum, which is right."""
    fetch.fetch(wanted.url, part, tell, wait=wait, trust=bool(wanted.sha256))
    digest = fetch.sha256_of(part, tell)
    try:
        fetch.check(wanted.sha256, digest, wanted.url)
        if not order.onnx:
            check_gguf(part, wanted.path)
    except BadModel:
        parts.forget(part)
        raise
    return digest


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
    try:
        half.write_bytes(msgspec.json.format(msgspec.json.encode(known), indent=2))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
