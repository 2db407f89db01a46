"""A secret that flows use, and badly: nothing of it in any file of the engine, in its log, or in an answer."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import Event
from appliance.kernel.client import KernelClient
from appliance.kernel.standin import StandIn
from appliance.security.secret import Secret
from appliance.security.vault import Secrets
from appliance.store.metadata import open_store
from tests.support.flows import compute, edges, flow, node
from tests.support.kernels import KernelHouse, wait_for

PLANTED = "pl4nted-Zx9-secret/value"
SHORT = "k7Q!x"
ENCODED = base64.b64encode(PLANTED.encode()).decode()
LEAKY = '''"""Says aloud whatever it was told."""
import logging
from appliance.contracts import Config, FlowError, Node, Park, Spawn

class LeakyConfig(Config, frozen=True):
    how: str
    what: str = ""

class Leaky(Node[LeakyConfig]):
    Config = LeakyConfig
    inline = True

    def run(self, ctx, config, payload):
        what = config.what
        ctx.log(f"the secret is {what}")
        logging.getLogger("leaky").warning("the secret is %s", what)
        if config.how == "raise":
            raise ValueError(f"no: {what}")
        if config.how == "detail":
            raise FlowError(f"no: {what}", detail={"answer": [what]}, retryable=False)
        if config.how == "state":
            ctx.state.set("k", {"token": what})
        if config.how == "state key":
            ctx.state.set(what, 1)
        if config.how == "blob":
            return ctx.blobs.put(("x" * 100 + what).encode())
        if config.how == "large":
            return "y" * 100_000 + what
        if config.how == "signal":
            ctx.signal("x", what)
        if config.how == "ask":
            return Park(ask={"title": what, "choices": [what, "yes"]}, memo=what)
        if config.how == "memo":
            return Park(until=ctx.now() + 0.01, memo=[what])
        if config.how == "port":
            from appliance.contracts import Out
            return Out(1, what)
        return {"echo": what, what: 1, "deep": [[what]]}

    def resume(self, ctx, config, payload, wake):
        return [wake.memo, wake.value]
'''


@pytest.fixture
def house(tmp_path: Path) -> Iterator[KernelHouse]:
    made = KernelHouse(tmp_path / "FloworkData")
    plugins = made.data / "packages" / "nodes"
    plugins.mkdir(parents=True)
    (plugins / "leaky.py").write_text(LEAKY)
    store = open_store(made.data)
    keep = Secrets(store.values.secrets, made.data)
    keep.put("home", "token", Secret(PLANTED))
    keep.put("home", "short", Secret(SHORT))
    store.close()
    yield made
    made.close()


def leaks(house: KernelHouse) -> list[str]:
    """Files that hold the secret, in any of its usual forms."""
    needles = [PLANTED.encode(), ENCODED.encode(), PLANTED.replace("/", "%2F").encode(), SHORT.encode()]
    files = [path for path in [*house.data.rglob("*"), house.log] if path.is_file()]
    return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


HOWS = ["echo", "raise", "detail", "state", "state key", "blob", "large", "signal", "memo", "port"]


def manual(*nodes: dict[str, Any], links: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return flow(*nodes, links=links, triggers=[{"id": "t1", "type": "manual", "config": {}}])


def test_a_planted_secret_shows_nowhere(house: KernelHouse) -> None:
    secret, condition = "{{ secrets.token }}", "secrets.token.nothing.x"
    body = {"nodes": [compute("x", "payload ~ secrets.token")]}
    flows = [manual(node("l", "leaky", {"how": how, "what": secret}), compute("z", "payload")) for how in HOWS]
    flows += [
        manual(node("l", "leaky", {"how": "echo", "what": "{{ secrets.short }}"})),
        manual(compute("a", "secrets.token"), compute("b", "payload ~ '!'"), compute("c", "{'x': secrets.token}")),
        manual(compute("a", "secrets.token | b64encode"), node("g", "log", {"message": secret})),
        manual(compute("a", "[secrets.token]"), node("f", "for_each", {"items": "payload", "body": body})),
        manual(compute("a", "1"), compute("b", "1"), links=[{"from": "a", "to": "b", "condition": condition}]),
        manual(
            node("l", "leaky", {"how": "raise", "what": secret}, retry={"attempts": 2, "backoff": 0.01}),
            compute("z", "payload"),
            links=edges("l>z>error"),
        ),
        manual(node("d", "deduplicate", {"key": secret}), compute("z", "state")),
        manual(node("t", "transform", {"set": {"a": secret, secret: "b"}})),
    ]  # fmt: skip
    nums = [house.deploy(shape) for shape in flows]
    ask = house.deploy(manual(node("l", "leaky", {"how": "ask", "what": secret})))
    house.start()
    heard = threading.Event()
    seen: list[Any] = []
    watcher = threading.Thread(target=watch, args=(house, seen, heard))
    watcher.start()
    answers = []
    for num in nums:
        answers.append(house.submit(num, {"p": 1}, wait=10))
    # The event itself brings the secret: as payload, id, meta.
    answers.append(house.submit(nums[0], {"stolen": PLANTED}, wait=10))
    answers.append(house.submit(nums[0], PLANTED, id=PLANTED, unique=True, meta={"h": PLANTED, PLANTED: 1}, wait=10))
    answers.append(house.submit(nums[0], "x" * 100_000 + PLANTED, wait=10))
    house.submit(ask)
    wait_for(lambda: house.client.call("waiting"))
    answers += [house.client.call("waiting"), house.client.call("status")]
    answers.append(house.client.call("signal", workspace="home", name=PLANTED, payload=PLANTED))
    failed = next(answer for answer in answers if isinstance(answer, dict) and answer.get("state") == "failed")
    house.client.call("letter", run=failed["run"], letter=3, by=f"ann {PLANTED}", reason=PLANTED)
    run = house.client.call("waiting")[0]
    house.client.call("answer", run=run["run"], node="l", answer="yes", by=PLANTED, note=PLANTED)
    wait_for(lambda: house.client.call("status")["runs"] == 0)
    assert PLANTED not in str(answers) and SHORT not in str(answers)
    heard.set()
    watcher.join(10)
    assert seen and PLANTED not in str(seen)
    assert leaks(house) == []
    house.kill()
    assert leaks(house) == []
    house.start()
    assert house.stop() == 0
    assert leaks(house) == []
    assert "failed" in house.states() and "succeeded" in house.states()


def watch(house: KernelHouse, seen: list[Any], enough: threading.Event) -> None:
    stream = KernelClient(house.data).stream("live")
    for item in stream.items(timeout=0.1):
        if item is not None:
            seen.append(item)
        if enough.is_set():
            break
    stream.close()


def test_a_secret_in_an_event_that_comes_while_the_kernel_is_away(house: KernelHouse) -> None:
    num = house.deploy(manual(compute("a", "payload")))
    standin = StandIn(house.data)
    store = open_store(house.data)
    live = store.flows.by_num(num).live
    store.close()
    assert live is not None
    event = Event(payload={"a": [PLANTED]}, id=PLANTED, unique=True, meta={"h": f"Bearer {PLANTED}"})
    first = standin.accept(num, live, "t1", "manual", event)
    assert standin.accept(num, live, "t1", "manual", event) == first
    standin.close()
    assert leaks(house) == []
    house.start()
    wait_for(lambda: house.states() == ["succeeded"])
    assert house.submit(num, 1, id=PLANTED, unique=True)["run"] == first
    assert leaks(house) == []


def test_a_secret_that_is_new_hides_from_now_on(house: KernelHouse) -> None:
    num = house.deploy(manual(compute("a", "payload")))
    house.start()
    store = open_store(house.data)
    Secrets(store.values.secrets, house.data).put("home", "second", Secret("brand-new-value-77"))
    store.close()
    house.client.call("reload")
    answer = house.submit(num, "it is brand-new-value-77.", wait=10)
    assert answer["output"] == "it is •••."
    house.kill()
    assert not any(b"brand-new-value-77" in path.read_bytes() for path in house.data.rglob("*") if path.is_file())
