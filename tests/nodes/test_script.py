"""The script node: its limits, its effect, what a save finds, and real scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Done, Effect, Limits, NodeError, Problem, TimedOut
from appliance.nodes.script import PACKAGES, Script
from appliance.sandbox import ProcessSandbox, confine
from tests.support.context import FakeContext, FakeWorld, arun_node, run_node


class FakeSandbox:
    """Remembers what was asked for; answers or raises what it was given."""

    def __init__(self, answer: Any = None, known: Mapping[str, str] = PACKAGES) -> None:
        self.asked: list[tuple[str, str, Any, Limits]] = []
        self._answer = answer
        self._known = dict(known)

    def languages(self) -> dict[str, str]:
        return self._known

    async def script(self, language: str, code: str, payload: Any, limits: Limits) -> Done:
        self.asked.append((language, code, payload, limits))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer or Done(0, "printed\n", "warned\n", {"x": 1})


def context(sandbox: Any) -> FakeContext:
    return FakeContext(sandbox=sandbox)


def test_what_it_asks_for_and_what_it_keeps() -> None:
    sandbox = FakeSandbox()
    ctx = context(sandbox)
    config = {"code": "return {{ not a template }}", "timeout": "2m", "cpu": 5, "memory_mb": 64, "output_kb": 10}
    assert run_node(Script(), config, {"a": 1}, ctx) == {"x": 1}
    limits = Limits(timeout=120, cpu=5, memory_mb=64, output_kb=10, confined=True)
    assert sandbox.asked == [("python", config["code"], {"a": 1}, limits)]
    assert ctx.logs == [("info", "printed"), ("warning", "warned")]


def test_the_output_of_bash_is_not_logged() -> None:
    ctx = context(FakeSandbox(Done(0, "[1]\n", "", [1])))
    assert run_node(Script(), {"language": "bash", "code": "echo [1]"}, None, ctx) == [1]
    assert ctx.logs == []


@pytest.mark.parametrize(
    ("config", "confined"),
    [({}, True), ({"network": True}, False), ({"effect": "pure"}, False), ({"effect": "once"}, False)],
)
def test_confinement_is_demanded_where_the_effect_was_left_open(config: dict[str, Any], confined: bool) -> None:
    sandbox = FakeSandbox()
    run_node(Script(), {"code": "1", **config}, None, context(sandbox))
    assert sandbox.asked[0][3].confined is confined


@pytest.mark.parametrize(
    ("config", "effect"),
    [
        ({}, Effect.PURE),
        ({"network": False}, Effect.PURE),
        ({"network": True}, Effect.ONCE),
        ({"network": "{{ payload.n }}"}, Effect.ONCE),
        ({"network": True, "effect": "idempotent"}, Effect.IDEMPOTENT),
        ({"effect": "once"}, Effect.ONCE),
        ({"effect": "{{ vars.effect }}"}, Effect.ONCE),
    ],
)
def test_the_effect(config: dict[str, Any], effect: Effect) -> None:
    assert Script().effect_of(config) is effect


def test_an_error_keeps_what_was_printed() -> None:
    error = NodeError("NameError", detail={"stdout": "before\n", "stderr": "trace\n"})
    ctx = context(FakeSandbox(error))
    with pytest.raises(NodeError, match="NameError"):
        run_node(Script(), {"code": "x"}, None, ctx)
    assert ctx.logs == [("info", "before"), ("warning", "trace")]


def test_a_missing_language_is_said_with_its_package() -> None:
    gone = FakeSandbox(ConfigError("no interpreter"), {})
    with pytest.raises(ConfigError, match="apt install php-cli"):
        run_node(Script(), {"language": "php", "code": "1;"}, None, context(gone))
    with pytest.raises(ConfigError, match="unconfined"):
        run_node(Script(), {"code": "1"}, None, context(FakeSandbox(ConfigError("unconfined"))))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"code": ""},
        {"code": "x", "language": "cobol"},
        {"code": "x", "memory_mb": 1},
        {"code": "x", "cpu": 0},
        {"code": "x", "timeout": 0},
        {"code": "x", "timeout": "soon"},
        {"code": "x", "effect": "maybe"},
        {"code": "x", "unknown": 1},
    ],
)
def test_bad_config(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        run_node(Script(), config, None, context(FakeSandbox()))


class TestCheck:
    """What is said when a flow is saved, by the real interpreters."""

    @pytest.fixture
    def world(self) -> FakeWorld:
        return FakeWorld(installed=ProcessSandbox(Path("/nonexistent")).languages())

    def problems(self, world: FakeWorld, **config: Any) -> list[Problem]:
        return list(Script().check(config, world))

    @pytest.mark.parametrize(
        ("language", "code"),
        [
            ("python", "from __future__ import annotations\nif payload:\n    return 1\nresult = 2"),
            ("javascript", "const x = await f()\nreturn x // the end"),
            ("bash", "if true; then echo; fi"),
            ("php", "<?php\nuse A\\B;\nreturn 1;"),
            ("php", "return $payload['a'];"),
            ("perl", "this is not looked at ("),
            ("ruby", "return payload if payload\n1"),
        ],
    )
    def test_good_code(self, world: FakeWorld, language: str, code: str) -> None:
        assert self.problems(world, language=language, code=code) == []

    @pytest.mark.parametrize(
        ("language", "code"),
        [
            ("python", "x = 1\ny = = 2"),
            ("python", "x = 1\nbreak"),
            ("python", "def f():\nx = 1"),
            ("javascript", "let x = 1\nlet y = = 2"),
            ("bash", "if true\nfi"),
            ("php", "$x = 1;\n$y = = 2;"),
            ("ruby", "x = 1\ny = = 2"),
        ],
    )
    def test_code_that_does_not_compile(self, world: FakeWorld, language: str, code: str) -> None:
        [problem] = self.problems(world, language=language, code=code)
        assert problem.path == "code"
        assert "(line 2)" in problem.message
        assert "stdin" not in problem.message.lower()

    def test_code_that_cannot_be_compiled_at_all(self, world: FakeWorld) -> None:
        for code in ("x\0", "(" * 100_000):
            [problem] = self.problems(world, code=code)
            assert problem.path == "code"

    def test_a_language_that_is_not_there(self) -> None:
        [problem] = self.problems(FakeWorld(), language="ruby", code="1")
        assert problem == Problem("language", "ruby is not installed on this machine: apt install ruby")

    def test_an_interpreter_that_is_broken(self) -> None:
        [problem] = self.problems(FakeWorld(installed={"ruby": "/no/such/ruby"}), language="ruby", code="1")
        assert "cannot be checked" in problem.message

    def test_where_nothing_confines_the_effect_must_be_chosen(self, world: FakeWorld) -> None:
        loose = FakeWorld(installed=world.installed, confining=False)
        [problem] = self.problems(loose, code="return 1")
        assert problem.path == "effect"
        assert "bubblewrap" in problem.message
        assert self.problems(loose, code="return 1", effect="pure") == []
        assert self.problems(loose, code="return 1", network=True) == []

    def test_a_config_that_has_other_faults(self, world: FakeWorld) -> None:
        assert self.problems(world, language="cobol") == []
        assert self.problems(world, code=3) == []


class TestReal:
    """The node on the real sandbox."""

    @pytest.fixture
    def sandbox(self, tmp_path: Path) -> Iterator[ProcessSandbox]:
        sandbox = ProcessSandbox(tmp_path, bubblewrap=bool(confine.bubblewrap().program))
        sandbox.open()
        yield sandbox
        sandbox.close()

    def test_success_failure_and_timeout(self, sandbox: ProcessSandbox) -> None:
        config = {"effect": "pure"}

        async def scenario() -> None:
            ctx = context(sandbox)
            code = "print('working')\nreturn {'f': payload['c'] * 9 / 5 + 32}"
            assert await arun_node(Script(), {**config, "code": code}, {"c": 100}, ctx) == {"f": 212}
            with pytest.raises(NodeError, match=r"KeyError: 'c' \(line 2\)"):
                await arun_node(Script(), {**config, "code": code}, {}, ctx)
            assert ctx.messages("info") == ["working", "working"]
            [trace] = ctx.messages("warning")
            assert "script.py" in trace
            slow = {**config, "code": "import time; time.sleep(1000)", "timeout": "200ms"}
            with pytest.raises(TimedOut):
                await arun_node(Script(), slow, None, ctx)

        asyncio.run(scenario())
