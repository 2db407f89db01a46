"""The command node: arguments, shell lines, input, folders, exit codes and what a save finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Done, Effect, Limits, NodeError, TimedOut
from appliance.nodes.command import Command
from appliance.sandbox import ProcessSandbox, confine
from tests.support.context import FakeContext, FakeWorld, arun_node, run_node


class FakeSandbox:
    """Remembers what was asked for."""

    def __init__(self, done: Done | None = None) -> None:
        self.asked: list[tuple[list[str], dict[str, Any]]] = []
        self._done = done or Done(0, "out", "err")

    async def command(self, argv: list[str], **options: Any) -> Done:
        self.asked.append((argv, options))
        return self._done


def context(sandbox: Any, root: Path | None = None) -> FakeContext:
    return FakeContext(root=root, sandbox=sandbox)


def test_what_it_asks_for(tmp_path: Path) -> None:
    sandbox = FakeSandbox()
    (tmp_path / "sub").mkdir()
    ctx = context(sandbox, tmp_path)
    config = {
        "args": ["tool", "a b"],
        "stdin": "text",
        "env": {"A": "1"},
        "cwd": "sub",
        "timeout": "90s",
        "cpu": 3,
        "memory_mb": 0,
        "output_kb": 5,
        "network": False,
    }
    assert run_node(Command(), config, None, ctx) == {"code": 0, "stdout": "out", "stderr": "err"}
    limits = Limits(timeout=90, cpu=3, memory_mb=0, output_kb=5, network=False)
    options = {"stdin": b"text", "env": {"A": "1"}, "cwd": tmp_path / "sub", "limits": limits}
    assert sandbox.asked == [(["tool", "a b"], options)]


def asked(**config: Any) -> tuple[list[str], dict[str, Any]]:
    sandbox = FakeSandbox()
    run_node(Command(), config, None, context(sandbox))
    return sandbox.asked[0]


def test_defaults() -> None:
    argv, options = asked(args=["true"])
    assert argv == ["true"]
    assert options["stdin"] == b""
    assert options["cwd"] is None
    assert options["limits"] == Limits(timeout=60, cpu=0, memory_mb=1024, network=True)


def test_a_shell_only_when_asked_for() -> None:
    assert asked(shell='echo "$A" | tr a b')[0] == ["/bin/sh", "-c", 'echo "$A" | tr a b']
    assert asked(args=["echo", "$A; ls"])[0] == ["echo", "$A; ls"]


def test_input_that_is_no_text_is_json() -> None:
    assert asked(args=["cat"], stdin={"a": [1, "ü"]})[1]["stdin"] == '{"a":[1,"ü"]}'.encode()
    assert asked(args=["cat"], stdin=0)[1]["stdin"] == b"0"
    assert asked(args=["cat"], stdin="ü")[1]["stdin"] == "ü".encode()


def outcome(done: Done, **config: Any) -> Any:
    return run_node(Command(), {"args": ["tool"], **config}, None, context(FakeSandbox(done)))


def test_exit_codes() -> None:
    with pytest.raises(NodeError, match="tool ended with exit code 2: last") as caught:
        outcome(Done(2, "some", "first\nlast\n"))
    assert caught.value.detail == {"exit_code": 2, "stdout": "some", "stderr": "first\nlast\n"}
    assert outcome(Done(2, "some"), ok_codes=[0, 2])["code"] == 2
    with pytest.raises(NodeError, match="exit code 0"):
        outcome(Done(0), ok_codes=[1])


def test_reading_what_was_printed() -> None:
    assert outcome(Done(0, '{"a": 1}\n'), parse="json")["stdout"] == {"a": 1}
    assert outcome(Done(0, "a\nb\n"), parse="lines")["stdout"] == ["a", "b"]
    with pytest.raises(NodeError, match="stdout is not JSON") as caught:
        outcome(Done(0, "plain"), parse="json")
    assert not caught.value.retryable
    assert caught.value.detail["stdout"] == "plain"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"args": []},
        {"args": ["a"], "shell": "b"},
        {"args": "ls -l"},
        {"args": ["a"], "timeout": "0s"},
        {"args": ["a"], "ok_codes": []},
        {"args": ["a"], "env": {"A": 1}},
        {"args": ["a"], "cwd": "../outside"},
        {"args": ["a"], "cwd": "missing"},
        {"args": ["a"], "parse": "yaml"},
        {"args": ["a"], "effect": "maybe"},
        {"args": ["a"], "unknown": 1},
    ],
)
def test_bad_config(config: dict[str, Any], tmp_path: Path) -> None:
    sandbox = FakeSandbox()
    with pytest.raises(ConfigError):
        run_node(Command(), config, None, context(sandbox, tmp_path))
    assert sandbox.asked == []


def test_the_effect() -> None:
    assert Command().effect_of({}) is Effect.ONCE
    assert Command().effect_of({"effect": "pure"}) is Effect.PURE
    assert Command().effect_of({"effect": "idempotent"}) is Effect.IDEMPOTENT
    assert Command().effect_of({"effect": "{{ x }}"}) is Effect.ONCE


def test_check() -> None:
    world = FakeWorld(programs=frozenset({"ls"}))

    def problems(**config: Any) -> list[tuple[str, str]]:
        return [(problem.path, problem.message) for problem in Command().check(config, world)]

    assert problems(args=["ls", "-l"]) == []
    assert problems(args=["{{ payload.tool }}"]) == []
    assert problems(args=["/opt/tool"]) == []
    assert problems(args="{{ payload.args }}") == []
    assert problems(shell="anything") == []
    assert problems(args=["lsx"]) == [("args[0]", "there is no program 'lsx' on this machine")]
    assert "belongs in shell" in problems(args=["ls -l"])[0][1]
    assert [path for path, _ in problems()] == ["args"]
    assert [path for path, _ in problems(args=["ls"], shell="ls")] == ["args"]
    assert problems(args=[3]) == []


class TestReal:
    """The node on the real sandbox."""

    @pytest.fixture
    def sandbox(self, tmp_path: Path) -> Iterator[ProcessSandbox]:
        sandbox = ProcessSandbox(tmp_path / "data", bubblewrap=bool(confine.bubblewrap().program))
        sandbox.open()
        yield sandbox
        sandbox.close()

    def test_success_failure_and_timeout(self, sandbox: ProcessSandbox, tmp_path: Path) -> None:
        async def scenario() -> None:
            ctx = FakeContext(root=tmp_path / "files", sandbox=sandbox)
            (tmp_path / "files").mkdir()
            config = {"shell": 'cat; echo "$NAME" > made', "stdin": [1], "env": {"NAME": "$(ls); x"}, "cwd": "."}
            assert (await arun_node(Command(), {**config, "parse": "json"}, None, ctx))["stdout"] == [1]
            assert (tmp_path / "files" / "made").read_text() == "$(ls); x\n"
            with pytest.raises(NodeError, match=r"exit code 2: .*no-such-file"):
                await arun_node(Command(), {"args": ["ls", "no-such-file"]}, None, ctx)
            with pytest.raises(ConfigError, match="no program"):
                await arun_node(Command(), {"args": ["no-such-program"]}, None, ctx)
            with pytest.raises(TimedOut):
                await arun_node(Command(), {"args": ["sleep", "1000"], "timeout": "100ms"}, None, ctx)

        asyncio.run(scenario())
