"""Two flows that want one pin or port: the second is told while it is saved, with the place and the other's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.contracts import ConfigError, Problem
from appliance.fleet.book import Book, Paired
from appliance.flowbook import InvalidFlow
from appliance.kernel.announcing import Announcing
from appliance.registry import Registry
from appliance.security.keys import init_keys
from appliance.store.metadata import open_store
from tests.support.flows import compute, flow, node
from tests.test_flowbook import ME, Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    init_keys(tmp_path)
    store = open_store(tmp_path)
    for name in ("shed", "barn"):
        Book(tmp_path).write(Paired(name=name, id=name, certificate=""))
    made = Home(tmp_path, store)
    yield made
    made.client.close()
    store.close()


def gpio(line: Any = 17, **config: Any) -> dict[str, Any]:
    return {"id": "t", "type": "gpio", "config": {"line": line, **config}}


def serial(**config: Any) -> dict[str, Any]:
    return {"id": "t", "type": "serial", "config": {"port": "/dev/ttyUSB0", **config}}


def wants(*triggers: dict[str, Any], name: str, nodes: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return flow(*(nodes or (compute("a", "1"),)), name=name, triggers=list(triggers))


def deploy(home: Home, body: dict[str, Any], flow_id: str | None = None) -> None:
    base = home.store.flows.get(flow_id).newest if flow_id else None
    home.book.save(body, by=ME, flow_id=flow_id, base=base, deploy=True)


def refused(home: Home, body: dict[str, Any], **options: Any) -> tuple[Problem, ...]:
    with pytest.raises(InvalidFlow) as caught:
        home.book.save(body, by=ME, **options)
    return caught.value.problems


def test_the_second_flow_that_wants_a_pin_otherwise_is_told_where_and_by_whom(home: Home) -> None:
    deploy(home, wants(gpio(), name="Door"))
    second = wants(gpio(bias="pull-up"), name="Bell")
    for options in ({}, {"deploy": True}):
        (problem,) = refused(home, second, **options)
        assert problem.path == "triggers[0].config"
        assert problem.message.startswith("gpio:17 is used by flow 'door', triggers[0].config, with other settings")
    saved = home.book.save(second, by=ME, draft=True)  # a draft may wait for the other to go
    with pytest.raises(InvalidFlow):
        home.book.deploy(saved.flow.id, None, by=ME)
    home.book.undeploy("door", by=ME)
    home.book.deploy(saved.flow.id, None, by=ME)


def test_with_the_same_settings_they_share_it(home: Home) -> None:
    deploy(home, wants(gpio(), name="one"))
    deploy(home, wants(gpio(edge="both"), name="two"))  # which is the default
    deploy(home, wants(gpio(debounce=0), name="three"))
    assert refused(home, wants(gpio(debounce="20ms"), name="four"))


def test_a_flow_is_in_nobodys_way_when_it_is_deployed_again(home: Home) -> None:
    deploy(home, wants(gpio(), name="Door"))
    deploy(home, wants(gpio(bias="pull-up"), name="Door"), flow_id="door")


def test_what_is_switched_off_does_not_count_but_is_told_when_it_is_switched_on(home: Home, tmp_path: Path) -> None:
    deploy(home, wants(gpio(), name="Door"))
    home.book.enable("door", False, by=ME)
    deploy(home, wants(gpio(bias="pull-up"), name="Bell"))
    deploy(home, wants(gpio(edge="rising"), name="Door"), flow_id="door")  # it is off
    with pytest.raises(InvalidFlow, match="gpio:17 is used by flow 'bell'"):
        home.book.enable("door", True, by=ME)
    engine, reload = SimpleNamespace(), pytest.fail
    with pytest.raises(ConfigError, match=r"the flow door stays switched off: triggers\[0\]\.config: gpio:17 is used"):
        Announcing(home.store, cast(Any, engine), Registry().scan(), tmp_path, reload).enable("door", True)
    assert not home.store.flows.get("door").enabled
    home.book.enable("bell", False, by=ME)
    home.book.enable("door", True, by=ME)
    assert home.store.flows.get("door").enabled


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (gpio(), gpio(18, bias="pull-up")),
        (gpio(agent="shed"), gpio(agent="barn", bias="pull-up")),
        (gpio(agent="shed"), gpio(bias="pull-up")),
        (gpio(), {**gpio(bias="pull-up"), "disabled": True}),
        ({**gpio(), "disabled": True}, gpio(bias="pull-up")),
        (gpio(), serial()),
        ({"id": "t", "type": "system", "config": {"metric": "cpu", "above": 1}}, serial()),
    ],
)
def test_what_is_no_conflict(home: Home, first: dict[str, Any], second: dict[str, Any]) -> None:
    deploy(home, wants(first, name="first"))
    deploy(home, wants(second, name="second"))


def test_steps_claim_as_triggers_do_wherever_they_lie(home: Home) -> None:
    deploy(home, wants(serial(agent="shed", baud=9600), name="Meter"))
    write = node("w", "serial_write", {"port": "/dev/ttyUSB0", "agent": "shed", "value": "hi"})
    (problem,) = refused(home, wants(name="Display", nodes=(compute("a", "1"), write)))
    assert problem.path.startswith("nodes[1].config")
    assert "serial:/dev/ttyUSB0 is used by flow 'meter'" in problem.message
    loop = node("each", "for_each", {"items": "[1]", "body": {"nodes": [write], "edges": []}})
    (problem,) = refused(home, wants(name="Displays", nodes=(loop,)))
    assert problem.path.startswith("nodes[0].config.body.nodes[0].config")


def test_a_flow_may_contradict_itself_and_is_told(home: Home) -> None:
    first, second = gpio(), {**gpio(edge="rising"), "id": "u"}
    (problem,) = refused(home, wants(first, second, name="twice"))
    assert (problem.path, "used by triggers[0].config" in problem.message) == ("triggers[1].config", True)


def test_what_a_template_fills_in_is_not_judged(home: Home) -> None:
    deploy(home, wants(gpio(), name="Door"))
    lamp = node("lamp", "gpio_write", {"line": "{{ payload.line }}", "value": True})
    deploy(home, wants(name="Lamp", nodes=(lamp,)))
