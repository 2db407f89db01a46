"""Calls of our own nodes' functions in a child, and how their errors come back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.contracts import ConfigError, Limits, NodeError, TimedOut
from tests.sandbox.conftest import LIMITS, Bench

MODULE = "appliance.nodes.script"


def call(bench: Bench, function: str, arguments: Any, limits: Limits = LIMITS, module: str = MODULE) -> Any:
    return bench.do(bench.sandbox.call(module, function, arguments, limits))


def test_the_child_stays_warm(bench: Bench) -> None:
    assert call(bench, "_python_fault", "x = 1") == ""
    assert call(bench, "_python_fault", "ü = = 1") == "invalid syntax (line 1)"
    assert call(bench, "_positive", "2m") == 120.0
    assert bench.sandbox.starts["call"] == 1


def test_errors_come_back_as_what_they_were(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="more than 0 seconds") as caught:
        call(bench, "_positive", 0)
    assert not caught.value.retryable
    with pytest.raises(NodeError, match="TypeError: float"):
        call(bench, "_positive", None)
    assert call(bench, "_positive", 1) == 1.0
    assert bench.sandbox.starts["call"] == 1


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("os", "getpid"),
        ("appliance.nodes", "script"),
        ("appliance.nodes.script.ast", "parse"),
        ("appliance.kernel.http", "x"),
        ("appliance.nodes.script;os", "x"),
        (MODULE, "seconds"),
        (MODULE, "subprocess"),
        (MODULE, "PACKAGES"),
        (MODULE, "nothing"),
        (MODULE, "_python_fault.__globals__"),
    ],
)
def test_only_functions_of_nodes(bench: Bench, module: str, function: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a module of appliance\.nodes|has no function"):
        call(bench, function, None, module=module)


def test_a_module_that_does_not_load(bench: Bench) -> None:
    with pytest.raises(NodeError, match="ModuleNotFoundError"):
        call(bench, "x", None, module="appliance.nodes.no_such_node")


def test_a_call_that_takes_too_long_is_ended(bench: Bench) -> None:
    endless = "x = 1\n" * 400_000
    with pytest.raises(TimedOut):
        call(bench, "_python_fault", endless, Limits(timeout=0.3, memory_mb=0))
    assert bench.sandbox.status()["children"] == 0
    assert call(bench, "_python_fault", "x = 1") == ""


def test_calls_at_once(bench: Bench) -> None:
    async def scenario() -> list[Any]:
        works = [bench.sandbox.call(MODULE, "_positive", n + 1, LIMITS) for n in range(5)]
        return await asyncio.gather(*works)

    assert bench.do(scenario()) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert bench.sandbox.starts["call"] == 2


def test_memory_has_a_bound(bench: Bench) -> None:
    fault = call(bench, "_python_fault", "x = 1\n" * 400_000, Limits(memory_mb=16))
    assert fault.startswith("cannot be compiled")
