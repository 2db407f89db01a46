"""The fake context is a Context, and its helpers end every kind of result."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Config, ConfigError, Context, ExpressionError, Node, NodeError, Pending, Wake
from tests.support.context import FakeContext, finish, resume_node, run_node


class _Greeting(Config, frozen=True):
    name: str = "you"


class _Plain(Node[_Greeting]):
    Config = _Greeting

    def run(self, ctx: Context, config: _Greeting, payload: Any) -> Any:
        ctx.log(config.name)
        return ctx.eval("payload.t + 1")

    def resume(self, ctx: Context, config: _Greeting, payload: Any, wake: Wake) -> Any:
        return wake.kind


class _Async(Node[_Greeting]):
    Config = _Greeting

    async def run(self, ctx: Context, config: _Greeting, payload: Any) -> Any:
        return payload


class _Later(Node[_Greeting]):
    Config = _Greeting

    def run(self, ctx: Context, config: _Greeting, payload: Any) -> Any:
        pending = Pending()
        thread = threading.Thread(target=pending.complete, args=(payload,))
        thread.start()
        thread.join()
        return pending


def test_every_kind_of_node_runs_to_its_end() -> None:
    ctx = FakeContext()
    assert run_node(_Plain(), {"name": "Ada"}, {"t": 1}, ctx) == 2
    assert ctx.messages() == ["Ada"]
    assert run_node(_Async(), {}, 5) == 5
    assert run_node(_Later(), {}, 6) == 6
    assert resume_node(_Plain(), {}, None, Wake("time")) == "time"


def test_errors_come_out() -> None:
    with pytest.raises(ConfigError, match="nam"):
        run_node(_Plain(), {"nam": "x"})
    failed = Pending()
    failed.complete(error=NodeError("no"))
    with pytest.raises(NodeError, match="no"):
        finish(failed)
    with pytest.raises(ExpressionError):
        FakeContext().eval("1 +")
    with pytest.raises(AssertionError, match=r"ctx\.mqtt"):
        FakeContext().mqtt.publish("mqtt://x", "t", b"")


def test_services(tmp_path: Path) -> None:
    ctx = FakeContext(root=tmp_path)
    context: Context = ctx
    context.state.set("a", [1])
    assert context.state.keys() == ["a"]
    reference = context.blobs.put(b"x", "text/plain")
    assert context.blobs.get(reference) == b"x"
    assert context.files.resolve("a/b.txt") == tmp_path / "a/b.txt"
    with pytest.raises(ConfigError, match="outside"):
        context.files.resolve("../b.txt")
    calls: list[int] = []
    context.on_cancel(lambda: calls.append(1))
    ctx.cancel()
    ctx.cancel()
    assert calls == [1]
