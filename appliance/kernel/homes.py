"""The kernel's part in a cluster: which flows are at home here, taking over from the dead, handing over to the living.

A flow's triggers, durable values and runs under way are all at one kernel, its home, so everything that holds within
one kernel (modes, ``max_runs``, values, signals) holds in the cluster. Why: ``docs/decisions/sharing.md``.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from appliance.engine import trace
from appliance.kernel.far import NOTE, FarDoor
from appliance.kernel.models import account_of
from appliance.kernel.submission import Elsewhere
from appliance.sharing.cluster import Cluster, clock
from appliance.sharing.members import KERNEL, Member
from appliance.sharing.spread import Host, Placed, groups_of, names_in, spread

if TYPE_CHECKING:
    from appliance.kernel.core import Core
    from appliance.kernel.peering.between import Between
    from appliance.kernel.runs import FlowSlot, LiveRun
    from appliance.kernel.server import Server

logger = logging.getLogger(__name__)

#: Seconds that flows which are to move may take to come to rest, and until that is tried again.
PATIENCE, LATER = 5.0, 30.0
#: Seconds for which a kernel must have been up before flows move to it: it has claimed what nobody had by then.
SETTLED = 3.0
#: Seconds between two tries to write to a database that is away.
INSIST = 0.25
_WATCH = 0.2


class Move(Struct):
    """Flows on their way to another kernel."""

    to: Member
    flows: frozenset[int]
    until: float


class Homes:
    """See above. Its methods without another word are for the cluster's thread."""

    def __init__(self, kernel: Core, cluster: Cluster) -> None:
        self._kernel = kernel
        self._cluster = cluster
        #: The flows at home here. Changed on the engine's thread only.
        self.flows: set[int] = set()
        self._leaving: dict[int, Move] = {}
        self._moves: list[Move] = []
        self._rest_until: dict[int, float] = {}
        self._placed: list[list[Placed]] = []
        self._named: dict[int, frozenset[str]] = {}
        self._marks: tuple[int, ...] = ()
        self._door: FarDoor | None = None
        self._stopping = threading.Event()
        self._guard: threading.Thread | None = None
        self._look_lock = threading.Lock()
        #: What kernels ask each other; what else is to be done with each look, behind all else; and what lets a run go
        #: to another kernel with its steps that are at peers.
        self.between: Between | None = None
        self.looked: Callable[[list[Member]], None] = lambda members: None
        self.leave: Callable[[LiveRun], None] = lambda run: None

    # --- beginning and ending ----------------------------------------------------------------------------

    def first(self) -> None:
        """At the start, before runs are recovered: what the life before left here, and what nobody has."""
        members = self._cluster.members
        self.flows = members.homes_of(self._cluster.lease.writer)
        self._read_flows()
        plan = self._plan(self._cluster.around(0.0))
        homes = members.homes()
        free = [flow for flow, writer in plan.items() if flow not in homes and writer == self._cluster.lease.writer]
        self.flows |= members.claim(self._cluster.lease, free)
        engine = self._kernel.engine
        engine.require_home, engine.still_ours = self._require_home, self.hold
        engine.keeper.lost, engine.keeper.insist = self.cut, INSIST

    def open(self, server: Server) -> Callable[[], None]:
        """Take part from now on; returns what ends that. The lease stays until the cluster is left."""
        server.refusal = lambda: Elsewhere("the kernel is stopping; another one takes over")
        self._door = FarDoor(self._cluster.service, server, {"adopt": self._called})
        self._cluster.on_look = self._look
        self._cluster.on_lost = self.cut
        self._door.open(self._cluster.send)
        self._cluster.open(self._take)
        self._guard = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._guard.start()
        return self._stopping.set

    def _take(self, part: Any) -> None:
        """One message, on the thread of the bus."""
        assert self._door is not None
        if self.between is not None and isinstance(part, list) and part[:1] == [self.between.name]:
            self.between.take(part)
        else:
            self._door.take(part)

    def _watch(self) -> None:
        """End this process before others take it for dead."""
        while not self._cluster.left_within(_WATCH):
            self.hold()

    def hold(self) -> None:
        """Go on only if nobody can have taken over; from any thread, before anything is done to the world."""
        if not self._cluster.holds():
            self.cut()

    def cut(self) -> None:
        """End at once, without a word to anybody: what this process goes on doing, another one may be doing too.

        SIGKILL, because only that stops every thread in the middle of what it does; the supervisor starts it again.
        """
        logger.critical("this kernel is cut off from the cluster: it ends, so that others can take over its runs")
        for handler in logging.getLogger().handlers:
            handler.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    # --- what others ask -------------------------------------------------------------------------------------

    def _require_home(self, flow: int) -> None:
        """On the engine's thread: a run of the flow may be made here. Raises ``Elsewhere``."""
        if flow not in self.flows:
            raise Elsewhere("the flow is not at home on this kernel")

    def require(self, flow: int) -> None:
        """Raises ``Elsewhere`` unless a new run of the flow may begin here. Claims a flow that nobody has."""
        if flow in self._leaving:
            raise Elsewhere("the flow is on its way to another kernel")
        if flow not in self.flows:
            members = self._cluster.around()
            ours = self._plan(members).get(flow) == self._cluster.lease.writer or not self._is_live(flow)
            if ours and flow in self._cluster.members.claim(self._cluster.lease, [flow]):
                self._adopt({flow})
            raise Elsewhere("the flow is not at home on this kernel")

    def view(self) -> dict[str, Any]:
        """For the health page."""
        return {"homes": len(self.flows), "bus": self._cluster.bus_away}

    # --- looking around ----------------------------------------------------------------------------------------

    def _called(self) -> None:
        """Somebody has put down a run for us, or made us a home; on the thread of the bus."""
        self._kernel.engine.post(self._kernel.take_strays)
        self._find_new()

    def _look(self, members: list[Member]) -> None:
        assert self._door is not None
        if self._stopping.is_set():
            return
        self._door.keep_only({member.box for member in members if member.alive})
        self._notice_changes()
        self._bury(members)
        self._find_new()
        if self._cluster.bus_away:
            # Nobody can call us for what gateways put down.
            self._kernel.engine.post(self._kernel.take_strays)
        self._even_out(members)
        self._settle_moves()
        if self.leads(members):
            self._kernel.lead()
        self.looked(members)

    def leads(self, members: Collection[Member]) -> bool:
        """Whether what one kernel does for all is this one's: the living one with the lowest number."""
        kernels = [one.writer for one in members if one.role == KERNEL and one.works]
        return min(kernels, default=-1) == self._cluster.lease.writer

    def _notice_changes(self) -> None:
        """What was deployed or set at another gateway and not told here."""
        counters = self._kernel.store.changes()
        marks = tuple(counters.get(name, 0) for name in ("deployments", "values", "settings"))
        if marks != self._marks:
            self._marks = marks
            self._read_flows()
            self._kernel.reload(lambda: None, lambda exc: None)

    def _read_flows(self) -> None:
        """The groups of what is live now."""
        live = self._kernel.store.flows.live()
        self._named = {
            version.id: self._named[version.id] if version.id in self._named else names_in(version.body)
            for _, version in live
        }
        self._placed = groups_of(
            [
                Placed(flow.num, flow.id, flow.workspace, tuple(flow.tags), self._named[version.id])
                for flow, version in live
            ]
        )

    def _plan(self, members: Collection[Member]) -> dict[int, int]:
        mine = self._cluster.lease.writer
        hosts = [
            Host(one.writer, one.machine)
            for one in members
            if one.role == KERNEL and (one.works or (one.alive and one.writer == mine))
        ]
        return spread(self._placed, hosts)

    def _bury(self, members: Collection[Member]) -> None:
        """Take over our share of what the dead have left."""
        dead = {one.writer: one for one in members if not one.alive}
        if not dead:
            return
        for writer in self._cluster.members.left_behind(dead):
            taken = self._cluster.members.take_over(self._cluster.lease, dead[writer], partial(self._share, members))
            if taken:
                logger.warning("%d flows of kernel %d on %s, which is gone, go on here", len(taken), writer,
                               dead[writer].machine)  # fmt: skip
                self._adopt(taken)

    def _share(self, members: Collection[Member], flows: set[int]) -> set[int]:
        """Which of these flows come to us. Of those that are not live only runs are left: one kernel takes them all.

        Those that are bound to a machine without a living kernel wait for it.
        """
        plan, mine, first = self._plan(members), self._cluster.lease.writer, self.leads(members)
        return {flow for flow in flows if plan.get(flow) == mine or (first and not self._is_live(flow))}

    def _is_live(self, flow: int) -> bool:
        return any(flow == placed.num for group in self._placed for placed in group)

    def _find_new(self) -> None:
        """What was handed to us, and what nobody has and is ours by the plan."""
        with self._look_lock:
            mine = self._cluster.members.homes_of(self._cluster.lease.writer)
            if fresh := mine - self.flows:
                self._adopt(fresh)

    # --- coming ------------------------------------------------------------------------------------------------

    def _adopt(self, flows: set[int]) -> None:
        """Flows have become ours: load what they hold and go on with their runs. Returns when that is done."""
        values = self._values_of(flows)
        done = threading.Event()

        def work() -> None:
            try:
                self._take_in(flows, values)
            finally:
                done.set()

        self._kernel.engine.post(work)
        while not done.wait(_WATCH) and not self._stopping.is_set():
            pass

    def _values_of(self, flows: set[int]) -> dict[int, dict[str, Any]]:
        wanted = flows | {account_of(flow) for flow in flows}
        values: dict[int, dict[str, Any]] = {number: {} for number in wanted}
        for op in self._kernel.store.values.load_state():
            if op.flow in wanted and op.value is not None:
                values[op.flow][op.key] = trace.unpack(op.value)
        return values

    def _take_in(self, flows: set[int], values: dict[int, dict[str, Any]]) -> None:
        kernel = self._kernel
        fresh = flows - self.flows
        for number, kept in values.items():
            if number in fresh:
                kernel.services.states.replace(number, kept)
        kernel.models.load_accounts({account_of(flow): values[account_of(flow)] for flow in fresh})
        self.flows |= fresh
        taken = kernel.recovery.strays(everywhere=True)
        if taken:
            logger.info("%d runs that were under way elsewhere go on here", taken)
        kernel.attach_again()

    # --- going -------------------------------------------------------------------------------------------------

    def _even_out(self, members: Collection[Member]) -> None:
        """Claim what nobody has, and begin to move what belongs elsewhere by the plan."""
        plan, lease = self._plan(members), self._cluster.lease
        homes = self._cluster.members.homes()
        free = [flow for flow, writer in plan.items() if flow not in homes and writer == lease.writer]
        if free and (claimed := self._cluster.members.claim(lease, free)):
            self._adopt(claimed)
        by_writer = {one.writer: one for one in members if one.alive and one.role == KERNEL}
        now = clock()
        going: dict[int, set[int]] = {}
        for flow in set(self.flows):
            writer = plan.get(flow, lease.writer)
            if writer != lease.writer and flow not in self._leaving and self._rest_until.get(flow, 0.0) <= now:
                going.setdefault(writer, set()).add(flow)
        for writer, flows in going.items():
            to = by_writer.get(writer)
            if to is not None and to.up > SETTLED:
                self._begin(Move(to, frozenset(flows), now + PATIENCE))

    def _begin(self, move: Move) -> None:
        """Take no more new runs of these flows, and let their triggers go."""
        self._moves.append(move)
        self._leaving.update(dict.fromkeys(move.flows, move))
        self._kernel.engine.post(self._kernel.attach_again)

    def stays(self, flow: int) -> bool:
        """Whether the flow's triggers are to be attached here."""
        return flow in self.flows and flow not in self._leaving

    def _settle_moves(self) -> None:
        for move in list(self._moves):
            done = threading.Event()
            outcome: list[set[int]] = []

            def work(move: Move = move, done: threading.Event = done, outcome: list[set[int]] = outcome) -> None:
                try:
                    outcome.append(self._give(move))
                finally:
                    done.set()

            self._kernel.engine.post(work)
            while not done.wait(_WATCH) and not self._stopping.is_set():
                pass
            given = outcome[0] if outcome else set()
            for flow in given:
                self._leaving.pop(flow, None)
            if given:
                logger.info("%d flows go on at kernel %d on %s", len(given), move.to.writer, move.to.machine)
                self._cluster.send(move.to.box, [NOTE, "adopt"])
            move.flows = move.flows - given
            if move.flows and clock() > move.until:
                self._stay(move)
            if not move.flows:
                self._moves.remove(move)

    def _stay(self, move: Move) -> None:
        """They did not come to rest: they stay for now."""
        for flow in move.flows:
            self._leaving.pop(flow, None)
            self._rest_until[flow] = clock() + LATER
        move.flows = frozenset()
        self._kernel.engine.post(self._kernel.attach_again)

    def _give(self, move: Move) -> set[int]:
        """On the engine's thread: hand over those of the flows that rest; returns which."""
        engine = self._kernel.engine
        attached = self._kernel.hosting.attached_flows()
        if attached is None:
            return set()
        resting = {flow for flow in move.flows if flow not in attached and self._rests(engine.flows.get(flow))}
        if not resting:
            return set()
        engine.commit()
        if engine.keeper.pending:
            return set()
        resting = {flow for flow in resting if self._rests(engine.flows.get(flow))}
        if not resting or not self._cluster.members.hand_over(self._cluster.lease, move.to, resting):
            return set()
        self.flows -= resting
        for flow in resting:
            self._forget(engine.flows.get(flow))
        return resting

    def _rests(self, slot: FlowSlot | None) -> bool:
        """Nothing of the flow is being done right now; it only waits."""
        return slot is None or not any(self._works(run) for run in slot.active.values())

    def _works(self, run: LiveRun) -> bool:
        if run in run.flow.queue:
            return bool(run.on_end)
        return bool(run.running or run.on_end or run.dirty) or not (run.parked or run.families)

    def _forget(self, slot: FlowSlot | None) -> None:
        for run in list(slot.active.values()) if slot is not None else []:
            self.leave(run)
            self._kernel.engine.let_go(run)
