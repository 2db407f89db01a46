"""Reads an RSS or Atom feed (also a Reddit address that ends in `.rss`) and gives its new entries.

Gives a list of `{id, title, link, published, summary, author}`, newest first as feeds have it. What has been
given once is remembered with the flow and not given again, after a restart neither. With `only_new: false`
the whole feed is given each time and nothing is remembered.

    {"url": "https://www.reddit.com/r/selfhosted/new/.rss", "limit": 20}
"""

from __future__ import annotations

import base64
import calendar
import datetime
import email.utils
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from msgspec import Meta

from appliance.contracts import (
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    HttpReply,
    Limits,
    Node,
    NodeError,
    Problem,
    World,
    seconds,
)

_MAX_BYTES = 5_000_000
#: Entries of one document that are looked at, characters of a text, ids that are remembered beyond those.
_MAX_ENTRIES = 2_000
_MAX_TEXT = 20_000
_REMEMBERED = 2_000
#: KiB of JSON that the child may bring back.
_MAX_OUTPUT = 40_000
_NOT_MODIFIED = 304
_ACCEPT = "application/atom+xml, application/rss+xml, application/rdf+xml, application/xml;q=0.9, */*;q=0.5"


class FeedConfig(Config, frozen=True):
    url: Annotated[str, Meta(title="URL", description="Of the feed itself.", min_length=1)]
    limit: Annotated[
        int, Meta(title="Most entries", description="The newest; older ones are skipped.", ge=1, le=_MAX_ENTRIES)
    ] = 100
    only_new: Annotated[bool, Meta(title="Only new entries")] = True
    headers: Annotated[dict[str, str], Meta(title="Headers", description="For feeds that need a login.")] = {}
    timeout: Annotated[Duration, Meta(title="Timeout")] = 30.0


class Feed(Node[FeedConfig]):
    Config = FeedConfig
    title = "Feed"
    category = "network"
    icon = "rss"
    effect = Effect.IDEMPOTENT

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        url = config["url"]
        if "{{" not in url and "{%" not in url and not _is_web(url):
            yield Problem("url", "must be an http(s) URL")

    async def run(self, ctx: Context, config: FeedConfig, payload: Any) -> Any:
        if not _is_web(config.url):
            raise ConfigError("url: must be an http(s) URL")
        key = _state_key(ctx, config)
        memory: dict[str, Any] = ctx.state.get(key, {}) if config.only_new else {}
        reply = await _fetch(ctx, config, memory)
        if reply.status == _NOT_MODIFIED:
            return []
        entries = await _entries(ctx, config, reply)
        if config.only_new:
            seen = set(memory.get("seen", ()))
            fresh = [entry for entry in entries if _short(entry["id"]) not in seen]
            ctx.state.set(key, _remember(memory, entries, reply))
        else:
            fresh = entries
        if len(fresh) > config.limit:
            ctx.log(f"{len(fresh) - config.limit} older entries were skipped (limit {config.limit})", "warning")
        return fresh[: config.limit]


def _is_web(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


# --- what is remembered -----------------------------------------------------------------------------


def _state_key(ctx: Context, config: FeedConfig) -> str:
    """Its own for each node and URL; hashed, since private feeds have their token in the URL."""
    return f"feed:{ctx.node}:{_short(config.url)}"


def _short(text: str) -> str:
    """64 bits: enough to tell a few thousand entries apart, small enough to keep them."""
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=8).hexdigest()


def _remember(memory: Mapping[str, Any], entries: list[dict[str, Any]], reply: HttpReply) -> dict[str, Any]:
    """All that is in the feed now, and then the latest that were: entries leave feeds and come back."""
    ids = dict.fromkeys(_short(entry["id"]) for entry in entries)
    older = [digest for digest in memory.get("seen", ()) if digest not in ids]
    return {
        "etag": reply.headers.get("etag", ""),
        "modified": reply.headers.get("last-modified", ""),
        "seen": [*ids, *older[:_REMEMBERED]],
    }


# --- fetching ---------------------------------------------------------------------------------------


