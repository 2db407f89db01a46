"""The end of every way a model may come: its files are looked at, then given their names, the one by which it is seen
at last.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from appliance.ai.host import files
from appliance.ai.host.llama import ggufs
from appliance.ai.library import cards, parts
from appliance.ai.library.cards import Card
from appliance.ai.library.errors import BadModel
from appliance.ai.library.orders import Order, folder_of
from appliance.contracts import ConfigError


def check_gguf(path: Path, called: str) -> None:
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
        told = exc.message.replace(path.name, called)  # while it comes it has another name
        raise BadModel(f"this is no model that can be used: {told}") from None


def place_gguf(models: Path, name: str, pieces: dict[str, Path], card: Card) -> None:
    """Give the files their names, by which they are given here, the first one's at last: by it a model is seen."""
    # The card before it: a power cut in between leaves a card without a model, which nobody sees.
    cards.write_card(models / f"{name}.json", card)
    for file, piece in reversed(pieces.items()):
        parts.take(piece, models / file)


def place_onnx(models: Path, order: Order, pieces: list[Path], card: Card) -> None:
    """Make the folder of a model whose files have come. Raises ``BadModel``."""
    half = folder_of(models.parent) / f"{order.name}.folder"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    # What may find no room before what has come is taken: the folder is begun anew.
    (half / files.MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(order.manifest), indent=2))
    for piece, part in zip(pieces, order.parts, strict=True):
        parts.take(piece, half / part.path)
    finish_onnx(models, order.name, half, card)


def finish_onnx(models: Path, name: str, half: Path, card: Card) -> None:
    """Give a folder that has all its files its card and its name. Raises ``BadModel`` where there is no model in it."""
    if not (half / files.ONNX).is_file():
        shutil.rmtree(half)
        raise BadModel(f"{name}: there is no {files.ONNX} in it")
    cards.write_card(half / cards.CARD, card)
    parts.sync_folder(half)
    half.rename(models / name)
    parts.sync_folder(models)
