"""Sends an HTTP request and gives the answer: `{status, headers, body, url}`.

The body is one of `json`, `form`, `text` or `blob`. `response: auto` reads the answer by its content type:
JSON as a value, text as text, anything else as a reference to a stored blob. A status that is not in
`ok_status` fails the step; 408, 429 and 5xx may be retried. Unsafe methods carry an `Idempotency-Key`,
which is the same at each attempt; with `idempotent` a POST or PATCH counts as safe to repeat.

    {"method": "POST", "url": "https://example.com/api/{{ payload.id }}", "json": {"t": "{{ payload.t }}"},
     "auth": "bearer", "token": "{{ secrets.api }}"}
"""

from __future__ import annotations

import base64
import email.message
import email.utils
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import UNSET, Meta

from appliance.contracts import (
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    HttpReply,
    Node,
    NodeError,
    Problem,
    World,
    seconds,
)

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
#: A value in a header, query or form; a template may yield more than text.
Value = str | int | float | bool | None
#: RFC 9110 section 9.2.2.
_IDEMPOTENT = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
#: RFC 9110 section 9.2.1.
_SAFE = {"GET", "HEAD", "OPTIONS"}
_BODIES = ("json", "form", "text", "blob")
_RANGE = re.compile(r"\s*([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?\s*")
_EXCERPT = 500
_TEXT_TYPES = {"application/xml", "application/javascript", "application/x-www-form-urlencoded", "application/yaml"}
_PASSWORD = {"format": "password"}


class HttpRequestConfig(Config, frozen=True):
    url: Annotated[str, Meta(title="URL", description="http:// or https://", min_length=1)]
    method: Annotated[Method, Meta(title="Method")] = "GET"
    query: Annotated[dict[str, Value | list[Value]], Meta(title="Query", description="Added to the URL's own.")] = {}
    headers: Annotated[dict[str, Value], Meta(title="Headers")] = {}
    json: Annotated[Any, Meta(title="Body as JSON")] = UNSET
    form: Annotated[dict[str, Value | list[Value]] | None, Meta(title="Body as a form")] = None
    text: Annotated[str | None, Meta(title="Body as text")] = None
    blob: Annotated[dict[str, Any] | None, Meta(title="Body from a blob", description="Its reference.")] = None
    auth: Annotated[Literal["none", "basic", "bearer"], Meta(title="Sign in with")] = "none"
    username: Annotated[str, Meta(title="User name", description="For basic.")] = ""
    password: Annotated[str, Meta(title="Password", description="For basic.", extra_json_schema=_PASSWORD)] = ""
    token: Annotated[str, Meta(title="Token", description="For bearer.", extra_json_schema=_PASSWORD)] = ""
    response: Annotated[Literal["auto", "json", "text", "bytes", "none"], Meta(title="Read the answer as")] = "auto"
    ok_status: Annotated[
        list[int | str], Meta(title="Good statuses", description='Like [200, "300-399"]; left empty: 200-299.')
    ] = []
    timeout: Annotated[Duration, Meta(title="Timeout", description="For the whole answer.")] = 30.0
    follow_redirects: Annotated[bool, Meta(title="Follow redirects")] = True
    verify: Annotated[bool, Meta(title="Check the certificate")] = True
    max_size: Annotated[int, Meta(title="Largest answer in bytes", ge=1, le=1_000_000_000)] = 10_000_000
    idempotent: Annotated[
        bool, Meta(title="Repeating does no harm", description="For POST and PATCH to a server that knows its keys.")
    ] = False


class HttpRequest(Node[HttpRequestConfig]):
    Config = HttpRequestConfig
    title = "HTTP request"
    category = "network"
    icon = "globe"
    effect = Effect.ONCE

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        repeatable = config.get("idempotent") is True or config.get("method", "GET") in _IDEMPOTENT
        return Effect.IDEMPOTENT if repeatable else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        url = config.get("url")
        if isinstance(url, str) and "{{" not in url and "{%" not in url and (fault := _url_fault(url)):
            yield Problem("url", fault)
        if len(bodies := _bodies(config)) > 1:
            yield Problem(bodies[1], f"a request has one body; there is {bodies[0]} already")
        statuses = config.get("ok_status")
        for index, entry in enumerate(statuses if isinstance(statuses, list) else ()):
            if "{" not in str(entry) and not _RANGE.fullmatch(str(entry)):
                yield Problem(f"ok_status[{index}]", "must be a status (204) or a range (200-299)")
        needed = {"basic": "username", "bearer": "token"}.get(str(config.get("auth")))
        if needed and not config.get(needed):
            yield Problem(needed, f"is needed for {config['auth']} sign-in")

    async def run(self, ctx: Context, config: HttpRequestConfig, payload: Any) -> Any:
        if fault := _url_fault(config.url):
            raise ConfigError(f"url: {fault}")
        good = [_range(entry) for entry in config.ok_status or ("200-299",)]
        body, content_type = _body(ctx, config)
        try:
            reply = await ctx.http.request(
                config.method,
                _with_query(config),
                headers=_headers(ctx, config, content_type),
                body=body,
                timeout=seconds(config.timeout),
                limit=config.max_size,
                follow_redirects=config.follow_redirects,
                verify=config.verify,
            )
        except NodeError as exc:
            raise _unless_unknown(self.effect_of(msgspec.structs.asdict(config)), exc) from exc
        if not any(first <= reply.status <= last for first, last in good):
            raise _bad_status(ctx, config, reply)
        content = None if config.response == "none" else _read(ctx, config, reply)
        return {"status": reply.status, "headers": reply.headers, "body": content, "url": reply.url}


# --- the request ------------------------------------------------------------------------------------


