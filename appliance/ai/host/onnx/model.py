"""One loaded ONNX model as the host's server sees it: its task on a thread of its own, one run after the other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from appliance.ai.host.files import ONNX
from appliance.ai.host.onnx import manifest, tasks
from appliance.ai.host.onnx.graph import Graph, Stop
from appliance.contracts import Busy, ConfigError

#: Runs that may wait for their turn.
_MOST_WAITING = 32


class OnnxModel:
    """A model folder in memory."""

    def __init__(self, folder: Path, name: str) -> None:
        wanted = manifest.read(folder)
        self.task = str(type(wanted).__struct_config__.tag)
        self._name = name
        self._graph = Graph(folder / ONNX)
        self._task = tasks.task_of(folder, self._graph, wanted)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"onnx {name}")
        #: One run at a time: several would only take the cores from each other.
        self._turn = threading.Lock()
        self._waiting = 0
        self._runs = 0

    async def infer(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """One run; cancelled, it ends between two operators of the graph. Raises ``ConfigError``, ``Busy``."""
        if self._waiting >= _MOST_WAITING:
            raise Busy(f"{self._waiting} requests wait for {self._name!r}")
        stop = Stop()
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, inputs, options, stop)
        finally:
            self._waiting -= 1
            stop.ask()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Vectors of length 1. Raises ``ConfigError`` where the model makes none."""
        embedder = self._embedder()
        with self._turn:
            self._runs += 1
            return embedder.vectors(texts, Stop())

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return self._embedder().reader.count(text)

    def describe(self) -> dict[str, Any]:
        """Its task, what the graph takes and gives, threads, what waits."""
        return {
            "task": self.task,
            "inputs": {slot.name: list(slot.shape) for slot in self._graph.inputs},
            "outputs": {slot.name: list(slot.shape) for slot in self._graph.outputs},
            "threads": self._graph.threads,
            "queued": self._waiting,
            "runs": self._runs,
        }

    def close(self) -> None:
        """Free the memory. Twice is fine."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, inputs: Mapping[str, Any], options: Mapping[str, Any], stop: Stop) -> dict[str, Any]:
        with self._turn:
            self._runs += 1
            return self._task.run(inputs, options, stop)

    def _embedder(self) -> tasks.Embed:
        if not isinstance(self._task, tasks.Embed):
            raise ConfigError(f"{self._name!r} makes no embeddings; its task is {self.task}")
        return self._task
