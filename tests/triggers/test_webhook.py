"""The webhook trigger: who may come in, and what becomes of what they bring."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from appliance.contracts import ConfigError, Event, WebRefusal, WebRequest, decode
from appliance.triggers.webhook import Webhook, WebhookConfig
from tests.support.context import NOON, FakeWorld

SECRET = "It's a Secret to Everybody"
JSON = {"content-type": "application/json"}


def receive(body: bytes = b"", headers: dict[str, str] | None = None, method: str = "POST", **config: Any) -> Event:
    request = WebRequest(method=method, headers=headers or {}, query={"q": "1"}, body=body, remote="192.0.2.1")
    return Webhook(now=lambda: NOON).receive(decode(WebhookConfig, config), request)


def refused(*arguments: Any, **config: Any) -> WebRefusal:
    with pytest.raises(WebRefusal) as caught:
        receive(*arguments, **config)
    return caught.value


# --- payload ---


@pytest.mark.parametrize(
    ("kind", "body", "payload"),
    [
        ("application/json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("application/json; charset=utf-8", b"5", 5),
        ("application/vnd.github+json", b'"x"', "x"),
        ("application/x-www-form-urlencoded", b"a=1&b=x+y&a=2&c=", {"a": ["1", "2"], "b": "x y", "c": ""}),
        ("application/x-www-form-urlencoded", b'{"a": "1&b=2"}', {"a": "1&b=2"}),
        ("text/plain", "grün".encode(), "grün"),
        ("text/plain; charset=ISO-8859-1", "grün".encode("latin-1"), "grün"),
        ("application/xml", b"<a/>", "<a/>"),
        ("application/octet-stream", b"abc", {"base64": "YWJj", "type": "application/octet-stream"}),
        ("image/png", b"\x89PNG", {"base64": "iVBORw==", "type": "image/png"}),
        ("", b"hello", "hello"),
        ("", b"\xff\x00", {"base64": "/wA=", "type": ""}),
        ("application/json", b"", {"q": "1"}),
    ],
)
def test_a_body_becomes_the_payload_by_its_type(kind: str, body: bytes, payload: Any) -> None:
    assert receive(body, {"content-type": kind} if kind else {}).payload == payload


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{"),
        ("application/json", b"\xff"),
        ("application/json", b"NaN"),
        ("application/json", b"[" * 200_000),
        ("application/x-www-form-urlencoded", b"&".join(b"a=%d" % n for n in range(1001))),
        ("application/x-www-form-urlencoded", b"a=\xff"),
        ("application/x-www-form-urlencoded", b'{"a": 1'),
        ("application/x-www-form-urlencoded", b"a=%ff"),
        ("text/plain", b"\xff"),
        ("text/plain; charset=klingon", b"x"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(kind: str, body: bytes) -> None:
    assert refused(body, {"content-type": kind}).status == 400


def test_a_body_over_the_bound_is_refused() -> None:
    assert receive(b"x" * 10, max_bytes=10).payload
    assert refused(b"x" * 11, max_bytes=10).status == 413


def test_a_method_that_is_not_asked_for_is_refused() -> None:
    assert refused(method="GET").status == 405
    assert receive(method="GET", methods=["GET", "PUT"]).payload == {"q": "1"}


def test_the_event_tells_of_the_request_without_its_credentials() -> None:
    headers = {
        "authorization": "Bearer t",
        "cookie": "c",
        "x-api-key": "k",
        "user-agent": "curl/8",
        "x-long": "x" * 5000,
        **{f"x-{n}": "v" for n in range(100)},
    }
    meta = receive(b"", headers).meta
    assert meta["method"] == "POST"
    assert meta["query"] == {"q": "1"}
    assert meta["remote"] == "192.0.2.1"
    assert meta["headers"]["user-agent"] == "curl/8"
    assert len(meta["headers"]["x-long"]) == 500
    assert len(meta["headers"]) == 40
    assert not {"authorization", "cookie", "x-api-key"} & set(meta["headers"])


# --- repetitions ---


@pytest.mark.parametrize("header", ["idempotency-key", "x-github-delivery", "webhook-id"])
def test_a_key_makes_repetitions_one_run(header: str) -> None:
    event = receive(b"{}", {**JSON, header: "72d3162e"})
    assert event.id == "72d3162e"
    assert event.unique


def test_without_a_key_every_request_counts() -> None:
    event = receive(b"{}", JSON)
    assert event.id == ""
    assert not event.unique


def test_a_key_of_any_length_is_not_taken() -> None:
    assert refused(b"{}", {**JSON, "idempotency-key": "x" * 201}).status == 400


# --- signatures ---


def test_the_signature_that_github_documents() -> None:
    # docs.github.com, "Validating webhook deliveries": the values to test an implementation with
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": signature, "content-type": "text/plain"}
    assert receive(b"Hello, World!", headers, hmac={"secret": SECRET}).payload == "Hello, World!"
    assert refused(b"Hello, World?", headers, hmac={"secret": SECRET}).status == 401
    assert refused(b"Hello, World!", headers, hmac={"secret": "other"}).status == 401


@pytest.mark.parametrize("signature", [None, "", "sha256=", "757107ea", "sha1=757107ea", "sha256=é"])
def test_a_missing_or_odd_signature_is_refused(signature: str | None) -> None:
    headers = {} if signature is None else {"x-hub-signature-256": signature}
    assert refused(b"Hello, World!", headers, hmac={"secret": SECRET}).status == 401


def test_a_signature_in_base64_without_prefix() -> None:
    digest = base64.b64encode(hmac.digest(SECRET.encode(), b"{}", hashlib.sha256)).decode()
    rule = {"secret": SECRET, "header": "X-Shopify-Hmac-Sha256", "encoding": "base64", "prefix": ""}
    assert receive(b"{}", {**JSON, "x-shopify-hmac-sha256": digest}, hmac=rule).payload == {}
    assert refused(b"[]", {**JSON, "x-shopify-hmac-sha256": digest}, hmac=rule).status == 401


def slack(stamp: str, body: bytes, signed_stamp: str | None = None) -> dict[str, str]:
    content = b"v0:" + (signed_stamp or stamp).encode() + b":" + body
    digest = hmac.digest(b"8f742231b10e8888abcd99yyyzzz85a5", content, hashlib.sha256).hex()
    return {"x-slack-signature": f"v0={digest}", "x-slack-request-timestamp": stamp, "content-type": "text/plain"}


SLACK = {
    "secret": "8f742231b10e8888abcd99yyyzzz85a5",
    "header": "X-Slack-Signature",
    "prefix": "v0=",
    "timestamp_header": "X-Slack-Request-Timestamp",
    "signed": "v0:{timestamp}:{body}",
}


@pytest.mark.parametrize("age", [0, 299, -299])
def test_a_signed_time_within_the_tolerance(age: int) -> None:
    body = b"token={timestamp}&{body}"  # nothing inside the body is filled in
    assert receive(body, slack(str(int(NOON) - age), body), hmac=SLACK).payload == body.decode()


@pytest.mark.parametrize("stamp", [str(int(NOON) - 301), str(int(NOON) + 301), "", "now", "²", "1e9", "-5"])
def test_an_old_or_odd_signed_time_is_refused(stamp: str) -> None:
    assert refused(b"x", slack(stamp, b"x"), hmac=SLACK).status == 401


def test_a_time_that_was_not_signed_is_refused() -> None:
    headers = slack(str(int(NOON)), b"x", signed_stamp=str(int(NOON) - 1000))
    assert refused(b"x", headers, hmac=SLACK).status == 401


def test_slacks_documented_example() -> None:
    # api.slack.com, "Verifying requests from Slack"
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        "content-type": "application/x-www-form-urlencoded",
    }
    request = WebRequest(method="POST", headers=headers, query={}, body=body, remote="")
    config = decode(WebhookConfig, {"hmac": SLACK})
    assert Webhook(now=lambda: 1531420618.0).receive(config, request).payload["user_name"] == "roadrunner"


# --- config ---


def test_the_path_is_stable_and_an_empty_one_is_explained() -> None:
    assert Webhook().path(decode(WebhookConfig, {"path": "k3J9x2pQ7vRtLm"})) == "k3J9x2pQ7vRtLm"
    with pytest.raises(ConfigError, match="random"):
        Webhook().path(decode(WebhookConfig, {}))


def test_how_long_the_caller_waits() -> None:
    webhook = Webhook()
    assert webhook.wait(decode(WebhookConfig, {})) == 0
    assert webhook.wait(decode(WebhookConfig, {"reply": "result"})) == 10
    assert webhook.wait(decode(WebhookConfig, {"reply": "result", "limit": "2s"})) == 2
    assert webhook.wait(decode(WebhookConfig, {"reply": "result", "limit": "1d"})) == 300


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"path": "short"}, "path"),
        ({"limit": "1h"}, "limit"),
        ({"limit": "soon"}, "limit"),
        ({"hmac": {"secret": "x", "timestamp_header": "T", "signed": "{body}"}}, "hmac.signed"),
    ],
)
def test_what_would_be_unsafe_is_found_on_save(config: dict[str, Any], path: str) -> None:
    assert [problem.path for problem in Webhook().check(config, FakeWorld())] == [path]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"path": "k3J9x2pQ7vRtLm", "limit": "{{ vars.limit }}"},
        {"hmac": "{{ vars.rule }}"},
        {"hmac": SLACK},
        {"hmac": {"secret": "x", "timestamp_header": "T"}},
    ],
)
def test_a_good_config_has_no_problem(config: dict[str, Any]) -> None:
    assert list(Webhook().check(config, FakeWorld())) == []


@pytest.mark.parametrize("path", ["a/b/c/d/e/f", "with space", "../../etc", "ümlaut-path", "x" * 121])
def test_a_path_is_one_plain_segment(path: str) -> None:
    with pytest.raises(ConfigError):
        decode(WebhookConfig, {"path": path})


def test_an_empty_secret_checks_nothing_and_is_refused() -> None:
    with pytest.raises(ConfigError):
        decode(WebhookConfig, {"hmac": {"secret": ""}})
