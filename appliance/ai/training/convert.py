"""From a folder of safetensors to a GGUF file, and from a LoRA adapter to one of its own.

The names of tensors and settings on GGUF's side are those of llama.cpp (gguf-py's constants). The rows of Llama's
queries and keys lie in halves in the one form and in pairs in the other (rotary embeddings, arXiv 2104.09864): they are
permuted.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from appliance.ai.training import vocabulary
from appliance.ai.training.hub_folder import Array, HubFolder
from appliance.contracts import ConfigError

#: What transformers calls an architecture: llama.cpp's name, and whether query and key rows are permuted.
_KINDS = {
    "LlamaForCausalLM": ("llama", True),
    "MistralForCausalLM": ("llama", True),
    "Qwen2ForCausalLM": ("qwen2", False),
}
_PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_ENDS = {"embed_tokens": "token_embd", "norm": "output_norm"}
TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}

#: Told ``(done, all)`` tensors.
Progress = Callable[[int, int], None]


def convert(source: Path, target: Path, kind: str = "f16", progress: Progress = lambda done, of: None) -> None:
    """Write the model in ``source`` as the GGUF file ``target`` with weights of type ``f32`` or ``f16``.

    The file gets its name once it is whole. Raises ``ConfigError`` for what cannot be converted faithfully.
    """
    with HubFolder(source) as folder:
        arch, permuted = _kind_of(folder)
        unfinished = target.with_name(f"{target.name}.part")
        # Large models are gathered in a file rather than in memory.
        writer = gguf.GGUFWriter(unfinished, arch, use_temp_file=True)
        try:
            _describe(writer, folder, kind)
            names = sorted(folder.names())
            for place, name in enumerate(names, 1):
                for tensor_name, tensor in _tensors(folder, name, permuted):
                    writer.add_tensor(tensor_name, _stored(tensor, kind))
                progress(place, len(names))
            _finish(writer, unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)


def convert_adapter(adapter: Path, base: Path, target: Path) -> None:
    """Write the LoRA adapter that peft saved in the folder ``adapter`` as a GGUF adapter for the model in ``base``.

    Raises ``ConfigError`` for one that changes what GGUF adapters cannot change.
    """
    settings = _read(adapter / "adapter_config.json")
    if settings.get("use_dora") or settings.get("bias", "none") != "none" or settings.get("modules_to_save"):
        raise ConfigError(f"{adapter}: only plain LoRA can be converted (no DoRA, biases or whole modules)")
    folder = HubFolder(base)
    arch, permuted = _kind_of(folder)
    alpha = float(settings["lora_alpha"])
    if settings.get("use_rslora"):
        alpha *= math.sqrt(settings["r"])  # arXiv 2312.03732: scaled by its root instead of by the rank
    tensors = load_file(adapter / "adapter_model.safetensors")
    unfinished = target.with_name(f"{target.name}.part")
    writer = gguf.GGUFWriter(unfinished, arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    try:
        for name, tensor in sorted(tensors.items()):
            plain, _, side = name.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            found = _name_of(f"{plain}.weight")
            if side not in ("A", "B") or found is None:
                raise ConfigError(f"{adapter}: {name} is no part of a LoRA that can be converted")
            value = tensor.astype(np.float32)
            if permuted and side == "B" and (heads := _heads(folder.config, plain)):
                value = _permute(value, heads)
            writer.add_tensor(f"{found}.lora_{side.lower()}", value)
        _finish(writer, unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}") from None
    return found


def _kind_of(folder: HubFolder) -> tuple[str, bool]:
    names = folder.config.get("architectures") or ["none"]
    if names[0] not in _KINDS:
        raise ConfigError(f"{folder.path}: {names[0]} cannot be converted here; known are {', '.join(sorted(_KINDS))}")
    return _KINDS[names[0]]


def _describe(writer: gguf.GGUFWriter, folder: HubFolder, kind: str) -> None:
    config = folder.config
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_name(folder.path.resolve().name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(TYPES[kind])
    _describe_positions(writer, config, width)
    vocabulary.write(writer, folder, config["vocab_size"])


def _describe_positions(writer: gguf.GGUFWriter, config: Mapping[str, Any], width: int) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    writer.add_rope_freq_base(base)
    scaling = rope.get("rope_type") or rope.get("type") or "default"
    if scaling == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif scaling == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(rope, base, width))
    elif scaling != "default":
        raise ConfigError(f"positions of the kind {scaling!r} cannot be converted here")


def _llama3_factors(rope: Mapping[str, Any], base: float, width: int) -> Array:
    """How much slower each frequency turns: not for short waves, by ``factor`` for long ones, between them smoothly.

    From the release notes of Llama 3.1 and its reference code's ``apply_scaling``.
    """
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    waves = 2 * math.pi * base ** (np.arange(0, width, 2, dtype=np.float64) / width)
    smooth = np.clip((length / waves - low) / (high - low), 0.0, 1.0)
    factors: Array = (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)
    return factors


def _tensors(folder: HubFolder, name: str, permuted: bool) -> Iterator[tuple[str, Array]]:
    if name.endswith("rotary_emb.inv_freq"):
        return  # worked out anew by llama.cpp
    if name == "lm_head.weight" and folder.config.get("tie_word_embeddings"):
        return
    found = _name_of(name)
    if found is None:
        raise ConfigError(f"{folder.path}: there is no place for the tensor {name}")
    tensor = folder.tensor(name)
    if permuted and (heads := _heads(folder.config, name.rpartition(".")[0])):
        tensor = _permute(tensor, heads)
    yield found, tensor


def _name_of(name: str) -> str | None:
    """llama.cpp's name of a tensor."""
    plain, _, what = name.removeprefix("model.").rpartition(".")
    if plain == "lm_head":
        return f"output.{what}"
    if plain in _ENDS:
        return f"{_ENDS[plain]}.{what}"
    head, _, rest = plain.partition(".")
    number, _, part = rest.partition(".")
    if head == "layers" and number.isdigit() and part in _PLACES:
        return f"blk.{number}.{_PLACES[part]}.{what}"
    return None


def _heads(config: Mapping[str, Any], place: str) -> int:
    """How many heads a query or key tensor has; 0 for all others."""
    heads: int = config["num_attention_heads"]
    if place.endswith("q_proj"):
        return heads
    return int(config.get("num_key_value_heads") or heads) if place.endswith("k_proj") else 0


def _permute(tensor: Array, heads: int) -> Array:
    """Rows of each head from halves to pairs."""
    rows, *rest = tensor.shape
    paired: Array = tensor.reshape(heads, 2, rows // heads // 2, *rest).swapaxes(1, 2).reshape(tensor.shape)
    return paired


def _stored(tensor: Array, kind: str) -> Array:
    """Matrices in the file's type; vectors always in full, as llama.cpp wants them."""
    return tensor.astype(np.float16) if kind == "f16" and tensor.ndim > 1 else np.ascontiguousarray(tensor)


def _finish(writer: gguf.GGUFWriter, unfinished: Path, target: Path) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.rename(target)
