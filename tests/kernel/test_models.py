"""Steps that ask models, in a real kernel against a real server: what they give, what is shown while they do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.client import Stream
from tests.support.cloud import Cloud, cloud
from tests.support.kernels import KernelHouse, LocalKernel, wait_for


@pytest.fixture
def server() -> Iterator[Cloud]:
    with cloud() as made:
        yield made


@pytest.fixture
def house(tmp_path: Path, server: Cloud) -> Iterator[LocalKernel]:
    made = LocalKernel(tmp_path / "data")
    made.settings(
        model_upstreams={"cloud": {"provider": "openai", "config": {"url": server.url}}}, model_default=["cloud/small"]
    )
    made.start()
    yield made
    made.close()


def ask(house: LocalKernel, config: dict[str, Any], **more: Any) -> Any:
    """Run a flow of one llm node; the run's result."""
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": config, **more}]})
    reload(house)
    return house.submit(flow, {"t": 31}, wait=20.0)


def reload(house: LocalKernel) -> None:
    house.client.call("reload")


def watch(house: LocalKernel) -> tuple[Stream, Iterator[Any]]:
    """The kernel's live items from now on."""
    stream = house.client.stream("live", after=None)
    items = stream.items(timeout=20.0)
    assert next(items)["type"] == "hello"
    return stream, items


def test_a_step_asks_the_default_model(house: LocalKernel, server: Cloud) -> None:
    server.say("Open the windows.", cached=3)
    ended = ask(house, {"system": "You garden.", "prompt": "It is {{ payload.t }} °C."})
    assert ended["state"] == "succeeded", ended
    output = ended["output"]
    assert (output["text"], output["model"], output["provider"]) == ("Open the windows.", "small", "cloud")
    assert (output["tokens_cached"], output["tokens_out"], output["finish"]) == (3, 3, "stop")
    (body,) = server.bodies
    assert body["messages"] == [
        {"role": "system", "content": "You garden."},
        {"role": "user", "content": "It is 31 °C."},
    ]
    assert body["model"] == "small"


def test_what_a_model_says_is_shown_while_it_says_it(house: LocalKernel, server: Cloud) -> None:
    server.hold("Open ", "the windows.")
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "What now?"}}]})
    reload(house)
    stream, items = watch(house)
    try:
        run = house.submit(flow)["run"]
        first = next(item for item in items if item["type"] == "stream")
        assert {name: first[name] for name in ("run", "node", "attempt", "from", "text")} == {
            "run": run, "node": "ask", "attempt": 1, "from": 0, "text": "Open ",
        }  # fmt: skip
        assert "id" not in first
        server.go.set()
        shown = next(item for item in items if item["type"] == "stream")
        assert (shown["from"], shown["text"]) == (5, "the windows.")
    finally:
        stream.close()
    wait_for(lambda: house.states(flow) == ["succeeded"])


def test_an_answer_that_is_cut_off_begins_anew_before_the_eyes_of_who_watches(
    house: LocalKernel, server: Cloud
) -> None:
    server.cut("Open the door")
    server.say("Close it.")
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "What now?"}}]})
    reload(house)
    stream, items = watch(house)
    try:
        house.submit(flow)
        text = ""
        while text != "Close it.":
            item = next(items)
            if item["type"] == "stream":
                assert item["from"] <= len(text), "nothing was left out"
                text = text[: item["from"]] + item["text"]
    finally:
        stream.close()
    wait_for(lambda: house.states(flow) == ["succeeded"])
    assert len(server.bodies) == 2


def test_pieces_are_on_their_way_within_milliseconds(house: LocalKernel, server: Cloud) -> None:
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "What now?", "cache": False}}]})
    reload(house)
    stream, items = watch(house)
    waits = []
    try:
        for _ in range(9):
            server.hold("Well", ", yes.")
            server.go.clear()
            house.submit(flow)
            assert next(item for item in items if item["type"] == "stream")["text"] == "Well"
            began = time.monotonic()
            server.go.set()
            assert next(item for item in items if item["type"] == "stream")["text"] == ", yes."
            waits.append(time.monotonic() - began)
    finally:
        stream.close()
    # Through the server's socket, the client, the gathering and the kernel's socket; the median, for others work too.
    assert sorted(waits)[4] < 0.2


def test_a_cancelled_run_hangs_up(house: LocalKernel, server: Cloud) -> None:
    server.begin_and_hang("Well")
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "What now?"}}]})
    reload(house)
    run = house.submit(flow)["run"]
    assert server.web.arrived.wait(20)
    house.client.call("cancel", run=run, by="ann")
    assert server.web.hung_up.wait(20)
    assert house.states(flow) == ["cancelled"]


