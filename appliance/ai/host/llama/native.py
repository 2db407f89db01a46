"""llama.cpp's C API as Python objects: model, context, batch, grammar. The only module that imports llama_cpp, but
for its part that sees pictures (``sight.py``).

Nothing here decides anything. One thread may use a context and its grammars at a time; a model's vocabulary can be
read from any. What llama.cpp says goes to this module's logger at debug level; its last complaint is kept for the
error of a file that it refuses.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from appliance.contracts import ConfigError, NodeError

# Its annotations promise less than ctypes needs, and the types must hold on a machine without it, too.
lib: Any = importlib.import_module("llama_cpp.llama_cpp")
_chat_format: Any = importlib.import_module("llama_cpp.llama_chat_format")

logger = logging.getLogger(__name__)

Logits = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

_PIECE = 256
#: What llama.cpp complained of since this was cleared.
complaints: list[str] = []
_unfinished: list[str] = []


def _on_log(level: int, text: bytes, _: Any) -> None:
    """ggml's levels: 1 debug, 2 info, 3 warning, 4 error, 5 goes on with the line before (ggml.h)."""
    said = text.decode("utf-8", "replace")
    _unfinished.append(said)
    if not said.endswith("\n"):
        return
    line = "".join(_unfinished).strip()
    _unfinished.clear()
    if line:
        logger.debug("%s", line)
        if level == 4:
            complaints.append(line)
            del complaints[8:]


def reason(otherwise: str) -> str:
    """The first complaint since they were cleared, without the name of the function that made it."""
    return complaints[0].partition(": ")[2] or complaints[0] if complaints else otherwise


log_callback = lib.llama_log_callback(_on_log)
lib.llama_log_set(log_callback, ctypes.c_void_p(0))
lib.llama_backend_init()

# llama.cpp asks 500 times a token whether it is to stop. A callback into Python costs 2 % of the speed, and far more
# while other threads hold the interpreter's lock. ``strlen`` of a string of no or one byte answers the same question:
# 0 goes on, 1 stops.
_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
_abort_callback = lib.ggml_abort_callback(_STRLEN)


def version() -> str:
    """llama.cpp's own version; the layout of saved states may change with it."""
    return bytes(lib.llama_version()).decode()


class Survey(NamedTuple):
    """Of every token of a vocabulary: does it end an answer, is it control, is it read from the prompt's own text
    (control, or added by the model's maker), its first and second bytes (0: there is none), its length in bytes.
    """

    ends: npt.NDArray[np.bool_]
    control: npt.NDArray[np.bool_]
    special: npt.NDArray[np.bool_]
    firsts: npt.NDArray[np.uint8]
    seconds: npt.NDArray[np.uint8]
    lengths: Tokens


