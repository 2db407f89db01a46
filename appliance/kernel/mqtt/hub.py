"""All MQTT of an engine: one thread, one event loop, every connection on it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from appliance.contracts import ConfigError, Message, NodeError, Pending

if TYPE_CHECKING:
    import asyncio

    from appliance.kernel.mqtt.publisher import Publisher
    from appliance.kernel.mqtt.subscription import Subscription


class MqttStatus(Struct, frozen=True):
    """One connection, for the health page. ``since`` is the Unix second of its last change.

    ``waiting``: messages that were read and not taken yet, or sent and not acknowledged yet.
    """

    broker: str
    role: str
    client_id: str
    ok: bool
    text: str
    since: float
    waiting: int
    received: int


class MqttHub:
    """The engine's MQTT, as :class:`appliance.contracts.Mqtt` says. Safe from any thread.

    ``name`` distinguishes this engine (and process) at the brokers and stays the same over restarts.
    ``patience``: seconds until a message that the broker has not acknowledged fails. ``idle``: seconds after
    which an unused publish connection is closed. ``keepalive``: seconds between signs of life.
    """

    def __init__(
        self,
        name: str,
        *,
        patience: float = 10.0,
        idle: float = 300.0,
        keepalive: float = 30.0,
        process: str = "",
    ) -> None:
        """``process`` tells apart the kernels of a cluster, which have one name: what one of them subscribed to,
        another goes on with, but each publishes on a connection of its own.
        """
        self._name = name
        self._process = process
        self._patience = patience
        self._idle = idle
        self._keepalive = keepalive
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._publishers: dict[str, Publisher] = {}
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        return self._name

    def publish(self, broker: str, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> Pending:
        """Completes with ``{"topic", "qos", "bytes"}`` when the broker has acknowledged (QoS 0: when sent).

        Fails with ``NodeError`` when that does not happen in time. Raises ``ConfigError``.
        """
        encoded = _encoded(topic)
        if qos not in (0, 1, 2):
            raise ConfigError(f"QoS is 0, 1 or 2, not {qos!r}")
        publisher = self._publishers.get(broker) or self._open_publisher(broker)
        return publisher.publish(encoded, payload, qos, retain)

    def subscribe(
        self,
        broker: str,
        topic: str | Sequence[str],
        qos: int,
        client_id: str,
        on_messages: Callable[[list[Message]], None],
        on_status: Callable[[bool, str], None],
    ) -> Callable[[], None]:
        """As the contract says; the callbacks run on the hub's thread. Raises ``ConfigError``."""
        from appliance.kernel.mqtt import broker as addresses
        from appliance.kernel.mqtt.link import Timing
        from appliance.kernel.mqtt.subscription import Subscription

        if not client_id:
            raise ConfigError("a persistent session needs a client id")
        if qos not in (0, 1, 2):
            raise ConfigError(f"QoS is 0, 1 or 2, not {qos!r}")
        subscription = Subscription(
            addresses.parse(broker),
            addresses.check_filters(topic),
            qos,
            client_id,
            on_messages,
            on_status,
            Timing(keepalive=self._keepalive),
        )
        with self._lock:
            loop = self._running()
            self._subscriptions.append(subscription)
            loop.call_soon_threadsafe(subscription.start)
        return lambda: self._unsubscribe(subscription)

    def status(self) -> list[MqttStatus]:
        """Every connection that there is or should be."""
        with self._lock:
            publishers = [each for each in self._publishers.values() if each.active]
            clients: list[Publisher | Subscription] = [*publishers, *self._subscriptions]
        return [
            MqttStatus(
                broker=str(each.link.broker),
                role=each.role,
                client_id=each.link.client_id,
                ok=each.link.ok,
                text=each.link.text,
                since=each.link.since,
                waiting=each.waiting,
                received=each.received,
            )
            for each in clients
        ]

    def close(self) -> None:
        """End every connection and the thread. Calling it twice is fine."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
            clients: list[Publisher | Subscription] = [*self._subscriptions, *self._publishers.values()]
            self._subscriptions.clear()
        if loop is None or thread is None:
            return
        _wait(loop, _stop_all(clients), 5.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription not in self._subscriptions:
                return
            self._subscriptions.remove(subscription)
            loop = self._running()
        subscription.mute()
        if threading.current_thread() is self._thread:
            task = loop.create_task(subscription.stop())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            _wait(loop, subscription.stop(), 3.0)

    def _open_publisher(self, url: str) -> Publisher:
        from appliance.kernel.mqtt import broker as addresses
        from appliance.kernel.mqtt.publisher import Publisher

        broker = addresses.parse(url)
        with self._lock:
            loop = self._running()
            if url not in self._publishers:
                # Two addresses of one broker must not throw each other out.
                who = f"{broker} {broker.user} {self._process}".rstrip()
                own = hashlib.blake2b(who.encode(), digest_size=4).hexdigest()
                self._publishers[url] = Publisher(
                    broker,
                    f"{self._name}-publish-{own}",
                    loop,
                    patience=self._patience,
                    idle=self._idle,
                    keepalive=self._keepalive,
                )
            return self._publishers[url]

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop, started on first use; the lock is held."""
        if self._closed:
            raise NodeError("MQTT is stopping with the engine")
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=_run, args=(self._loop,), name="mqtt", daemon=True)
            self._thread.start()
        return self._loop


@lru_cache(maxsize=1024)
def _encoded(topic: str) -> bytes:
    from appliance.kernel.mqtt import broker, wire

    return wire.text(broker.check_topic(topic))


def _run(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _stop_all(clients: list[Publisher | Subscription]) -> None:
    import asyncio

    await asyncio.gather(*(each.stop() for each in clients))


def _wait(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], seconds: float) -> None:
    """Have the loop do it and wait, but not for ever: the caller may hold what the loop waits for."""
    import asyncio

    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # the loop has just been closed
        work.close()
        return
    try:
        future.result(seconds)
    except TimeoutError:
        future.cancel()
