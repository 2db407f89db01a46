"""Tiny real models, made here in a second: no test downloads one.

    path = tiny_model()                # a Llama of 0.2M random parameters with a chat template
    path = tiny_model(seed=1)          # other weights, the same tokenizer
    path = tiny_embedder()             # a BERT that pools, with a WordPiece vocabulary
    big_model(path)                    # the shape of Qwen2.5-0.5B in Q4_0, for the benchmark

Their tokenizer is a real BPE, trained on Flowork's own documents (:mod:`.words`); what they answer is noise, but the
same noise every time. Files are kept for the test session (for all of them: their name tells what is in them) and are
never written to; copy one before you damage it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from tests.support.words import bpe, words

#: ChatML, as Qwen and many others write it.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_CONTROL, _NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
#: Goes into the name of the folder they are kept in: raise it whenever what is made here changes.
_EDITION = 2


def tiny_model(
    *,
    seed: int = 0,
    context: int = 2048,
    layers: int = 2,
    template: str | None = TEMPLATE,
    pooling: gguf.PoolingType | None = None,
    spoil: Callable[[str, np.ndarray], np.ndarray] | None = None,
    path: Path | None = None,
    split: int = 0,
    plane: bool = False,
) -> Path:
    """A Llama with random weights (float32, width 64, ``layers`` of them) that was trained up to ``context`` tokens.

    With ``pooling`` it makes vectors of what it read instead of text.
    ``spoil`` may change a tensor before it is written (name and array in, array out), and then ``path`` says where to;
    so it does with ``split``, the number of tensors that a file takes: then there are several, and the first is given.
    With ``plane`` it is a Qwen2-VL, for which a picture's positions lie in a plane (M-RoPE).
    """

    def write(target: Path) -> None:
        writer = gguf.GGUFWriter(target, "qwen2vl" if plane else "llama", split_max_tensors=split)
        writer.add_name("tiny")
        width, heads, keys, inner = 64, 4, 2, 128
        tokens, merges = bpe()
        writer.add_context_length(context)
        writer.add_embedding_length(width)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(heads)
        writer.add_head_count_kv(keys)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(width // heads)
        if plane:
            writer.add_rope_dimension_sections([2, 3, 3, 0])
        writer.add_vocab_size(len(tokens))
        if pooling is not None:
            writer.add_pooling_type(pooling)
        _write_bpe(writer, tokens, merges, template)
        kv = width // heads * keys
        shapes = {"token_embd.weight": (len(tokens), width), "output.weight": (len(tokens), width)}
        for layer in range(layers):
            for name, rows, columns in (
                ("attn_q", width, width),
                ("attn_k", kv, width),
                ("attn_v", kv, width),
                ("attn_output", width, width),
                ("ffn_gate", inner, width),
                ("ffn_up", inner, width),
                ("ffn_down", width, inner),
            ):
                shapes[f"blk.{layer}.{name}.weight"] = (rows, columns)
        random = np.random.default_rng(seed)
        tensors = {name: _random(random, *shape) for name, shape in shapes.items()}
        tensors["token_embd.weight"] *= 8.0  # so that what was read weighs as much as where it stood
        for name in ["output_norm", *(f"blk.{n}.{norm}" for n in range(layers) for norm in ("attn_norm", "ffn_norm"))]:
            tensors[f"{name}.weight"] = np.ones(width, np.float32)
        for layer in range(layers if plane else 0):
            for name, rows in (("attn_q", width), ("attn_k", kv), ("attn_v", kv)):
                tensors[f"blk.{layer}.{name}.bias"] = np.zeros(rows, np.float32)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor if spoil is None else spoil(name, tensor))
        _close(writer)

    if path is not None:
        write(path)
        return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if split else path
    assert spoil is None, "a spoilt model is not kept: say where it goes"
    mark = hashlib.sha256((template or "").encode()).hexdigest()[:8]
    kind = "qwen2vl" if plane else "llama" if pooling is None else f"llama-{pooling.name.lower()}"
    return _kept(f"{kind}-{seed}-{context}-{layers}-{mark}.gguf", write)


def tiny_embedder(*, context: int = 128) -> Path:
    """A BERT with random weights (width 32, mean pooling) and a WordPiece vocabulary of words and letters."""

    def write(target: Path) -> None:
        writer = gguf.GGUFWriter(target, "bert")
        writer.add_name("tiny-embedder")
        width, inner, layers = 32, 64, 2
        tokens = _wordpieces()
        writer.add_context_length(context)
        writer.add_embedding_length(width)
        writer.add_block_count(layers)
        writer.add_feed_forward_length(inner)
        writer.add_head_count(4)
        writer.add_layer_norm_eps(1e-12)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("jina-v2-en")
        writer.add_token_list(tokens)
        writer.add_token_types([_CONTROL if token.startswith("[") else _NORMAL for token in tokens])
        writer.add_token_type_count(2)
        writer.add_pad_token_id(0)
        writer.add_unk_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_sep_token_id(3)
        writer.add_eos_token_id(3)
        writer.add_mask_token_id(4)
        random = np.random.default_rng(0)
        writer.add_tensor("token_embd.weight", _random(random, len(tokens), width) * 8)
        writer.add_tensor("token_types.weight", _random(random, 2, width))
        writer.add_tensor("position_embd.weight", _random(random, context, width))
        norms = ["token_embd_norm"]
        for layer in range(layers):
            norms += [f"blk.{layer}.attn_output_norm", f"blk.{layer}.layer_output_norm"]
            for name, rows, columns in (
                ("attn_q", width, width),
                ("attn_k", width, width),
                ("attn_v", width, width),
                ("attn_output", width, width),
                ("ffn_up", inner, width),
                ("ffn_down", width, inner),
            ):
                writer.add_tensor(f"blk.{layer}.{name}.weight", _random(random, rows, columns))
                writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(rows, np.float32))
        for name in norms:
            writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
            writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))
        _close(writer)

    return _kept(f"bert-{context}.gguf", write)


def tiny_adapter(path: Path, *, seed: int = 0, strength: float = 1.0) -> Path:
    """A LoRA adapter (rank 4, on the queries and on what the layers give out) for ``tiny_model()``."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0)
    random = np.random.default_rng(seed)
    for layer in range(2):
        for name in ("attn_q", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_a", _random(random, 4, 64))
            writer.add_tensor(f"blk.{layer}.{name}.weight.lora_b", _random(random, 64, 4) * np.float32(strength))
    _close(writer)
    return path


def big_model(path: Path, vocabulary: Path | None = None) -> Path:
    """The shape of Qwen2.5-0.5B with random weights: layers in Q4_0, the embeddings in Q8_0.

    ``vocabulary`` is a GGUF file with Qwen2's real tokenizer (``ggml-vocab-qwen2.gguf``, which lies in the source
    package of llama-cpp-python); without one it gets as many made-up tokens.
    """
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("random-0.5b")
    width, layers, inner, kv, vocabulary_size = 896, 24, 4864, 128, 151936
    writer.add_context_length(32768)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(14)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    if vocabulary is None:
        tokens, merges = bpe()
        special, tokens = tokens[: len(_SPECIAL)], tokens[len(_SPECIAL) :]
        tokens += [f"{first}{second}" for first in tokens[256:] for second in tokens[256:]]
        _write_bpe(writer, [*special, *dict.fromkeys(tokens)][:vocabulary_size], merges, TEMPLATE)
    else:
        _copy_vocabulary(writer, vocabulary, vocabulary_size)
    random = np.random.default_rng(0)

    def add(name: str, rows: int, columns: int, kind: gguf.GGMLQuantizationType) -> None:
        """Blocks of 32 weights: a scale as float16, then the weights in 4 or 8 bits. Any bits are some weight."""
        eight = kind == gguf.GGMLQuantizationType.Q8_0
        size = 34 if eight else 18
        blocks = random.integers(0, 256, (rows, columns // 32, size), np.uint8)
        scale = np.float16(columns**-0.5 / (73 if eight else 4.6))
        blocks[:, :, :2] = np.frombuffer(scale.tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)

    add("token_embd.weight", vocabulary_size, width, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for name, rows, columns in (
            ("attn_q", width, width),
            ("attn_k", kv, width),
            ("attn_v", kv, width),
            ("attn_output", width, width),
            ("ffn_gate", inner, width),
            ("ffn_up", inner, width),
            ("ffn_down", width, inner),
        ):
            add(f"blk.{layer}.{name}.weight", rows, columns, gguf.GGMLQuantizationType.Q4_0)
        for name, rows in (("attn_q", width), ("attn_k", kv), ("attn_v", kv)):
            writer.add_tensor(f"blk.{layer}.{name}.bias", np.zeros(rows, np.float32))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    _close(writer)
    return path


def _random(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return random.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)


def _kept(name: str, write: Callable[[Path], None]) -> Path:
    """The file of that name, made if it is not there yet (by several processes at once, if need be)."""
    folder = Path(tempfile.gettempdir()) / f"flowork-tiny-models-{os.getuid()}-{_EDITION}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / name
    if not target.exists():
        draft = folder / f".{name}.{os.getpid()}"
        write(draft)
        draft.replace(target)
    return target


def _write_bpe(writer: gguf.GGUFWriter, tokens: list[str], merges: list[str], template: str | None) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in _SPECIAL else _NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    if template is not None:
        writer.add_chat_template(template)


def _copy_vocabulary(writer: gguf.GGUFWriter, source: Path, size: int) -> None:
    """The tokenizer of another GGUF file, filled up to ``size`` tokens as Qwen's models are."""
    fields = gguf.GGUFReader(source).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    spare = range(size - len(tokens))
    writer.add_tokenizer_model(fields["tokenizer.ggml.model"].contents())
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
    writer.add_token_list([*tokens, *(f"[PAD{number}]" for number in spare)])
    writer.add_token_types([*types, *(gguf.TokenType.UNUSED for _ in spare)])
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


@functools.cache
def _wordpieces() -> list[str]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + list("0123456789.,:;!?-'\"()")
    whole = dict.fromkeys([*letters, *words()])
    # In GGUF files a word's beginning is marked and its further pieces are not, contrary to WordPiece's own.
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{word}" for word in whole), *letters]


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
