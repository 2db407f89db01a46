"""What is known of a model that is here: from its file, and from the card that was written when it came.

models/NAME.gguf, NAME.json      a language or embedding model, and its card
models/NAME-00001-of-00002.gguf  the same in several files
models/NAME.mmproj.gguf          what makes it see pictures
models/NAME.adapters/LORA.gguf   a LoRA adapter of it; with one the model is NAME+LORA, whose card is NAME+LORA.json
models/NAME/model.onnx, card.json, model.json      an ONNX model, its card, and how it is used
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from appliance.ai.host import files
from appliance.ai.host.files import Found
from appliance.ai.host.llama import ggufs
from appliance.ai.library.errors import BadModel, NoSuchModel
from appliance.contracts import ConfigError, FlowError

#: Folders in ``models/`` that are no models; and names that an address of the API has.
_OURS = {"engine", "pulls", "state"}
_TAKEN = _OURS | {"catalogue", "default", "offers", "recommendations", "setup"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
CARD = "card.json"
#: ``general.architecture`` of a projector's file.
_PROJECTOR = "clip"
#: ``general.file_type`` of GGUF: names that people know, by ggml's LLAMA_FTYPE numbers (llama.h), with bits per weight.
_TYPES = {
    0: ("F32", 32.0), 1: ("F16", 16.0), 2: ("Q4_0", 4.5), 3: ("Q4_1", 5.0), 7: ("Q8_0", 8.5), 8: ("Q5_0", 5.5),
    9: ("Q5_1", 6.0), 10: ("Q2_K", 3.0), 11: ("Q3_K_S", 3.5), 12: ("Q3_K_M", 3.9), 13: ("Q3_K_L", 4.3),
    14: ("Q4_K_S", 4.6), 15: ("Q4_K_M", 4.9), 16: ("Q5_K_S", 5.5), 17: ("Q5_K_M", 5.7), 18: ("Q6_K", 6.6),
    19: ("IQ2_XXS", 2.1), 20: ("IQ2_XS", 2.3), 21: ("Q2_K_S", 2.7), 22: ("IQ3_XS", 3.3), 23: ("IQ3_XXS", 3.1),
    24: ("IQ1_S", 1.6), 25: ("IQ4_NL", 4.5), 26: ("IQ3_S", 3.4), 27: ("IQ3_M", 3.7), 28: ("IQ2_S", 2.5),
    29: ("IQ2_M", 2.7), 30: ("IQ4_XS", 4.3), 31: ("IQ1_M", 1.8), 32: ("BF16", 16.0),
}  # fmt: skip


class Speed(Struct, frozen=True, kw_only=True):
    """Tokens a second on ``machine`` (its CPU's name), measured at ``at`` (Unix seconds) with the whole way there."""

    prompt: float
    generation: float
    at: float
    machine: str


class Card(Struct, kw_only=True):
    """Where a model came from. ``checked``: its checksum was known beforehand and was right.

    ``others`` are the checksums of its further files, by their names.
    """

    title: str = ""
    source: str = ""
    licence: str = ""
    licence_url: str = ""
    sha256: str = ""
    others: dict[str, str] = {}
    size: int = 0
    added: float = 0.0
    checked: bool = False
    speed: Speed | None = None


class ModelView(Struct, frozen=True, kw_only=True):
    """One model that is here. ``kind`` is ``language``, ``embedding`` or what an ONNX model is for; of one with an
    adapter (``NAME+LORA``) ``bytes`` are the adapter's.

    ``context`` in tokens, ``parameters`` is a count (about), ``chat`` says whether it has a chat template, ``images``
    whether it sees pictures, ``trouble`` why it cannot be used.
    """

    name: str
    kind: str
    bytes: int
    title: str = ""
    architecture: str = ""
    quantization: str = ""
    parameters: int = 0
    context: int = 0
    cell: int = 0
    chat: bool = False
    images: bool = False
    licence: str = ""
    licence_url: str = ""
    source: str = ""
    sha256: str = ""
    checked: bool = False
    added: float = 0.0
    speed: Speed | None = None
    trouble: str = ""


def check_name(name: str) -> str:
    """A name that a model can have. Raises ``ConfigError``."""
    if not _NAME.fullmatch(name) or name in _TAKEN or name.endswith((".gguf", ".json", ".part")):
        raise ConfigError(f"{name!r} cannot be a model's name; take letters, digits, . _ - (100 at most)")
    return name


def name_from(text: str) -> str:
    """A model's name made from a file's name or an address."""
    last = text.rstrip("/").rpartition("/")[2].partition("?")[0]
    if split := files.SPLIT.fullmatch(last):
        last = split[1]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", re.sub(r"\.(gguf|onnx)$", "", last, flags=re.IGNORECASE)).strip("-.")
    return check_name(name.lower()[:100] or "model")


def all_models(data: Path) -> list[ModelView]:
    """The models of a data folder, by name, and each with each of its adapters."""
    return [view(each) for found in files.look(data) if found.name not in _OURS for each in _with_adapters(found)]


def find(data: Path, name: str) -> Found:
    """The model of that name, or one with an adapter. Raises ``NoSuchModel``."""
    base = name.partition(files.WITH)[0]
    found = files.find(data, base) if base not in _OURS else None
    for each in _with_adapters(found) if found is not None else ():
        if each.name == name:
            return each
    names = [each.name for model in files.look(data) for each in _with_adapters(model)]
    there = ", ".join(names) or "none yet; `flowork models pull` gets one"
    raise NoSuchModel(f"there is no model {name!r} here; there are: {there}")


def _with_adapters(found: Found) -> list[Found]:
    """A model by itself, and with each of its adapters."""
    named = {f"{found.name}{files.WITH}{name}": path for name, path in found.adapters.items()}
    sizes = {name: path.stat().st_size for name, path in named.items() if path.is_file()}
    return [found, *(replace(found, name=name, size=size) for name, size in sizes.items())]


def edition(data: Path, name: str) -> str:
    """What changes with a model's files, by their names and times; empty where there is none of that name."""
    found = files.find(data, name.partition(files.WITH)[0])
    return "" if found is None else str(found.stamp)


def adapter_of(found: Found) -> Path | None:
    """The adapter that is meant by its name, if one is."""
    return found.adapters.get(found.name.partition(files.WITH)[2])


def view(found: Found) -> ModelView:
    """All that is known of a model; one that cannot be read says why."""
    card = read_card(found)
    facts: dict[str, Any] = {}
    try:
        if found.kind == "language":
            facts = gguf_facts(found.path)
            if (adapter := adapter_of(found)) is not None:
                check_adapter(adapter, found.path)
            if found.projector is not None:
                check_projector(found.projector)
                facts["images"] = True
        else:
            facts = _onnx_facts(found)
    except FlowError as exc:
        facts = {"kind": found.kind, "trouble": exc.message}
    known = {name: getattr(card, name) for name in ("licence", "licence_url", "source", "sha256", "checked", "speed")}
    title = card.title or facts.pop("title", "")
    facts.pop("title", None)
    return ModelView(
        name=found.name, bytes=found.size, added=card.added or found.created, title=title, **known, **facts
    )


def as_default(view: ModelView) -> dict[str, Any]:
    """The settings that take it where a step names no model. Raises ``ConfigError`` for one of another kind."""
    if view.kind == "language":
        return {"model_default": (view.name,)}
    if view.kind in ("embedding", "embed"):
        return {"model_embed": view.name}
    raise ConfigError(f"{view.name} is for {view.kind}; steps that use such models always name theirs")


def gguf_facts(path: Path) -> dict[str, Any]:
    """What a GGUF file says of itself. Raises ``ConfigError`` for one that is none, or is cut off."""
    facts = ggufs.read(path)
    if facts.architecture == _PROJECTOR:
        raise ConfigError("this is a projector, which makes a model see: give it with its model (--projector)")
    if facts.is_adapter:
        raise ConfigError(
            "this is a LoRA adapter, which changes a model: `flowork models pull FILE --adapter-of MODEL` puts it "
            "beside that"
        )
    meta = facts.meta
    written = meta.get("general.file_type")  # not every maker writes it, and 0 is a type
    kind, bits = ("", 0.0) if written is None else _TYPES.get(_number(written), ("", 0.0))
    count = _number(meta.get("general.parameter_count")) or _from_label(str(meta.get("general.size_label", "")))
    if not count and bits:
        count = int(facts.size * 8 / bits)
    return {
        "kind": "embedding" if facts.pooling or "bert" in facts.architecture else "language",
        "title": facts.name[:200],
        "architecture": facts.architecture[:60],
        "quantization": kind,
        "parameters": count,
        "context": facts.context,
        "cell": facts.cell,
        "chat": "tokenizer.chat_template" in meta,
    }


def check_projector(path: Path) -> None:
    """Raises ``ConfigError`` for what is no projector."""
    facts = ggufs.read(path)
    if facts.architecture != _PROJECTOR:
        raise ConfigError(f"{path.name} is no projector (its architecture is {facts.architecture[:60]!r})")
    if not facts.meta.get("clip.has_vision_encoder", False):
        raise ConfigError(f"{path.name} hears, and sees no pictures; such models cannot be run here")


def check_adapter(path: Path, model: Path) -> None:
    """Raises ``ConfigError`` for what is no LoRA adapter, or one of another kind of model."""
    facts, wanted = ggufs.read(path), ggufs.read(model).architecture
    if not facts.is_adapter:
        raise ConfigError(f"{path.name} is no LoRA adapter")
    if facts.architecture != wanted:
        raise ConfigError(
            f"{path.name} is an adapter of a {facts.architecture[:60]!r}, and {model.name} is a {wanted!r}"
        )


def _onnx_facts(found: Found) -> dict[str, Any]:
    return {"kind": str(found.about.get("task", "onnx"))[:60], "title": str(found.about.get("title", ""))[:200]}


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else 0


def _from_label(label: str) -> int:
    """``0.5B``, ``494M`` (general.size_label of GGUF)."""
    found = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?)([KMB])", label)
    return int(float(found[1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[found[2]]) if found else 0


# --- cards -------------------------------------------------------------------------------------------


def card_path(data: Path, name: str, kind: Literal["language", "onnx"]) -> Path:
    models = data / files.FOLDER
    return models / f"{name}.json" if kind == "language" else models / name / CARD


def read_card(found: Found) -> Card:
    """Its card; an empty one for a file that somebody just put there."""
    path = found.path.with_name(f"{found.name}.json") if found.kind == "language" else found.path / CARD
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (OSError, msgspec.MsgspecError):
        return Card()


def write_card(path: Path, card: Card) -> None:
    """Keep it, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def keep_speed(data: Path, name: str, speed: Speed) -> None:
    """Write down how fast a model is here. Raises ``NoSuchModel``."""
    found = find(data, name)
    card = read_card(found)
    card.speed = speed
    write_card(card_path(data, name, found.kind), card)


def remove(data: Path, name: str) -> int:
    """Delete a model with its card, or an adapter; the bytes that it took. One that is loaded goes on until it is put
    away. The adapters of a model stay: what was trained cannot be fetched again.
    """
    found = find(data, name)
    if (adapter := adapter_of(found)) is not None:
        for path in (adapter, card_path(data, name, "language")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # there are others
            adapter.parent.rmdir()
    elif found.kind == "onnx":
        # First under a name that nobody takes for a model: a power cut leaves no half one.
        gone = found.path.with_name(f".{name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        found.path.rename(gone)
        shutil.rmtree(gone)
    else:
        beside = [found.path.with_name(f"{found.name}.json"), *([found.projector] if found.projector else [])]
        for path in (found.path, *found.rest, *beside):  # the first first: without it there is no model
            with suppress(FileNotFoundError):
                path.unlink()
    return found.size


def verify(data: Path, name: str) -> tuple[bool, str]:
    """Whether a model's files still have the checksums of its card; and the one that the first has (or the one that is
    wrong). Raises ``NoSuchModel``, ``BadModel`` where none was kept.
    """
    from appliance.ai.library.fetch import sha256_of

    found = find(data, name)
    card = read_card(found)
    if found.kind != "language" or not card.sha256:
        raise BadModel(view(found).trouble or f"no checksum was kept for {name!r}")
    actual = sha256_of(adapter_of(found) or found.path)
    for name, wanted in card.others.items() if actual == card.sha256 else ():
        path = found.path.with_name(name)
        digest = sha256_of(path) if path.is_file() else ""
        if digest != wanted:
            return False, digest or "not there"
    return actual == card.sha256, actual
