"""Starts a run for each MQTT message on a topic.

`topic` is a filter or a list of them (`+` and `#` work). Messages of QoS 1 and 2 are acknowledged once their run is
on disk; what the broker repeats after a crash starts nothing twice. `payload` says how to read a message: `auto`
takes JSON, else text, else base64; with `json` or `text` a message that is neither goes to the dead letters. The
event has `topic`, `qos`, `retain` and `dup`. A broker that is away is tried again for ever. The broker keeps messages
for the flow while the engine is off, under the client id; `mosquitto.conf` needs `persistence true` for that to
survive the broker's own restart.

    {"broker": "mqtt://127.0.0.1:1883", "topic": ["greenhouse/+/temp"], "qos": 1, "payload": "json"}
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.contracts import (
    Busy,
    Committed,
    Config,
    Event,
    Message,
    Problem,
    Trigger,
    TriggerContext,
    World,
)

_decode = msgspec.json.Decoder().decode
_URL = re.compile(r"mqtts?://[^/\s]+")
_Text = Annotated[str, Meta(min_length=1)]


class MqttConfig(Config, frozen=True, kw_only=True):
    broker: Annotated[
        str, Meta(title="Broker", description="mqtt://user:password@host:1883, or mqtts:// for TLS (?ca=file)")
    ] = "mqtt://127.0.0.1:1883"
    topic: Annotated[
        _Text | Annotated[list[_Text], Meta(min_length=1)],
        Meta(title="Topic", description="A topic filter or a list of them"),
    ]
    qos: Annotated[Literal[0, 1, 2], Meta(title="QoS", description="The highest quality of service")] = 1
    payload: Annotated[
        Literal["auto", "json", "text", "base64"], Meta(title="Payload", description="How to read a message")
    ] = "auto"
    retained: Annotated[bool, Meta(description="Also start for messages that the broker had kept")] = True
    client_id: Annotated[
        str, Meta(title="Client id", description="Made from the engine, flow and trigger if empty", max_length=200)
    ] = ""


class Mqtt(Trigger[MqttConfig]):
    Config = MqttConfig
    title = "MQTT message"
    icon = "radio"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        broker = config.get("broker", "mqtt://")
        if "{{" not in broker and "broker" in config and not _URL.match(broker):
            yield Problem("broker", "must be a URL such as mqtt://127.0.0.1:1883")
        topic = config["topic"]
        for index, each in enumerate([topic] if isinstance(topic, str) else topic):
            fault = "" if "{{" in each else _fault(each)
            if fault:
                yield Problem("topic" if isinstance(topic, str) else f"topic[{index}]", fault)

    def attach(self, ctx: TriggerContext, config: MqttConfig) -> Callable[[], None]:
        client_id = config.client_id or f"{ctx.mqtt.name}-{ctx.flow}-{ctx.trigger}"
        ctx.status(None, "connecting")
        reader = _Reader(ctx, config, client_id)
        return ctx.mqtt.subscribe(config.broker, config.topic, config.qos, client_id, reader.take, ctx.status)


class _Poison(Exception):
    """A message that no run can be made of."""


class _Reader:
    """Turns batches of messages into events. Called on the thread of the MQTT connections."""

    def __init__(self, ctx: TriggerContext, config: MqttConfig, client_id: str) -> None:
        self._ctx = ctx
        self._client = client_id
        self._retained = config.retained
        self._parse = _PARSERS[config.payload]

    def take(self, messages: list[Message]) -> None:
        """Raises ``Busy`` before anything was taken, so that the whole batch may be offered again."""
        events: list[tuple[Event, Committed | None]] = []
        poison: list[tuple[Message, str]] = []
        ignored: list[Message] = []
        for message in messages:
            if message.retain and not self._retained:
                ignored.append(message)
                continue
            try:
                events.append((self._event(message), _once_committed(message)))
            except _Poison as exc:
                poison.append((message, str(exc)))
        if events:
            self._ctx.emit_many(events)
        for message in ignored:
            message.ack()
        for message, reason in poison:
            self._bury(message, reason)

    def _event(self, message: Message) -> Event:
        payload, encoding = self._parse(message.payload)
        meta = _meta(message)
        if encoding:
            meta["encoding"] = encoding
        return Event(payload=payload, id=self._id(message), meta=meta, redelivered=message.dup)

    def _id(self, message: Message) -> str:
        """The same for every delivery of one message; none for QoS 0, which is never repeated."""
        if not message.qos:
            return ""
        content = blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=8)
        return f"{self._client}:{message.mid}:{content.hexdigest()}"

    def _bury(self, message: Message, reason: str) -> None:
        event = Event(
            payload={"base64": base64.b64encode(message.payload).decode()},
            id=self._id(message),
            meta=_meta(message),
            redelivered=message.dup,
        )
        try:
            self._ctx.dead_letter(event, reason, _once_committed(message))
        except Busy as busy:
            # Not acknowledged until it is stored, so the broker keeps it should we die before.
            self._ctx.call_at(self._ctx.now() + busy.retry_after, lambda: self._bury(message, reason))


def _once_committed(message: Message) -> Committed | None:
    if not message.qos:
        return None
    ack = message.ack
    return lambda _run: ack()


def _meta(message: Message) -> dict[str, Any]:
    return {"topic": message.topic, "qos": message.qos, "retain": message.retain, "dup": message.dup}


def _fault(topic_filter: str) -> str:
    """What is wrong with a filter (OASIS MQTT 3.1.1, 4.7.1), or nothing."""
    levels = topic_filter.split("/")
    if not topic_filter or "\0" in topic_filter:
        return "a topic is not empty and has no NUL character"
    if "#" in levels[:-1] or any(re.search("[+#]", each) for each in levels if each not in ("+", "#")):
        return "+ and # stand alone between slashes, # only at the end"
    return ""


# --- reading payloads: the value, and how it was read if the flow cannot know ---


def _json(raw: bytes) -> tuple[Any, str]:
    try:
        return _decode(raw), ""
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise _Poison(f"the message is not JSON: {exc}") from None


def _text(raw: bytes) -> tuple[Any, str]:
    try:
        return raw.decode(), ""
    except UnicodeDecodeError as exc:
        raise _Poison(f"the message is not text in UTF-8: {exc}") from None


def _base64(raw: bytes) -> tuple[Any, str]:
    return base64.b64encode(raw).decode(), ""


def _auto(raw: bytes) -> tuple[Any, str]:
    for read, encoding in ((_json, "json"), (_text, "text")):
        try:
            return read(raw)[0], encoding
        except _Poison:
            continue
    return _base64(raw)[0], "base64"


_PARSERS: dict[str, Callable[[bytes], tuple[Any, str]]] = {
    "auto": _auto,
    "json": _json,
    "text": _text,
    "base64": _base64,
}
