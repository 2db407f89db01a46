"""ONNX models: embeddings, classes, objects in pictures, tags of sounds, and any other graph.

A model is a folder with ``model.onnx`` and a manifest ``model.json`` that says what is done before and after the graph
(``manifest.py``; docs/onnx.md explains it). This package alone imports onnxruntime, tokenizers, numpy and pillow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.ai.host.onnx.model import OnnxModel


# onnxruntime's published wheels keep a diary of what they run and send it to their maker, unless this is said before
# they are imported (their Privacy.md). The host has no network, and writes nothing outside of the data folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def load(folder: Path, name: str) -> OnnxModel:
    """Load a model. Raises ``ModelUnusable``, and ``ImportError`` where the libraries are not installed."""
    from appliance.ai.host.onnx.model import OnnxModel

    return OnnxModel(folder, name)
