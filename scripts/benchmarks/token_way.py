"""How long a token is on its way: from the model's thread in the host, by the kernel and the gateway, to a panel.

The host here is the product's own, but for one thing: it writes down when its model's thread gives out a piece. Both
ends read the same monotonic clock, for they are on one machine. ``python -m scripts.benchmarks.token_way FILE …`` is
that host, with the arguments of the product's one.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import simple_websocket

from scripts.benchmarks.common import Engine, Row, engine, percentile
from scripts.benchmarks.panel import call, sign_in
from tests.support.tinymodel import tiny_model

#: Milliseconds within which a token is to be seen.
LIMIT = 50.0
_FLOW = {
    "name": "words",
    "nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "{{ payload.text }}", "max_tokens": 200}}],
}
_PATIENCE = 120.0


def run(quick: bool) -> list[Row]:
    """Some answers of 200 tokens, watched by one panel."""
    with engine(flows={"words": _FLOW}) as ours:
        (folder := ours.data / "models").mkdir(exist_ok=True)
        (folder / "slow.gguf").write_bytes(tiny_model(layers=40).read_bytes())
        stamps = ours.data.parent / "stamps"
        host = _host(ours.data, stamps)
        try:
            late = _watched(ours, stamps, 1 if quick else 3)
        finally:
            host.terminate()
            host.wait(30)
    middle, most = percentile(late, 0.5), percentile(late, 0.99)
    return [
        Row(
            "model_host", "a token from the model to the run view's frame, p50", middle, "ms", "<= 50", middle <= LIMIT
        ),
        Row("model_host", "the same, p99", most, "ms", "<= 50", most <= LIMIT),
    ]


def _host(data: Path, stamps: Path) -> subprocess.Popen[bytes]:
    """The stamping host in the place of the supervisor's own: who asks from now on comes to it."""
    from appliance.ai.host import door
    from appliance.ai.host.process import command

    (data / door.SOCKET).unlink()
    ours = door.listen(data)
    ours.set_inheritable(True)
    arguments = command(data, ours.fileno(), 0, 0.0)
    at = arguments.index("--data")
    mine = [sys.executable, "-m", "scripts.benchmarks.token_way", str(stamps), *arguments[at:]]
    try:
        return subprocess.Popen(mine, pass_fds=[ours.fileno()], stderr=subprocess.DEVNULL)
    finally:
        ours.close()


def _watched(ours: Engine, stamps: Path, answers: int) -> list[float]:
    """Milliseconds of each piece, the answer that warms up left out."""
    origin = f"http://127.0.0.1:{ours.port}"
    cookie = sign_in(ours, origin)
    # This client's Host header leaves the port out, and the origin must match it.
    headers = {"Cookie": cookie, "Origin": "http://127.0.0.1"}
    panel = simple_websocket.Client(f"ws://127.0.0.1:{ours.port}/api/v1/live", ["flowork"], headers=headers)
    late: list[float] = []
    try:
        panel.receive(_PATIENCE)
        for number in range(answers + 1):
            before = len(_pieces(stamps))
            body = {"input": {"text": f"{number} is"}}
            call(ours, "POST", "/flows/words/runs", {"Cookie": cookie, "Origin": origin}, body)
            frames = _frames(panel)
            said = 0
            for moment, length in _pieces(stamps)[before:] if number else ():
                said += length
                seen = next(at for at, until in frames if until >= said)
                late.append((seen - moment) * 1000)
    finally:
        panel.close()
    return late


def _frames(panel: simple_websocket.Client) -> list[tuple[float, float]]:
    """When each frame of a run came, and how many characters had been seen then; with a run's end all are."""
    frames: list[tuple[float, float]] = []
    while (message := panel.receive(_PATIENCE)) is not None:
        now = time.monotonic()
        for event in json.loads(message):
            if event["type"] == "stream":
                frames.append((now, event["from"] + len(event["text"])))
            elif event["type"] == "run" and event["state"] == "succeeded":
                return [*frames, (now, math.inf)]
            elif event["type"] == "run" and event["state"] == "failed":
                raise RuntimeError(f"the run failed: {event}")
    raise RuntimeError("the run did not end")


def _pieces(stamps: Path) -> list[tuple[float, int]]:
    found = [line.split() for line in stamps.read_text().splitlines()] if stamps.exists() else []
    return [(float(moment), int(length)) for moment, length in found]


def main(arguments: list[str]) -> int:
    """The host that stamps."""
    from appliance.ai.host import generate, process

    target = os.open(arguments[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    class Stamping(generate.Inbox):
        def text(self, text: str) -> None:
            os.write(target, f"{time.monotonic()} {len(text)}\n".encode())
            super().text(text)

    replaced: Any = generate
    replaced.Inbox = Stamping
    return process.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
