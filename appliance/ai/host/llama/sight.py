"""A projector beside a language model: it turns pictures into what the model reads (llama.cpp's mtmd).

To look at a picture takes seconds and happens on the model's thread; what was seen is kept for the next question about
the same picture.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import threading
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from appliance.ai.host.llama import native
from appliance.ai.host.llama.pictures import APART, Look, Picture, mark_of
from appliance.ai.host.onnx import images
from appliance.contracts import ConfigError, NodeError

_MARKER = b"<__media__>"
#: Pixels of a picture's longer side: models look at less, and what they are given is copied several times.
_LONGEST = 2048
#: Tokens that a picture may take where a model leaves it open: beyond, a small machine looks for minutes.
_MOST_TOKENS = 512
#: Bytes of what was seen that are kept.
_KEPT = 48 << 20


class _Chunks:
    """llama.cpp's own form of a picture, freed when nobody needs it any more."""

    def __init__(self, lib: Any, chunks: Any) -> None:
        self._end = weakref.finalize(self, lib.mtmd_input_chunks_free, chunks)


class Sight:
    """A projector, loaded for a model. ``ConfigError`` for one that is no good or belongs to another model."""

    def __init__(self, model: native.Model, path: Path, *, threads: int, batch: int) -> None:
        self._lib = library()
        self._batch = batch
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, np.ndarray[Any, np.dtype[np.float32]]] = OrderedDict()
        lib = self._lib
        params = lib.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.warmup = False
        params.n_threads = threads
        params.media_marker = _MARKER
        params.image_max_tokens = min(_MOST_TOKENS, batch)
        native.complaints.clear()
        self._context = lib.mtmd_init_from_file(str(path).encode(), model.handle, params)
        if not self._context:
            raise ConfigError(f"projector {path.name} cannot be used with this model: {native.reason('it gives none')}")
        if not lib.mtmd_support_vision(self._context):
            self.close()
            raise ConfigError(f"projector {path.name} sees no pictures")
        self._width = int(native.lib.llama_model_n_embd_inp(model.handle))

    def close(self) -> None:
        """Free it. Twice is fine."""
        if self._context:
            self._lib.mtmd_free(self._context)
            self._context = None

    def prepare(self, data: bytes) -> Picture:
        """A picture's file (JPEG, PNG …) as the model reads it. Any thread. Raises ``ConfigError``, ``TooLarge``."""
        image = images.read(data, "the picture")
        image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BICUBIC)
        lib = self._lib
        pixels = image.tobytes()
        room = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        bitmap = lib.mtmd_bitmap_init(image.width, image.height, room)
        chunks = lib.mtmd_input_chunks_init()
        text = lib.mtmd_input_text(_MARKER, len(_MARKER), False, True)
        native.complaints.clear()
        with self._lock:  # the library does not say that it may be asked from two threads
            bitmaps = (lib.mtmd_bitmap_p_ctypes * 1)(bitmap)
            failed = lib.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1)
        lib.mtmd_bitmap_free(bitmap)
        if failed:
            lib.mtmd_input_chunks_free(chunks)
            raise ConfigError(f"the model cannot take this picture: {native.reason('it gives no reason')}")
        return self._picture(chunks, hashlib.blake2b(data, digest_size=16).digest())

    def _picture(self, chunks: Any, digest: bytes) -> Picture:
        lib, owner = self._lib, _Chunks(self._lib, chunks)
        tokens: list[int] = []
        looks: dict[int, Look] = {}
        for number in range(lib.mtmd_input_chunks_size(chunks)):
            chunk = lib.mtmd_input_chunks_get(chunks, number)
            cells = int(lib.mtmd_input_chunk_get_n_tokens(chunk))
            if lib.mtmd_input_chunk_get_type(chunk) == lib.MTMD_INPUT_CHUNK_TYPE_TEXT:
                count = ctypes.c_size_t()
                found = lib.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
                tokens += found[: count.value]
                continue
            length = int(lib.mtmd_input_chunk_get_n_pos(chunk))
            whole = lib.mtmd_decode_use_non_causal(self._context, chunk)
            if length >= APART or (whole and cells > self._batch):
                raise ConfigError(f"this picture takes {cells} tokens, which is more than can be read at once here")
            look = Look(chunk, mark_of(digest, number), length, cells)
            looks[look.mark] = look
            tokens += look.tokens
        return Picture(tokens, looks, owner)

    def look(self, context: native.Context, look: Look, position: int, sequence: int) -> int:
        """Read a picture into a sequence, behind ``position`` of its positions; as ``Context.decode``."""
        seen = self._seen.get(look.mark)
        if seen is None:
            seen = self._encode(look)
        else:
            self._seen.move_to_end(look.mark)
        behind = native.lib.llama_pos(0)
        return int(
            self._lib.mtmd_helper_decode_image_chunk(
                self._context,
                context.handle,
                look.chunk,
                seen.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
                position,
                sequence,
                self._batch,
                ctypes.byref(behind),
                self._lib.mtmd_helper_post_decode_callback(),
                None,
            )
        )

    def _encode(self, look: Look) -> np.ndarray[Any, np.dtype[np.float32]]:
        native.complaints.clear()
        with self._lock:
            if self._lib.mtmd_encode_chunk(self._context, look.chunk):
                raise NodeError(f"the picture could not be looked at: {native.reason('llama.cpp gives no reason')}")
            found = self._lib.mtmd_get_output_embd(self._context)
            seen = np.ctypeslib.as_array(found, (look.cells * self._width,)).copy()
        self._seen[look.mark] = seen
        while len(self._seen) > 1 and sum(one.nbytes for one in self._seen.values()) > _KEPT:
            self._seen.popitem(last=False)
        return seen


def library() -> Any:
    """llama.cpp's library for pictures. ``ConfigError`` where the engine was made without it."""
    try:
        found: Any = importlib.import_module("llama_cpp.mtmd_cpp")
    except (ImportError, OSError, RuntimeError):
        raise ConfigError(
            "the model engine here was made without what sees pictures: `flowork models setup --again` makes it anew"
        ) from None
    found.mtmd_helper_log_set(native.log_callback, ctypes.c_void_p(0))
    return found
