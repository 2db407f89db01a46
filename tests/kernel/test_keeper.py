"""Values that no file can hold, and what becomes of the run: it goes on, and nothing else is hurt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Context, FlowError, Node, Out, Park
from appliance.engine import trace
from appliance.engine.states import RunState
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.probes import ProbeConfig, probes


class Unprintable:
    """What a careless node may hand on."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Broken(FlowError):
    """Carries a detail that cannot be kept."""


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def looped() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


STRANGE: dict[str, Callable[[], Any]] = {
    "surrogate": lambda: "a\ud800b",
    "nul": lambda: "a\0b",
    "large number": lambda: 1 << 70,
    "nan": lambda: float("nan"),
    "set": lambda: {1, 2},
    "object": object,
    "unprintable": Unprintable,
    "nested": lambda: nested(100),
    "nested deeply": lambda: nested(100_000),
    "loop": looped,
    "none key": lambda: {None: 1},
    "tuple key": lambda: {(1, 2): 3},
    "bytes": lambda: b"\x00\xff",
    "class": lambda: int,
    "generator": lambda: (n for n in range(3)),
    "10 MB": lambda: "x" * 10_000_000,
}


class Odd(Node[ProbeConfig]):
    """Gives, raises, logs or parks with what it is told to."""

    Config = ProbeConfig
    inline = True

    def __init__(self) -> None:
        self.make: Callable[[Context], Any] = lambda ctx: None

    def run(self, ctx: Context, config: ProbeConfig, payload: Any) -> Any:
        return self.make(ctx)


@pytest.fixture
def odd() -> Odd:
    return Odd()


@pytest.fixture
def bench(make_bench: Callable[..., Bench], odd: Odd) -> Bench:
    return make_bench(extra=probes() | {"odd": odd})


def again(bench: Bench, make_bench: Callable[..., Bench]) -> Bench:
    """The same folder after a crash."""
    bench.die()
    other = make_bench(extra=bench.registry.nodes)
    for num, shape in bench.flows.items():
        other.deploy(num, shape)
    other.recover()
    return other


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_output_is_kept_as_well_as_it_can_be(
    bench: Bench, odd: Odd, make_bench: Callable[..., Bench], name: str
) -> None:
    odd.make = lambda ctx: STRANGE[name]()
    bench.deploy(1, flow(node("o", "odd"), node("d", "delay", {"for": "1h"}), compute("z", "'end'")))
    done = bench.submit(1, {"n": 1})
    bench.turn(lambda: bench.states() == ["waiting"])
    other = again(bench, make_bench)
    other.pass_time(3700)
    other.turn(lambda: other.states() == ["succeeded"])
    assert not done
    value = other.rows()[0][1][0].value
    if name in {"surrogate", "large number", "unprintable", "nested deeply", "loop"}:
        assert set(value) == {"unserializable", "reason"}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_payload(bench: Bench, make_bench: Callable[..., Bench], name: str) -> None:
    bench.deploy(1, flow(compute("a", "'ran'")))
    run = bench.run(
        STRANGE[name](), id="x\ud800" if name == "surrogate" else "x", unique=True, meta={"m": STRANGE[name]()}
    )
    assert run.state is RunState.SUCCEEDED
    assert bench.states() == ["succeeded"]
    trace.unpack(bench.rows()[0][0].event)


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("where", ["detail", "message", "log", "memo", "ask", "state", "port", "signal"])
def test_a_strange_value_anywhere(bench: Bench, odd: Odd, name: str, where: str) -> None:
    def make(ctx: Context) -> Any:
        value = STRANGE[name]()
        if where == "detail":
            raise Broken("x", detail=value, retryable=False)
        if where == "message":
            raise ValueError(value)
        if where == "log":
            ctx.log(value)
        if where == "state":
            ctx.state.set("k", value)
        if where == "signal":
            ctx.signal("s", value)
        if where == "memo":
            return Park(until=ctx.now() + 5, memo=value)
        if where == "ask":
            return Park(ask={"title": value})
        return Out(1, value) if where == "port" else 1

    odd.make = make
    bench.deploy(1, flow(node("o", "odd"), compute("z", "1")))
    bench.submit(1)
    bench.engine.pump()
    bench.pass_time(10)
    other = bench.submit(1)
    bench.engine.pump()
    ended = {"succeeded", "failed"}
    if where == "ask":
        assert bench.states() == ["waiting", "waiting"]
    else:
        bench.pass_time(10)
        bench.turn(lambda: set(bench.states()) <= ended and bool(other))
    assert bench.engine.keeper.lost_history == 0


def test_a_row_that_cannot_be_written_takes_no_other_along(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload")))
    first, second, third = (bench.submit(1, number) for number in range(3))
    bench.engine._take_inbox()
    next(iter(bench.engine.runs.values())).trigger = "\ud800"
    bench.engine.pump()
    assert bench.states() == ["succeeded"] * 2
    assert bench.engine.keeper.lost_history == 1
    assert first and second and third
    assert bench.run(5).output() == 5
    assert not bench.engine.keeper.degraded


def test_a_value_that_the_blob_store_refuses_stays_in_its_record(
    bench: Bench, make_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    (tmp_path / "blobs").write_text("in the way")
    nodes = (compute("a", "payload * 200000"), node("d", "delay", {"for": "1h"}), compute("z", "payload | length"))
    bench.deploy(1, flow(*nodes))
    bench.submit(1, "x")
    bench.engine.pump()
    other = again(bench, make_bench)
    other.pass_time(3700)
    other.turn(lambda: other.states() == ["succeeded"])
    assert other.rows()[0][1][-1].value == 200_000
