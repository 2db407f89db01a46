"""This engine as a device of Home Assistant: its flows announced over MQTT, in the form of its MQTT discovery.

Each deployed flow is a switch (its triggers on or off), a sensor (how its last run ended) and a button (start a run).
All of them are one retained message at ``<prefix>/device/flowork_<engine>/config``; states are retained too. They are
told anew when the broker is back, when Home Assistant comes up (``<prefix>/status``) and when a flow changes.

MQTT's last will is not used: after a power cut the broker goes on saying ``online`` until the engine is back.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError, FlowError, Message, Mqtt, RunEnded

logger = logging.getLogger(__name__)

#: Messages that may wait to be carried out; more are left to the broker.
_MOST_WAITING = 200


class Shown(Struct, frozen=True):
    """A deployed flow: its id and name, and whether its triggers are on."""

    id: str
    name: str
    enabled: bool


class Announcer:
    """Used by any thread. ``flows`` lists what is deployed, ``enable`` and ``run`` do what Home Assistant asks for.

    They may raise ``FlowError``, which is logged: there is nobody to tell.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        broker: str,
        prefix: str,
        flows: Callable[[], Sequence[Shown]],
        enable: Callable[[str, bool], None],
        run: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._mqtt = mqtt
        self._broker = broker
        self._prefix = prefix
        self._flows = flows
        self._enable = enable
        self._run = run
        self._now = now
        self._base = f"flowork/{mqtt.name}"
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_WAITING)
        self._last: dict[str, dict[str, Any]] = {}
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Connect and announce. Raises ``ConfigError`` for a broker's address that is none."""
        topics = [f"{self._base}/flow/+/enabled/set", f"{self._base}/flow/+/run", f"{self._prefix}/status"]
        self._unsubscribe = self._mqtt.subscribe(
            self._broker, topics, 1, f"{self._mqtt.name}-announce", self._take, self._connected
        )
        self._thread = threading.Thread(target=self._work, name="announce", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Say that the engine is off. Twice is fine."""
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is None:
            return
        unsubscribe()
        gone = threading.Event()
        self._mqtt.publish(self._broker, f"{self._base}/status", b"offline", 1, True).then(lambda *_: gone.set())
        gone.wait(1.0)
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    def changed(self) -> None:
        """A flow was deployed, switched, renamed or deleted."""
        self._later(self._announce)

    def ended(self, run: RunEnded) -> None:
        """A run is over. Called on the engine's thread."""
        self._last[run.flow] = {"state": run.state, "run": run.run, "at": round(self._now(), 3)}
        self._later(partial(self._tell_last, run.flow))

    # --- what comes in; on the thread of the MQTT connections ---

    def _connected(self, ok: bool, text: str) -> None:
        if ok:
            self._later(self._announce)
        else:
            logger.info("flows are not announced at the moment: %s", text)

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            self._later(partial(self._obey, message))

    def _later(self, job: Callable[[], None]) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            logger.warning("too much is asked for over MQTT at once; some of it is left out")

    # --- on the announcer's own thread ---

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except FlowError as exc:
                logger.warning("%s", exc.message)
            except Exception:
                logger.exception("announcing flows failed")

    def _obey(self, message: Message) -> None:
        try:
            self._obeyed(message)
        finally:
            message.ack()

    def _obeyed(self, message: Message) -> None:
        if message.topic == f"{self._prefix}/status":
            if message.payload == b"online":
                self._announce()
            return
        if message.retain:
            logger.warning("a retained message at %s is not obeyed: send it without", message.topic)
            return
        flow, _, verb = message.topic.removeprefix(f"{self._base}/flow/").partition("/")
        if flow not in {each.id for each in self._flows()}:
            raise ConfigError(f"no flow {flow[:64]!r} is deployed that {message.topic[:200]} could be about")
        if verb == "run":
            self._run(flow)
        elif message.payload in (b"ON", b"OFF"):
            try:
                self._enable(flow, message.payload == b"ON")
            finally:  # a switch that was refused goes back to where it was
                self._announce()

    def _announce(self) -> None:
        flows = self._flows()
        parts: dict[str, Any] = {}
        for flow in flows:
            parts |= self._parts(flow)
        device = {"ids": [self._mqtt.name], "name": f"Flowork {self._mqtt.name.removeprefix('flowork-')[:8]}"}
        config = {
            "dev": {**device, "mf": "Flowork", "mdl": "Automation appliance"},
            "o": {"name": "Flowork"},
            "avty_t": f"{self._base}/status",
            "cmps": parts,
            "qos": 1,
        }
        self._publish(f"{self._prefix}/device/{self._mqtt.name}/config", msgspec.json.encode(config))
        self._publish(f"{self._base}/status", b"online")
        for flow in flows:
            self._publish(f"{self._base}/flow/{flow.id}/enabled", b"ON" if flow.enabled else b"OFF")
            self._tell_last(flow.id)

    def _parts(self, flow: Shown) -> dict[str, Any]:
        place, name = f"{self._base}/flow/{flow.id}", f"{self._mqtt.name}_{flow.id}"
        return {
            f"{flow.id}_enabled": {
                "p": "switch",
                "name": flow.name,
                "uniq_id": f"{name}_enabled",
                "stat_t": f"{place}/enabled",
                "cmd_t": f"{place}/enabled/set",
                "ic": "mdi:sitemap",
            },
            f"{flow.id}_state": {
                "p": "sensor",
                "name": f"{flow.name}: last run",
                "uniq_id": f"{name}_state",
                "stat_t": f"{place}/state",
                "val_tpl": "{{ value_json.state }}",
                "json_attr_t": f"{place}/state",
            },
            f"{flow.id}_run": {
                "p": "button",
                "name": f"{flow.name}: run",
                "uniq_id": f"{name}_run",
                "cmd_t": f"{place}/run",
            },
        }

    def _tell_last(self, flow: str) -> None:
        if last := self._last.get(flow):
            self._publish(f"{self._base}/flow/{flow}/state", msgspec.json.encode(last))

    def _publish(self, topic: str, payload: bytes) -> None:
        """Without waiting: once the broker is back, all is told anew."""
        self._mqtt.publish(self._broker, topic, payload, 1, True)
