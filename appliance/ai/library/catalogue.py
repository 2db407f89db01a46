"""The catalogue of small open models: names, sizes, licences and sources, as data.

The built-in one is ``catalogue.json`` beside this file. An owner adds entries, or replaces those of the same name, with
``models/catalogue.json`` in the data folder. Nothing here is ever fetched by itself.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.ai.library.errors import NoSuchModel
from appliance.contracts import ConfigError

OWN = "catalogue.json"
#: What is said of an entry that nobody of us has fetched.
UNVERIFIED = "not verified by us: its address, size and licence were written down from memory and never tried"
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9._-]{0,80}$")]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s/]+/\S*$", max_length=2000)]
Checksum = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]
Kind = Literal["language", "embedding", "detector", "onnx"]


class ModelPart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of a model that has several; ``path`` is its name in the model's folder."""

    path: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,130}$")]
    url: Url
    sha256: Checksum = ""


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in one quantization. ``bytes`` is what its files take, roughly; what the source says counts.

    Either ``url`` (a GGUF file; of one that is split the first) with ``projector`` for a model that sees pictures, or
    ``parts`` and ``manifest`` (an ONNX model with its ``model.json``).
    """

    quantization: str
    bytes: Annotated[int, Meta(ge=1)]
    url: Url | Literal[""] = ""
    sha256: Checksum = ""
    projector: Url | Literal[""] = ""
    projector_sha256: Checksum = ""
    parts: tuple[ModelPart, ...] = ()
    manifest: dict[str, Any] = {}


class CatalogueEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model. ``context`` in tokens, ``cell`` is bytes of memory that a token of context takes; 0: not known."""

    name: Name
    title: str
    kind: Kind
    about: str
    licence: str
    source: str
    licence_url: str = ""
    parameters: int = 0
    context: int = 0
    cell: int = 0
    variants: tuple[Variant, ...]


def catalogue(data: Path | None = None) -> dict[str, CatalogueEntry]:
    """All entries by name; with the owner's own ones of a data folder. Raises ``ConfigError`` for a file of theirs
    that is wrong.
    """
    found = dict(_builtin())
    if data is None:
        return found
    path = data / "models" / OWN
    try:
        own = msgspec.json.decode(path.read_bytes(), type=list[CatalogueEntry])
    except FileNotFoundError:
        return found
    except (OSError, msgspec.MsgspecError) as exc:
        raise ConfigError(f"{path}: {exc}") from None
    return found | {entry.name: entry for entry in own}


@functools.cache
def _builtin() -> dict[str, CatalogueEntry]:
    text = files("appliance.ai.library").joinpath("catalogue.json").read_bytes()
    return {entry.name: entry for entry in msgspec.json.decode(text, type=list[CatalogueEntry])}


def is_verified(entry: CatalogueEntry, variant: Variant) -> bool:
    """Whether somebody of us has fetched it: then its checksums are here. An owner knows their own entries."""
    if _builtin().get(entry.name) != entry:
        return True
    sums = [part.sha256 for part in variant.parts] or [variant.sha256]
    return all(sums) and bool(variant.projector_sha256 or not variant.projector)


def choose(entries: dict[str, CatalogueEntry], text: str) -> tuple[CatalogueEntry, Variant]:
    """``NAME`` (its first variant) or ``NAME:QUANTIZATION``. Raises ``NoSuchModel``."""
    name, _, wanted = text.partition(":")
    entry = entries.get(name.lower())
    if entry is None:
        near = [each for each in entries if name and name.lower() in each]
        hint = f"do you mean {', '.join(near)}?" if near else "`flowork models catalogue` lists what it has"
        file = ", and there is no such file here" if name.lower().endswith(".gguf") else ""
        raise NoSuchModel(f"the catalogue has no model {name!r}{file}; {hint}")
    if not wanted:
        return entry, entry.variants[0]
    for variant in entry.variants:
        if _plain(variant.quantization) == _plain(wanted):
            return entry, variant
    there = ", ".join(variant.quantization for variant in entry.variants)
    raise NoSuchModel(f"{entry.name} comes as {there}, not as {wanted!r}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
