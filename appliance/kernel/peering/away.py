"""One step that is at a peer, or waits for an engine that has what it needs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from appliance.contracts.peers import PeerState
from appliance.engine.needs import Need

if TYPE_CHECKING:
    from appliance.kernel.flights import Flight
    from appliance.kernel.runs import LiveRun
    from appliance.kernel.steps import Steps

#: Nobody has it yet; a peer has it or is being asked; the link to that peer is gone.
WAITING, BOUND, CUT = "waiting", "bound", "cut"


class Away:
    """What is known of it. ``since`` and ``until`` are Unix seconds."""

    __slots__ = (
        "attempt", "config", "flight", "future", "index", "name", "needs", "number", "passed_over", "peer", "request",
        "run", "sent", "since", "state", "there", "until",
    )  # fmt: skip

    def __init__(self, flight: Flight, needs: tuple[Need, ...], since: float, until: float) -> None:
        self.flight = flight
        self.run: LiveRun = flight.run
        self.index = flight.index
        self.attempt = flight.attempt
        self.needs = needs
        self.since = since
        self.until = until
        self.state = WAITING
        self.peer = ""
        self.name = ""
        #: The id of the request, the same at whatever peer: each looks in its own journal.
        self.request = ""
        #: The run that it has there, once that is known.
        self.there = ""
        #: The peer may have heard of it.
        self.sent = False
        #: Counts what was asked: an answer to something earlier means nothing.
        self.number = 0
        self.future: Future[Any] | None = None
        self.config: dict[str, Any] | None = None
        #: Peers that are not to be asked before a moment (Unix seconds).
        self.passed_over: dict[str, float] = {}

    @property
    def place(self) -> tuple[int, int]:
        return self.run.id, self.index

    def assign(self, peer: PeerState) -> None:
        """This peer is to do it."""
        if not self.request:
            step = f"{self.run.text}-{self.run.place}/{self.run.node(self.index).id}"
            self.request = f"{step}#{self.attempt}-{secrets.token_hex(4)}"
        self.peer, self.name = peer.id, peer.name
        self.state, self.sent, self.there = BOUND, False, ""
        self.number += 1

    def drop(self) -> None:
        """No peer has it any more."""
        self.peer = self.name = self.there = ""
        self.state, self.sent = WAITING, False
        self.number += 1

    def render(self, steps: Steps) -> None:
        """Fill in its config, once. Raises what a template raises."""
        if self.config is not None:
            return
        flight = self.flight
        ctx = flight.ctx = steps.context(self.run, self.index, self.attempt, flight.payload)
        assert ctx is not None
        plan = self.run.node(self.index).config
        self.config = plan.rendered(ctx.scope(plan.names))
        plan.decode(self.config)
        flight.rendered = {name: self.config[name] for name in plan.dynamic}

    def kept(self) -> dict[str, Any]:
        """What the journal has of it."""
        kept: dict[str, Any] = {"needs": [str(need) for need in self.needs], "since": self.since}
        if self.request:
            kept["request"] = self.request
        if self.peer:
            kept |= {"peer": self.peer, "name": self.name}
        return kept

    def restore(self, extra: Mapping[str, Any]) -> None:
        """Be what :meth:`kept` told; whether the peer was asked before the process ended is not known."""
        kept = extra["away"]
        self.since, self.until = float(kept["since"]), float(extra["until"])
        self.peer, self.name, self.request = kept.get("peer", ""), kept.get("name", ""), kept.get("request", "")
        if self.peer:
            self.state, self.sent = CUT, True

    def view(self) -> dict[str, Any]:
        """For the panel."""
        return {
            "run": self.run.text,
            "flow": self.run.flow.id,
            "workspace": self.run.flow.workspace,
            "node": self.run.node(self.index).id,
            "needs": [str(need) for need in self.needs],
            "state": self.state,
            "peer": self.peer,
            "name": self.name,
            "there": self.there,
            "since": self.since,
            "until": self.until,
        }