def test_the_key_of_an_upstream_is_a_secret(house: LocalKernel, server: Cloud) -> None:
    config = {"url": server.url, "secret": "cloud_key"}
    house.settings(model_upstreams={"cloud": {"provider": "openai", "config": config}})
    ended = ask(house, {"prompt": "?"}, retry={"attempts": 1})
    assert "no secret 'cloud_key'" in ended["error"]["message"]


def test_nothing_is_set_up_and_there_is_no_model(tmp_path: Path) -> None:
    made = LocalKernel(tmp_path / "bare")
    made.start()
    try:
        error = ask(made, {"prompt": "?"})["error"]
        assert error["message"] == "this machine has no model that answers; `flowork models pull` fetches one"
        ended = ask(made, {"prompt": "?", "models": ["qwen"]}, retry={"attempts": 1})
        assert "the model host cannot be reached" in ended["error"]["message"]
    finally:
        made.close()


def test_a_crash_repeats_no_question_that_was_answered_and_loses_no_account(tmp_path: Path, server: Cloud) -> None:
    house = KernelHouse(tmp_path / "crash")
    try:
        entry = {"config": {"url": server.url}, "price_in": 1000.0, "price_out": 1000.0}
        house.settings(model_upstreams={"cloud": entry}, model_default=["cloud/small"])
        nodes = [
            {"id": "ask", "type": "llm", "config": {"prompt": "Well?"}},
            {"id": "wait", "type": "wait_event", "config": {"name": "go"}},
        ]
        flow = house.deploy({"nodes": nodes, "edges": [{"from": "ask", "to": "wait"}]})
        house.start()
        house.submit(flow)
        wait_for(lambda: house.states(flow) == ["waiting"])
        before = house.client.call("model_usage")["rows"]
        house.kill()
        house.start()
        assert house.client.call("model_usage")["rows"] == before
        assert [(row["flow"], row["node"], row["calls"]) for row in before] == [(flow, "ask", 1)]
        assert before[0]["cost"] > 0
        house.client.call("signal", name="go", workspace="home", payload=None)
        wait_for(lambda: house.states(flow) == ["succeeded"])
        assert len(server.bodies) == 1
        assert house.stop() == 0
    finally:
        house.close()


def test_a_flow_that_has_spent_its_budget_takes_what_costs_nothing(house: LocalKernel, server: Cloud) -> None:
    house.settings(
        model_upstreams={
            "dear": {"config": {"url": server.url}, "price_in": 1.0, "price_out": 1_000_000.0},
            "free": {"config": {"url": server.url}},
        },
    )
    config = {"prompt": "Well?", "models": ["dear/a", "free/b"], "max_tokens": 10}
    nodes = [{"id": "ask", "type": "llm", "config": config}]
    flow = house.deploy({"nodes": nodes, "settings": {"model_budget": 0.5}})
    reload(house)
    assert house.submit(flow, wait=20.0)["output"]["provider"] == "free"
    config["models"] = ["dear/a"]
    flow = house.deploy({"nodes": nodes, "settings": {"model_budget": 0.5}})
    reload(house)
    error = house.submit(flow, wait=20.0)["error"]
    assert error["id"] == "budget-spent"
    assert "this flow's budget for models today is $0.50" in error["message"]
    assert len(server.bodies) == 1


def test_a_secret_does_not_slip_through_piece_by_piece(house: LocalKernel, server: Cloud) -> None:
    assert house.kernel is not None
    house.kernel._scrubber.update(["open sesame and more"])
    server.say("He said: open sesame and more was the word.")
    flow = house.deploy({"nodes": [{"id": "ask", "type": "llm", "config": {"prompt": "What did he say?"}}]})
    reload(house)
    house.kernel._scrubber.update(["open sesame and more"])
    stream, items = watch(house)
    try:
        house.submit(flow)
        text = ""
        for item in items:
            if item["type"] == "stream":
                text = text[: item["from"]] + item["text"]
                assert "sesame" not in text
            if text.endswith("word."):
                break
    finally:
        stream.close()
    assert text == "He said: ••• was the word."


def test_who_hangs_up_on_the_socket_has_ended_the_work(house: LocalKernel, server: Cloud) -> None:
    server.begin_and_hang("Well")
    request = {"messages": [{"role": "user", "content": "?"}]}
    stream = house.client.stream("model_chat", who="me", request=request, stream=True)
    assert next(stream.items(20.0)) == {"text": "Well"}
    stream.close()
    assert server.web.hung_up.wait(20)
