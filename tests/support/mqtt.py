"""Both ends of the MQTT hub as tests use it: a subscriber that keeps everything, and waiting for a publish."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from appliance.contracts import Busy, Message, Pending
from appliance.kernel.mqtt import MqttHub
from tests.support.broker import PATIENCE, eventually


class Listener:
    """Collects what a subscription hands over, and refuses while ``room`` is smaller than a batch."""

    def __init__(self, *, ack: bool = True, room: int = 10**9) -> None:
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        self.states: list[tuple[bool, str]] = []
        self.refused = 0
        self.room = room
        self._ack = ack

    def on_messages(self, batch: list[Message]) -> None:
        if len(batch) > self.room:
            self.refused += 1
            raise Busy(retry_after=0.01)
        self.messages += batch
        self.sizes.append(len(batch))
        for message in batch:
            if self._ack:
                message.ack()

    def on_status(self, ok: bool, text: str) -> None:
        self.states.append((ok, text))

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    @contextmanager
    def on(self, hub: MqttHub, url: str, topic: str | list[str], qos: int = 1, client: str = "") -> Iterator[None]:
        """Subscribed while the block runs; begins when the broker has agreed."""
        stop = hub.subscribe(url, topic, qos, client or f"{topic}", self.on_messages, self.on_status)
        try:
            eventually(lambda: self.states and self.states[-1][0], f"not connected: {self.states}")
            yield
        finally:
            stop()


def outcome(pending: Pending) -> Any:
    """What a publish came to; raises what it failed with."""
    settled = threading.Event()
    found: list[Any] = []

    def settle(value: Any, error: BaseException | None) -> None:
        found.append((value, error))
        settled.set()

    pending.then(settle)
    assert settled.wait(PATIENCE)
    value, error = found[0]
    if error is not None:
        raise error
    return value