def _url_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return ""
    except ValueError:
        pass
    return "must be an http(s) URL"


def _bodies(config: Mapping[str, Any]) -> list[str]:
    return [name for name in _BODIES if name in config and (name == "json" or config[name] is not None)]


def _range(entry: int | str) -> tuple[int, int]:
    match = _RANGE.fullmatch(str(entry))
    if match is None:
        raise ConfigError(f"ok_status: {entry!r} is not a status (204) or a range (200-299)")
    return int(match[1]), int(match[2] or match[1])


def _body(ctx: Context, config: HttpRequestConfig) -> tuple[bytes | None, str]:
    """The body and its content type; none and empty without one."""
    given = {name: getattr(config, name) for name in _BODIES if getattr(config, name) not in (None, UNSET)}
    if config.json is None:
        given["json"] = None
    if len(given) > 1:
        raise ConfigError(f"a request has one body; there are {' and '.join(given)}")
    if "json" in given:
        return msgspec.json.encode(config.json), "application/json"
    if config.form is not None:
        return urlencode(_pairs(config.form)).encode(), "application/x-www-form-urlencoded"
    if config.text is not None:
        return config.text.encode(errors="replace"), "text/plain; charset=utf-8"
    if config.blob is not None:
        return ctx.blobs.get(config.blob), str(config.blob.get("type", "application/octet-stream"))
    return None, ""


def _pairs(values: Mapping[str, Value | list[Value]]) -> list[tuple[str, str]]:
    """Names and texts; a list repeats its name, null leaves it out."""
    pairs = []
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                pairs.append((name, _plain(item)))
    return pairs


def _plain(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _with_query(config: HttpRequestConfig) -> str:
    if not config.query:
        return config.url
    address, hash_sign, fragment = config.url.partition("#")
    joint = "&" if "?" in address else "?"
    return f"{address}{joint}{urlencode(_pairs(config.query))}{hash_sign}{fragment}"


def _headers(ctx: Context, config: HttpRequestConfig, content_type: str) -> dict[str, str]:
    """What the config says, and what follows from it unless the config says otherwise."""
    headers = {name: _plain(value) for name, value in config.headers.items() if value is not None}
    implied: dict[str, str] = {}
    if content_type:
        implied["Content-Type"] = content_type
    if config.method not in _SAFE:
        # draft-ietf-httpapi-idempotency-key-header, without the quotes, as servers in use expect it.
        implied["Idempotency-Key"] = ctx.idempotency_key
    if config.auth == "basic":
        pair = f"{config.username}:{config.password}".encode()
        implied["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    elif config.auth == "bearer":
        implied["Authorization"] = f"Bearer {config.token}"
    given = {name.lower() for name in headers}
    return headers | {name: value for name, value in implied.items() if name.lower() not in given}


# --- the answer -------------------------------------------------------------------------------------


def _unless_unknown(effect: Effect, exc: NodeError) -> NodeError:
    """Nothing is tried again blindly that the server may have done already and must do only once."""
    sent = isinstance(exc.detail, Mapping) and exc.detail.get("sent") is True
    if effect is not Effect.ONCE or not sent or not exc.retryable:
        return exc
    message = f"{exc.message}; whether the server acted on it is unknown, so it is not sent again"
    return NodeError(message, retryable=False, detail=exc.detail)


def _bad_status(ctx: Context, config: HttpRequestConfig, reply: HttpReply) -> NodeError:
    detail: dict[str, Any] = {
        "status": reply.status,
        "body": reply.body[:_EXCERPT].decode(errors="replace"),
    }
    if (wait := _retry_after(reply, ctx.now())) is not None:
        detail["retry_after"] = wait
    host = urlsplit(config.url).hostname
    return NodeError(
        f"{host} answered {config.method} with status {reply.status}",
        retryable=reply.status in (408, 429) or reply.status >= 500,
        detail=detail,
    )


def _retry_after(reply: HttpReply, now: float) -> float | None:
    """Seconds to wait by RFC 9110 section 10.2.3, given as seconds or as a date."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _read(ctx: Context, config: HttpRequestConfig, reply: HttpReply) -> Any:
    mime, charset = _content_type(reply)
    kind = config.response if config.response != "auto" else _kind(mime, reply)
    if kind == "bytes":
        return ctx.blobs.put(reply.body, mime)
    if kind == "text":
        return _decode(reply.body, charset)
    if not reply.body:
        return None
    try:
        return msgspec.json.decode(_decode(reply.body, charset).removeprefix("\ufeff"))
    except (msgspec.DecodeError, RecursionError, UnicodeError) as exc:
        message = f"the answer is not JSON ({exc}); set response to text to take it as it is"
        detail = {"status": reply.status, "body": reply.body[:_EXCERPT].decode(errors="replace")}
        raise NodeError(message, retryable=False, detail=detail) from None


def _content_type(reply: HttpReply) -> tuple[str, str]:
    """Type and charset; where the server says nothing, what the bytes look like."""
    header = email.message.Message()
    if given := reply.headers.get("content-type"):
        header["Content-Type"] = given
        return header.get_content_type(), header.get_content_charset("utf-8")
    try:
        reply.body.decode()
    except UnicodeError:
        return "application/octet-stream", "utf-8"
    return "text/plain", "utf-8"


def _kind(mime: str, reply: HttpReply) -> str:
    if not reply.body or mime == "application/json" or mime.endswith("+json"):
        return "json"
    if mime.startswith("text/") or mime in _TEXT_TYPES or mime.endswith("+xml"):
        return "text"
    return "bytes"


def _decode(data: bytes, charset: str) -> str:
    try:
        return data.decode(charset, errors="replace")
    except (LookupError, UnicodeError):
        return data.decode(errors="replace")
