"""Sends an MQTT message.

Text is sent as it is, any other `payload` as JSON; without one the step's own payload is sent. With
`encoding: base64` the payload is the base64 of the bytes to send; an empty text with `retain` makes the broker forget
what it kept. The step is done when the broker has acknowledged the message, and fails (to be tried again) when the
broker is away. QoS 0 and 1 may arrive twice after a crash; QoS 2 is never sent twice unless the flow says so. The
result is `{"topic", "qos", "bytes"}`.

    {"broker": "mqtt://127.0.0.1:1883", "topic": "lamp/{{ payload.room }}/set", "payload": {"on": true}, "qos": 1}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from appliance.contracts import Config, ConfigError, Context, Effect, Node, Pending, Problem, World

_URL = re.compile(r"mqtts?://[^/\s]+")
#: OASIS MQTT 3.1.1, 1.5.3.
_LONGEST_TOPIC = 65_535


class MqttPublishConfig(Config, frozen=True, kw_only=True):
    broker: Annotated[
        str, Meta(title="Broker", description="mqtt://user:password@host:1883, or mqtts:// for TLS (?ca=file)")
    ] = "mqtt://127.0.0.1:1883"
    topic: Annotated[str, Meta(title="Topic", description="One topic, without wildcards.", min_length=1)]
    payload: Annotated[Any, Meta(title="Payload", description="Left out: the step's own payload.")] = UNSET
    encoding: Annotated[
        Literal["text", "base64"], Meta(title="Encoding", description="Whether the payload is the base64 of bytes.")
    ] = "text"
    qos: Annotated[Literal[0, 1, 2], Meta(title="QoS")] = 1
    retain: Annotated[bool, Meta(title="Retain", description="The broker keeps it for those who come later.")] = False


class MqttPublish(Node[MqttPublishConfig]):
    Config = MqttPublishConfig
    title = "MQTT publish"
    category = "network"
    icon = "radio"
    effect = Effect.IDEMPOTENT
    inline = True

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        """At least once is what QoS 0 and 1 promise anyway; a QoS that is not known yet is taken for 2."""
        return Effect.IDEMPOTENT if str(config.get("qos", 1)) in ("0", "1") else Effect.ONCE

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        broker, topic = config.get("broker"), config["topic"]
        if isinstance(broker, str) and "{{" not in broker and not _URL.match(broker):
            yield Problem("broker", "must be a URL such as mqtt://127.0.0.1:1883")
        if "{{" not in topic and (fault := _fault(topic)):
            yield Problem("topic", fault)

    def run(self, ctx: Context, config: MqttPublishConfig, payload: Any) -> Pending:
        if fault := _fault(config.topic):
            raise ConfigError(f"topic: {fault}")
        content = _content(payload if config.payload is UNSET else config.payload, config.encoding)
        return ctx.mqtt.publish(config.broker, config.topic, content, config.qos, config.retain)


def _fault(topic: str) -> str:
    """What is wrong with a topic name (OASIS MQTT 3.1.1, 4.7), or nothing."""
    if "+" in topic or "#" in topic:
        return "a message goes to one topic; + and # are for subscribing"
    if not topic or "\0" in topic or len(topic.encode("utf-8", "replace")) > _LONGEST_TOPIC:
        return "must be 1 to 65,535 bytes without a NUL character"
    return ""


def _content(value: Any, encoding: str) -> bytes:
    if encoding == "base64":
        try:
            return base64.b64decode(value, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise ConfigError("payload: is not base64 text") from None
    try:
        return value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigError(f"payload: cannot be written as JSON: {exc}") from None
