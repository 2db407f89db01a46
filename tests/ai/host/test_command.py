"""``flowork model-host``: by hand, by systemd's socket, and on a machine where what runs models is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.ai.host import door
from tests.ai.host.test_life import ask
from tests.support.broker import eventually
from tests.support.modelhost import ModelHost, chat
from tests.support.onnxmodels import adder
from tests.support.tinymodel import tiny_model

CLI = [sys.executable, "-m", "appliance.cli"]
#: As sd_listen_fds(3) has it: the socket is number 3, and the process id says for whom it is.
SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def engine(data: Path) -> Path:
    """The data folder of an engine."""
    subprocess.run([*CLI, "init", "--quiet", "--data", str(data)], check=True, timeout=50, capture_output=True)
    return data


@contextmanager
def running(command: list[str], **how: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has to have ended, or is told to, cleanly."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)  # type: ignore[call-overload]
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_by_hand_it_makes_its_own_door(engine: Path) -> None:
    (engine / door.SOCKET).touch()  # what a power cut left
    with running([*CLI, "model-host", "--data", str(engine)]) as process:
        eventually(lambda: door.answers(engine), "the door is open")
        assert ask(engine, "/health") == {"status": "ok"}
        assert (engine / door.SOCKET).stat().st_mode & 0o777 == 0o600
        second = subprocess.run([*CLI, "model-host", "--data", str(engine)], capture_output=True, text=True, timeout=50)
        assert second.returncode != 0
        assert f"another model host serves {engine}" in second.stderr
        assert ask(engine, "/health") == {"status": "ok"}
        assert Path(f"/proc/{process.pid}/comm").read_text() == "flowork-models\n", "it became the host by exec"


def test_systemd_hands_it_the_door(engine: Path) -> None:
    with door.listen(engine) as ours:
        command = [sys.executable, "-c", SYSTEMD, str(ours.fileno()), *CLI, "model-host", "--data", str(engine)]
        with running(command, pass_fds=[ours.fileno()], env={**os.environ, "FLOWORK_MODELS_MEMORY_MB": "300"}):
            assert ask(engine, "/stats")["memory"]["bound"] == 300_000_000  # type: ignore[index]
        assert (engine / door.SOCKET).is_socket(), "the door is systemd's"


def test_without_an_engine_there_is_none_to_serve(tmp_path: Path) -> None:
    done = subprocess.run([*CLI, "model-host", "--data", str(tmp_path)], capture_output=True, text=True, timeout=50)
    assert done.returncode != 0
    assert "there is no engine in" in done.stderr


def test_where_nothing_runs_models_that_is_said_and_models_are_listed(data: Path, tmp_path: Path) -> None:
    shadows = tmp_path / "shadows"
    for name in ("llama_cpp", "onnxruntime", "xllamacpp"):
        (shadows / name).mkdir(parents=True)
        (shadows / name / "__init__.py").write_text(f"raise ImportError('no {name} here', name='{name}')\n")
    models = {"tiny": tiny_model(), "adder": adder(tmp_path)}
    with ModelHost(data, models=models, environ={"PYTHONPATH": str(shadows)}) as host:
        assert [one["id"] for one in host.ask("/v1/models")[1]["data"]] == ["adder", "tiny"]
        for path, body in (
            ("/v1/chat/completions", chat("tiny", "Hello")),
            ("/v1/infer", {"model": "adder", "inputs": {"a": [[1, 2]], "b": [[1, 2]]}}),
        ):
            status, code, message = host.error(path, body)
            assert (status, code) == (501, "no-model-engine")
            assert "`flowork models setup` installs it" in message


def test_a_model_that_may_not_be_read_says_so(data: Path) -> None:
    with ModelHost(data, models={"tiny": tiny_model()}) as host:
        (host.folder / "folder.gguf").mkdir()
        assert [one["id"] for one in host.ask("/v1/models")[1]["data"]] == ["tiny"]
        if os.geteuid() != 0:  # root may read everything
            (host.folder / "tiny.gguf").chmod(0)
            assert host.error("/v1/chat/completions", chat("tiny", "Hello"))[:2] == (422, "model-unusable")
