"""Events of other engines on their way to triggers: each starts a run once, and is acknowledged once that is on disk.

A peer numbers what it sends. The last number that a trigger has taken is its cursor, stored with the run that it
started; so what is sent again because an acknowledgement was lost on the way is known.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Busy, Event, FlowError, TriggerContext
from appliance.contracts.peers import PeerRequest, Peers
from appliance.kernel.peering import wire

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine

logger = logging.getLogger(__name__)

#: Seconds for which a trigger that was detached may be about to be attached anew (a deploy): its events wait.
RESTING = 10.0

Wants = Callable[[str, str], bool]


class Sent(Struct, kw_only=True):
    """One event of a peer; ``at`` is when it was sent (Unix seconds), ``run`` the run that sent it there."""

    seq: int
    topic: Annotated[str, Meta(min_length=1, max_length=500)]
    payload: Any = None
    at: float = 0.0
    run: str = ""


class Batch(Struct, kw_only=True):
    """``event``: what a peer sends, in order. ``missed`` is how many it had to leave out before these."""

    outbox: Annotated[str, Meta(max_length=40)]
    events: Annotated[list[Sent], Meta(min_length=1, max_length=1000)]
    missed: int = 0


class Watch:
    """One trigger that listens to peers."""

    def __init__(self, ctx: TriggerContext, workspace: str, wants: Wants) -> None:
        self.ctx = ctx
        self.workspace = workspace
        self.wants = wants
        #: By peer: its outbox and the last number that was handed to the engine.
        self.last: dict[str, tuple[str, int]] = {}
        self.resting_until: float | None = None

    def taken(self, peer: str, outbox: str) -> int:
        """The last number of a peer's outbox that needs no run any more."""
        kept = (self.ctx.cursor or {}).get(peer, ["", 0])
        return max((number for name, number in (self.last.get(peer, ("", 0)), kept) if name == outbox), default=0)

    def hand(self, peer_id: str, peer: str, batch: Batch, event: Sent, committed: Callable[[str], None]) -> None:
        """Start its run. Raises ``Busy``."""
        last = {**{k: tuple(v) for k, v in (self.ctx.cursor or {}).items()}, **self.last}
        cursor = {**last, peer_id: (batch.outbox, event.seq)}
        meta: dict[str, Any] = {"peer": peer, "topic": event.topic, "sent": event.at, "from_run": event.run}
        if batch.missed and event is batch.events[0]:
            meta["missed"] = batch.missed
        self.ctx.emit(
            Event(
                payload=event.payload,
                id=f"{peer_id}:{batch.outbox}:{event.seq}",
                meta=meta,
                time=event.at or None,
                cursor=msgspec.to_builtins(cursor),
            ),
            committed,
        )
        self.last[peer_id] = (batch.outbox, event.seq)


class PeerEvents:
    """All triggers that listen to peers. Safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Whether the triggers of this engine have been attached since it came up.
        self.settled: Callable[[], bool] = lambda: True
        self._lock = threading.Lock()
        self._watches: list[Watch] = []

    def start(self, peers: Peers) -> Callable[[], None]:
        """Let events in; returns the stop."""
        return peers.serve("event", self._on_event, right="events")

    def watch(self, ctx: TriggerContext, workspace: str, wants: Wants) -> Callable[[], None]:
        """Have a trigger told of what it wants (by peer and topic); returns the stop, twice is fine."""
        watch = Watch(ctx, workspace, wants)
        with self._lock:
            self._watches = [each for each in self._watches if not self._same(each, ctx)]
            self._watches.append(watch)

        def stop() -> None:
            watch.resting_until = watch.resting_until or time.monotonic() + RESTING

        return stop

    def _same(self, watch: Watch, ctx: TriggerContext) -> bool:
        return (watch.ctx.flow, watch.ctx.trigger) == (ctx.flow, ctx.trigger)

    def _on_event(self, request: PeerRequest) -> None:
        if (batch := wire.asked(request, Batch, "these are no events")) is None:
            return
        if not self.settled():
            request.error(Busy("its flows are not attached yet", retry_after=1.0))
            return
        # Blobs are read, which blocks.
        self._engine.steps.io.call(partial(self._take, request, batch))

    def _take(self, request: PeerRequest, batch: Batch) -> None:
        with self._lock:
            try:
                upto, pause, runs = self._hand_all(request, batch)
            except Exception as exc:
                if not isinstance(exc, FlowError):
                    logger.exception("events of %s cannot be taken", request.peer.name)
                request.error(exc)
                return
        answer = {"upto": upto, "pause": pause, "runs": runs}
        # Behind the commit of all that was handed over before.
        post, keeper = self._engine.post, self._engine.keeper
        post(lambda: keeper.after_commit(partial(request.answer, answer)))

    def _hand_all(self, request: PeerRequest, batch: Batch) -> tuple[int, float, int]:
        """Hand over what can be; the last number that is done with, seconds to wait before the rest, and the runs."""
        peer, upto, runs = request.peer, 0, 0
        now = time.monotonic()
        self._watches = [each for each in self._watches if each.resting_until is None or each.resting_until > now]
        for event in batch.events:
            event.payload = wire.whole(event.payload, self._engine.services.blobs)
            for watch in self._watches:
                if not peer.roles.may("events", watch.workspace) or not watch.wants(peer.name, event.topic):
                    continue
                if event.seq <= watch.taken(peer.id, batch.outbox):
                    continue
                if watch.resting_until is not None:
                    return upto, 1.0, runs
                try:
                    watch.hand(peer.id, peer.name, batch, event, lambda run: None)
                except Busy as busy:
                    return upto, max(0.2, busy.retry_after), runs
                runs += 1
            upto = event.seq
        return upto, 0.0, runs
