"""The trigger host: triggers that raise or hang, deploys while events come, versions that run out beside new ones."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from appliance.contracts import Config, Event, FlowError, Trigger, TriggerContext
from appliance.engine.flow import TriggerSpec
from appliance.kernel import hosting as hosts
from appliance.kernel.hosting import TriggerHost
from appliance.kernel.runs import FlowSlot
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.kernels import wait_for


class TapConfig(Config, frozen=True):
    """``say`` distinguishes two of a kind."""

    say: str = ""


class Tap(Trigger[TapConfig]):
    """Notes its attaches and detaches; does what it is told to."""

    Config = TapConfig

    def __init__(self) -> None:
        self.attached: list[tuple[str, str, str]] = []
        self.detached: list[tuple[str, str, str]] = []
        self.contexts: dict[str, TriggerContext] = {}
        self.on_attach: Callable[[str], None] = lambda say: None
        self.on_detach: Callable[[], None] = lambda: None

    def attach(self, ctx: TriggerContext, config: TapConfig) -> Callable[[], None]:
        self.on_attach(config.say)
        who = (ctx.flow, ctx.trigger, config.say)
        self.attached.append(who)
        self.contexts[f"{ctx.flow}/{ctx.trigger}"] = ctx

        def detach() -> None:
            self.detached.append(who)
            self.on_detach()

        return detach


class Moments:
    """Monotonic time that the host sees."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.offset


@pytest.fixture
def tap(bench: Bench) -> Tap:
    made = Tap()
    bench.registry._triggers["tap"] = made
    return made


@pytest.fixture
def moments() -> Moments:
    return Moments()


@pytest.fixture
def host(bench: Bench, tap: Tap, moments: Moments) -> Iterator[TriggerHost]:
    made = TriggerHost(bench.engine, bench.registry, moments)
    made.start()
    yield made
    made.stop()
    made.stop()


def slot(bench: Bench, num: int = 1) -> FlowSlot:
    if num not in bench.flows:
        bench.deploy(num, flow(compute("a", "payload"), settings={"max_runs": 1000}))
    return bench.engine.flows[num]


def spec(name: str = "t1", say: str = "", **more: Any) -> TriggerSpec:
    return TriggerSpec(id=name, type="tap", config={"say": say}, **more)


def test_what_is_wanted_is_attached_and_what_is_not_is_detached(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    one, two = slot(bench), slot(bench, 2)
    host.want([(one, 1, [spec(), spec("t2")]), (two, 2, [spec()])])
    wait_for(lambda: len(tap.attached) == 3)
    assert {view["flow"] for view in host.views()} == {"flow-1", "flow-2"}
    host.want([(two, 2, [spec(), spec("t3", disabled=True)])])
    wait_for(lambda: len(tap.detached) == 2)
    assert [hosted.slot.num for hosted in host._hosted.values()] == [2]
    host.stop()
    assert len(tap.detached) == len(tap.attached) == 3


def test_only_what_has_failed_is_logged_as_a_warning(
    bench: Bench, tap: Tap, host: TriggerHost, caplog: pytest.LogCaptureFixture
) -> None:
    host.want([(slot(bench), 1, [spec()])])
    wait_for(lambda: tap.attached)
    ctx = tap.contexts["flow-1/t1"]
    caplog.set_level(logging.INFO, hosts.__name__)
    states = [(None, "connecting"), (False, "nobody there"), (None, "connecting"), (True, "connected")]
    for ok, text in states:
        ctx.status(ok, text)
        assert (host.views()[0]["ok"], host.views()[0]["status"]) == (ok is True, text)
    found = [(record.levelname, record.message.rpartition(": ")[2]) for record in caplog.records]
    assert found == [("WARNING" if ok is False else "INFO", text) for ok, text in states]


def test_a_new_version_with_the_same_trigger_is_not_attached_anew(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    host.want([(slot(bench), 1, [spec()])])
    wait_for(lambda: tap.attached)
    bench.flows[7] = flow(compute("a", "'new'"))
    host.want([(slot(bench), 7, [spec()])])
    wait_for(lambda: host.views()[0]["version"] == 7)
    tap.contexts["flow-1/t1"].emit(Event(payload=1))
    bench.turn(lambda: bench.states() == ["succeeded"])
    assert bench.rows()[0][0].version == 7
    assert len(tap.attached) == 1 and not tap.detached
    host.want([(slot(bench), 7, [spec(say="louder")])])
    wait_for(lambda: tap.attached[-1][2] == "louder")
    assert len(tap.detached) == 1


def test_runs_end_on_the_version_they_began_with(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), compute("z", "'old'")))
    host.want([(slot(bench), 1, [spec()])])
    wait_for(lambda: tap.attached)
    tap.contexts["flow-1/t1"].emit(Event())
    bench.engine.pump()
    bench.flows[7] = {"name": "x", **flow(compute("z", "'new'"))}
    bench.engine.flows[1].live = 7
    host.want([(slot(bench), 7, [spec()])])
    wait_for(lambda: host.views()[0]["version"] == 7)
    tap.contexts["flow-1/t1"].emit(Event())
    bench.engine.pump()
    host.want([])
    wait_for(lambda: tap.detached)
    bench.pass_time(3700)
    bench.turn(lambda: bench.states() == ["succeeded"] * 2)
    assert [records[-1].value for _, records in bench.rows()] == ["old", "new"]


