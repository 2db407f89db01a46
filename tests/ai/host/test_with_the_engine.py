"""The whole engine with its model host: a step survives the host's death, a flow looks at a picture."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from appliance.ai.library import host
from tests.ai.host.conftest import SLOW
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.modelhost import Link
from tests.support.onnxmodels import lamp_picture, lamps
from tests.support.tinymodel import tiny_model


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Appliance]:
    """An engine with the language model ``slow`` and the detector ``lamps``."""
    with Appliance(tmp_path / "data") as made:
        (folder := made.data / "models").mkdir(exist_ok=True)
        (folder / "slow.gguf").write_bytes(tiny_model(layers=SLOW).read_bytes())
        lamps(folder)
        yield made


def run(engine: Appliance, name: str, node: dict[str, Any]) -> Any:
    """Deploy a flow of one node and run it to its end; what `flowork run` prints."""
    file = engine.data.parent / f"{name}.json"
    file.write_text(json.dumps({"name": name, "nodes": [node]}))
    engine.flowork("flow", "deploy", str(file))
    done = engine.flowork("run", name, "--json", check=False)
    return json.loads(done.stdout)


def working(engine: Appliance) -> bool:
    """Whether a model works; asking starts the host if it is not there."""
    link = Link(engine.data)
    try:
        link.request("GET", "/stats")
        return any(one["working_for"] for one in json.loads(link.getresponse().read())["models"])
    except (OSError, ValueError):
        return False  # it is being killed
    finally:
        link.close()


def test_another_bound_holds_for_a_host_that_runs(engine: Appliance) -> None:
    config = {"prompt": "Hello", "models": ["slow"], "max_tokens": 2, "cache": False}
    node = {"id": "ask", "type": "llm", "config": config, "retry": {"attempts": 1}}
    assert run(engine, "hello", node)["state"] == "succeeded"
    said = engine.flowork("settings", "set", "models_memory_mb=12").stdout
    assert "next start" not in said
    eventually(lambda: not host.runs(engine.data), "the host has left")
    refused = run(engine, "hello", node)
    assert refused["state"] == "failed"
    assert "models may use 12 MB here" in refused["error"]["message"]
    engine.flowork("settings", "set", "models_memory_mb=0")
    eventually(lambda: not host.runs(engine.data), "the host has left")
    assert run(engine, "hello", node)["state"] == "succeeded"


def test_a_step_whose_host_is_killed_is_tried_again_and_succeeds(engine: Appliance) -> None:
    config = {"prompt": "Tell a story", "models": ["slow"], "max_tokens": 300}
    node = {"id": "ask", "type": "llm", "config": config, "retry": {"attempts": 4, "backoff": "100ms"}}
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(run(engine, "story", node)))
    asking.start()
    eventually(lambda: working(engine), "the model works")
    first = engine.pids()["models"]
    before = {name: pid for name, pid in engine.pids().items() if name != "models"}
    os.kill(first, signal.SIGKILL)
    asking.join(50)
    (ended,) = found
    assert ended["state"] == "succeeded", ended
    assert ended["output"]["tokens_out"] == 300
    (step,) = engine.json("show", ended["id"])["steps"]
    assert any("is asked again" in text for _, level, text in step["logs"]), "the run does not show it"
    assert engine.pids()["models"] != first
    assert {name: engine.pids()[name] for name in before} == before, "nothing else has noticed"


def test_a_flow_finds_lamps_in_a_picture(engine: Appliance) -> None:
    picture = lamp_picture((128, 64), (32, 16, 48, 32))
    (engine.data / "files").mkdir(exist_ok=True)
    (engine.data / "files" / "room.png").write_bytes(picture)
    config = {"model": "lamps", "image": "'room.png'", "threshold": 0.6, "draw": True}
    ended = run(engine, "look", {"id": "look", "type": "detect_objects", "config": config})
    assert ended["state"] == "succeeded", ended
    assert ended["output"]["counts"] == {"lamp": 1}
    assert ended["output"]["objects"][0]["box"] == [24.0, 8.0, 32.0, 32.0]
    assert ended["output"]["picture"]["type"] == "image/jpeg"


def test_a_model_that_is_not_there_fails_the_step_with_what_to_do(engine: Appliance) -> None:
    node = {"id": "look", "type": "onnx", "config": {"model": "gone", "inputs": {"x": 1}}, "retry": {"attempts": 5}}
    ended = run(engine, "gone", node)
    assert ended["state"] == "failed"
    assert "there is no model 'gone' here; there are lamps" in json.dumps(ended)


def test_the_others_stay_as_small_while_the_host_is_up(engine: Appliance) -> None:
    """What it loads is loaded into it: kernel and gateway have none of the libraries, nor their memory."""

    def mapped(pid: int) -> str:
        return Path(f"/proc/{pid}/maps").read_text()

    ended = run(engine, "hello", {"id": "ask", "type": "llm", "config": {"prompt": "Hi", "models": ["slow"]}})
    assert ended["state"] == "succeeded", ended
    pids = engine.pids()
    assert "llama" in mapped(pids["models"])
    for name in ("kernel", "gateway", "agent"):
        for library in ("llama", "onnxruntime", "numpy", "/PIL/"):
            assert library not in mapped(pids[name]), f"{library} in the {name}"
    assert psutil.Process(pids["models"]).nice() > psutil.Process(pids["kernel"]).nice()
