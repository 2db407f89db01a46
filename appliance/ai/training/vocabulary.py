"""A tokenizer of the hub's form as the metadata of a GGUF file: tokens, their kinds, merges, and how text is split.

Byte-level BPE (Llama 3, Qwen, SmolLM, GPT-2 and their kin). How a text is cut before the merges is a regular
expression in the one form and a name in the other; a cut that has no name here is refused rather than guessed, since a
model that reads its text cut otherwise than in training is silently worse.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import gguf

from appliance.ai.training.hub_folder import HubFolder
from appliance.contracts import ConfigError

#: The cut of Llama 3 and its kin; others differ from it in how many digits stay together.
_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Regular expressions by llama.cpp's name for the cut.
_CUTS = {_CUT % r"\p{N}{1,3}": "llama-bpe", _CUT % r"\p{N}": "qwen2"}


def write(writer: gguf.GGUFWriter, folder: HubFolder, size: int) -> None:
    """Put the folder's tokenizer into the file; ``size`` is how many rows the embedding has."""
    tokenizer = folder.json("tokenizer.json")
    model = tokenizer.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback") or not _byte_level(tokenizer):
        raise ConfigError(
            f"{folder.path}: only byte-level BPE tokenizers can be converted (Llama 3, Qwen, SmolLM, GPT-2), "
            f"not {model.get('type', 'none')}"
        )
    settings = folder.json("tokenizer_config.json", needed=False)
    tokens, kinds = _tokens(tokenizer, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(cut_of(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in model.get("merges", [])])
    _special(writer, folder, settings, {token: number for number, token in enumerate(tokens)})
    if template := _template(folder, settings):
        writer.add_chat_template(template)


def cut_of(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for how a text is cut. Raises ``ConfigError`` for a way that has none."""
    parts = list(_parts(tokenizer.get("pre_tokenizer") or {}))
    patterns = [part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split"]
    digits = [part for part in parts if part.get("type") == "Digits"]
    levels = [part for part in parts if part.get("type") == "ByteLevel"]
    if len(patterns) == 1 and not digits:
        if patterns[0] in _CUTS:
            return _CUTS[patterns[0]]
    elif not patterns and levels and levels[-1].get("use_regex", True):
        if not digits:
            return "gpt-2"
        if all(part.get("individual_digits") for part in digits):
            return "smollm"
    raise ConfigError(f"the tokenizer cuts text in a way that is not known here: {json.dumps(patterns or parts)[:300]}")


def _parts(pre: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if pre.get("type") == "Sequence":
        for part in pre["pretokenizers"]:
            yield from _parts(part)
    elif pre:
        yield pre


def _byte_level(tokenizer: Mapping[str, Any]) -> bool:
    decoder = tokenizer.get("decoder") or {}
    kinds = {decoder.get("type"), *(one.get("type") for one in decoder.get("decoders", []))}
    return "ByteLevel" in kinds


def _tokens(tokenizer: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    added = {one["id"]: one for one in tokenizer.get("added_tokens", [])}
    by_id = {number: token for token, number in vocab.items()} | {n: one["content"] for n, one in added.items()}
    if by_id and max(by_id) >= size:
        raise ConfigError(f"the tokenizer has {max(by_id) + 1} tokens and the model only {size}")
    tokens, kinds = [], []
    for number in range(size):
        if number not in by_id:
            tokens.append(f"[PAD{number}]")
            kinds.append(gguf.TokenType.UNUSED)
        else:
            tokens.append(by_id[number])
            one = added.get(number)
            normal = gguf.TokenType.NORMAL if one is None else gguf.TokenType.USER_DEFINED
            kinds.append(gguf.TokenType.CONTROL if one is not None and one.get("special") else normal)
    return tokens, [int(kind) for kind in kinds]


def _special(writer: gguf.GGUFWriter, folder: HubFolder, settings: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """The tokens that begin, end and fill texts."""

    def number(name: str) -> int | None:
        value = settings.get(f"{name}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text in ids:
            return ids[text]
        found = folder.config.get(f"{name}_token_id")
        found = found[0] if isinstance(found, list) and found else found
        return found if isinstance(found, int) else None

    if (begin := number("bos")) is not None:
        writer.add_bos_token_id(begin)
    if (end := number("eos")) is not None:
        writer.add_eos_token_id(end)
    if (pad := number("pad")) is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(begin is not None and _puts_begin(folder, settings, begin))


def _puts_begin(folder: HubFolder, settings: Mapping[str, Any], begin: int) -> bool:
    """Whether texts are read with the token that begins one, by its setting or by what is done behind the merges."""
    if "add_bos_token" in settings:
        return bool(settings["add_bos_token"])
    processors = folder.json("tokenizer.json").get("post_processor") or {}
    return f'"ids": [{begin}]' in json.dumps(processors)


def _template(folder: HubFolder, settings: Mapping[str, Any]) -> str:
    found = settings.get("chat_template") or folder.text("chat_template.jinja")
    if isinstance(found, list):  # several by name
        found = next((one["template"] for one in found if one.get("name") == "default"), "")
    return str(found)
