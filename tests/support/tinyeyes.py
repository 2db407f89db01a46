"""Tiny real projectors with random weights, by which ``tiny_model()`` sees pictures.

    path = tiny_projector(folder / "tiny.mmproj.gguf")              # LLaVA's: every picture takes 16 tokens
    path = tiny_projector(folder / "tiny.mmproj.gguf", plane=True)  # Qwen2-VL's, for ``tiny_model(plane=True)``
    data = picture((200, 30, 30))                                   # a PNG of one colour

What the model makes of a picture is noise, but another noise for another picture.
"""

from __future__ import annotations

import io
from pathlib import Path

import gguf
import numpy as np
from PIL import Image

#: What a picture takes of LLaVA's: (size / patch)².
TOKENS = 16
_WIDTH, _INNER, _TEXT, _LAYERS = 32, 64, 64, 2


def tiny_projector(path: Path, *, text_width: int = _TEXT, plane: bool = False) -> Path:
    """A projector for a language model of that width (``tiny_model()`` has 64)."""
    size, patch = (56, 14) if plane else (32, 8)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_name("tiny-eyes")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen2vl_merger" if plane else "mlp")
    writer.add_bool("clip.use_gelu", True)
    for key, value in (
        ("image_size", size),
        ("patch_size", patch),
        ("embedding_length", _WIDTH),
        ("feed_forward_length", _INNER),
        ("projection_dim", text_width),
        ("block_count", _LAYERS),
        ("attention.head_count", 2),
    ):
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0.0, shape[-1] ** -0.5, shape).astype(np.float32)

    tensors = {"v.patch_embd.weight": random.normal(0.0, 0.2, (_WIDTH, 3, patch, patch)).astype(np.float32)}
    merged = _WIDTH
    norms = [f"v.blk.{layer}.{name}" for layer in range(_LAYERS) for name in ("ln1", "ln2")]
    if plane:  # of two frames, and four patches to a token
        tensors["v.patch_embd.weight.1"] = tensors["v.patch_embd.weight"]
        norms.append("v.post_ln")
        merged = 4 * _WIDTH
    else:
        tensors["v.position_embd.weight"] = weights(TOKENS, _WIDTH)
    for layer in range(_LAYERS):
        for name, rows, columns in (
            ("attn_q", _WIDTH, _WIDTH),
            ("attn_k", _WIDTH, _WIDTH),
            ("attn_v", _WIDTH, _WIDTH),
            ("attn_out", _WIDTH, _WIDTH),
            ("ffn_up", _INNER, _WIDTH),
            ("ffn_down", _WIDTH, _INNER),
        ):
            tensors[f"v.blk.{layer}.{name}.weight"] = weights(rows, columns)
            tensors[f"v.blk.{layer}.{name}.bias"] = np.zeros(rows, np.float32)
    for name in norms:
        tensors[f"{name}.weight"] = np.ones(_WIDTH, np.float32)
        tensors[f"{name}.bias"] = np.zeros(_WIDTH, np.float32)
    for number, (rows, columns) in ((0, (merged, merged)), (2, (text_width, merged))):
        tensors[f"mm.{number}.weight"] = weights(rows, columns) * np.float32(4)
        tensors[f"mm.{number}.bias"] = np.zeros(rows, np.float32)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> bytes:
    """A PNG of one colour."""
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "PNG")
    return target.getvalue()
