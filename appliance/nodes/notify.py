"""Sends a notification by mail, SMS, chat or push, to one or several Apprise URLs.

Every service that Apprise knows can be reached (https://appriseit.com/services/). If only some of several
targets could be reached, the step fails and says which; it is then not retried by itself, so that nobody is
told twice. Blobs can be attached where the service takes files.

    {"to": ["{{ secrets.mail }}", "ntfy://alarms.example.com/door"],
     "title": "Door", "text": "open since {{ payload.t }}"}
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta

from appliance.contracts import (
    Config,
    ConfigError,
    Context,
    Duration,
    Effect,
    Limits,
    Node,
    NodeError,
    Problem,
    TimedOut,
    World,
    seconds,
)

_MAX_ATTACHED = 10_000_000
#: Cuts a URL into what may be a secret by itself.
_SEPARATORS = re.compile(r"[/:@?&=,;#+\s]+")


class NotifyConfig(Config, frozen=True):
    to: Annotated[str | list[str], Meta(title="To", description="Apprise URLs, one per line.")]
    text: Annotated[str, Meta(title="Text", min_length=1)]
    title: Annotated[str, Meta(title="Title")] = ""
    format: Annotated[Literal["text", "markdown", "html"], Meta(title="The text is")] = "text"
    kind: Annotated[Literal["info", "success", "warning", "failure"], Meta(title="Kind")] = "info"
    attachments: Annotated[list[dict[str, Any]], Meta(title="Attachments", description="References to blobs.")] = []
    timeout: Annotated[Duration, Meta(title="Timeout", description="For all targets together.")] = 60.0


class Notify(Node[NotifyConfig]):
    Config = NotifyConfig
    title = "Notify"
    category = "people"
    icon = "bell"
    effect = Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        given = config["to"]
        texts = [("to", given)] if isinstance(given, str) else [(f"to[{i}]", text) for i, text in enumerate(given)]
        if not texts:
            yield Problem("to", "name at least one Apprise URL")
        for path, text in texts:
            if "{{" not in text and "{%" not in text and not all("://" in url for url in _urls(text) or [""]):
                yield Problem(path, "must be an Apprise URL, such as mailto://user:password@example.com")

    async def run(self, ctx: Context, config: NotifyConfig, payload: Any) -> Any:
        urls = _urls(config.to)
        if not urls:
            raise ConfigError("to: names nobody; give at least one Apprise URL")
        arguments = {
            "urls": urls,
            "title": config.title,
            "text": config.text,
            "format": config.format,
            "kind": config.kind,
            "attachments": _attachments(ctx, config.attachments),
        }
        limits = Limits(timeout=seconds(config.timeout), network=True)
        try:
            answer = await ctx.sandbox.call(__name__, "_send", arguments, limits)
        except (NodeError, TimedOut) as exc:
            if isinstance(exc, NodeError) and exc.detail is None:
                raise  # no child was started
            message = f"{exc.message}; whom it reached until then is unknown, so it is not sent again"
            raise NodeError(message, retryable=False) from None
        return _judge(answer)


def _urls(to: str | list[str]) -> list[str]:
    texts = [to] if isinstance(to, str) else to
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


def _attachments(ctx: Context, references: list[dict[str, Any]]) -> list[dict[str, str]]:
    found, size = [], 0
    for number, reference in enumerate(references, 1):
        data = ctx.blobs.get(reference)
        size += len(data)
        if size > _MAX_ATTACHED:
            raise ConfigError(f"attachments: are larger than {_MAX_ATTACHED} bytes together")
        mime = str(reference.get("type", "application/octet-stream"))
        name = str(reference.get("name", f"attachment-{number}"))
        found.append({"data": base64.b64encode(data).decode(), "type": mime, "name": name})
    return found


def _judge(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The step's output from what :func:`_send` brought back. Raises what it failed with."""
    if answer["unknown"]:
        raise ConfigError(f"to: no known service, or a wrong URL: {', '.join(answer['unknown'])}")
    failed = [target for target in answer["targets"] if not target["ok"]]
    if failed:
        reasons = "; ".join(f"{target['target']}: {target['reason']}" for target in failed)
        reached = len(answer["targets"]) - len(failed)
        raise NodeError(
            f"{len(failed)} of {len(answer['targets'])} targets were not reached: {reasons}",
            retryable=reached == 0,
            detail={"targets": answer["targets"]},
        )
    return {"sent": [target["target"] for target in answer["targets"]]}


# --- in the child process: Apprise is large, slow to load and talks to the world -----------------------


def _send(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Send to each URL by itself; nothing is sent if one of them is no Apprise URL."""
    import apprise
    from apprise.attachment.memory import AttachMemory

    urls, count = arguments["urls"], len(arguments["urls"])
    asset = apprise.AppriseAsset(async_mode=False, app_id="Flowork", app_desc="Flowork")
    senders = [apprise.Apprise(asset=asset) for _ in urls]
    make_file: Any = AttachMemory  # Apprise leaves it without types.
    files = [
        make_file(content=base64.b64decode(file["data"]), name=file["name"], mimetype=file["type"])
        for file in arguments["attachments"]
    ]
    with _captured() as log:
        known = [sender.add(url) for sender, url in zip(senders, urls, strict=True)]
        if not all(known):
            unknown = [_name(url, i + 1, count, ()) for i, url in enumerate(urls) if not known[i]]
            return {"targets": [], "unknown": unknown}
        targets = []
        for number, (sender, url) in enumerate(zip(senders, urls, strict=True), 1):
            log.seek(log.truncate(0))
            ok = _deliver(sender, arguments, files)
            name = _name(url, number, count, sender[0].templates)
            reason = "" if ok else _scrub(log.getvalue(), url, name) or "it did not take the message"
            targets.append({"target": name, "ok": ok, "reason": reason})
    return {"targets": targets, "unknown": []}


def _deliver(sender: Any, arguments: Mapping[str, Any], files: list[Any]) -> bool:
    try:
        return bool(
            sender.notify(
                arguments["text"],
                title=arguments["title"],
                notify_type=arguments["kind"],
                body_format=arguments["format"],
                attach=files or None,
            )
        )
    except Exception:
        # The other targets are told all the same, and nobody twice because one service's code is broken.
        logging.getLogger("apprise").exception("the service's code failed")
        return False


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What Apprise warns of; it would otherwise reach stderr with whole URLs."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setLevel(logging.WARNING)
    logger = logging.getLogger("apprise")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield text
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _name(url: str, number: int, count: int, templates: Iterable[str]) -> str:
    """A target as people may see it: its scheme, its host if the service's URLs have one, its number.

    In many services' URLs a token stands where the host would be.
    """
    match = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://", url)
    shown = match[0] if match else "a text without scheme"
    templates = list(templates)
    if templates and all("{host}" in template for template in templates):
        try:
            shown += urlsplit(url).hostname or ""
        except ValueError:
            pass
    return shown if count == 1 else f"{shown} (target {number} of {count})"


def _scrub(text: str, url: str, name: str) -> str:
    """What Apprise logged, in one line, without any piece of the URL that the name does not show."""
    pieces = {piece for raw in _SEPARATORS.split(url) for piece in (raw, unquote(raw)) if len(piece) > 2}
    for piece in sorted(pieces, key=len, reverse=True):
        if piece not in name:
            text = text.replace(piece, "***")
    return " ".join(text.split())[:300]
