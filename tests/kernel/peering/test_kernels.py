"""Whole kernels, paired over real links on this machine: remote steps, models, copied flows, all boxes at a glance."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import (
    ChatReply,
    ChatRequest,
    Config,
    FlowError,
    Inference,
    ModelFacts,
    ModelOffer,
    PeerOffers,
    Provider,
    Reach,
    Vectors,
)
from appliance.kernel import peers_making
from appliance.kernel.kernel import Kernel
from tests.support.boxes import box, join, peers_of
from tests.support.flows import flow, node
from tests.support.kernels import LocalKernel, wait_for
from tests.support.web import web_server


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalKernel, LocalKernel]]:
    """A small box without a model, and a laptop with one."""

    def offers(kernel: Kernel) -> PeerOffers:
        has = kernel.data.name == "laptop"
        models = (
            (ModelOffer("qwen", "language", 4096), ModelOffer("e5", "embed"), ModelOffer("eyes", "detect"))
            if has
            else ()
        )
        return PeerOffers(models=models, cores=2, nodes=tuple(sorted(kernel.registry.nodes)), exact=True)

    monkeypatch.setattr(peers_making, "offers", offers)
    made = [box(tmp_path, "pi"), box(tmp_path, "laptop")]
    join(*made)
    wait_for(lambda: peers_of(made[0])["laptop"]["offers"]["models"])
    yield made[0], made[1]
    for each in made:
        each.close()


EYES = ModelFacts(name="eyes", provider="", task="detect")


class Own(Provider[Config]):
    """What the laptop has for "this machine": two models, of which one says what it is asked, piece by piece."""

    Config = Config
    builtin = True

    def __init__(self) -> None:
        self.held = threading.Event()
        self.cancelled = threading.Event()
        self.hold = False

    def place(self, config: Config) -> str:
        return ""

    async def models(self, reach: Reach, config: Config) -> list[ModelFacts]:
        return [
            ModelFacts(name="qwen", provider="", task="language"),
            ModelFacts(name="e5", provider="", task="embed"),
            EYES,
        ]

    async def chat(
        self, reach: Reach, config: Config, model: str, request: ChatRequest, on_text: Callable[[str], None]
    ) -> ChatReply:
        words = f"{model} heard: {request.messages[-1]['content']}".split(" ")
        for word in words:
            on_text(word + " ")
            await asyncio.sleep(0)
        if self.hold:
            self.held.set()
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return ChatReply(text=" ".join(words) + " ", model=model, provider="", tokens_in=7, tokens_out=len(words))

    async def embed(self, reach: Reach, config: Config, model: str, texts: Sequence[str]) -> Vectors:
        return Vectors(vectors=[[3.0, 4.0] for _ in texts], model=model, provider="", tokens=len(texts))

    async def infer(
        self, reach: Reach, config: Config, model: str, inputs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Inference:
        """Finds one thing, and gives the picture back as it came, and another that is larger than any message."""
        found = {"label": f"{len(inputs['image'])} bytes", "score": 1.0, "box": [0, 0, 1, 1]}
        outputs = {"objects": [found], "picture": inputs["image"] * 2, "options": sorted(options)}
        return Inference(outputs=outputs, task="detect", model=model, provider="", seconds=0.5)

    async def count(self, reach: Reach, config: Config, model: str, text: str) -> int | None:
        return None


def with_models(house: LocalKernel) -> Own:
    assert house.kernel is not None
    own = Own()
    house.kernel.registry._providers["local"] = own
    house.client.call("reload")
    return own


def ended(house: LocalKernel, body: dict[str, Any], payload: Any = None, wait: float = 20.0) -> Any:
    number = house.deploy(body)
    house.client.call("reload")
    return house.submit(number, payload, wait=wait)


def test_a_step_runs_at_the_laptop(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    script = node("a", "script", {"language": "python", "code": "result = payload['n'] * 2"}, needs="engine:laptop")
    done = ended(pi, flow(script), {"n": 21})
    assert done["state"] == "succeeded" and done["output"] == 42, done
    assert laptop.kernel is not None
    page = laptop.kernel.store.flows.list(None, "", "peer", "", 10)
    assert [(one.name, one.live) for one in page.items] == [("Work for pi", None)]
    assert laptop.states(page.items[0].num) == ["succeeded"]
    assert len(laptop.kernel.store.flows.versions(page.items[0].id)) == 1
    ended(pi, flow(script), {"n": 1})
    assert len(laptop.kernel.store.flows.versions(page.items[0].id)) == 1, "the same step is the same version"


def test_a_model_answers_from_the_laptop_without_any_setting(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    with_models(laptop)
    for number, names in enumerate(([], ["qwen"], ["peer/qwen"])):
        done = ended(pi, flow(node("ask", "llm", {"prompt": f"hello {number}", "models": names})))
        assert done["state"] == "succeeded", (names, done)
        assert done["output"]["text"].strip() == f"qwen heard: hello {number}"
        assert done["output"]["provider"] == "peer"
    done = ended(pi, flow(node("e", "embed", {"text": "hello"})))
    assert done["state"] == "succeeded", done
    assert pi.client.call("model_elsewhere", name="", kind="language") == "laptop"
    assert pi.client.call("model_elsewhere", name="qwen", kind="language") == "laptop"
    assert pi.client.call("model_elsewhere", name="nothing", kind="language") == ""
    used = [row for row in pi.client.call("model_usage")["rows"] if row["model"] == "peer/qwen"]
    assert sum(row["calls"] for row in used) == 3 and sum(row["tokens_in"] for row in used) == 21
    assert not any(row["cost"] or row["unpriced"] for row in used)
    theirs = [row for row in laptop.client.call("model_usage")["rows"] if row["node"] == "peer pi"]
    assert {row["model"] for row in theirs} == {"qwen", "e5"}


def test_its_words_come_as_they_are_made_and_giving_up_ends_it(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    own = with_models(laptop)
    own.hold = True
    number = pi.deploy(flow(node("ask", "llm", {"prompt": "tell a story"})))
    pi.client.call("reload")
    stream = pi.client.stream("live", after=None)
    items = stream.items(timeout=20.0)
    next(items)
    run = pi.submit(number)["run"]
    assert own.held.wait(10)
    text = ""
    for item in items:
        if item["type"] == "stream":
            text += item["text"]
            if "story" in text:
                break
    assert text.startswith("qwen heard: tell")
    pi.client.call("cancel", run=run)
    assert own.cancelled.wait(10), "nobody waits, nothing is made"
    stream.close()


def test_a_picture_is_looked_at_by_the_laptops_model(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    """Larger than a message may be, both ways."""
    pi, laptop = boxes
    with_models(laptop)
    assert pi.kernel is not None
    picture = b"\xff\xd8" + bytes(4_000_000)
    seen = node("see", "detect_objects", {"model": "eyes", "draw": True})
    reference = pi.kernel.services.blobs.put(picture, "image/jpeg")
    done = ended(pi, flow(seen), {"image": reference})
    assert done["state"] == "succeeded", done
    assert done["output"]["counts"] == {f"{len(picture)} bytes": 1}
    assert pi.kernel.services.blobs.get(done["output"]["picture"]) == picture * 2
    plain = ended(pi, flow(node("run", "onnx", {"model": "peer/laptop/eyes", "inputs": {"image": reference}})))
    assert plain["output"]["task"] == "detect", plain
    unknown = ended(pi, flow(node("see", "detect_objects", {"model": "nobodys"})), {"image": reference})
    assert unknown["state"] == "failed"


def test_who_may_not_ask_models_does_not(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    with_models(laptop)
    laptop.client.call("peer_allow", peer="pi", roles={"rights": ["run"], "workspaces": ["*"]})
    wait_for(lambda: "models" not in peers_of(pi)["laptop"]["allows"]["rights"])
    done = ended(pi, flow(node("ask", "llm", {"prompt": "hello", "models": ["qwen"]})))
    assert done["state"] == "failed"
    done = ended(pi, flow(node("ask", "llm", {"prompt": "hello", "models": ["peer/qwen"]})))
    assert "no paired engine offers the model 'qwen' now" in done["error"]["message"]


def test_a_flow_goes_with_its_versions(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    assert pi.kernel is not None and laptop.kernel is not None
    first = {**flow(node("a", "log", {"message": "{{ secrets.mail }}"})), "name": "Greenhouse"}
    pi.deploy(first)
    pi.deploy({**first, "tags": ["green"]}, "greenhouse")
    before = pi.kernel.store.flows.versions("greenhouse")
    sent = pi.client.call("flow_send", 30.0, flow="greenhouse", to="laptop", by="local:ann")
    assert (sent["flow"], sent["workspace"], sent["versions"], sent["secrets"]) == ("greenhouse", "home", 2, ["mail"])
    there = laptop.kernel.store.flows.get("greenhouse")
    assert there.live is None and there.tags == ("green",)
    after = laptop.kernel.store.flows.versions("greenhouse")
    told = [(one.number, one.hash, one.author, one.message, one.created) for one in after]
    assert told == [(one.number, one.hash, one.author, one.message, one.created) for one in before]
    again = pi.client.call("flow_send", 30.0, flow="greenhouse", to="laptop", by="local:ann")
    assert again["flow"] == "greenhouse", "sent again it is the same flow"
    laptop.kernel.store.flows.save("greenhouse", "home", {**first, "name": "Mine"}, "bob", "", 2)
    other = pi.client.call("flow_send", 30.0, flow="greenhouse", to="laptop", by="local:ann")
    assert other["flow"] == "greenhouse-2", "nobody's own edit is touched"
    moved = pi.client.call("flow_send", 30.0, flow="greenhouse", to="laptop", by="local:ann", move=True)
    assert moved["moved"] and moved["flow"] == "greenhouse-3"
    left = pi.kernel.store.flows.get("greenhouse")
    assert not left.enabled and left.folder == "moved to laptop"


def test_a_flow_goes_nowhere_uninvited(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    pi.deploy({**flow(node("a", "log")), "name": "Greenhouse"})
    laptop.client.call("peer_allow", peer="pi", roles={"rights": ["run"], "workspaces": ["*"]})
    wait_for(lambda: "flows" not in peers_of(pi)["laptop"]["allows"]["rights"])
    with pytest.raises(FlowError, match="takes no flows of this engine"):
        pi.client.call("flow_send", 30.0, flow="greenhouse", to="laptop")
    with pytest.raises(FlowError, match="no engine that is called 'desk'"):
        pi.client.call("flow_send", 30.0, flow="greenhouse", to="desk")


def test_all_my_boxes(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, laptop = boxes
    laptop.deploy({**flow(node("a", "script", {"language": "python", "code": "1/0"})), "name": "Broken lamp"})
    assert laptop.kernel is not None
    number = laptop.kernel.store.flows.get("broken-lamp").num
    laptop.client.call("reload")
    laptop.submit(number, {"where": "hall"}, wait=20.0)
    here, there = pi.client.call("boxes")
    assert here["state"] == "self" and here["told"]["failed_day"] == 0
    assert there["name"] == "laptop" and there["models"] == ["qwen", "e5", "eyes"]
    assert (there["told"]["live"], there["told"]["failed_day"]) == (1, 1)
    assert there["told"]["failures"][0]["flow"] == "broken-lamp"
    found = pi.client.call("boxes", what="search", text="lamp")
    assert [one["name"] for one in found[1]["told"]["flows"]] == ["Broken lamp"]
    nothing = pi.client.call("boxes", what="search", text="lamp", workspaces=["elsewhere"])
    assert nothing[1]["told"]["flows"] == []
    laptop.stop()
    wait_for(lambda: pi.client.call("boxes")[1].get("error"))


def test_nobody_offers_it_is_worth_a_note(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    pi, _ = boxes
    missing = pi.client.call(
        "placement_missing", nodes=[("llm", ["model:qwen"]), ("log", ["model:llama", "any"]), ("log", ["engine:desk"])]
    )
    assert missing == ["model:llama, any: nobody has model:llama", "engine:desk: nobody has engine:desk"]


@pytest.mark.parametrize("effect", ["idempotent", "once"])
@pytest.mark.parametrize("victim", ["laptop", "pi"])
def test_one_of_two_processes_is_killed_while_a_step_is_away(tmp_path: Path, effect: str, victim: str) -> None:
    """kill -9 of the engine that works, or of the one that waits for it."""
    served: list[str] = []
    go = threading.Event()
    with web_server() as web:

        def slow(handler: Any) -> None:
            served.append(handler.headers.get("Idempotency-Key", ""))
            go.wait(20)
            handler.reply(200, {}, b"{}")

        web.answer("/lamp", on=slow)
        pi, laptop = box(tmp_path, "pi", local=False), box(tmp_path, "laptop", local=False)
        try:
            join(pi, laptop)
            config = {"method": "PUT" if effect == "idempotent" else "POST", "url": web.url("/lamp")}
            number = pi.deploy(flow(node("a", "http_request", config, needs="engine:laptop", timeout="2m")))
            pi.client.call("reload")
            pi.submit(number, 7)
            wait_for(lambda: served)
            house = laptop if victim == "laptop" else pi
            house.kill()
            house.start()
            if victim == "laptop" and effect == "idempotent":
                wait_for(lambda: len(served) == 2)
            go.set()
            if victim == "laptop" and effect == "once":
                (asked,) = wait_for(lambda: pi.client.call("waiting"))
                assert asked["kind"] == "unverified"
                pi.client.call("decide", run=asked["run"], node="a", decision="skip", by="test")
            wait_for(lambda: pi.states(number) == ["succeeded"], 60.0)
            again = victim == "laptop" and effect == "idempotent"
            assert len(served) == (2 if again else 1)
        finally:
            go.set()
            pi.close()
            laptop.close()
