"""One ONNX graph in onnxruntime: what goes in, what comes out, a run that can be ended in the middle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort

from appliance.ai.host.errors import ModelUnusable
from appliance.contracts import ConfigError, NodeError

Array = np.ndarray[Any, np.dtype[Any]]
#: The types of tensors that can be given as numbers.
_TYPES: Mapping[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
_EXCERPT = 300


class Slot(NamedTuple):
    """An input or output: ``shape`` has None where any length goes."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class Graph:
    """A loaded graph. Calls of :meth:`run` are safe from any thread; each has its own ``Stop``."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 4
        # Threads that wait for the next layer in a loop would take the cores from the engine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A run's memory is given back behind it: between two runs there may be hours.
        options.enable_cpu_mem_arena = False
        try:
            self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # its errors have no base of their own
            raise ModelUnusable(f"{path.parent.name!r} cannot be loaded: {_words(exc)}") from None
        self.inputs = [_slot(one) for one in self._session.get_inputs()]
        self.outputs = [_slot(one) for one in self._session.get_outputs()]

    def input(self, name: str) -> Slot:
        """The input of that name, or the first one. Raises ``ModelUnusable``."""
        return _named(self.inputs, name, "input")

    def output(self, name: str) -> Slot:
        """The output of that name, or the first one. Raises ``ModelUnusable``."""
        return _named(self.outputs, name, "output")

    def run(self, feeds: Mapping[str, Array], stop: Stop, outputs: list[str] | None = None) -> dict[str, Array]:
        """The outputs by name, for inputs by name. Raises ``ConfigError`` for inputs that do not fit the graph."""
        if stop.asked:
            raise NodeError("the run was ended")
        wanted = outputs or [slot.name for slot in self.outputs]
        fitting = {slot.name: _typed(feeds[slot.name], slot) for slot in self.inputs if slot.name in feeds}
        try:
            found = self._session.run(wanted, fitting, stop.options)
        except Exception as exc:  # its errors have no base of their own
            if stop.asked:
                raise NodeError("the run was ended") from None
            raise ConfigError(f"the model cannot work with this: {_words(exc)}") from None
        return dict(zip(wanted, (np.asarray(one) for one in found), strict=True))


class Stop:
    """Ends a run from another thread, between two of the graph's operators."""

    def __init__(self) -> None:
        self.options = ort.RunOptions()
        self.options.log_severity_level = 4
        self.asked = False

    def ask(self) -> None:
        """Twice is fine."""
        self.asked = True
        self.options.terminate = True


def _slot(one: Any) -> Slot:
    return Slot(one.name, one.type, tuple(size if isinstance(size, int) else None for size in one.shape))


def _named(slots: list[Slot], name: str, what: str) -> Slot:
    for slot in slots:
        if name in ("", slot.name):
            return slot
    raise ModelUnusable(f"the graph has no {what} {name!r}; it has {', '.join(slot.name for slot in slots)}")


def _typed(value: Array, slot: Slot) -> Array:
    kind = _TYPES.get(slot.type)
    return value if kind is None else np.ascontiguousarray(value, dtype=kind)


def _words(exc: Exception) -> str:
    """The library's message without its bracketed codes, in one line."""
    text = " ".join(str(exc).split())
    return text.rpartition(" : ")[2][:_EXCERPT] or type(exc).__name__
