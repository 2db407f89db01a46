"""The kernel: puts engine, journal, queue, triggers and services together, and takes them apart again."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from appliance.engine import trace
from appliance.fleet.away import NoDevices
from appliance.fleet.fleet import Fleet
from appliance.fleet.peers.beacon import Beacon
from appliance.fleet.peers.peers import EnginePeers
from appliance.integrity import installed_at
from appliance.kernel.api import Api
from appliance.kernel.backups import Backups
from appliance.kernel.blobs import make_blobs
from appliance.kernel.clock import Clock
from appliance.kernel.context import Services
from appliance.kernel.core import Core
from appliance.kernel.files import FlowFiles
from appliance.kernel.hosting import TriggerHost
from appliance.kernel.http import HttpClient
from appliance.kernel.integrity import Watch
from appliance.kernel.maintenance import Maintenance, make_room_to_start
from appliance.kernel.memory import MemoryService
from appliance.kernel.model_jobs import ModelJobs
from appliance.kernel.models import ModelService
from appliance.kernel.mqtt import MqttHub
from appliance.kernel.overview import KernelOverview
from appliance.kernel.peered_engine import PeeredEngine
from appliance.kernel.peering.peering import Peering
from appliance.kernel.peers_making import make_peers
from appliance.kernel.recovery import Recovery
from appliance.kernel.server import Server
from appliance.kernel.standin import adopt_task
from appliance.kernel.streams import Streams
from appliance.kernel.workshop import KernelWorkshop
from appliance.queue.app import make_huey
from appliance.queue.consumer import start_consumer
from appliance.registry import Registry
from appliance.sandbox.process import ProcessSandbox
from appliance.security.files import keys_folder
from appliance.security.keys import read_engine
from appliance.security.owner import read_address
from appliance.security.scrub import ScrubFilter
from appliance.store.metadata import open_store
from appliance.store.places import database_url, make_journal

if TYPE_CHECKING:
    from appliance.kernel.homes import Homes
    from appliance.kernel.peering.cluster_peers import ClusterPeers
    from appliance.sharing.cluster import Cluster

logger = logging.getLogger(__name__)

#: Who makes run ids (6 bits): the kernel, and others while there is none.
KERNEL_WRITER = 0
#: What a step gave may be nested as deeply as the stack allowed then; reading it back must not need more.
STACK_TO_SPARE = 500


class Kernel(Core):
    """One engine's kernel. ``start`` and ``stop`` once each; the caller holds the folder's kernel lock.

    With ``alone`` it does what it is asked over its socket and nothing by itself: no trigger is attached, and runs
    that were under way are left for the next whole kernel (the command line runs single flows so). ``home`` is the
    engine's own folder if ``data`` is a scratch folder within it: flows find their files and packages there.
    """

    homes: Homes | None

    def __init__(
        self,
        data: Path,
        *,
        queue_url: str | None = None,
        socket: bool = True,
        alone: bool = False,
        home: Path | None = None,
    ) -> None:
        super().__init__(data, alone)
        self._home = home or data
        self._queue_url = queue_url
        self._socket = socket
        #: Why the runs that were under way end at the start instead of going on; they do go on if empty.
        self.cancel_under_way = ""
        self._stopped = False

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
        make_room_to_start(self.data)
        self.store = open_store(self.data)
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
        self.maintenance = Maintenance(self.data, self.engine, self.journal, self.store, self.blobs)
        keeper.make_room = self.maintenance.make_room
        keeper.committed = self.maintenance.after_commit
        self.maintenance.on_tick = self._tick
        self.backups = Backups(self._home, self.store.settings.load, time.time)
        self.integrity = Watch(installed_at(), lambda: settings.integrity, time.monotonic)
        self._stops.append(self.integrity.stop)
        self.hosting = TriggerHost(self.engine, self.registry, time.monotonic)
        self.models = self._make_models()
        self.workshop = KernelWorkshop(self, self.models.for_work, lambda item: self.api.live.show(item))
        self.services.workshop = self.workshop.for_step
        own = partial(self.models.for_work, "memory")
        self.memory = MemoryService(self.data, sync=sync, clean=keeper.clean, models=own, wall=self.services.wall)
        self._stops.append(self.memory.close)
        self.services.memory = self.memory.for_step
        self.services.overview = partial(KernelOverview, self)
        self.model_jobs = ModelJobs(self._home, self.store.settings.load, self.tell_live)
        self.fleet = None if self._alone else self._make_fleet()
        if self.fleet is not None:
            self.services.devices = self.fleet
        self.peers = self._make_peers(cluster)
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
        self.blobs = make_blobs(self.data, sync=sync)
        self._stops.append(self.blobs.close)
        self.blobs.clean = self._clean_blob
        files = self._home / "files"
        files.mkdir(mode=0o700, exist_ok=True)
        roots = [Path(root) for root in settings.file_roots]
        services.http, services.mqtt, services.blobs = http, mqtt, self.blobs
        services.files = FlowFiles(self._home, roots)
        self.sandbox = ProcessSandbox(self.data, [files], home=self._home)
        self.sandbox.open()
        services.sandbox = self.sandbox
        if settings.timezone:
            services.timezone = ZoneInfo(settings.timezone)
            # What triggers take for the machine's own zone.
            os.environ["TZ"] = settings.timezone
        else:
            services.timezone = time_zone_of_machine()
        self.clock = Clock(self.journal.newest, self.data / "clock")
        services.clock_ok = (lambda: True) if settings.clock == "trust" else self._clock_ok
        self.mqtt, self._http = mqtt, http
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
            self.blobs,
            self.services.wall,
            engine=engine,
            dead_man=settings.agent_dead_man,
            port=settings.agent_port,
            announce=partial(self.beacon.announce, "agents") if settings.agent_discovery else lambda port: None,
            automatic_updates=settings.agent_updates == "automatic",
            owned=lambda: read_address(keys_folder(self.data)) is not None,
            tell=self.tell_live,
        )

    def _make_peers(self, cluster: Cluster | None) -> EnginePeers | ClusterPeers | None:
        if self.fleet is None:
            return None
        if cluster is None or self.homes is None:
            return make_peers(self, self.beacon)
        from appliance.kernel.peering.cluster_peers import ClusterPeers

        return ClusterPeers(self, self.homes, cluster, self.beacon)

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
        self.api = Api(self, self.workshop, self.peering)
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
        self.mqtt.close()
        self.sandbox.close()
        self.engine.steps.io.run_last(self._http.aclose())
        self.engine.steps.io.stop()

    def _turn(self) -> None:
        self.engine.pump()


def time_zone_of_machine() -> datetime.tzinfo:
    """The machine's own zone (``/etc/localtime``), or UTC."""
    link = Path("/etc/localtime")
    try:
        name = str(link.resolve()).partition("/zoneinfo/")[2]
        return ZoneInfo(name) if name else datetime.UTC
    except Exception:
        return datetime.UTC
