"""Steps that ask models, in a real kernel against a real server: what they give, what is shown while they do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.kernel.client import Stream
from tests.support.cloud import Cloud, cloud
from tests.support.kernels import LocalKernel, wait_for


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


def test_nothing_is_set_up_and_there_is_no_host(tmp_path: Path) -> None:
    made = LocalKernel(tmp_path / "bare")
    made.start()
    try:
        ended = ask(made, {"prompt": "?"}, retry={"attempts": 1})
        assert "models.sock cannot be reached" in ended["error"]["message"]
    finally:
        made.close()
