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
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from appliance.contracts import Busy, ConfigError, FlowError
from appliance.contracts.peers import PeerAway, PeerFailed, PeerNotAllowed, Peers, PeerState
from appliance.engine import trace
from appliance.kernel.peering import wire
from appliance.kernel.state import GONE, OUTBOX

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine
    from appliance.kernel.runs import LiveRun

logger = logging.getLogger(__name__)

MOST, MOST_BYTES, LONGEST = 20_000, 16_000_000, 7 * 86_400.0
#: Keys of events that have no number yet begin with this (see :class:`appliance.kernel.peering.at_home.HomeOutbox`).
FRESH = "@new "
#: Events and bytes of one message.
BATCH, BATCH_BYTES = 100, 800_000
#: Seconds for a peer to bring a message to its disk, and before one that refused is asked again.
PATIENCE, PAUSE = 60.0, 30.0
#: Seconds before a peer is looked for whose link broke.
SOON = 1.0


class Waiting(NamedTuple):
    """One event in the queue of a peer; its key among the durable values, and its bytes there."""

    number: int
    key: str
    size: int
    at: float


class Outbox:
    """All events that are not at their engine yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.peers: Peers | None = None
        self._queues: dict[str, deque[Waiting]] | None = None
        self._bytes = 0
        self._count = 0
        self._under_way: set[str] = set()
        self._paused: set[str] = set()
        #: Peers to whom events go one by one, since one of several could not be sent.
        self._singly: set[str] = set()

    def _values(self) -> dict[str, Any]:
        return self._engine.services.states.of(OUTBOX)

    def _queue(self, peer: str) -> deque[Waiting]:
        return self._all().setdefault(peer, deque())

    def _all(self) -> dict[str, deque[Waiting]]:
        """The queues by peer, read from the durable values once."""
        if self._queues is None:
            self._queues = {}
            self._number_fresh()
            for key, value in sorted(self._values().items()):
                peer, _, number = key.partition(" ")
                if not peer.startswith("@"):
                    self._add(peer, Waiting(int(number), key, len(trace.pack(value)), value["at"]))
        return self._queues

    def _number_fresh(self) -> None:
        """Number what no kernel of the cluster had numbered that this engine was before."""
        values, changes = self._values(), dict[str, Any]()
        number = int(values.get("@seq", 0))
        for key in sorted(key for key in values if key.startswith(FRESH)):
            number += 1
            event = dict(values[key])
            changes |= {key: GONE, f"{event.pop('peer')} {number:015d}": event}
        if changes:
            changes |= {"@seq": number, "@name": values.get("@name") or secrets.token_hex(6)}
            self._engine.keeper.loose_ops(changes, OUTBOX)

    def _add(self, peer: str, event: Waiting) -> None:
        self._queue(peer).append(event)
        self._bytes += event.size
        self._count += 1

    def _take(self, peer: str) -> Waiting:
        """The first event of a peer is done with."""
        event = self._queue(peer).popleft()
        self._bytes -= event.size
        self._count -= 1
        return event

    # --- in ------------------------------------------------------------------------------------------

    def put(self, run: LiveRun, events: Sequence[tuple[str, str, Any]]) -> None:
        """Keep a step's events (peer, topic, payload) together with what the step is committed with."""
        values = self._values()
        self._all()
        changes: dict[str, Any] = {}
        if "@name" not in values:
            changes["@name"] = secrets.token_hex(6)
        number = int(values.get("@seq", 0))
        now = self._engine.services.wall()
        for peer, topic, payload in events:
            number += 1
            light = wire.light(payload, self._engine.services.blobs)
            key = f"{peer} {number:015d}"
            changes[key] = {"topic": topic, "payload": light, "at": now, "run": run.text}
            self._add(peer, Waiting(number, key, len(trace.pack(changes[key])), now))
        changes["@seq"] = number
        self._engine.keeper.state_ops(run, changes, OUTBOX)
        self._bound()
        self._engine.keeper.after_commit(self.send)

    def _bound(self) -> None:
        """Leave out what is too old, then the oldest, until there is room."""
        oldest = self._engine.services.wall() - LONGEST
        dropped: dict[str, Any] = {}
        while self._count:
            peer = min((name for name, queue in self._all().items() if queue), key=lambda name: self._queue(name)[0])
            if self._bytes <= MOST_BYTES and self._count <= MOST and self._queue(peer)[0].at >= oldest:
                break
            self._lose(peer, dropped)
        if dropped:
            logger.warning("the outbox to peers is full or too old: events were left out")
            self._engine.keeper.loose_ops(dropped, OUTBOX)

    def _lose(self, peer: str, changes: dict[str, Any]) -> None:
        """Leave the first event of a peer out, and count it."""
        changes[self._take(peer).key] = GONE
        lost = f"@lost {peer}"
        changes[lost] = int(changes.get(lost, self._values().get(lost, 0))) + 1

    # --- out -----------------------------------------------------------------------------------------

    def send(self) -> None:
        """Send what waits to every peer that is there."""
        if self.peers is None or not any(self._all().values()):
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
        queue = self._queue(state.id)
        if self.peers is None or not queue or state.id in self._under_way or state.id in self._paused:
            return
        values = self._values()
        batch: list[dict[str, Any]] = []
        size = 0
        for event in queue:
            size += event.size
            if batch and (size > BATCH_BYTES or len(batch) >= BATCH or state.id in self._singly):
                break
            batch.append({"seq": event.number, **values[event.key]})
        body = {"outbox": values["@name"], "events": batch, "missed": int(values.get(f"@lost {state.id}", 0))}
        self._under_way.add(state.id)
        future = self.peers.request(state.id, "event", body, PATIENCE)
        post = self._engine.post
        future.add_done_callback(lambda done: post(partial(self._answered, state, len(batch), body["missed"], done)))

    def _answered(self, state: PeerState, count: int, missed: int, done: Future[Any]) -> None:
        self._under_way.discard(state.id)
        exc = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(exc, PeerAway):
            # It is told of when the peer is back; a link that broke may be back by now, and was told of already.
            self._engine.timers.after(SOON, self.send)
            return
        if exc is not None:
            self._refused(state, count, exc)
            return
        answer = done.result()
        upto = int(answer.get("upto", 0))
        queue, gone = self._queue(state.id), dict[str, Any]()
        while queue and queue[0].number <= upto:
            gone[self._take(state.id).key] = GONE
        if gone:
            self._singly.discard(state.id)
            if missed:
                left = int(self._values().get(f"@lost {state.id}", 0)) - missed
                gone[f"@lost {state.id}"] = left if left > 0 else GONE
            self._engine.keeper.loose_ops(gone, OUTBOX)
        if pause := float(answer.get("pause", 0.0)):
            self._pause(state, pause)
        else:
            self._send(state)

    def _refused(self, state: PeerState, count: int, exc: BaseException) -> None:
        """It could not be sent, or was not taken. An event that never can be must not hold up the others for ever."""
        reason = exc.message if isinstance(exc, FlowError) else str(exc)
        logger.warning("events to %s: %s", state.name, reason)
        if isinstance(exc, PeerFailed) and exc.error_id == "blob":
            hopeless = any(self._lacks(event) for event in list(self._queue(state.id))[:count])
        else:
            hopeless = isinstance(exc, FlowError) and not exc.retryable
        if hopeless and not isinstance(exc, PeerNotAllowed | ConfigError):
            if count > 1:
                self._singly.add(state.id)
            elif self._queue(state.id):
                lost: dict[str, Any] = {}
                self._lose(state.id, lost)
                self._engine.keeper.loose_ops(lost, OUTBOX)
            self._send(state)
            return
        self._pause(state, exc.retry_after if isinstance(exc, Busy) else PAUSE)

    def _lacks(self, event: Waiting) -> bool:
        """Whether a blob that an event refers to is gone."""
        for reference in wire.references(self._values()[event.key]):
            try:
                self._engine.services.blobs.get(reference)
            except FlowError as exc:
                if not exc.retryable:
                    return True
        return False

    def _pause(self, state: PeerState, seconds: float) -> None:
        self._paused.add(state.id)

        def again() -> None:
            self._paused.discard(state.id)
            self.send()

        self._engine.timers.after(min(max(seconds, 0.1), 300.0), again)

    def view(self) -> dict[str, Any]:
        """How many events wait for each peer, since when (Unix seconds), and how many were left out."""
        found: dict[str, dict[str, Any]] = {
            peer: {"waiting": len(queue), "since": queue[0].at, "lost": 0}
            for peer, queue in self._all().items()
            if queue
        }
        for key, count in self._values().items():
            head, _, peer = key.partition(" ")
            if head == "@lost":
                found.setdefault(peer, {"waiting": 0, "since": None, "lost": 0})["lost"] = count
        return found
