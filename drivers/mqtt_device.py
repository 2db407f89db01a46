"""Devices that announce themselves over MQTT: Zigbee2MQTT, ESPHome, Tasmota, and whatever else Home Assistant finds.

All that is announced at the broker appears with its entities, as it does in Home Assistant: both forms of its MQTT
discovery (one message an entity, one message a device) and Tasmota's own. Known kinds are binary_sensor, button,
climate, cover, device_automation (remote controls), event, fan, light, lock, number, scene, select, sensor, siren,
switch, text and valve. An entity's id is its kind and its unique id: `sensor.0x00158d0004_temperature_zigbee2mqtt`.

Events: `changed` (the new value; `attrs` has what else the entity tells, such as brightness or position), `state` (the
value that the broker had kept, told once at the start), `event` (a button's press: `value` is which), `lost` and
`back` (the device went off line and came back), `found` and `gone` (it was announced, or taken back; `value` is its
name). Commands name the entity and set its value or what else it has:

    {"entity": "switch.plug", "value": true}
    {"entity": "light.desk", "value": true, "brightness": 128}
    {"entity": "cover.blind", "position": 40}
    {"entity": "climate.hall", "value": "heat", "temperature": 21.5}
    {"entity": "button.restart", "value": "press"}

A command is done when the broker has it and, for switches, lights, numbers, selects, texts and modes, when the device
has told its new state within `confirm` seconds. Templates of devices run in Jinja2's sandbox, without loops and macros.
With `birth` the devices are asked at the start to tell all their states (as Home Assistant does when it comes up).
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Meta

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Observation, Stop
from drivers.support import discovery, tasmota
from drivers.support.discovery import Announced, BadAnnouncement, BadTemplate
from drivers.support.trust import tls_context

# Neither paho nor Jinja2 is loaded before a broker is named: most machines need neither.
if TYPE_CHECKING:
    import paho.mqtt.client as paho

    from drivers.support.announced import Change, Thing

logger = logging.getLogger(__name__)

#: Seconds to reach the broker, and for a device to be announced after that when a command is already there.
PATIENCE, ANNOUNCED_WITHIN = 5.0, 2.0
MOST_ENTITIES = 5_000
_BROKER = "broker"
_EXAMPLE = "write mqtt://user:password@host:1883 or mqtts://host:8883?ca=/path/to/ca.pem"


class MqttDeviceConfig(DriverConfig, frozen=True):
    broker: Annotated[str, Meta(title="Broker", description="mqtt://user:password@host:1883, or mqtts:// for TLS")] = (
        "mqtt://127.0.0.1:1883"
    )
    prefix: Annotated[str, Meta(title="Discovery prefix", pattern=r"^[^+#\x00]+$")] = "homeassistant"
    confirm: Annotated[
        float, Meta(title="Seconds until a device has confirmed", description="0: don't wait", ge=0, le=60)
    ] = 5.0
    birth: Annotated[bool, Meta(title="Ask devices for their states at the start")] = False


class MqttDevice(Driver[MqttDeviceConfig]):
    type = "mqtt_device"
    title = "Devices announced over MQTT"
    Config = MqttDeviceConfig

    def __init__(self, config: MqttDeviceConfig, host: Any) -> None:
        super().__init__(config, host)
        self._changed = threading.Condition(threading.RLock())
        self._client: paho.Client | None = None
        self._address = ""
        self._refusal = ""
        self._connected = False
        self._away_since: float | None = None
        self._emit: Emit | None = None
        self._watch: object = None
        self._things: dict[str, Thing] = {}
        self._announced: dict[str, list[str]] = {}  # ids by the topic that announced them
        self._readers: dict[str, list[Thing]] = {}  # by the topic that they read
        self._tasmota: dict[str, dict[str, Any]] = {}

    # --- the contract ---

    def open(self) -> None:
        with self._changed:
            if self._client is not None:
                return
            client, place = _client(self.config.broker)
            self._address, self._refusal = f"{place[0]}:{place[1]}", ""
            client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
            client.on_message = self._on_message
            self._client = client
        try:
            client.connect(*place, keepalive=30)
            client.loop_start()
            with self._changed:
                self._changed.wait_for(lambda: self._connected or self._refusal or self._client is None, PATIENCE)
                refusal = "" if self._connected else self._refusal or "it does not answer"
        except (OSError, ValueError) as exc:
            refusal = f"{getattr(exc, 'strerror', None) or exc}; is it running, and is the address right?"
        if refusal:
            self.close()
            raise DriverError(f"the broker at {self._address} cannot be used: {refusal}")

    def close(self) -> None:
        with self._changed:
            client, self._client = self._client, None
            self._connected, self._emit, self._watch = False, None, None
            for memory in (self._things, self._announced, self._readers, self._tasmota):
                memory.clear()
            self._changed.notify_all()
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def events(self, emit: Emit) -> Stop:
        watch = object()
        with self._changed:
            self._must_be_open()
            if self._watch is not None:
                raise DriverError(f"the broker at {self._address} is watched already", retryable=False)
            self._watch, self._emit = watch, emit
            for thing in self._things.values():
                self._say_of(thing, "found")
                if thing.known:
                    self._tell(thing, thing.state(), "state")

        def stop() -> None:
            with self._changed:
                if self._watch is watch:
                    self._watch, self._emit = None, None

        return stop

    def write(self, command: Mapping[str, Any]) -> Any:
        wanted = {name: value for name, value in command.items() if name != "entity"}
        with self._changed:
            client = self._must_be_open()
            thing = self._find(command.get("entity"))
            if not self._connected:
                raise DriverError(f"the broker at {self._address} is away")
            if thing.online is False:
                raise DriverError(f"{thing.name} is off line; is it switched on and in reach?")
            messages = thing.told(wanted)
        for topic, payload in messages:
            self._publish(client, topic, payload, thing.retain)
        with self._changed:
            for change in thing.assume(wanted):
                self._tell(thing, change, change.kind)
        confirmed = self._confirmed(thing, wanted)
        topics = [topic for topic, _ in messages]
        return {"entity": thing.id, **wanted, "topics": topics, "confirmed": confirmed}

    def entities(self) -> list[Entity]:
        with self._changed:
            things = sorted(self._things.values(), key=lambda thing: thing.id)
            return [_entity(thing) for thing in things]

    # --- commands ---

    def _find(self, name: Any) -> Thing:
        """Raises ``DriverError``. One that has just connected waits for the announcements that the broker keeps."""
        if not isinstance(name, str):
            raise DriverError('a command names its entity: {"entity": "switch.plug", "value": true}', retryable=False)
        self._changed.wait_for(lambda: name in self._things or self._client is None, ANNOUNCED_WITHIN)
        thing = self._things.get(name)
        if thing is None:
            text = (
                f"no device at {self._address} has announced {name[:200]!r}; `flowork device list` shows what there is"
            )
            raise DriverError(text)
        return thing

    def _publish(self, client: paho.Client, topic: str, payload: str, retain: bool) -> None:
        """Returns when the broker has it. Not called with the lock: paho's own is held when its callbacks want ours."""
        info = client.publish(topic, payload, 1, retain)
        try:
            info.wait_for_publish(PATIENCE)
        except (RuntimeError, ValueError) as exc:
            raise DriverError(f"the broker at {self._address} has not taken the command: {exc}") from None
        if not info.is_published():
            raise DriverError(f"the broker at {self._address} does not acknowledge; the command may still arrive")

    def _confirmed(self, thing: Thing, wanted: Mapping[str, Any]) -> bool:
        """Whether the device has told what it was asked for; false where that is not waited for."""
        if not thing.parts.confirms or "value" not in wanted or not self.config.confirm:
            return False
        with self._changed:
            told = self._changed.wait_for(
                lambda: thing.value == wanted["value"] or self._client is None, self.config.confirm
            )
        if not told:
            raise DriverError(
                f"{thing.name} has not confirmed within {self.config.confirm:g} s; it may be off or out of reach"
            )
        return True

    # --- the connection; its callbacks run on paho's thread ---

    def _must_be_open(self) -> paho.Client:
        if self._client is None:
            raise DriverError(f"{self.type} is not open")
        return self._client

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            if client is not self._client:
                return
            if reason.is_failure:
                self._refusal = f"it refuses us: {reason}; are user and password right?"
            else:
                self._connected = True
                self._welcome(client)
            self._changed.notify_all()

    def _welcome(self, client: paho.Client) -> None:
        prefix = self.config.prefix
        places = [f"{prefix}/+/+/config", f"{prefix}/+/+/+/config", f"{tasmota.PREFIX}/+/+", *self._readers]
        _subscribe(client, places)
        if self.config.birth:
            client.publish(f"{prefix}/status", "online", 1)
        if self._away_since is not None:
            away, self._away_since = self.host.monotonic() - self._away_since, None
            self._say(Observation(_BROKER, "gap", round(away, 3), self.host.now()))

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        with self._changed:
            was, self._connected = self._connected, False
            if was and client is self._client:
                self._away_since = self.host.monotonic()
                self._say(Observation(_BROKER, "lost", str(reason), self.host.now()))
            self._changed.notify_all()

    def _on_message(self, client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        with self._changed:
            if client is not self._client:
                return
            try:
                self._hear(client, message.topic, bytes(message.payload), message.retain)
            except Exception:  # a device must not end the thread that hears all others
                logger.exception("a message at %s", message.topic[:200])
            self._changed.notify_all()

    def _hear(self, client: paho.Client, topic: str, payload: bytes, retained: bool) -> None:
        if found := discovery.place(topic, self.config.prefix):
            self._discover(client, topic, lambda: discovery.read(*found, payload))
        elif place := tasmota.place(topic):
            self._discover(client, f"{tasmota.PREFIX}/{place[0]}", lambda: self._of_tasmota(*place, payload))
        for thing in list(self._readers.get(topic, ())):
            kept = retained and not thing.known  # what differs from what was known is news, wherever it was kept
            try:
                for change in thing.hear(topic, payload):
                    if retained and change.kind == "event":
                        continue  # a press that the broker kept is none
                    self._tell(thing, change, "state" if kept and change.kind == "changed" else change.kind)
            except BadTemplate as exc:
                logger.info("what %s says at %s cannot be read: %s", thing.id, topic[:200], str(exc)[:300])

    # --- announcements ---

    def _of_tasmota(self, mac: str, part: str, payload: bytes) -> list[Announced]:
        if mac not in self._tasmota and len(self._tasmota) >= MOST_ENTITIES:
            raise BadAnnouncement(f"more than {MOST_ENTITIES} devices are announced")
        said = self._tasmota.setdefault(mac, {})
        said[part] = tasmota.parse(payload)
        return tasmota.entities(mac, said.get("config", {}), said.get("sensors", {}))

    def _discover(self, client: paho.Client, topic: str, read: Any) -> None:
        """What a topic announces takes the place of what it had announced before."""
        try:
            announced = read()
        except BadAnnouncement as exc:
            logger.warning("the announcement at %s is not understood: %s", topic[:200], str(exc)[:300])
            return
        before = {name: self._forget(name) for name in self._announced.pop(topic, [])}
        topics_before = {place for thing in before.values() for place in thing.topics()}
        fresh: set[str] = set()
        for each in announced:
            thing = self._thing(each)
            if thing is None:
                continue
            old = before.get(thing.id)
            if old is not None and old.config == thing.config:
                thing = old  # told again: what it is known to be stays known
            else:
                fresh |= thing.topics()
                if old is None:
                    self._say_of(thing, "found")
            self._keep(thing)
            self._announced.setdefault(topic, []).append(thing.id)
        for name in before.keys() - self._things.keys():
            self._say_of(before[name], "gone")
        if gone := sorted(topics_before - self._readers.keys()):
            client.unsubscribe(gone)
        # A topic that is subscribed to again sends once more what it keeps: that is wanted for a new reader.
        _subscribe(client, sorted(fresh))

    def _keep(self, thing: Thing) -> None:
        self._things[thing.id] = thing
        for topic in thing.topics():
            self._readers.setdefault(topic, []).append(thing)

    def _forget(self, name: str) -> Thing:
        thing = self._things.pop(name)
        for topic in thing.topics():
            self._readers[topic].remove(thing)
            if not self._readers[topic]:
                del self._readers[topic]
        return thing

    def _thing(self, announced: Announced) -> Thing | None:
        if announced.id in self._things:
            logger.warning("%s is announced twice; the first one counts", announced.id)
            return None
        if len(self._things) >= MOST_ENTITIES:
            logger.warning("more than %d entities are announced; %s is left out", MOST_ENTITIES, announced.id)
            return None
        from drivers.support.announced import Thing

        try:
            return Thing(announced)
        except BadAnnouncement as exc:
            logger.info("%s is left out: %s", announced.id, str(exc)[:300])
            return None

    # --- telling ---

    def _tell(self, thing: Thing, change: Change, kind: str) -> None:
        attrs = {"name": thing.name, **({"device": thing.device} if thing.device else {})}
        if thing.unit:
            attrs["unit"] = thing.unit
        attrs |= change.attrs
        self._say(Observation(thing.id, kind, change.value, self.host.now(), attrs))

    def _say_of(self, thing: Thing, kind: str) -> None:
        self._say(Observation(thing.id, kind, thing.name, self.host.now(), {"device": thing.device}))

    def _say(self, observation: Observation) -> None:
        if self._emit is not None:
            try:
                self._emit(observation)
            except Exception:
                logger.exception("what %s says could not be handed on", observation.source)


def _entity(thing: Thing) -> Entity:
    schema = thing.schema()
    return Entity(thing.id, thing.name, thing.parts.kind, thing.unit, bool(schema), schema)


def _client(url: str) -> tuple[paho.Client, tuple[str, int]]:
    """A client that is not connected yet, and where to. Raises ``DriverError``, without the password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DriverError(f"this is not a broker's address; {_EXAMPLE}", retryable=False) from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise DriverError(f"this is not a broker's address; {_EXAMPLE}", retryable=False)
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect_timeout = PATIENCE
    client.reconnect_delay_set(1, 10)
    client.on_socket_open = _without_delay
    if parts.username:
        client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
    if parts.scheme == "mqtts":
        client.tls_set_context(_tls(dict(parse_qsl(parts.query))))
    return client, (parts.hostname, port or (8883 if parts.scheme == "mqtts" else 1883))


def _without_delay(_client: Any, _data: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _subscribe(client: paho.Client, topics: Sequence[str]) -> None:
    for start in range(0, len(topics), 50):
        client.subscribe([(topic, 1) for topic in topics[start : start + 50]])


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        return tls_context(options.get("ca", ""))
    except OSError as exc:
        raise DriverError(f"the broker's certificate file cannot be used: {exc}", retryable=False) from None
