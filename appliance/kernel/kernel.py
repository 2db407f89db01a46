"""The kernel: puts engine, journal, queue, triggers and services together, and takes them apart again."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from appliance.contracts import FlowError
from appliance.engine import trace
from appliance.engine.plan import FlowPlan, plan_flow
from appliance.fleet.announce import Announcer
from appliance.fleet.away import NoDevices
from appliance.fleet.fleet import Fleet
from appliance.fleet.peers.beacon import Beacon
from appliance.fleet.peers.peers import EnginePeers
from appliance.integrity import installed_at
from appliance.kernel.announcing import Announcing
from appliance.kernel.api import Api
from appliance.kernel.backups import Backups
from appliance.kernel.blobs import make_blobs
from appliance.kernel.clock import Clock
from appliance.kernel.context import Services
from appliance.kernel.files import FlowFiles
from appliance.kernel.hosting import TriggerHost
from appliance.kernel.http import HttpClient
from appliance.kernel.integrity import Watch
from appliance.kernel.maintenance import Maintenance, free_bytes, give_up_reserve
from appliance.kernel.memory import MemoryService
from appliance.kernel.model_jobs import ModelJobs
from appliance.kernel.models import ModelService, account_of
from appliance.kernel.mqtt import MqttHub
from appliance.kernel.overview import KernelOverview
from appliance.kernel.peered_engine import PeeredEngine
from appliance.kernel.peering.peering import Peering
from appliance.kernel.peers_making import make_peers
from appliance.kernel.recovery import Recovery
from appliance.kernel.runs import FlowSlot
from appliance.kernel.server import Server
from appliance.kernel.standin import adopt_task
from appliance.kernel.streams import Streams
from appliance.kernel.wear import Wear
from appliance.kernel.workshop import KernelWorkshop
from appliance.queue.app import make_huey
from appliance.queue.consumer import start_consumer
from appliance.registry import Registry
from appliance.sandbox.process import ProcessSandbox
from appliance.security.files import keys_folder
from appliance.security.keys import read_engine
from appliance.security.owner import read_address
from appliance.security.scrub import Scrubber, ScrubFilter
from appliance.security.vault import Secrets
from appliance.store.errors import NotFound
from appliance.store.metadata import Store, open_store
from appliance.store.places import database_url, make_journal

if TYPE_CHECKING:
    from appliance.kernel.homes import Homes
    from appliance.sharing.cluster import Cluster

logger = logging.getLogger(__name__)

#: Who makes run ids (6 bits): the kernel, and others while there is none.
KERNEL_WRITER = 0
#: Bytes without which the databases cannot even be opened.
ROOM_TO_START = 4_000_000
#: What a step gave may be nested as deeply as the stack allowed then; reading it back must not need more.
STACK_TO_SPARE = 500
LONG_SECRET = 8


class Kernel:
    """One engine's kernel. ``start`` and ``stop`` once each; the caller holds the folder's kernel lock.

    With ``alone`` it does what it is asked over its socket and nothing by itself: no trigger is attached, and runs
    that were under way are left for the next whole kernel (the command line runs single flows so). ``home`` is the
    engine's own folder if ``data`` is a scratch folder within it: flows find their files and packages there.
    """

    def __init__(
        self,
        data: Path,
        *,
        queue_url: str | None = None,
        socket: bool = True,
        alone: bool = False,
        home: Path | None = None,
    ) -> None:
        self.data = data
        self._home = home or data
        self._alone = alone
        self._queue_url = queue_url
        self._socket = socket
        self._stops: list[Callable[[], Any]] = []
        self._scrubber = Scrubber()
        #: For binary data, in which a few bytes are soon found that only look like a short secret.
        self._long_scrubber = Scrubber()
        self._own_secrets: set[str] = set()
        self._guest_secrets: set[str] = set()
        self._began = time.monotonic()
        self.announcer: Announcer | None = None
        self.wear = Wear(data)
        #: Why the runs that were under way end at the start instead of going on; they do go on if empty.
        self.cancel_under_way = ""
        #: Called when safe mode was turned on.
        self.on_rest: Callable[[], None] = lambda: None
        self._stopped = False
        self._looked_at: object = None
        #: Our part in a cluster; None for an engine on one machine.
        self.homes: Homes | None = None

    def log_filter(self) -> logging.Filter:
        """Keeps secrets out of every log line of the process."""
        return ScrubFilter(self._scrubber)

    def start(self) -> None:
        """Come up: recover what was under way, attach triggers, serve. On failure what was started is stopped."""
        try:
            self._open()
            self._recover()
            self._serve()
        except BaseException:
            self.stop()
            raise

    def _open(self) -> None:
        if free_bytes(self.data) < ROOM_TO_START:
            give_up_reserve(self.data)
        self.store: Store = open_store(self.data)
        self._stops.append(self.store.close)
        settings = self.store.settings.load()
        sync = settings.durability == "power"
        cluster = self._join()
        self.journal = make_journal(self.data, writer=cluster.lease.writer if cluster else KERNEL_WRITER, sync=sync)
        self.journal.fence = cluster.lease if cluster else None
        self._stops.append(self.journal.close)
        self.journal.open()
        self.registry = Registry().scan(self._home / "packages")
        self.services = self._make_services(sync)
        # A wake-up that waits in the queue until the consumer starts must not be taken by another kernel of a cluster.
        name = f"flowork-{read_engine(self.data).id[:8]}-{cluster.lease.writer}" if cluster else "flowork"
        self.queue = make_huey(self._queue_url, self.data, name)
        self._stops.append(self.queue.close)
        turn = self.queue.wake_up(self._turn, name="turn", priority=100)
        adopt_task(self.queue, self._adopt)
        self.engine = PeeredEngine(
            self.journal,
            self.services,
            self._load_plan,
            turn,
            queue_bound=settings.queue_bound,
            max_snapshot=settings.max_snapshot_bytes,
        )
        self.engine.find_flow = self._find_flow
        keeper = self.engine.keeper
        if cluster is not None:
            from appliance.kernel.homes import Homes

            self.homes = Homes(self, cluster)
        keeper.found_secret, keeper.scrub = self._scrubber.found_in, self._scrubber.scrub
        self.recovery = Recovery(self.engine)
        self.maintenance = Maintenance(self.data, self.engine, self.journal, self.store, self._blobs)
        keeper.make_room = self.maintenance.make_room
        keeper.committed = self.maintenance.after_commit
        self.maintenance.on_tick = self._tick
        self.backups = Backups(self._home, self.store.settings.load, time.time)
        self.integrity = Watch(installed_at(), lambda: settings.integrity, time.monotonic)
        self._stops.append(self.integrity.stop)
        self.hosting = TriggerHost(self.engine, self.registry, time.monotonic)
        self.models = self._make_models()
        self.workshop = KernelWorkshop(self, self.models.for_work)
        self.services.workshop = self.workshop.for_step
        own = partial(self.models.for_work, "memory")
        self.memory = MemoryService(self.data, sync=sync, clean=keeper.clean, models=own, wall=self.services.wall)
        self._stops.append(self.memory.close)
        self.services.memory = self.memory.for_step
        self.services.overview = partial(KernelOverview, self)
        self.model_jobs = ModelJobs(self._home, self.store.settings.load, self._tell_live)
        self.fleet: Fleet | None = None if self._alone else self._make_fleet()
        if self.fleet is not None:
            self.services.devices = self.fleet
        self.peers: EnginePeers | None = self._make_peers()
        self.peering = Peering(self)

    def _join(self) -> Cluster | None:
        """Take a number in the cluster, if this engine belongs to one."""
        if not database_url():
            return None
        from appliance.sharing.cluster import Cluster
        from appliance.sharing.members import KERNEL

        cluster = Cluster(self.data, KERNEL)
        self._stops.append(cluster.leave)
        cluster.join()
        return cluster

    def _make_services(self, sync: bool) -> Services:
        settings = self.store.settings.load()
        services = Services()
        writer = "" if self.journal.fence is None else str(self.journal.fence.writer)
        http, mqtt = HttpClient(), MqttHub(f"flowork-{read_engine(self.data).id[:8]}", process=writer)
        self._blobs = make_blobs(self.data, sync=sync)
        self._stops.append(self._blobs.close)
        self._blobs.clean = self._clean_blob
        files = self._home / "files"
        files.mkdir(mode=0o700, exist_ok=True)
        roots = [Path(root) for root in settings.file_roots]
        services.http, services.mqtt, services.blobs = http, mqtt, self._blobs
        services.files = FlowFiles(self._home, roots)
        self._sandbox = ProcessSandbox(self.data, [files], home=self._home)
        self._sandbox.open()
        services.sandbox = self._sandbox
        if settings.timezone:
            services.timezone = ZoneInfo(settings.timezone)
            # What triggers take for the machine's own zone.
            os.environ["TZ"] = settings.timezone
        else:
            services.timezone = time_zone_of_machine()
        self.clock = Clock(self.journal.newest, self.data / "clock")
        services.clock_ok = (lambda: True) if settings.clock == "trust" else self._clock_ok
        self._mqtt, self._http = mqtt, http
        services.devices = NoDevices()
        return services

    def _make_models(self) -> ModelService:
        scrub = self._scrubber
        streams = Streams(
            self.engine.steps.io.loop,
            lambda item: self.api.live.show(item),
            lambda: self.api.live.watched(),
            scrub.scrub_text,
            scrub.unfinished,
        )
        models = ModelService(self._home, self.services, self._http, streams, self.engine.steps.io.call)
        models.load(self.store.settings.load(), self.registry.providers)
        self.services.models = models.for_step
        self.services.stream = streams.piece
        self.services.model_use = models.changes
        return models

    def _make_fleet(self) -> Fleet:
        settings, engine = self.store.settings.load(), read_engine(self.data).id
        self.beacon = Beacon(engine)
        self._stops.append(self.beacon.close)
        return Fleet(
            self.data,
            self._blobs,
            self.services.wall,
            engine=engine,
            dead_man=settings.agent_dead_man,
            port=settings.agent_port,
            announce=partial(self.beacon.announce, "agents") if settings.agent_discovery else lambda port: None,
            automatic_updates=settings.agent_updates == "automatic",
            owned=lambda: read_address(keys_folder(self.data)) is not None,
            tell=self._tell_live,
        )

    def _make_peers(self) -> EnginePeers | None:
        """None in a cluster, whose machines are one engine to others: each would be taken for a copy of the rest."""
        return None if self.fleet is None or self.homes is not None else make_peers(self, self.beacon)

    def _tell_live(self, item: dict[str, Any]) -> None:
        """Something that is not of a run, to those who watch; from any thread."""
        if self.engine.chronicle.live is not None:
            self.engine.post(lambda: self.api.tell(item))

    def _clock_ok(self) -> bool:
        return bool(self.clock.trusted()[0])

    def _load_plan(self, version: int) -> FlowPlan:
        return plan_flow(self.store.flows.version(version).body, self.registry)

    def _recover(self) -> None:
        if self.homes is not None:
            self.homes.first()
        values = self.store.values
        marker = values.state_version()
        rows = [(op.flow, op.key, trace.unpack(op.value)) for op in values.load_state() if op.value is not None]
        self.services.states.load(rows, marker, self.journal.state_ops(marker))
        self.models.load_accounts(self.services.states.beside())
        self._live = self._load_flows()
        self._load_values()
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + STACK_TO_SPARE)
        try:
            taken = 0 if self._alone else self.recovery.all(self.cancel_under_way)
        finally:
            sys.setrecursionlimit(limit)
        if taken:
            logger.info("%d runs that were under way %s", taken, "end" if self.cancel_under_way else "go on")

    def _serve(self) -> None:
        consumer = start_consumer(self.queue, workers=1)
        self._stops.append(lambda: consumer.stop(30.0))
        self.engine.timers.start()
        self._stops.append(self.engine.timers.stop)
        self.maintenance.start()
        self._stops.append(self.maintenance.stop)
        self._stops.append(self.backups.stop)
        self._stops.append(self.model_jobs.stop)
        self.api = Api(self)
        server = Server(self.data, self.api.methods(), self._clean)
        # Answers to what is under way are sent until the engine has stopped.
        self._stops.append(server.stop)
        if self.fleet is not None:
            self._stops.append(self.fleet.stop)  # behind the engine: its last commit is acknowledged
        if self.peers is not None:
            self._stops.append(self.peers.stop)
        self._stops.append(self._stop_services)
        self.engine.post(lambda: None)
        self._looked_at = self.journal.mark()
        if self.fleet is not None:
            self.fleet.start()
            self.hosting.on_settled = self.fleet.attached
        self.hosting.start()
        self._stops.append(self.hosting.stop)
        if self.fleet is not None:
            self._stops.append(self.fleet.freeze)
        if self.peers is not None:
            self.peering.start(self.peers)
            self._stops.append(self.peering.stop)
            self.peers.start()
            self._stops.append(self.peers.freeze)
        self._want(self._live)
        if self.homes is not None:
            self._stops.append(self.homes.open(server))
        else:
            self._announce()
        if not self._alone:
            self.model_jobs.start()
        if self._socket:
            server.start()
            self._stops.append(server.quiet)

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

    def stop(self) -> None:
        """Stop taking events, commit what happened, let go of everything. Twice is fine."""
        if self._stopped:
            return
        self._stopped = True
        while self._stops:
            stop = self._stops.pop()
            try:
                stop()
            except Exception:
                logger.exception("stopping the kernel: %r failed", stop)

    def _stop_services(self) -> None:
        """End the steps' work first, so that nothing new is journaled half-way."""
        self.engine.post(self._keep_model_use)
        self.engine.stop()
        self._mqtt.close()
        self._sandbox.close()
        self.engine.steps.io.run_last(self._http.aclose())
        self.engine.steps.io.stop()

    # --- turns -----------------------------------------------------------------------------------

    def _turn(self) -> None:
        self.engine.pump()

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

    # --- what is live ----------------------------------------------------------------------------

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

    def lead(self) -> None:
        """This kernel of a cluster does what one must do for all."""
        if self.announcer is None:
            self._announce()

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
            "mqtt": [status_view(status) for status in self._mqtt.status()],
            "broken": [{"kind": b.kind, "type": b.type, "error": b.error} for b in self.registry.broken],
            "languages": sorted(self._sandbox.languages()),
            **(self.homes.view() if self.homes is not None else {}),
        }


def status_view(status: Any) -> dict[str, Any]:
    """One MQTT connection without its password."""
    return {name: getattr(status, name) for name in status.__struct_fields__}


def time_zone_of_machine() -> datetime.tzinfo:
    """The machine's own zone (``/etc/localtime``), or UTC."""
    link = Path("/etc/localtime")
    try:
        name = str(link.resolve()).partition("/zoneinfo/")[2]
        return ZoneInfo(name) if name else datetime.UTC
    except Exception:
        return datetime.UTC
