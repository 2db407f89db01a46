"""Events on their way to other engines: kept with the step that sent them, gone once they are a run on disk there.

The outbox lies among the engine's durable values, so an event is in the same commit as the end of its step: none is
lost and none is there twice. Each has a number that is never given again; the receiving trigger keeps the last number
with the run that it starts (:mod:`appliance.kernel.peering.events`). Per peer they go in order, some at a time.

It is bounded by bytes, number and age. What had to be left out is counted, and told to the peer with the next event.
Everything runs on the engine's thread.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from appliance.contracts import Busy, FlowError
from appliance.contracts.peers import PeerAway, Peers, PeerState
from appliance.engine import trace
from appliance.kernel.peering import wire
from appliance.kernel.state import GONE, OUTBOX

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine
    from appliance.kernel.runs import LiveRun

logger = logging.getLogger(__name__)

MOST, MOST_BYTES, LONGEST = 20_000, 16_000_000, 7 * 86_400.0
#: Events and bytes of one message.
BATCH, BATCH_BYTES = 100, 800_000
#: Seconds for a peer to bring a message to its disk, and before one that refused is asked again.
PATIENCE, PAUSE = 60.0, 30.0


class Outbox:
    """All events that are not at their engine yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.peers: Peers | None = None
        self._under_way: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._paused: set[str] = set()

    # --- in ------------------------------------------------------------------------------------------

    def put(self, run: LiveRun, events: Sequence[tuple[str, str, Any]]) -> None:
        """Keep a step's events (peer, topic, payload) together with what the step is committed with."""
        values = self._values()
        changes: dict[str, Any] = {}
        if "@name" not in values:
            changes["@name"] = secrets.token_hex(6)
        number = int(values.get("@seq", 0))
        now = self._engine.services.wall()
        for peer, topic, payload in events:
            number += 1
            light = wire.light(payload, self._engine.services.blobs)
            changes[f"{peer} {number:015d}"] = {"topic": topic, "payload": light, "at": now, "run": run.text}
        changes["@seq"] = number
        self._engine.keeper.state_ops(run, changes, OUTBOX)
        self._bound()
        self._engine.keeper.after_commit(self.send)

    def _values(self) -> dict[str, Any]:
        return self._engine.services.states.of(OUTBOX)

    def _entries(self, peer: str) -> list[tuple[str, Any]]:
        begin = f"{peer} "
        return sorted((key, value) for key, value in self._values().items() if key.startswith(begin))

    def _bound(self) -> None:
        """Leave out what is too old, then the oldest, until there is room."""
        entries = sorted(
            ((key, value) for key, value in self._values().items() if not key.startswith("@")),
            key=lambda entry: entry[0].rpartition(" ")[2],
        )
        self._sizes = {key: self._sizes.get(key) or len(trace.pack(value)) for key, value in entries}
        total, count = sum(self._sizes.values()), len(entries)
        oldest = self._engine.services.wall() - LONGEST
        dropped: dict[str, Any] = {}
        for key, value in entries:
            if total <= MOST_BYTES and count <= MOST and value["at"] >= oldest:
                break
            dropped[key] = GONE
            total, count = total - self._sizes.pop(key), count - 1
            lost = f"@lost {key.partition(' ')[0]}"
            dropped[lost] = int(dropped.get(lost, self._values().get(lost, 0))) + 1
        if dropped:
            logger.warning("the outbox to peers is full or too old: %d events were left out", len(dropped))
            self._engine.keeper.loose_ops(dropped, OUTBOX)

    # --- out -----------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what waits to every peer that is there."""
        if self.peers is None or len(self._values()) <= 2:
            return
        for state in self.peers.states():
            if state.connected:
                self._send(state)

    def changed(self, state: PeerState) -> None:
        """A peer is back, or lets this engine do something else."""
        if state.connected:
            self._paused.discard(state.id)
            self._send(state)

    def _send(self, state: PeerState) -> None:
        if self.peers is None or state.id in self._under_way or state.id in self._paused:
            return
        batch: list[dict[str, Any]] = []
        size = 0
        for key, value in self._entries(state.id)[:BATCH]:
            size += self._sizes.get(key) or len(trace.pack(value))
            if batch and size > BATCH_BYTES:
                break
            event = {name: value[name] for name in ("topic", "payload", "at", "run")}
            batch.append({"seq": int(key.rpartition(" ")[2]), **event})
        if not batch:
            return
        values = self._values()
        body = {"outbox": values["@name"], "events": batch, "missed": int(values.get(f"@lost {state.id}", 0))}
        self._under_way[state.id] = batch[-1]["seq"]
        future = self.peers.request(state.id, "event", body, PATIENCE)
        post = self._engine.post
        future.add_done_callback(lambda done: post(partial(self._answered, state, body["missed"], done)))

    def _answered(self, state: PeerState, missed: int, done: Future[Any]) -> None:
        self._under_way.pop(state.id, None)
        exc = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(exc, PeerAway):
            return  # it is told of when the peer is back
        if exc is not None:
            reason = exc.message if isinstance(exc, FlowError) else str(exc)
            logger.warning("%s does not take events: %s", state.name, reason)
            self._pause(state, exc.retry_after if isinstance(exc, Busy) else PAUSE)
            return
        answer = done.result()
        upto = int(answer.get("upto", 0))
        gone: dict[str, Any] = {key: GONE for key, _ in self._entries(state.id) if int(key.rpartition(" ")[2]) <= upto}
        if missed and gone:
            left = int(self._values().get(f"@lost {state.id}", 0)) - missed
            gone[f"@lost {state.id}"] = left if left > 0 else GONE
        for key in gone:
            self._sizes.pop(key, None)
        if gone:
            self._engine.keeper.loose_ops(gone, OUTBOX)
        if pause := float(answer.get("pause", 0.0)):
            self._pause(state, pause)
        else:
            self._send(state)

    def _pause(self, state: PeerState, seconds: float) -> None:
        self._paused.add(state.id)

        def again() -> None:
            self._paused.discard(state.id)
            self.send()

        self._engine.timers.after(min(max(seconds, 0.1), 300.0), again)

    def view(self) -> dict[str, Any]:
        """How many events wait for each peer, since when, and how many were left out."""
        found: dict[str, dict[str, Any]] = {}
        for key, value in self._values().items():
            head, _, rest = key.partition(" ")
            if head == "@lost":
                found.setdefault(rest, _none())["lost"] = value
            elif not head.startswith("@"):
                one = found.setdefault(head, _none())
                one["waiting"] += 1
                one["since"] = min(one["since"] or value["at"], value["at"])
        return found


def _none() -> dict[str, Any]:
    return {"waiting": 0, "since": None, "lost": 0}
