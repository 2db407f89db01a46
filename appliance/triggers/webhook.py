"""Started by an HTTP request to an address of its own, `/hooks/<path>`.

The path is the secret: keep it long (an empty one is filled with a random one on save). `hmac` checks the sender's
signature: as it stands for GitHub; with `encoding: base64` and an empty `prefix` for Shopify; with
`timestamp_header` and `signed: "v0:{timestamp}:{body}"` for Slack. The caller gets the run's id at once, or with
`reply: result` waits for the run's output for at most `limit`. A JSON, form or text body becomes the payload, any
other is given in base64, and without a body it is the query. An `Idempotency-Key` header (or GitHub's delivery id)
makes repetitions of a request start one run.

    {"path": "k3J9x2pQ7vRtLm", "methods": ["POST"], "reply": "result", "limit": "5s"}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

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

_HIDDEN = {"authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"}
#: What says nothing about the event; every run would carry it to the disk.
_DULL = {"host", "connection", "content-length", "accept-encoding"}
_LEFT_OUT = _HIDDEN | _DULL
_KEYS = ("idempotency-key", "x-github-delivery", "webhook-id")
_MAX_HEADERS, _MAX_VALUE, _MAX_FIELDS = 40, 500, 1000
#: Seconds: each caller that waits holds a thread of the gateway.
_LONGEST_WAIT = 300.0
SHORT = 8
_SIGNED = "{timestamp}.{body}"
_ALSO_TEXT = {"application/xml", "application/yaml", "application/x-yaml", "application/graphql"}
_decode = msgspec.json.Decoder().decode


class Hmac(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the sender signs the body."""

    secret: Annotated[str, Meta(description="The shared secret, `{{ secrets.github }}`", min_length=1)]
    header: Annotated[str, Meta(description="The header with the signature")] = "X-Hub-Signature-256"
    algorithm: Annotated[Literal["sha256", "sha1", "sha512"], Meta(description="The hash")] = "sha256"
    encoding: Annotated[Literal["hex", "base64"], Meta(description="How the signature is written")] = "hex"
    prefix: Annotated[str, Meta(description="What stands before the signature in the header")] = "sha256="
    timestamp_header: Annotated[str, Meta(description="A header with Unix seconds, if the time is signed too")] = ""
    signed: Annotated[str, Meta(description="What is signed then, of {timestamp} and {body}")] = _SIGNED
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

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        path = config.get("path", "")
        if path and len(path) < SHORT:
            yield Problem("path", f"is too short to be a secret; use {SHORT} characters or more, or leave it out")
        yield from _check_limit(config.get("limit", 0))
        rule = config.get("hmac")
        if (
            isinstance(rule, dict)
            and rule.get("timestamp_header")
            and not {"{timestamp}", "{body}"} <= _places(rule.get("signed", ""))
        ):
            yield Problem("hmac.signed", "must hold {timestamp} and {body}, or an old request could be sent again")

    def path(self, config: WebhookConfig) -> str:
        """Raises ``ConfigError`` for an empty one, which a save would have filled in."""
        if not config.path:
            raise ConfigError("path: is empty; save the flow through the API, which fills in a random one")
        return config.path

    def wait(self, config: WebhookConfig) -> float:
        return min(seconds(config.limit), _LONGEST_WAIT) if config.reply == "result" else 0.0

    def receive(self, config: WebhookConfig, request: WebRequest) -> Event:
        if request.method not in config.methods:
            raise WebRefusal(405, f"this webhook takes {', '.join(config.methods)}")
        if len(request.body) > config.max_bytes:
            raise WebRefusal(413, f"the body is larger than {config.max_bytes:,} bytes")
        if config.hmac is not None:
            _verify(config.hmac, request, self._now())
        key = next((request.headers[name] for name in _KEYS if request.headers.get(name)), "")
        if len(key) > 200:
            raise WebRefusal(400, "the idempotency key is longer than 200 characters")
        return Event(payload=_payload(request), id=key, unique=bool(key), meta=_meta(request))


def _check_limit(limit: float | str) -> Iterable[Problem]:
    try:
        if "{{" not in str(limit) and seconds(limit) > _LONGEST_WAIT:
            yield Problem("limit", f"a caller cannot be kept waiting for more than {_LONGEST_WAIT:.0f} s")
    except ConfigError as exc:
        yield Problem("limit", exc.message)


def _places(signed: str) -> set[str]:
    return {place for place in ("{timestamp}", "{body}") if place in (signed or _SIGNED)}


def _meta(request: WebRequest) -> dict[str, Any]:
    kept = {name: value[:_MAX_VALUE] for name, value in request.headers.items() if name not in _LEFT_OUT}
    if len(kept) > _MAX_HEADERS:
        kept = dict(list(kept.items())[:_MAX_HEADERS])
    return {"method": request.method, "headers": kept, "query": dict(request.query), "remote": request.remote}


def _payload(request: WebRequest) -> Any:
    """The body by its content type. Raises ``WebRefusal`` 400 for one that is not what it says."""
    if not request.body:
        return dict(request.query)
    kind, _, rest = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return _json(request.body)
    if kind == "application/x-www-form-urlencoded":
        # No form begins like this, but what `curl -d '{"t": 31}'` sends does.
        return _json(request.body) if request.body[:1] in (b"{", b"[") else _form(request.body)
    if kind.startswith("text/") or kind.endswith("+xml") or kind in _ALSO_TEXT:
        return _text(request.body, rest)
    try:
        return {"base64": base64.b64encode(request.body).decode(), "type": kind} if kind else request.body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(request.body).decode(), "type": kind}


def _json(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise WebRefusal(400, f"the body is not JSON: {exc}") from None


def _form(body: bytes) -> dict[str, Any]:
    """Each field's text, or a list of them where a field comes more than once."""
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as exc:  # UnicodeDecodeError is one
        raise WebRefusal(400, f"the form cannot be read: {exc}") from None
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def _text(body: bytes, parameters: str) -> str:
    named = dict(part.strip().lower().partition("=")[::2] for part in parameters.split(";"))
    charset = named.get("charset", "").strip('"') or "utf-8"
    try:
        return body.decode(charset)
    except (UnicodeDecodeError, LookupError):
        raise WebRefusal(400, f"the body is not text in {charset[:40]}") from None


def _verify(rule: Hmac, request: WebRequest, now: float) -> None:
    """RFC 2104 over the body, compared in constant time. Raises ``WebRefusal`` 401."""
    content = request.body
    if rule.timestamp_header:
        stamp = request.headers.get(rule.timestamp_header.lower(), "")
        fresh = stamp.isascii() and stamp.isdigit() and abs(now - float(stamp)) <= seconds(rule.tolerance)
        if not fresh:
            raise WebRefusal(401, "the signed timestamp is missing or too old")
        before, _, after = rule.signed.replace("{timestamp}", stamp).partition("{body}")
        content = before.encode() + content + after.encode()
    digest = hmac.digest(rule.secret.encode(), content, getattr(hashlib, rule.algorithm))
    expected = rule.prefix + (digest.hex() if rule.encoding == "hex" else base64.b64encode(digest).decode())
    given = request.headers.get(rule.header.lower(), "")
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise WebRefusal(401, "the signature does not match")