async def _fetch(ctx: Context, config: FeedConfig, memory: Mapping[str, Any]) -> HttpReply:
    headers = {"Accept": _ACCEPT}
    if memory.get("etag"):
        headers["If-None-Match"] = memory["etag"]
    if memory.get("modified"):
        headers["If-Modified-Since"] = memory["modified"]
    reply = await ctx.http.request(
        "GET", config.url, headers=headers | config.headers, timeout=seconds(config.timeout), limit=_MAX_BYTES
    )
    if reply.status == _NOT_MODIFIED or 200 <= reply.status < 300:
        return reply
    detail: dict[str, Any] = {"status": reply.status}
    if (wait := _retry_after(reply, ctx.now())) is not None:
        detail["retry_after"] = wait
    message = f"{urlsplit(config.url).hostname} answered with status {reply.status}"
    raise NodeError(message, retryable=reply.status in (408, 429) or reply.status >= 500, detail=detail)


def _retry_after(reply: HttpReply, now: float) -> float | None:
    """Seconds to wait by RFC 9110 section 10.2.3, given as seconds or as a date."""
    value = reply.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


async def _entries(ctx: Context, config: FeedConfig, reply: HttpReply) -> list[dict[str, Any]]:
    arguments = {
        "document": base64.b64encode(reply.body).decode(),
        "base": _base(config.url),
        "type": reply.headers.get("content-type", ""),
    }
    # In a child process: what strangers send may be a bomb, and a large feed costs seconds of CPU.
    limits = Limits(timeout=seconds(config.timeout), output_kb=_MAX_OUTPUT)
    answer: dict[str, Any] = await ctx.sandbox.call(__name__, "_parse", arguments, limits)
    if not answer["is_feed"]:
        place = urlsplit(config.url).hostname
        raise NodeError(f"what {place} answered is neither RSS nor Atom", retryable=False)
    found: list[dict[str, Any]] = answer["entries"]
    return found


def _base(url: str) -> str:
    """What relative links and ids begin with: not where redirects led to, since ids must stay the same."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


# --- in the child process ---------------------------------------------------------------------------


def _parse(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a document. HTML in them has been cleaned of scripts by feedparser."""
    import feedparser

    headers = {"content-location": arguments["base"]}
    if arguments["type"]:
        headers["content-type"] = arguments["type"]
    data = _REFERENCE.sub(_sound, base64.b64decode(arguments["document"]))
    # As a stream: feedparser takes plain bytes for the name of a file and opens it if it can.
    document = feedparser.parse(io.BytesIO(data), response_headers=headers)
    entries: dict[str, dict[str, Any]] = {}
    for raw in document.entries[:_MAX_ENTRIES]:
        entry = _entry(raw)
        entries.setdefault(entry["id"], entry)
    return {"is_feed": bool(document.get("version")), "entries": list(entries.values())}


_REFERENCE = re.compile(rb"&#(?:x([0-9a-fA-F]{1,9})|([0-9]{1,9}));")


def _sound(reference: re.Match[bytes]) -> bytes:
    """Without references to what is no character (``&#xD800;``): on those feedparser breaks off."""
    number = int(reference[1], 16) if reference[1] else int(reference[2])
    return b"&#xFFFD;" if 0xD800 <= number <= 0xDFFF or number > 0x10FFFF else reference[0]


def _entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    title, link, published = _text(raw, "title"), _text(raw, "link"), _when(raw)
    content = raw.get("content") or [{}]
    summary = _text(raw, "summary") or _text(content[0], "value")
    return {
        "id": _text(raw, "id") or link or _short(f"{title}\n{published}\n{summary}"),
        "title": title,
        "link": link,
        "published": published,
        "summary": summary,
        "author": _text(raw, "author"),
    }


def _text(raw: Mapping[str, Any], name: str) -> str:
    return str(raw.get(name) or "")[:_MAX_TEXT]


def _when(raw: Mapping[str, Any]) -> str | None:
    """ISO 8601 in UTC."""
    parts = raw.get("published_parsed") or raw.get("updated_parsed")
    if parts is None:
        return None
    try:
        return datetime.datetime.fromtimestamp(calendar.timegm(parts), datetime.UTC).isoformat()
    except (ValueError, OverflowError):
        return None
