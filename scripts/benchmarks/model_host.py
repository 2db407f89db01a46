"""The model host around the models: what a request costs beside the model's own work, how soon a token is heard.

Language models here are tiny and random: the host's share is what is measured. Embeddings are those of the real
all-MiniLM-L6-v2, whose weights pip fetches once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime

from appliance.ai.host.onnx.graph import Graph
from appliance.ai.host.onnx.manifest import Text
from appliance.ai.host.onnx.texts import Reader
from scripts.benchmarks import minilm, token_way
from scripts.benchmarks.common import Engine, Row, Usage, engine, percentile
from tests.support.modelhost import Link, ModelHost, chat, events
from tests.support.tinymodel import tiny_model

ROOT = Path(__file__).parent.parent.parent


def run(quick: bool) -> list[Row]:
    """One host of its own, then one under a whole engine."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_requests(Path(folder), 100 if quick else 400),
            *_vectors(Path(folder), quick),
            *_beside(),
            *token_way.run(quick),
        ]


@contextlib.contextmanager
def _link(host: ModelHost) -> Iterator[Link]:
    """One connection for many requests, as the kernel's."""
    link = Link(host.data)
    try:
        yield link
    finally:
        link.close()


def _ask(link: Link, path: str, body: Any) -> Any:
    link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = link.getresponse()
    assert answer.status == 200, answer.read()
    return json.loads(answer.read())


def _requests(folder: Path, count: int) -> list[Row]:
    (data := folder / "requests").mkdir()
    models = {"tiny": tiny_model(), "slow": tiny_model(layers=40)}
    began = time.perf_counter()
    with ModelHost(data, models=models) as host, _link(host) as link:
        _ask(link, "/v1/tokens", {"model": "tiny", "input": "x"})
        start = time.perf_counter() - began
        beside = [_beside_the_model(link) for _ in range(count)][count // 10 :]
        late = [_late(host) for _ in range(max(5, count // 20))]
    middle, most, heard = percentile(beside, 0.5), percentile(beside, 0.99), statistics.median(late)
    return [
        Row("model_host", "a request beside the model's work, median", middle, "ms", "<= 5", middle <= 5),
        Row("model_host", "the same, 99th percentile", most, "ms"),
        Row("model_host", "a token from the model to the caller", heard, "ms", "<= 50", heard <= 50),
        Row("model_host", "from its start to the first answer", start, "s"),
    ]


def _beside_the_model(link: Link) -> float:
    """Milliseconds of one request that the model did not take."""
    began = time.perf_counter()
    answer = _ask(link, "/v1/chat/completions", chat("tiny", "How warm is it?", max_tokens=1))
    whole: float = answer["flowork_seconds"]["whole"]
    return (time.perf_counter() - began - whole) * 1000


def _late(host: ModelHost) -> float:
    """Milliseconds between a stream's first token at the model and at the caller, the request's own way included."""
    with _link(host) as link:
        link.connect()
        body = chat("slow", "How warm is it?", max_tokens=4, stream=True, stream_options={"include_usage": True})
        began = time.perf_counter()
        link.request("POST", "/v1/chat/completions", json.dumps(body))
        heard = made = 0.0
        for event in events(link.getresponse()):
            if event == "[DONE]":
                break
            if not heard and event["choices"] and event["choices"][0]["delta"].get("content"):
                heard = time.perf_counter() - began
            made = event.get("flowork_seconds", {}).get("first", 0.0)
        return (heard - made) * 1000


def _vectors(folder: Path, quick: bool) -> list[Row]:
    logging.getLogger().setLevel(logging.ERROR)  # of the quantizer
    (data := folder / "vectors").mkdir()
    texts = _sentences(320)
    made = {"int8": minilm.make(folder / "int8", int8=True), "float": minilm.make(folder / "float", int8=False)}
    speeds: dict[str, list[float]] = {name: [] for name in made}
    bare, shares = _Bare(made["int8"], texts), []
    with ModelHost(data, models=made) as host, _link(host) as link:
        found = {name: _ask(link, "/v1/embeddings", {"model": name, "input": texts[:64]}) for name in made}
        for _ in range(2 if quick else 5):
            for name, speed in speeds.items():
                began = time.perf_counter()
                _ask(link, "/v1/embeddings", {"model": name, "input": texts})
                speed.append(len(texts) / (time.perf_counter() - began))
            shares.append(speeds["int8"][-1] / bare.speed())
    alike = statistics.mean(
        sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True))
        for one, other in zip(found["int8"]["data"], found["float"]["data"], strict=True)
    )
    fast = statistics.median(speeds["int8"])
    return [
        Row("model_host", "embeddings, int8 (MiniLM-L6)", fast, "sentences/s", ">= 500", fast >= 500),
        Row("model_host", "int8: against onnxruntime alone on the same tokens", statistics.median(shares), "x"),
        Row("model_host", "the same in float32", statistics.median(speeds["float"]), "sentences/s"),
        Row("model_host", "int8 against float32, cosine", alike, "", ">= 0.99", alike >= 0.99),
    ]


class _Bare:
    """What this machine can do at most: onnxruntime as it comes, with tokens that are ready and vectors left lying."""

    def __init__(self, folder: Path, texts: list[str]) -> None:
        graph = Graph(folder / "model.onnx")
        reader = Reader(folder, Text(max_tokens=256))
        names = {slot.name for slot in graph.inputs}
        self._count = len(texts)
        self._feeds = [
            {name: array for name, array in feeds.items() if name in names} for _, feeds in reader.batches(texts, graph)
        ]
        self._sessions = []
        for spinning in "01":  # threads that wait in a loop are quicker alone, and slower beside others
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = graph.threads
            options.log_severity_level = 4
            options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
            self._sessions.append(onnxruntime.InferenceSession(folder / "model.onnx", options))

    def speed(self) -> float:
        """Sentences a second, the better of both ways to wait."""
        return max(self._speed(session) for session in self._sessions)

    def _speed(self, session: Any) -> float:
        began = time.perf_counter()
        for feeds in self._feeds:
            session.run(None, feeds)
        return self._count / (time.perf_counter() - began)


def _sentences(count: int) -> list[str]:
    """Real ones: those of our own manual."""
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    found = [one.strip() for one in re.split(r"[.\n|]", text) if 20 < len(one.strip()) < 200]
    return found[:count]


def _beside() -> list[Row]:
    """Memory of the engine's other processes while the host is up, against when it is not."""
    with engine() as ours:
        (folder := ours.data / "models").mkdir(exist_ok=True)
        (folder / "tiny.gguf").write_bytes(tiny_model().read_bytes())
        time.sleep(3)
        before = _others(ours)
        link = Link(ours.data)
        _ask(link, "/v1/chat/completions", chat("tiny", "Hello", max_tokens=8))
        after = _others(ours)
        host = Usage.of([ours.child("models")]).pss
        link.close()
    return [
        Row("model_host", "kernel, gateway and others without it (PSS)", before / 1e6, "MB"),
        Row("model_host", "the same while it is up", after / 1e6, "MB", "<= 100", after <= 100e6),
        Row("model_host", "the host itself, with a tiny model", host / 1e6, "MB"),
    ]


def _others(ours: Engine) -> int:
    """Bytes of all processes but the host."""
    processes = ours.processes()
    with contextlib.suppress(LookupError):
        host = ours.child("models").pid
        processes = [process for process in processes if process.pid != host]
    return Usage.of(processes).pss