class Model:
    """A GGUF file, mapped into memory, and its vocabulary. ``ConfigError`` for a file that is no good."""

    def __init__(self, path: Path, *, map_file: bool = True) -> None:
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if map_file else lib.LLAMA_LOAD_MODE_NONE
        complaints.clear()
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            why = reason("llama.cpp gives no reason")
            raise ConfigError(f"model file {path.name} cannot be loaded: {why}")
        self._vocab: Any = lib.llama_model_get_vocab(self._model)
        self._pieces: dict[int, bytes] = {}
        self._adapters: list[Any] = []
        self.vocabulary = int(lib.llama_vocab_n_tokens(self._vocab))
        self.trained = int(lib.llama_model_n_ctx_train(self._model))
        self.bytes = int(lib.llama_model_size(self._model))
        self.parameters = int(lib.llama_model_n_params(self._model))
        self.width = int(lib.llama_model_n_embd_out(self._model))
        self.encoder = bool(lib.llama_model_has_encoder(self._model))
        self.decoder = bool(lib.llama_model_has_decoder(self._model))
        room = ctypes.create_string_buffer(128)
        lib.llama_model_desc(self._model, room, 128)
        #: Architecture, size and quantization in a few words.
        self.kind = room.value.decode("utf-8", "replace")
        #: Whether what was read can only be kept whole: such a memory cannot be cut back to a shorter prefix.
        self.whole = bool(lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model))

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer."""
        return self._model

    def close(self) -> None:
        """Free it; contexts must be closed before. Twice is fine."""
        if self._model:
            lib.llama_model_free(self._model)  # with its adapters
            self._model = None

    def meta(self, key: str) -> str | None:
        """One value of the file's metadata as text; None if it is not there."""
        size = 1 << 12
        while True:
            room = ctypes.create_string_buffer(size)
            length = lib.llama_model_meta_val_str(self._model, key.encode(), room, size)
            if length < size:
                return None if length < 0 else room.value.decode("utf-8", "replace")
            size = length + 1

    def tokenize(self, text: str, *, begin: bool, special: bool) -> list[int]:
        """Token ids; ``begin`` puts the model's own first token before, ``special`` reads control tokens in the text.

        ``ConfigError`` for text that is no Unicode.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"the text is no valid Unicode at character {error.start}") from None
        size = len(data) + 8
        room = (lib.llama_token * size)()
        count = lib.llama_tokenize(self._vocab, data, len(data), room, size, begin, special)
        if count < 0:
            raise NodeError("llama.cpp could not split the text into tokens")
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        """What a token says, in UTF-8 that may begin or end within a character; control tokens say nothing."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self.text(token, special=False)
        return known

    def text(self, token: int, *, special: bool) -> bytes:
        """What a token says, control tokens too if ``special``."""
        size = _PIECE
        room = ctypes.create_string_buffer(size)
        count = lib.llama_token_to_piece(self._vocab, token, room, size, 0, special)
        if count < 0:
            size = -count
            room = ctypes.create_string_buffer(size)
            count = lib.llama_token_to_piece(self._vocab, token, room, size, 0, special)
        return room.raw[: max(count, 0)]

    def ends(self, token: int) -> bool:
        """Whether this token ends an answer."""
        return bool(lib.llama_vocab_is_eog(self._vocab, token))

    def survey(self) -> Survey:
        """Look at every token once; 0.2 s for 150,000."""
        size = self.vocabulary
        room = ctypes.create_string_buffer(_PIECE)
        data = memoryview(room).cast("B")
        vocab, to_piece, kind_of = self._vocab, lib.llama_token_to_piece, lib.llama_vocab_get_attr
        firsts, seconds, lengths, kinds = bytearray(size), bytearray(size), [0] * size, [0] * size
        for token in range(size):
            lengths[token] = count = to_piece(vocab, token, room, _PIECE, 0, True)
            if count > 0:
                firsts[token] = data[0]
                seconds[token] = data[1] if count > 1 else 0
            kinds[token] = kind_of(vocab, token)
        bits = np.array(kinds)
        control = (bits & lib.LLAMA_TOKEN_ATTR_CONTROL) != 0
        ends = np.zeros(size, bool)
        for token in np.flatnonzero(control).tolist():  # llama.cpp makes every token that ends an answer one of these
            ends[token] = self.ends(token)
        special = bits & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED)
        return Survey(
            ends=ends,
            control=control,
            special=special != 0,
            firsts=np.frombuffer(firsts, np.uint8),
            seconds=np.frombuffer(seconds, np.uint8),
            lengths=np.array(lengths, np.int32),
        )

    def edges(self) -> tuple[int, int]:
        """The tokens that begin and end a text, -1 for one that the vocabulary lacks."""
        return int(lib.llama_vocab_bos(self._vocab)), int(lib.llama_vocab_eos(self._vocab))

    def template(self) -> str | None:
        """The file's chat template in Jinja2, or None."""
        found = lib.llama_model_chat_template(self._model, None)
        return bytes(found).decode("utf-8", "replace") if found else None

    def adapter(self, path: Path) -> Any:
        """Load a LoRA adapter; it lives as long as the model."""
        complaints.clear()
        found = lib.llama_adapter_lora_init(self._model, str(path).encode())
        if not found:
            why = reason("llama.cpp gives no reason")
            raise ConfigError(f"adapter {path.name} does not fit this model or cannot be read: {why}")
        return found


def formatter(template: str, begin: str, end: str) -> Callable[..., str]:
    """A Jinja2 chat template, compiled in llama-cpp-python's sandbox; raises what Jinja2 or the template raises."""
    made = _chat_format.Jinja2ChatFormatter(template, eos_token=end, bos_token=begin)

    def render(messages: Sequence[dict[str, Any]], **extra: Any) -> str:
        return str(made(messages=list(messages), **extra).prompt)

    return render


