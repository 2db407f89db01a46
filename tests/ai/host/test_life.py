"""The host's life as a process: loading, idling, dying at work, being told to stop, too much at once."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.running import holder
from tests.ai.host.conftest import SLOW
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.modelhost import Link, ModelHost, chat
from tests.support.processes import gone
from tests.support.tinymodel import tiny_model


@pytest.fixture
def slow(data: Path) -> Iterator[ModelHost]:
    """A host of its own with one slow model."""
    with ModelHost(data, models={"slow": tiny_model(layers=SLOW)}) as made:
        yield made


def working_for(host: ModelHost, model: str = "slow") -> int:
    """How many requests the model works for."""
    return next((one["working_for"] for one in host.stats()["models"] if one["model"] == model), 0)


def test_killed_at_work_the_caller_is_cut_off_and_the_next_start_serves(slow: ModelHost) -> None:
    with slow.stream("slow", max_tokens=3000) as events:
        assert next(events)
        slow.stop(signal.SIGKILL)
        assert "[DONE]" not in list(events), "a stream that was cut must not look like one that has ended"
    slow.start()
    assert slow.chat("slow", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_told_to_stop_at_work_it_says_so_and_ends_cleanly(slow: ModelHost) -> None:
    with slow.stream("slow", max_tokens=3000) as events:
        assert next(events)
        assert slow.stop() == 0
        *_, last = events
    assert last["error"]["code"] == "model-host-away"
    assert last["error"]["flowork_retryable"] is True


def test_told_to_stop_it_answers_those_who_have_heard_nothing_yet(slow: ModelHost) -> None:
    link = Link(slow.data)
    link.request("POST", "/v1/chat/completions", json.dumps(chat("slow", "Hello", max_tokens=3000)))
    eventually(lambda: working_for(slow) == 1, "it works")
    assert slow.stop() == 0
    answer = link.getresponse()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert json.loads(answer.read())["error"]["code"] == "model-host-away"
    link.close()


def test_a_caller_that_hangs_up_ends_the_work_at_once(slow: ModelHost) -> None:
    with slow.stream("slow", max_tokens=3000) as events:
        assert next(events)
        assert working_for(slow) == 1
    eventually(lambda: working_for(slow) == 0, "the work has ended")
    link = Link(slow.data)
    link.request("POST", "/v1/chat/completions", json.dumps(chat("slow", "Hello", max_tokens=3000)))
    eventually(lambda: working_for(slow) == 1, "it works")
    link.close()
    eventually(lambda: working_for(slow) == 0, "nobody waits for it")
    # The model's thread is at a token when it hears of it.
    eventually(lambda: slow.stats()["models"][0]["active"] == 0, "the work has ended")
    assert slow.stats()["models"][0]["cells_used"] < 1500, "it went on to the end"


def test_too_many_at_once_are_told_when_to_come_back(slow: ModelHost) -> None:
    links = []
    for _ in range(100):
        link = Link(slow.data)
        link.request("POST", "/v1/chat/completions", json.dumps(chat("slow", "Hello", max_tokens=3000)))
        links.append(link)
    answer = links[-1].getresponse()
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert json.loads(answer.read())["error"]["code"] == "busy"
    for link in links:
        link.close()
    eventually(lambda: working_for(slow) == 0, "all work has ended")
    assert slow.chat("slow", max_tokens=1)


def early(data: Path, body: object) -> Link:
    """A chat asked before there is a host: however slow the machine is, that is not idle when it comes up."""
    link = Link(data)
    link.request("POST", "/v1/chat/completions", json.dumps(body))
    return link


def test_without_work_it_ends_by_itself(data: Path) -> None:
    host = ModelHost(data, models={"tiny": tiny_model()}, idle_minutes=0.005)
    first = early(data, chat("tiny", "Hello", max_tokens=1))
    with host:
        assert first.getresponse().status == 200
        assert host.process is not None
        assert host.process.wait(20) == 0
        assert "the model host ends" in host.log
        second = early(data, chat("tiny", "Hello", max_tokens=1))
        host.start()
        assert second.getresponse().status == 200, "whoever comes after that is served by the next one"
        first.close()
        second.close()


def test_looking_does_not_keep_it_alive_and_work_does(data: Path) -> None:
    host = ModelHost(data, models={"slow": tiny_model(layers=SLOW)}, idle_minutes=0.005)
    work = early(data, chat("slow", "Hello", max_tokens=500))
    with host:
        answer = json.loads(work.getresponse().read())
        assert answer["flowork_seconds"]["whole"] > 0.3, "longer than it may idle"
        work.close()
        assert host.process is not None
        link = Link(data)
        while host.process.poll() is None:
            try:
                link.request("GET", "/stats")
                link.getresponse().read()
            except (http.client.HTTPException, OSError):
                break
        link.close()
        assert host.process.wait(20) == 0


def test_a_model_for_which_there_is_no_room_is_refused_with_figures(data: Path) -> None:
    with ModelHost(data, models={"tiny": tiny_model()}, memory_mb=100) as host:
        status, code, message = host.error("/v1/chat/completions", chat("tiny", "Hello"))
    assert (status, code) == (507, "model-too-large")
    assert re.search(r"takes 1\d\d MB of memory, and models may use 100 MB here", message)


def test_a_damaged_model_harms_nobody_else(data: Path) -> None:
    whole = tiny_model()
    with ModelHost(data, models={"tiny": whole}) as host:
        (host.folder / "cut.gguf").write_bytes(whole.read_bytes()[:100_000])
        (host.folder / "noise.gguf").write_bytes(os.urandom(50_000))
        (host.folder / "empty.gguf").write_bytes(b"")
        for name in ("cut", "noise", "empty"):
            status, code, message = host.error("/v1/chat/completions", chat(name, "Hello"))
            assert (status, code) == (422, "model-unusable")
            assert f"{name}.gguf" in message
        assert host.chat("tiny", max_tokens=1)


def test_a_model_that_was_replaced_is_loaded_anew(data: Path) -> None:
    with ModelHost(data, models={"tiny": tiny_model()}) as host:
        before = host.chat("tiny", max_tokens=10)["choices"]
        fresh = host.folder / "fresh"
        fresh.write_bytes(tiny_model(seed=1).read_bytes())
        fresh.replace(host.folder / "tiny.gguf")
        assert host.chat("tiny", max_tokens=10)["choices"] != before
        (host.folder / "tiny.gguf").unlink()
        assert host.error("/v1/chat/completions", chat("tiny", "Hello"))[:2] == (404, "no-model")


def test_it_has_no_network_and_goes_after_others(data: Path) -> None:
    with ModelHost(data) as host:
        assert host.ask("/health")[0] == 200
        assert host.process is not None
        process = psutil.Process(host.process.pid)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert process.nice() >= 5
        assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) >= 800
        assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert process.rlimit(psutil.RLIMIT_DATA)[0] < 4 << 30
        assert process.name() == "flowork-models"


# --- under `flowork up` --------------------------------------------------------------------------------


def test_under_the_supervisor_it_comes_when_called_and_again(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data", environ={"FLOWORK_MODELS_IDLE_MINUTES": "0.005"}) as engine:
        assert "models" not in engine.pids()
        pids = []
        for _ in range(2):
            assert ask(engine.data, "/v1/models") == {"object": "list", "data": []}
            pids.append(engine.pids()["models"])
            assert gone(pids[-1]), "nobody wants anything of it"
        assert pids[0] != pids[1]
        assert engine.stop() == 0
    assert "models ended" not in engine.log


def test_killed_under_the_supervisor_it_comes_again_and_the_others_stay(tmp_path: Path) -> None:
    with Appliance(tmp_path / "data") as engine:
        models = engine.data / "models"
        models.mkdir(exist_ok=True)
        (models / "tiny.gguf").write_bytes(tiny_model().read_bytes())
        before = {name: pid for name, pid in engine.pids().items() if name != "herald"}  # that one ends by itself
        assert ask(engine.data, "/v1/chat/completions", chat("tiny", "Hello", max_tokens=2))["choices"]
        os.kill(engine.pids()["models"], signal.SIGKILL)
        assert ask(engine.data, "/v1/chat/completions", chat("tiny", "Hello", max_tokens=2))["choices"]
        assert {name: engine.pids()[name] for name in before} == before
        assert "models ended (SIGKILL); starting it again in 0.1 s, if it is needed" in engine.log
        pids = engine.family()
        assert engine.stop() == 0
        assert all(gone(pid) for pid in pids)


def ask(data: Path, path: str, body: object = None) -> dict[str, object]:
    """One request to the host of an engine; it is started for that."""
    link = Link(data)
    try:
        link.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        answer = link.getresponse()
        assert answer.status == 200
        return dict(json.loads(answer.read()))
    finally:
        link.close()


def test_who_wants_to_know_whether_it_runs_need_not_ask_it(data: Path) -> None:
    host = ModelHost(data)
    assert holder(data, "models") is None
    with host:
        assert ask(data, "/v1/models") == {"object": "list", "data": []}
        assert holder(data, "models") is not None
    assert holder(data, "models") is None
