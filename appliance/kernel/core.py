"""The kernel as its parts know it: what it holds, and what it does while it is up."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from appliance.contracts import FlowError
from appliance.engine.plan import FlowPlan, plan_flow
from appliance.fleet.announce import Announcer
from appliance.fleet.fleet import Fleet
from appliance.fleet.peers.peers import EnginePeers
from appliance.kernel.announcing import Announcing
from appliance.kernel.backups import Backups
from appliance.kernel.clock import Clock
from appliance.kernel.context import Services
from appliance.kernel.hosting import TriggerHost
from appliance.kernel.integrity import Watch
from appliance.kernel.maintenance import Maintenance, free_bytes
from appliance.kernel.memory import MemoryService
from appliance.kernel.model_jobs import ModelJobs
from appliance.kernel.models import ModelService, account_of
from appliance.kernel.mqtt import MqttHub
from appliance.kernel.peered_engine import PeeredEngine
from appliance.kernel.recovery import Recovery
from appliance.kernel.runs import FlowSlot
from appliance.kernel.wear import Wear
from appliance.registry import Registry
from appliance.sandbox.process import ProcessSandbox
from appliance.security.scrub import Scrubber
from appliance.security.vault import Secrets
from appliance.store.blobs import BlobStore
from appliance.store.errors import NotFound
from appliance.store.journal import Journal
from appliance.store.metadata import Store

if TYPE_CHECKING:
    from appliance.kernel.peering.cluster_peers import ClusterPeers

logger = logging.getLogger(__name__)

LONG_SECRET = 8


class FlowsHere(Protocol):
    """Which flows of a cluster are at home on this kernel."""

    flows: set[int]

    def stays(self, flow: int) -> bool: ...

    def require(self, flow: int) -> None: ...

    def view(self) -> dict[str, Any]: ...


class Core:
    """Put together, started and taken apart by :class:`appliance.kernel.kernel.Kernel`."""

    store: Store
    journal: Journal
    registry: Registry
    services: Services
    blobs: BlobStore
    engine: PeeredEngine
    recovery: Recovery
    maintenance: Maintenance
    hosting: TriggerHost
    models: ModelService
    memory: MemoryService
    model_jobs: ModelJobs
    backups: Backups
    integrity: Watch
    clock: Clock
    mqtt: MqttHub
    sandbox: ProcessSandbox
    #: The devices here and at edge agents, and the links to peers; None for a kernel that is alone.
    fleet: Fleet | None
    peers: EnginePeers | ClusterPeers | None

    def __init__(self, data: Path, alone: bool) -> None:
        self.data = data
        self._alone = alone
        #: What ends what was started, in the order in which it was.
        self._stops: list[Callable[[], Any]] = []
        self._scrubber = Scrubber()
        #: For binary data, in which a few bytes are soon found that only look like a short secret.
        self._long_scrubber = Scrubber()
        self._own_secrets: set[str] = set()
        self._guest_secrets: set[str] = set()
        self._began = time.monotonic()
        self.announcer: Announcer | None = None
        self.wear = Wear(data)
        #: Called when safe mode was turned on.
        self.on_rest: Callable[[], None] = lambda: None
        self._live: list[tuple[FlowSlot, int, Any]] = []
        self._looked_at: object = None
        #: Our part in a cluster; None for an engine on one machine.
        self.homes: FlowsHere | None = None

    def tell_live(self, item: dict[str, Any]) -> None:
        """Something that is not of a run, to those who watch; from any thread."""
        if self.engine.chronicle.live is not None:
            self.engine.post(lambda: self.engine.chronicle.say(item))

    def _clock_ok(self) -> bool:
        return bool(self.clock.trusted()[0])

    def _load_plan(self, version: int) -> FlowPlan:
        return plan_flow(self.store.flows.version(version).body, self.registry)

    def _announce(self) -> None:
        """Show the flows to Home Assistant, if that is wanted. In a cluster one kernel does, which may change."""
        settings = self.store.settings.load()
        if not settings.announce_broker or self._alone or self.announcer is not None:
            return
        announcing = Announcing(
            self.store, self.engine, self.registry, self.data, lambda: self.reload(lambda: None, lambda exc: None)
        )
        try:
            announcer = announcing.make(settings.announce_broker, settings.announce_prefix)
            announcer.start()
        except FlowError as exc:
            logger.error("flows are not announced to Home Assistant: %s", exc.message)
            return
        self.announcer = announcer
        self.engine.listeners.append(announcer.ended)
        self._stops.append(announcer.stop)

    def lead(self) -> None:
        """This kernel of a cluster does what one must do for all."""
        if self.announcer is None:
            self._announce()

    def _clean_blob(self, data: bytes) -> bytes:
        if not self._scrubber.found_in(data):
            return data
        try:
            data.decode()
        except UnicodeDecodeError:
            return self._long_scrubber.scrub_bytes(data)
        return self._scrubber.scrub_bytes(data)

    def _clean(self, result: Any, packed: bytes) -> Any:
        return self._scrubber.scrub(result) if self._scrubber.found_in(packed) else result

    def _adopt(self) -> None:
        """Another process accepted events while no kernel ran."""
        self.engine.post(self.take_strays)

    def take_strays(self) -> None:
        """Go on with runs that another process has put down. Engine thread only."""
        if not self._alone:
            self.recovery.strays()

    def _tick(self) -> None:
        """The watchdog, once a minute: lost wake-ups, stray runs, a disk that may be back."""
        self.engine.post(self._watch)
        self.engine.post(self._keep_model_use)
        self._mind_budget()
        self.integrity.look()
        if not self._alone:
            self.backups.look()
            self.model_jobs.look()

    def _keep_model_use(self) -> None:
        """What was used by nobody's step, or by one that was ended before it could tell."""
        for flow in self.models.accounts.dirty():
            self.engine.keeper.loose_ops(self.models.changes(flow), account_of(flow))

    def _mind_budget(self) -> None:
        """Once the hour's share of the write budget is spent, history waits; on a card by default."""
        self.wear.look()
        found = {setting.name: setting for setting in self.store.settings.describe()}["write_budget_mb"]
        bound = found.value if found.source != "default" or self.wear.on_card() else 0
        thrifty = self.wear.over(bound * 1e6)
        if thrifty != self.engine.keeper.thrifty:
            logger.info("the write budget is %s", "spent: history is written once a minute" if thrifty else "kept")
            self.engine.keeper.thrifty = thrifty

    def _watch(self) -> None:
        if (mark := self.journal.mark()) != self._looked_at:
            self._looked_at = mark
            self.take_strays()
        self.engine.watch()

    def _load_values(self) -> None:
        opened = Secrets(self.store.values.secrets, self.data).open_all()
        for problem in opened.problems:
            logger.error("%s", problem)
        secrets = {
            workspace: {name: secret.reveal() for name, secret in values.items()}
            for workspace, values in opened.values.items()
        }
        self._own_secrets = {value for values in secrets.values() for value in values.values()}
        self._hide_all()
        self.services.secrets = secrets
        workspaces = {slot.workspace for slot in self.engine.flows.values()}
        self.services.variables = {
            workspace: {variable.name: variable.value for variable in self.store.values.variables(workspace)}
            for workspace in workspaces
        }

    def hide(self, values: Iterable[str]) -> None:
        """Hide what a peer has sent and calls secret, for as long as this process lives."""
        if fresh := {value for value in values if value} - self._guest_secrets:
            self._guest_secrets |= fresh
            self._hide_all()

    def _hide_all(self) -> None:
        hidden = self._own_secrets | self._guest_secrets
        self._scrubber.update(hidden)
        self._long_scrubber.update(value for value in hidden if len(value) >= LONG_SECRET)

    def _load_flows(self) -> list[tuple[FlowSlot, int, Any]]:
        """Bring the slots up to date; returns what triggers are wanted."""
        slots = self.engine.flows
        wanted = []
        live = {flow.num: (flow, version) for flow, version in self.store.flows.live()}
        for num, (flow, version) in live.items():
            slot = slots.get(num)
            if slot is None:
                slot = slots[num] = FlowSlot(num, flow.id, flow.name, flow.workspace, None)
            slot.id, slot.name, slot.workspace = flow.id, flow.name, flow.workspace
            slot.live = version.id
            try:
                specs = self.engine.plan(version.id).flow.triggers
            except Exception:
                logger.exception("flow %s cannot be loaded", flow.id)
                slot.live = None
                continue
            if not flow.enabled:
                continue
            wanted.append((slot, version.id, specs))
        for num, slot in slots.items():
            if num not in live:
                slot.live = None
        return wanted

    def _want(self, live: list[tuple[FlowSlot, int, Any]], refresh: bool = False) -> None:
        if self.homes is not None:
            live = [entry for entry in live if self.homes.stays(entry[0].num)]
        self.hosting.want([] if self._alone else live, refresh=refresh)

    def attach_again(self) -> None:
        """Flows have come here from another kernel of the cluster, or are about to go there. Engine thread only."""
        known = {slot.num for slot, _, _ in self._live}
        if self.homes is not None and self.homes.flows - known:
            self._live = self._load_flows()
        self._want(self._live)

    def open_to(self, flow: int) -> None:
        """Raises ``Elsewhere`` for a flow whose new runs begin at another kernel of the cluster."""
        if self.homes is not None:
            self.homes.require(flow)

    def _find_flow(self, num: int) -> FlowSlot | None:
        """A flow that is not live, or was deleted: its runs may still be under way or be looked at."""
        try:
            flow = self.store.flows.by_num(num)
        except NotFound:
            return None
        return FlowSlot(num, flow.id, flow.name, flow.workspace, None)

    def reload(self, done: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Flows, variables, secrets or settings were changed by another process."""

        def work() -> None:
            try:
                wanted = self._live = self._load_flows()
                self._load_values()
                self.models.load(self.store.settings.load(), self.registry.providers)
            except Exception as exc:
                logger.exception("what was changed cannot be loaded")
                failed(exc)
                return
            self._want(wanted, refresh=True)
            if self.announcer is not None:
                self.announcer.changed()
            done()

        self.engine.post(work)

    def _lag(self) -> float:
        """Seconds that the oldest run has waited for its turn."""
        queued = [run.accepted for slot in list(self.engine.flows.values()) for run in list(slot.queue)[:1]]
        return max(0.0, time.time() - min(queued) / 1e6) if queued else 0.0

    def status(self) -> dict[str, Any]:
        """For the health page."""
        engine, keeper = self.engine, self.engine.keeper
        ok, why = self.clock.trusted()
        return {
            "pid": os.getpid(),
            "uptime": round(time.monotonic() - self._began, 1),
            "runs": len(engine.runs),
            "waiting": keeper.waiting,
            "queue": engine.load(),
            "queue_bound": engine.queue_bound,
            "lag": self._lag(),
            "timers": len(engine.timers),
            "commits": keeper.commits,
            "ended": dict(engine.counts),
            "degraded": keeper.degraded,
            "lost_history": keeper.lost_history,
            "damaged": list(self.journal.damaged),
            "clock": {"ok": ok, "text": why},
            "free_bytes": free_bytes(self.data),
            "backups": self.backups.view(),
            "integrity": self.integrity.view(),
            "wear": {**self.wear.view(), "thrifty": keeper.thrifty},
            "triggers": self.hosting.views(),
            "peers": self.peers.health() if self.peers is not None else {},
            "mqtt": [status_view(status) for status in self.mqtt.status()],
            "broken": [{"kind": b.kind, "type": b.type, "error": b.error} for b in self.registry.broken],
            "languages": sorted(self.sandbox.languages()),
            **(self.homes.view() if self.homes is not None else {}),
        }


def status_view(status: Any) -> dict[str, Any]:
    """One MQTT connection without its password."""
    return {name: getattr(status, name) for name in status.__struct_fields__}
