"""The gateway against real servers with faults: fallback, breaker, limits, schema, cache, accounts."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.ai.gateway.accounts import Accounts, Budgets, BudgetSpent, Who
from appliance.ai.gateway.cache import Cache
from appliance.ai.gateway.gate import Gate
from appliance.ai.gateway.names import Upstreams
from appliance.ai.gateway.passage import Passages
from appliance.ai.gateway.prices import Prices
from appliance.ai.providers.local import Local
from appliance.ai.providers.openai import OpenAI
from appliance.contracts import Busy, ChatReply, ChatRequest, ConfigError, FlowError, NodeError, TimedOut
from appliance.kernel.http import HttpClient
from tests.support.cloud import Cloud, cloud
from tests.support.context import MemoryBlobs

ME = Who(flow=1, node="ask")
PROVIDERS = {"local": Local(), "openai": OpenAI()}
TABLE = {"tiers": [{"prompt": 0, "input": 1000.0, "cached": 500.0, "output": 2000.0}]}


class Reached:
    """What a provider receives in these tests."""

    def __init__(self, http: HttpClient, host: Path) -> None:
        self.http = http
        self.host = host
        self.blobs = MemoryBlobs()
        self.priority = 0

    async def installed(self) -> list[Any]:
        return []

    def secret(self, name: str) -> str:
        return f"key of {name}"


class Eyes:
    """A watcher: what it sees now, and everything that it was told."""

    def __init__(self) -> None:
        self.text = ""
        self.told: list[str] = []

    def piece(self, text: str) -> None:
        self.text += text

    def anew(self, why: str) -> None:
        self.text = ""
        self.told.append(why)


class Bench:
    """A gateway over upstreams that tests set up; its time stands until it is moved."""

    def __init__(self, http: HttpClient, folder: Path, upstreams: dict[str, Any], default: Sequence[str]) -> None:
        self.now = 1000.0
        self.looked_up: list[tuple[str, str]] = []
        self.accounts = Accounts(lambda: datetime.date(2026, 11, 21))
        self.passages = Passages(self.accounts, Prices(self._look_up), clock=lambda: self.now)
        self.reached = Reached(http, folder / "models.sock")
        self.eyes = Eyes()
        self.cache = Cache(1_000_000)
        self.gate = Gate(Upstreams(PROVIDERS, upstreams), default, self.passages, self.cache, lambda who: self.reached)

    async def _look_up(self, url: str, model: str) -> Any:
        self.looked_up.append((url, model))
        return TABLE

    async def ask(self, prompt: str = "Well?", *models: str, **more: Any) -> ChatReply:
        messages = more.pop("messages", [{"role": "user", "content": prompt}])
        request = ChatRequest(messages=messages, models=models, **more)
        return await self.gate.chat(ME, request, self.eyes)

    async def fails(self, *models: str, **more: Any) -> FlowError:
        with pytest.raises(FlowError) as caught:
            await self.ask("Well?", *models, **more)
        return caught.value

    def used(self) -> dict[str, tuple[int, int, int]]:
        """Calls, failures and known answers by model."""
        return {row.model: (row.use.calls, row.use.failed, row.use.known) for row in self.accounts.rows()}


@pytest.fixture
def server() -> Iterator[Cloud]:
    with cloud() as made:
        yield made


@pytest.fixture
def other() -> Iterator[Cloud]:
    with cloud() as made:
        made.fallback = "the other"
        yield made


def with_gate(
    folder: Path, work: Callable[[Bench], Awaitable[Any]], default: Sequence[str] = ("a/small",), **upstreams: Any
) -> Any:
    async def go() -> Any:
        http = HttpClient()
        entries = {
            name: entry if isinstance(entry, dict) else {"config": {"url": entry.url}}
            for name, entry in upstreams.items()
        }
        try:
            async with asyncio.timeout(40):
                return await work(Bench(http, folder, entries, default))
        finally:
            await http.aclose()

    return asyncio.run(go())


async def until(condition: Callable[[], Any]) -> None:
    """Let others work until something is so."""
    while not condition():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.001)


def config(server: Cloud, **more: Any) -> dict[str, Any]:
    """An upstream with settings of its own."""
    inner = {name: more.pop(name) for name in ("secret", "models", "images") if name in more}
    return {"config": {"url": server.url, **inner}, **more}


# --- one upstream ------------------------------------------------------------------------------------------


def test_an_answer_comes_with_its_figures(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say("It is warm.", cached=8)
        reply = await bench.ask("How is it?", top_p=0.9, seed=4, stop=("\n",))
        assert (reply.text, reply.provider, reply.model, reply.finish) == ("It is warm.", "a", "small", "stop")
        assert (reply.tokens_cached, reply.tokens_out) == (8, 3)
        assert 0 < reply.first <= reply.seconds
        assert bench.eyes.text == "It is warm."
        body = server.bodies[0]
        assert (body["top_p"], body["seed"], body["stop"], body["stream"]) == (0.9, 4, ["\n"], True)
        assert server.keys() == ["Bearer key of mine"]

    with_gate(tmp_path, work, a=config(server, secret="mine"))


def test_a_server_that_does_not_stream_is_understood(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say_whole("All at once.")
        reply = await bench.ask()
        assert reply.text == bench.eyes.text == "All at once."
        assert reply.tokens_in and reply.tokens_out, "guessed, for it told nothing"

    with_gate(tmp_path, work, a=server)


def test_parameters_that_a_model_does_not_take_are_left_out_from_then_on(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(400, "Unsupported parameter: use max_completion_tokens", param="max_tokens")
        server.fail(400, "does not support 0", param="temperature")
        assert (await bench.ask()).text == "yes"
        assert (await bench.ask("And?")).text == "yes"
        last = server.bodies[-1]
        assert (len(server.bodies), last["max_completion_tokens"]) == (4, 512)
        assert not {"max_tokens", "temperature"} & last.keys()

    with_gate(tmp_path, work, a=server)


def test_pictures_go_as_data(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        picture = bench.reached.blobs.put(b"\x89PNG", "image/png")
        parts = [{"type": "text", "text": "What is it?"}, {"type": "image", "image": picture}]
        await bench.ask(messages=[{"role": "user", "content": parts}])
        sent = server.bodies[0]["messages"][0]["content"]
        assert sent[0] == parts[0]
        assert sent[1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}

    with_gate(tmp_path, work, a=server)


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (400, ConfigError, False),
        (401, NodeError, False),
        (404, ConfigError, False),
        (500, NodeError, True),
        (503, NodeError, True),
    ],
)
def test_a_refusal_says_who_and_what(
    tmp_path: Path, server: Cloud, status: int, error: type[FlowError], retryable: bool
) -> None:
    async def work(bench: Bench) -> None:
        server.fail(status, "the model is on leave")
        exc = await bench.fails()
        assert (type(exc), exc.retryable) == (error, retryable)
        assert exc.message == f"127.0.0.1 answered {status}: the model is on leave"

    with_gate(tmp_path, work, a=server)


def test_a_busy_server_is_not_asked_again_before_it_said(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(429, "slow down", retry_after=7)
        exc = await bench.fails()
        assert isinstance(exc, Busy)
        assert (exc.retry_after, exc.detail["retry_after"]) == (7.0, 7.0), "the step's own retry waits as long"
        bench.now += 3
        again = await bench.fails()
        assert isinstance(again, Busy)
        assert (again.retry_after, len(server.bodies)) == (4.0, 1)
        bench.now += 4
        assert (await bench.ask()).text == "yes"

    with_gate(tmp_path, work, a=server)


def test_a_quota_that_is_used_up_is_not_waited_for(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(429, "You exceeded your current quota", code="insufficient_quota")
        assert not (await bench.fails()).retryable

    with_gate(tmp_path, work, a=server)


@pytest.mark.parametrize("fault", ["cut", "stop_short"])
def test_an_answer_that_breaks_off_is_begun_anew_once(tmp_path: Path, server: Cloud, fault: str) -> None:
    async def work(bench: Bench) -> None:
        getattr(server, fault)("Half an ")
        server.say("A whole answer.")
        assert (await bench.ask()).text == "A whole answer."
        assert bench.eyes.text == "A whole answer."
        (why,) = bench.eyes.told
        assert why.startswith("a/small is asked again: ")
        getattr(server, fault)("Half an ")
        getattr(server, fault)("Half an ")
        exc = await bench.fails(temperature=1.0)
        assert exc.retryable
        assert len(server.bodies) == 4

    with_gate(tmp_path, work, a=server)


def test_an_error_in_the_middle_of_a_stream_is_one(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.break_down("Half", "out of memory")
        server.break_down("Half", "out of memory")
        assert "out of memory" in (await bench.fails()).message

    with_gate(tmp_path, work, a=server)


def test_what_is_not_the_api_is_said_to_be_none(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.garbage()
        assert "not JSON" in (await bench.fails()).message
        server.garbage(b"[1, 2]")
        assert "OpenAI API" in (await bench.fails()).message

    with_gate(tmp_path, work, a=server)


def test_a_slow_server_is_given_up_and_hung_up_on(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        await bench.ask("Are you there?")  # what is imported and opened at first takes its time
        server.hang()
        exc = await bench.fails(timeout=1.0)
        assert isinstance(exc, TimedOut)
        assert exc.message == "a/small did not answer within 1 s"

    with_gate(tmp_path, work, a=server)
    assert server.web.hung_up.wait(20)


def test_cancelling_hangs_up_and_is_paid_for(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.begin_and_hang("Four words of it")
        task = asyncio.create_task(bench.ask())
        await until(lambda: bench.eyes.text)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bench.used() == {"a/small": (1, 1, 0)}
        (row,) = bench.accounts.rows()
        assert row.use.tokens_out == 4
        assert bench.passages.view("a") == "closed"

    with_gate(tmp_path, work, a=server)
    assert server.web.hung_up.wait(20)


# --- several models ----------------------------------------------------------------------------------------


def test_the_next_model_is_asked_when_one_gives_no_answer(tmp_path: Path, server: Cloud, other: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(500)
        reply = await bench.ask("Well?", "a/small", "b/large")
        assert (reply.text, reply.provider, reply.model) == ("the other", "b", "large")
        assert bench.eyes.text == "the other"
        assert bench.eyes.told == ["a/small gave no answer, b/large is asked: 127.0.0.1 answered 500: no"]

    with_gate(tmp_path, work, a=server, b=other)


def test_if_none_answers_all_of_them_are_named(tmp_path: Path, server: Cloud, other: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(401, "who are you?")
        other.fail(503, "later")
        exc = await bench.fails("a/x", "b/y", "nowhere/z")
        assert "there is no upstream 'nowhere'; there are: a, b, local" in exc.message
        assert "a/x: 127.0.0.1 answered 401: who are you?" in exc.message
        assert "b/y: 127.0.0.1 answered 503: later" in exc.message
        assert exc.retryable
        assert isinstance(exc.detail, dict)
        told = {each["model"]: each["error"] for each in exc.detail["models"]}
        assert told == {"a/x": "node-failed", "b/y": "node-failed", "nowhere/z": "bad-config"}
        server.fail(429, retry_after=9)
        other.fail(429, retry_after=5)
        busy = await bench.fails("a/x", "b/y")
        assert isinstance(busy, Busy)
        assert busy.retry_after == 5.0

    with_gate(tmp_path, work, a=server, b=other)


def test_an_upstream_that_fails_is_left_alone_and_then_tried_by_one(
    tmp_path: Path, server: Cloud, other: Cloud
) -> None:
    async def work(bench: Bench) -> None:
        for _ in range(3):
            server.fail(503)
            assert (await bench.ask("Well?", "a/x", "b/y", cache=False)).provider == "b"
        assert bench.passages.view("a") == "open"
        asked = len(server.bodies)
        assert (await bench.ask("Well?", "a/x", "b/y", cache=False)).provider == "b"
        assert len(server.bodies) == asked
        exc = await bench.fails("a/x")
        assert exc.detail["retry_after"] == 5.0
        bench.now += 5
        server.hold("I ", "am back.")
        probe = asyncio.create_task(bench.ask("Well?", "a/x", cache=False))
        await until(lambda: len(server.bodies) > asked)
        assert (await bench.ask("Well?", "a/x", "b/y", cache=False)).provider == "b"
        assert len(server.bodies) == asked + 1
        server.go.set()
        assert (await probe).text == "I am back."
        assert bench.passages.view("a") == "closed"
        assert (await bench.ask("Well?", "a/x", "b/y", cache=False)).provider == "a"

    with_gate(tmp_path, work, a=server, b=other)


def test_wrong_questions_do_not_open_the_breaker(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        for status in (400, 404, 401, 400):
            server.fail(status)
            await bench.fails()
        assert bench.passages.view("a") == "closed"

    with_gate(tmp_path, work, a=server)


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    async def work(bench: Bench) -> None:
        exc = await bench.fails()
        assert "cannot be reached" in exc.message
        await bench.fails()
        assert bench.passages.view("a") == "open", "each question was tried twice"

    with_gate(tmp_path, work, a={"config": {"url": "http://127.0.0.1:9/v1"}})


def test_without_a_name_the_upstreams_first_model_is_taken(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        assert (await bench.ask()).model == "small"
        assert (await bench.ask("Again?")).model == "small"
        assert [seen.target for seen in server.web.requests].count("/v1/models") == 1

    with_gate(tmp_path, work, default=("a/",), a=server)


def test_a_broken_entry_breaks_nothing_else(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        assert (await bench.ask("Well?", "a/x")).text == "yes"
        exc = await bench.fails("b/x")
        assert "the upstream 'b' cannot be used: url: 'ftp://x' is not an http(s) URL" in exc.message
        assert "no field" in (await bench.fails("c/x")).message or "unknown field" in (await bench.fails("c/x")).message

    with_gate(tmp_path, work, a=server, b={"config": {"url": "ftp://x"}}, c={"config": {}, "wrong": 1})


# --- schema ------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"t": {"type": "integer"}}, "required": ["t"]}


def test_an_answer_fits_its_schema(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say('{"t": 3}')
        reply = await bench.ask(schema=SCHEMA)
        assert reply.data == {"t": 3}
        form = server.bodies[0]["response_format"]
        assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", SCHEMA)

    with_gate(tmp_path, work, a=server)


def test_a_model_that_does_not_listen_is_asked_again_and_all_is_counted(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say("Three, I think.")
        server.say('{"t": "three"}')
        server.say('```json\n{"t": 3}\n```')
        reply = await bench.ask(schema=SCHEMA)
        assert reply.data == {"t": 3}
        assert reply.tokens_out == sum(len(text.split(" ")) for text in ("Three, I think.", '{"t": "three"}', "a b"))
        assert bench.used() == {"a/small": (3, 0, 0)}
        last = server.bodies[2]["messages"]
        assert [message["role"] for message in last] == ["user", "assistant", "user", "assistant", "user"]
        assert "is not of type" in last[-1]["content"]
        assert bench.eyes.text == '```json\n{"t": 3}\n```'
        faults = [why.partition("did not fit the schema: ")[2] for why in bench.eyes.told]
        assert faults == ["it holds no JSON", 't: "three" is not of type "integer"']

    with_gate(tmp_path, work, a=server)


def test_after_three_answers_it_is_over(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fallback = "No."
        exc = await bench.fails(schema=SCHEMA)
        assert (len(server.bodies), exc.retryable) == (3, False)
        assert isinstance(exc.detail, dict)
        assert (exc.detail["text"], exc.detail["fault"], exc.detail["model"]) == ("No.", "it holds no JSON", "small")
        assert exc.detail["tokens_out"] == 3 and exc.detail["tokens_in"] > 100, "of all three"
        assert "answered 3 times with what does not fit the schema; at last: it holds no JSON" in exc.message

    with_gate(tmp_path, work, a=server)


def test_an_answer_that_was_cut_by_its_length_says_what_to_do(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say('{"t": ', finish="length")
        exc = await bench.fails(schema=SCHEMA, max_tokens=5)
        assert (len(server.bodies), exc.retryable) == (1, False)
        assert "raise max_tokens" in exc.message
        assert isinstance(exc.detail, dict) and exc.detail["fault"] == "it was cut off at 5 tokens; be shorter"

    with_gate(tmp_path, work, a=server)


def test_a_server_without_schemas_is_told_in_words(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.fail(400, "unknown", param="response_format.type")
        server.say('{"t": 3}')
        assert (await bench.ask(schema=SCHEMA)).data == {"t": 3}
        body = server.bodies[1]
        assert "response_format" not in body
        assert '"required":["t"]' in body["messages"][0]["content"]
        assert body["messages"][-1] == {"role": "user", "content": "Well?"}

    with_gate(tmp_path, work, a=server)


# --- cache, accounts, budgets, limits ----------------------------------------------------------------------


def test_the_same_question_is_answered_from_memory(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        first = await bench.ask()
        second = await bench.ask()
        assert (first.from_cache, second.from_cache, second.text) == (False, True, first.text)
        assert first.cost > 0 == second.cost
        assert bench.used() == {"a/small": (1, 0, 1)}
        await bench.ask(temperature=0.5)
        await bench.ask(temperature=0.5)
        await bench.ask(cache=False)
        assert len(server.bodies) == 4

    with_gate(tmp_path, work, a=config(server, price_in=1.0, price_out=1.0))


def test_vectors_have_length_one_and_are_remembered(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        texts = [f"text {chr(97 + number % 26)} {number}" for number in range(100)]
        found = await bench.gate.embed(ME, texts, "a/vec", "", 10.0)
        assert [len(body["input"]) for body in server.bodies] == [64, 36]
        assert all(abs(sum(value * value for value in vector) - 1) < 1e-6 for vector in found.vectors)
        again = await bench.gate.embed(ME, [*texts[50:52], "new", texts[50]], "", "a/vec", 10.0)
        assert server.bodies[2]["input"] == ["new"]
        assert again.vectors[0] == again.vectors[3] == pytest.approx(found.vectors[50])
        assert again.tokens == 3

    with_gate(tmp_path, work, a=server)


def test_what_an_answer_costs_is_by_the_list_or_by_the_owner(tmp_path: Path, server: Cloud, other: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.say("one two three", cached=4)
        reply = await bench.ask("Well?", "a/x")
        assert reply.cost == 0.0, "127.0.0.1 is this machine"
        assert bench.looked_up == []
        reply = await bench.ask("Well?", "b/x")
        assert reply.cost == pytest.approx((reply.tokens_in * 3 + reply.tokens_out * 9) / 1e6)

    with_gate(tmp_path, work, a=server, b=config(other, price_in=3.0, price_out=9.0))


def test_a_budget_that_is_spent_leads_to_the_model_that_costs_nothing(
    tmp_path: Path, server: Cloud, other: Cloud
) -> None:
    async def work(bench: Bench) -> None:
        bench.accounts.budgets = Budgets(day=1.0)
        assert (await bench.ask("Well?", "a/x", "b/y", max_tokens=900)).provider == "a"
        assert (await bench.ask("And?", "a/x", "b/y", max_tokens=1200)).provider == "b"
        exc = await bench.fails("a/x", max_tokens=1200)
        assert isinstance(exc, BudgetSpent)
        assert exc.detail["budget"] == "model_budget_day"
        assert len(server.bodies) == 1

    with_gate(tmp_path, work, a=config(server, price_in=0.0, price_out=1000.0), b=other)


def test_an_upstream_is_asked_by_as_many_at_once_as_it_may(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        server.hold("I was ", "first.")
        first = asyncio.create_task(bench.ask("one"))
        await until(lambda: server.bodies)
        second = asyncio.create_task(bench.ask("two"))
        exc = await bench.fails(timeout=0.2)
        assert isinstance(exc, TimedOut)
        assert len(server.bodies) == 1
        server.go.set()
        assert [(await first).text, (await second).text] == ["I was first.", "yes"]

    with_gate(tmp_path, work, a=config(server, at_once=1))


def test_rates_are_kept(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        await bench.ask("one")
        await bench.ask("two")
        exc = await bench.fails(timeout=5.0)
        assert isinstance(exc, Busy)
        assert exc.retry_after == 60.0

    with_gate(tmp_path, work, a=config(server, requests_minute=2))


def test_what_is_known_of_models(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        facts = await bench.gate.facts(ME, "a/large")
        assert (facts.name, facts.provider, facts.place, facts.images) == ("large", "a", "", False)
        assert (await bench.gate.facts(ME, "a/unknown")).name == "unknown"
        assert await bench.gate.count(ME, "x" * 400, "a/large") == 100

    with_gate(tmp_path, work, a=config(server, images=False))


def test_an_upstream_that_was_mended_is_asked_at_once(tmp_path: Path, server: Cloud) -> None:
    async def work(bench: Bench) -> None:
        for _ in range(3):
            server.fail(503)
            await bench.fails()
        assert bench.passages.view("a") == "open"
        bench.passages.update(Upstreams(PROVIDERS, {"a": {"config": {"url": server.url}}}))
        assert bench.passages.view("a") == "open", "nothing has changed"
        bench.passages.update(Upstreams(PROVIDERS, {"a": {"config": {"url": server.url, "secret": "other"}}}))
        assert bench.passages.view("a") == "closed"

    with_gate(tmp_path, work, a=server)