@pytest.mark.parametrize("error", [FlowError("no broker"), ValueError("oops"), KeyError("x")])
def test_one_that_cannot_start_is_shown_and_tried_again(
    bench: Bench, tap: Tap, host: TriggerHost, moments: Moments, error: Exception
) -> None:
    failures = [3]

    def fail(say: str) -> None:
        if say == "bad" and failures[0]:
            failures[0] -= 1
            raise error

    tap.on_attach = fail
    host.want([(slot(bench), 1, [spec("bad", "bad"), spec("good", "good")])])
    wait_for(lambda: tap.attached)
    bad = host.get(1, "bad")
    assert bad is not None
    wait_for(lambda: bad.text.startswith("cannot start"))
    assert not bad.ok and bad.retry_at > 0
    for _ in range(3):
        left = failures[0]
        moments.offset += 61
        host.want([(slot(bench), 1, [spec("bad", "bad"), spec("good", "good")])])
        wait_for(partial(lambda left: failures[0] < left or bad.ok, left))
    wait_for(lambda: bad.ok)
    assert (bad.failures, bad.retry_at) == (0, 0.0)
    assert len(tap.attached) == 2


def test_a_detach_that_raises_holds_up_nobody(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    def fail() -> None:
        raise RuntimeError("stuck")

    tap.on_detach = fail
    host.want([(slot(bench), 1, [spec(), spec("t2")])])
    wait_for(lambda: len(tap.attached) == 2)
    host.want([(slot(bench), 1, [spec("t3")])])
    wait_for(lambda: len(tap.attached) == 3)
    assert len(tap.detached) == 2


def test_one_that_hangs_does_not_keep_the_kernel_from_stopping(
    bench: Bench, tap: Tap, host: TriggerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", 0.05)
    began, enough = threading.Event(), threading.Event()

    def hang(say: str) -> None:
        began.set()
        enough.wait(30)

    tap.on_attach = hang
    host.want([(slot(bench), 1, [spec()])])
    assert began.wait(5)
    host.stop()
    enough.set()
    monkeypatch.setattr(hosts, "PATIENCE", 10.0)
    host.stop()
    assert tap.attached == tap.detached


def test_a_change_of_secrets_attaches_those_anew_that_use_templates(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    bench.services.secrets = {"home": {"word": "one"}}
    wanted = [(slot(bench), 1, [spec("t1", "{{ secrets.word }}"), spec("t2", "plain")])]
    host.want(wanted)
    wait_for(lambda: len(tap.attached) == 2)
    bench.services.secrets = {"home": {"word": "two"}}
    host.want(wanted, refresh=True)
    wait_for(lambda: len(tap.attached) == 3)
    host.want(wanted, refresh=True)
    host.want(wanted)
    assert len(tap.attached) == 3, "nothing had changed"
    assert tap.attached[-1] == ("flow-1", "t1", "two") and tap.detached == [("flow-1", "t1", "one")]


def test_a_template_that_cannot_be_rendered_is_shown(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    host.want([(slot(bench), 1, [spec("t1", "{{ secrets.nothing.there }}")])])
    wait_for(lambda: host.views() and host.views()[0]["status"].startswith("cannot start"))


def test_a_type_that_is_gone_is_named(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    host.want([(slot(bench), 1, [TriggerSpec(id="x", type="gone"), spec()])])
    wait_for(lambda: tap.attached)
    views = {view["id"]: view for view in host.views()}
    assert not views["x"]["ok"] and "gone" in views["x"]["status"]


def test_the_same_id_in_two_flows_are_two_triggers(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    host.want([(slot(bench, num), num, [spec()]) for num in (1, 2)])
    wait_for(lambda: len(tap.attached) == 2)
    for num in (1, 2):
        tap.contexts[f"flow-{num}/t1"].emit(Event(payload=num, id="same", unique=True, cursor=num * 10))
    bench.turn(lambda: bench.states() == ["succeeded"] * 2)
    assert [tap.contexts[f"flow-{num}/t1"].cursor for num in (1, 2)] == [10, 20]
    assert sorted(row.flow for row, _ in bench.rows()) == [1, 2]


def test_deploys_while_events_come_lose_and_repeat_none(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    """A source that goes on emitting into whichever context it was given last."""
    host.want([(slot(bench), 1, [spec()])])
    wait_for(lambda: tap.attached)
    taken: list[str] = []

    def emit() -> None:
        for number in range(300):
            ctx = tap.contexts["flow-1/t1"]
            ctx.emit(Event(payload=number, id=f"e{number}", unique=True), taken.append)

    emitter = threading.Thread(target=emit)
    emitter.start()
    for number in range(20):
        host.want([(slot(bench), 1, [spec(say=str(number))])])
        bench.engine.pump()
    emitter.join(10)
    bench.turn(lambda: len(taken) == 300)
    assert sorted(set(bench.states())) == ["succeeded"] and len(bench.rows()) == 300


def test_what_a_trigger_has_due_is_forgotten_with_it(bench: Bench, tap: Tap, host: TriggerHost) -> None:
    fired: list[int] = []
    host.want([(slot(bench), 1, [spec()])])
    wait_for(lambda: tap.attached)
    ctx = tap.contexts["flow-1/t1"]
    ctx.call_at(bench.clock() + 10, lambda: fired.append(1))
    stop = ctx.call_at(bench.clock() + 10, lambda: fired.append(2))
    stop()
    host.want([])
    wait_for(lambda: tap.detached)
    bench.pass_time(100)
    assert fired == []
