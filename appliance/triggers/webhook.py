"""Started by an HTTP request to an address of its own, `/hooks/<path>`.

The path is the secret: keep it long (an empty one is filled with a random one on save). `hmac` checks a signature
over the body as GitHub, Stripe and others send it. The caller gets the run's id at once, or with `reply: result`
waits for the run's output for at most `limit`. JSON, form and text bodies become the payload; an
`Idempotency-Key` header makes repetitions of a request start one run.

    {"path": "k3J9x2pQ7vRtLm", "methods": ["POST"], "reply": "result", "limit": "5s"}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import (
    Config,
    ConfigError,
    Duration,
    Event,
    Problem,
    WebRefusal,
    WebRequest,
    WebTrigger,
    World,
    seconds,
)

_HIDDEN = {"authorization", "cookie", "proxy-authorization", "x-api-key"}
_KEYS = ("idempotency-key", "x-github-delivery", "webhook-id")
_MAX_HEADERS, _MAX_VALUE = 40, 500
SHORT = 8
_decode = msgspec.json.Decoder().decode


class Hmac(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the sender signs the body."""

    secret: Annotated[str, Meta(description="The shared secret, `{{ secrets.github }}`", min_length=1)]
    header: Annotated[str, Meta(description="The header with the signature")] = "X-Hub-Signature-256"
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    prefix: Annotated[str, Meta(description="What stands before the signature in the header")] = "sha256="
    timestamp_header: Annotated[str, Meta(description="A header with Unix seconds, signed as `<time>.<body>`")] = ""
    tolerance: Annotated[Duration, Meta(description="How old a signed timestamp may be")] = 300.0


class WebhookConfig(Config, frozen=True):
    path: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_-]{0,120}$", description="The secret part of the address; random if left out")
    ] = ""
    methods: Annotated[
        list[Literal["GET", "POST", "PUT", "PATCH", "DELETE"]], Meta(min_length=1, description="What is accepted")
    ] = msgspec.field(default_factory=lambda: ["POST"])
    hmac: Annotated[Hmac | None, Meta(description="Check the sender's signature")] = None
    reply: Annotated[Literal["id", "result"], Meta(description="Answer at once, or with the run's output")] = "id"
    limit: Annotated[Duration, Meta(description="How long the caller waits for the result")] = 10.0
    max_bytes: Annotated[int, Meta(ge=0, le=100_000_000, description="Largest body")] = 1_000_000


class Webhook(WebTrigger[WebhookConfig]):
    Config = WebhookConfig
    title = "Webhook"
    icon = "globe"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        path = config.get("path", "")
        if path and len(path) < SHORT:
            yield Problem("path", f"is too short to be a secret; use {SHORT} characters or more, or leave it out")

    def path(self, config: WebhookConfig) -> str:
        """Raises ``ConfigError`` for an empty one, which a save would have filled in."""
        if not config.path:
            raise ConfigError("path: is empty; save the flow through the API, which fills in a random one")
        return config.path

    def wait(self, config: WebhookConfig) -> float:
        return seconds(config.limit) if config.reply == "result" else 0.0

    def receive(self, config: WebhookConfig, request: WebRequest) -> Event:
        if request.method not in config.methods:
            raise WebRefusal(405, f"this webhook takes {', '.join(config.methods)}")
        if len(request.body) > config.max_bytes:
            raise WebRefusal(413, f"the body is larger than {config.max_bytes:,} bytes")
        if config.hmac is not None:
            _verify(config.hmac, request)
        key = next((request.headers[name] for name in _KEYS if request.headers.get(name)), "")
        if len(key) > 200:
            raise WebRefusal(400, "the idempotency key is longer than 200 characters")
        return Event(payload=_payload(request), id=key, unique=bool(key), meta=_meta(request))


def _meta(request: WebRequest) -> dict[str, Any]:
    kept = {name: value[:_MAX_VALUE] for name, value in request.headers.items() if name not in _HIDDEN}
    if len(kept) > _MAX_HEADERS:
        kept = dict(list(kept.items())[:_MAX_HEADERS])
    return {"method": request.method, "headers": kept, "query": dict(request.query), "remote": request.remote}


def _payload(request: WebRequest) -> Any:
    """The body by its content type; without a body the query."""
    if not request.body:
        return dict(request.query)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return _decode(request.body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
            raise WebRefusal(400, f"the body is not JSON: {exc}") from None
    try:
        text = request.body.decode()
    except UnicodeDecodeError:
        return {"$base64": base64.b64encode(request.body).decode(), "type": kind}
    if kind == "application/x-www-form-urlencoded":
        try:
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=1000))
        except ValueError:
            raise WebRefusal(400, "the form has too many fields") from None
    return text


def _verify(rule: Hmac, request: WebRequest) -> None:
    """RFC 2104 over the body, compared in constant time. Raises ``WebRefusal`` 401."""
    signed = request.body
    if rule.timestamp_header:
        stamp = request.headers.get(rule.timestamp_header.lower(), "")
        if not stamp.isascii() or not stamp.isdigit() or abs(time.time() - int(stamp)) > seconds(rule.tolerance):
            raise WebRefusal(401, "the signed timestamp is missing or too old")
        signed = stamp.encode() + b"." + signed
    expected = rule.prefix + hmac.new(rule.secret.encode(), signed, getattr(hashlib, rule.algorithm)).hexdigest()
    given = request.headers.get(rule.header.lower(), "")
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise WebRefusal(401, "the signature does not match")