class Context:
    """The memory of evaluated tokens, and evaluation. Sequences are numbered from 0.

    ``cells`` tokens find room, whatever the sequences; one call evaluates ``batch`` at most. ``pooling`` makes it one
    for embeddings.
    """

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        sequences: int,
        batch: int,
        threads: int,
        prompt_threads: int,
        pooling: int | None = None,
    ) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = cells
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = sequences
        params.n_threads, params.n_threads_batch = threads, prompt_threads
        params.no_perf = True
        params.kv_unified = True
        if pooling is None:
            # Left alone, llama.cpp makes room for the scores of every token of a batch: 300 MB for Qwen's vocabulary.
            params.n_outputs_max = sequences
        else:
            params.embeddings = True
            params.pooling_type = pooling
        complaints.clear()
        self._context = lib.llama_init_from_model(model.handle, params)
        if not self._context:
            why = reason("llama.cpp gives no reason")
            raise NodeError(f"no room for a context of {cells} tokens: {why}", retryable=True)
        self._model = model
        self._memory: Any = lib.llama_get_memory(self._context)
        self._stop = ctypes.create_string_buffer(2)
        lib.llama_set_abort_callback(self._context, _abort_callback, ctypes.cast(self._stop, ctypes.c_void_p))
        self._row = ctypes.c_float * model.vocabulary
        self._adapter: tuple[Any, float] | None = None
        self.size = batch
        self.tokens: Tokens = np.zeros(batch, np.int32)
        self.positions: Tokens = np.zeros(batch, np.int32)
        self.sequences: Tokens = np.zeros(batch, np.int32)
        self.outputs: npt.NDArray[np.int8] = np.zeros(batch, np.int8)
        self._batch = self._make_batch(batch)

    def _make_batch(self, size: int) -> Any:
        """llama.cpp's struct over our arrays, so that filling it is a few numpy assignments."""
        self._ones = np.ones(size, np.int32)
        self._pointers = self.sequences.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        batch = lib.llama_batch()
        fields = {name: kind for name, kind, *_ in batch._fields_}
        for name, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._ones),
            ("seq_id", self._pointers),
            ("logits", self.outputs),
        ):
            setattr(batch, name, ctypes.cast(array.ctypes.data, fields[name]))
        return batch

    def close(self) -> None:
        """Free it. Twice is fine."""
        if self._context:
            lib.llama_free(self._context)
            self._context = None

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer."""
        return self._context

    def decode(self, count: int) -> int:
        """Evaluate the first ``count`` entries of the arrays. 0: done, 1: no room, 2: aborted, below: broken."""
        self._batch.n_tokens = count
        return int(lib.llama_decode(self._context, self._batch))

    def encode(self, count: int) -> int:
        """The same for models that read a whole text at once."""
        self._batch.n_tokens = count
        return int(lib.llama_encode(self._context, self._batch))

    def logits(self, index: int) -> Logits:
        """The scores of all tokens behind the entry ``index``; a view that the next evaluation overwrites."""
        found = lib.llama_get_logits_ith(self._context, index)
        row: Any = self._row.from_address(ctypes.addressof(found.contents))
        scores: Logits = np.frombuffer(row, np.float32)
        return scores

    def embedding(self, sequence: int) -> Logits:
        """The pooled vector of one sequence, a copy."""
        found = lib.llama_get_embeddings_seq(self._context, sequence)
        if not found:
            raise NodeError("the model gave no vector")
        return np.ctypeslib.as_array(found, (self._model.width,)).copy()

    def abort(self) -> None:
        """Stop the evaluation that is running, from another thread; forgotten at ``proceed``."""
        self._stop[0] = b"\x01"

    def proceed(self) -> None:
        """Let evaluations run again."""
        self._stop[0] = b"\x00"

    def cut(self, sequence: int, length: int = 0) -> bool:
        """Forget what stands behind ``length`` tokens; False if this memory can only be forgotten whole."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a sequence begin with the first ``length`` tokens of another; no cell is copied."""
        lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def clear(self) -> None:
        """Forget everything."""
        if self._memory:
            lib.llama_memory_clear(self._memory, False)

    def save(self, sequence: int) -> bytearray:
        """All that is evaluated of a sequence."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        room = bytearray(size)
        target = (ctypes.c_uint8 * size).from_buffer(room)
        if lib.llama_state_seq_get_data(self._context, target, size, sequence) != size:
            raise NodeError("llama.cpp could not give out a sequence's state")
        return room

    def restore(self, sequence: int, state: bytearray | memoryview) -> bool:
        """Put a saved state into an empty sequence; False if it does not fit this context."""
        data = np.frombuffer(state, np.uint8)
        source = ctypes.cast(data.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
        return int(lib.llama_state_seq_set_data(self._context, source, len(state), sequence)) > 0

    def adapt(self, adapter: Any, scale: float = 1.0) -> None:
        """Use a LoRA adapter from now on, or none. What was evaluated before was evaluated without it."""
        wanted = None if adapter is None else (adapter, scale)
        if wanted == self._adapter:
            return
        if wanted is None:
            failed = lib.llama_set_adapters_lora(self._context, None, 0, None)
        else:
            adapters = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
            failed = lib.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(scale))
        if failed:
            raise NodeError("llama.cpp refused the adapter")
        self._adapter = wanted


#: One candidate of ``llama_token_data``: id, score, probability.
CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class Grammar:
    """Where an answer stands in a GBNF grammar. ``ConfigError`` for one that llama.cpp cannot read."""

    def __init__(self, model: Model, text: str) -> None:
        complaints.clear()
        self._sampler = lib.llama_sampler_init_grammar(model._vocab, text.encode(), b"root")
        if not self._sampler:
            why = reason("its beginning must be a rule named root")
            raise ConfigError(f"the grammar cannot be read: {why}")
        self._array = lib.llama_token_data_array()
        self._kind = {name: kind for name, kind, *_ in self._array._fields_}["data"]

    def close(self) -> None:
        """Free it. Twice is fine."""
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
            self._sampler = None

    def allowed(self, tokens: Tokens) -> npt.NDArray[np.bool_]:
        """Which of these tokens may come next."""
        data = np.zeros(len(tokens), CANDIDATE)
        data["id"] = tokens
        self._array.data = ctypes.cast(data.ctypes.data, self._kind)
        self._array.size = len(tokens)
        self._array.selected = -1
        self._array.sorted = False
        lib.llama_sampler_apply(self._sampler, ctypes.byref(self._array))
        fits: npt.NDArray[np.bool_] = data["logit"] == 0.0
        return fits

    def accept(self, token: int) -> None:
        """Go on behind a token that is allowed (llama.cpp ends the process for one that is not)."""
        lib.llama_sampler_accept(self._sampler, token)
