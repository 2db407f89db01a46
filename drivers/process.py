"""Processes of this machine: started, exited, too busy, too large.

`name`, `cmdline` (shell patterns) and `user` say which; empty ones mean any. Where it may (root or CAP_NET_ADMIN, from
Linux 6.6 on anybody, but not in a container) the driver listens to the kernel's process connector: it learns of a
process within a millisecond or two, and its exit code; what lives shorter than that can be missed. Elsewhere it looks
every `poll` seconds, which misses short lives and exit codes. The first event, `initial`, says how many run now and by
which `method` they are watched.

Events: `started` when a program begins (a fork that runs nothing new counts once it is 50 ms old), `exited` with
`code` or `signal`; `cpu_high` and `memory_high` when a process has been over its limit for `hold` seconds, `cpu_normal`
and `memory_normal` once it is a tenth below. More than `max_rate` a second are counted in `overflow`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop
from drivers.support import processes
from drivers.support.connector import EXEC, EXIT, FORK, Connector, ProcessEvent
from drivers.support.processes import Process as Seen
from drivers.support.rate import Bound
from drivers.support.thresholds import Limits
from drivers.support.worker import Watch, Worker

logger = logging.getLogger(__name__)

#: Seconds that a fork may take to become another program.
_GRACE = 0.05
#: Looks at new processes a second. Each takes 0.1 to 0.3 ms; in a storm the rest is only counted.
_MOST_LOOKS = 300
#: Processes whose end is still to be told, and forks that are still to become something.
_MOST_KNOWN = 20_000
#: Of a limit: as far below it a process has to come to be normal again.
_HYSTERESIS = 0.1

Method = Literal["connector", "poll"]


class ProcessConfig(DriverConfig, frozen=True):
    name: Annotated[str, Meta(title="Name", description="nginx, python3*; empty: any")] = ""
    cmdline: Annotated[str, Meta(title="Command line", description="*backup.sh*; empty: any")] = ""
    user: Annotated[str, Meta(title="User", description="Empty: any")] = ""
    cpu: Annotated[float, Meta(title="CPU limit", description="Percent of one core; 0: none", ge=0)] = 0.0
    memory: Annotated[float, Meta(title="Memory limit", description="MiB; 0: none", ge=0)] = 0.0
    hold: Annotated[float, Meta(title="Seconds over a limit", ge=0)] = 30.0
    interval: Annotated[float, Meta(title="Seconds between looks at CPU and memory", ge=0.05)] = 5.0
    poll: Annotated[float, Meta(title="Seconds between looks without the connector", ge=0.05)] = 1.0
    method: Annotated[Literal["auto", "connector", "poll"], Meta(title="How to watch")] = "auto"
    max_rate: Annotated[int, Meta(title="Most events a second", ge=1, le=5000)] = 100


class _Known(Struct):
    """A process whose end is to be told."""

    process: Seen
    cpu: Limits
    memory: Limits


class Process(Driver[ProcessConfig]):
    type = "process"
    title = "Processes"
    Config = ProcessConfig

    def __init__(self, config: ProcessConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._method: Method | None = None
        self._watching = Watch()

    def open(self) -> None:
        with self._lock:
            if self._method is None:
                self._method = self._try_out()

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._method = None

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if self._method is None:
                raise DriverError("the process driver is not open")
            return self._watching.begin(f"process {self._source()}", emit, self._watch)

    def entities(self) -> list[Entity]:
        return [Entity(self._source(), f"Processes {self._source()}", "event")]

    def _try_out(self) -> Method:
        """How it will be watched. Each watch listens anew: what nobody reads would pile up in the kernel."""
        if self.config.method != "poll":
            connector = Connector()
            try:
                connector.open()
            except DriverError:
                if self.config.method == "connector":
                    raise
            else:
                return "connector"
            finally:
                connector.close()
        return "poll"

    def _source(self) -> str:
        config = self.config
        return config.name or config.cmdline or config.user or "any"

    def _watch(self, worker: Worker) -> None:
        table = Table(self.config, self.host, self._source(), self._watching.tell)
        connector = Connector()
        try:
            if self._method == "connector":
                connector.open()
                self._listen(worker, table, connector)
                return
        except (DriverError, OSError) as exc:
            logger.warning("%s; looking every %g s instead", exc, self.config.poll)
        finally:
            connector.close()
        table.tell("initial", table.adopt(processes.pids()), method="poll")
        while worker.pause(table.patience(self.config.poll)):
            table.compare(processes.pids())
            table.tick()

    def _listen(self, worker: Worker, table: Table, connector: Connector) -> None:
        table.tell("initial", table.adopt(processes.pids()), method="connector")
        while not worker.stopping:
            if worker.wait((connector.fileno(),), table.patience(None)):
                happened = connector.read()
                table.take(happened) if happened is not None else table.missed()
            table.tick()


class Table:
    """The processes that are meant, what became of them, and what there is to tell. For one thread."""

    def __init__(self, config: ProcessConfig, host: Host, source: str, tell: Emit) -> None:
        self._config = config
        self._host = host
        self._source = source
        self._tell = tell
        self._wanted = processes.Wanted(config.name, config.cmdline, config.user)
        self._known: dict[int, _Known] = {}
        self._all: set[int] = set()
        self._forks: dict[int, float] = {}
        self._young: set[int] = set()  # polling: as the forks
        self._bound = Bound(config.max_rate, host.monotonic)
        self._looks = Bound(_MOST_LOOKS, host.monotonic)
        self._measured = host.monotonic()
        self._resync = False

    def tell(self, kind: str, value: Any, at: float | None = None, **attrs: Any) -> None:
        now = self._host.now() if at is None else at
        self._tell(Observation(self._source, kind, value, now, attrs))

    def patience(self, poll: float | None) -> float | None:
        """Seconds until something is to be done although nothing happens."""
        waits = [poll] if poll is not None else []
        if self._forks or self._young:
            waits.append(_GRACE)
        if self._bound.pending or self._looks.pending or self._resync:
            waits.append(1.0)
        if self._measures and self._known:
            waits.append(max(0.0, self._measured + self._config.interval - self._host.monotonic()))
        return min(waits, default=None)

    # --- what happened ---

    def adopt(self, pids: list[int]) -> int:
        """The processes that run when the watch begins; how many are meant."""
        self._all = set(pids)
        for pid in pids:
            self._know(processes.look(pid, self._host.now()))
        return len(self._known)

    def take(self, happened: list[ProcessEvent]) -> None:
        """The connector's events."""
        offset = self._host.now() - time.clock_gettime(time.CLOCK_MONOTONIC)
        for event in happened:
            at = offset + event.nanoseconds / 1e9
            if event.what == FORK:
                if len(self._forks) < _MOST_KNOWN:
                    self._forks[event.pid] = at
            elif event.what == EXEC:
                self._forks.pop(event.pid, None)
                self._started(event.pid, at)
            elif event.what == EXIT:
                self._forks.pop(event.pid, None)
                self._exited(event.pid, at, event.status)

    def compare(self, pids: list[int]) -> None:
        """Polling: what has come and gone since the last look."""
        now, before = self._host.now(), self._all
        self._all = set(pids)
        for pid in before - self._all:
            self._exited(pid, now, None)
        for pid in [pid for pid, known in self._known.items() if not known.process.lives()]:
            self._exited(pid, now, None)
            self._started(pid, now)
        for pid in (self._all - before) | (self._young & self._all):
            # A fork that is about to become another program is looked at once it has.
            if pid in self._young or processes.age(pid) > _GRACE:
                self._young.discard(pid)
                self._started(pid, now)
            else:
                self._young.add(pid)
        self._young &= self._all

    def missed(self) -> None:
        """The kernel had no room for all events: look at what there is once the storm is over."""
        self._resync = True
        self._bound.leave_out()

    def tick(self) -> None:
        """What is due although nothing happened."""
        self._settle_forks()
        if self._looks.due:
            # What was not looked at may have been meant.
            self._bound.leave_out(self._looks.report())
            self._resync = True
        if self._bound.due:
            self.tell("overflow", self._bound.report())
            if self._resync:
                self._resync = False
                self._set_right()
        if self._measures and self._host.monotonic() - self._measured >= self._config.interval:
            self._measured = self._host.monotonic()
            self._measure()

    # --- single processes ---

    def _settle_forks(self) -> None:
        if self._forks:
            due = self._host.now() - _GRACE
            for pid in [pid for pid, at in self._forks.items() if at <= due]:
                self._started(pid, self._forks.pop(pid))

    def _started(self, pid: int, at: float) -> None:
        if not self._looks.take():
            return
        process = processes.look(pid, self._host.now())
        known = self._known.get(pid)
        if process is not None and known is not None and _same(process, known.process):
            return
        if self._know(process) and process is not None:
            self._tell_start(process, at)

    def _tell_start(self, process: Seen, at: float) -> None:
        if self._bound.take():
            self.tell("started", process.told(), at)
        else:
            # If it still lives when there is room again, it is told then.
            del self._known[process.pid]
            self._resync = True

    def _exited(self, pid: int, at: float, status: int | None) -> None:
        known = self._known.pop(pid, None)
        if known is None or not self._bound.take():
            return
        value = known.process.told() | {"seconds": round(max(0.0, at - known.process.began), 3)}
        if status is not None:
            signal = status & 0x7F
            value |= {"signal": signal} if signal else {"code": status >> 8 & 0xFF}
        self.tell("exited", value, at)

    def _know(self, process: Seen | None) -> bool:
        """Keep a process in mind if it is meant."""
        if process is None:
            return False
        if not self._wanted.fits(process) or len(self._known) >= _MOST_KNOWN:
            self._known.pop(process.pid, None)
            return False
        config, margin = self._config, _HYSTERESIS
        self._known[process.pid] = _Known(
            process,
            Limits(config.cpu or None, None, config.cpu * margin, config.hold),
            Limits(config.memory or None, None, config.memory * margin, config.hold),
        )
        return True

    def _set_right(self) -> None:
        """After a storm: tell the ends and beginnings that were missed, as far as they still can be seen."""
        pids = set(processes.pids())
        now = self._host.now()
        for pid in [pid for pid, known in self._known.items() if pid not in pids or not known.process.lives()]:
            self._exited(pid, now, None)
        for pid in pids - self._known.keys():
            process = processes.look(pid, self._host.now())
            if self._know(process) and process is not None:
                self._tell_start(process, process.began)

    # --- CPU and memory ---

    @property
    def _measures(self) -> bool:
        return self._config.cpu > 0 or self._config.memory > 0

    def _measure(self) -> None:
        now = self._host.monotonic()
        for known in list(self._known.values()):
            load = known.process.load()
            if load is None:
                continue
            cpu, memory = load
            if self._config.cpu and known.cpu.update(cpu, now) and self._bound.take():
                self.tell(f"cpu_{known.cpu.zone}", known.process.told() | {"cpu": round(cpu, 1)})
            if self._config.memory and known.memory.update(memory, now) and self._bound.take():
                self.tell(f"memory_{known.memory.zone}", known.process.told() | {"memory": round(memory, 1)})


def _same(one: Seen, other: Seen) -> bool:
    """Whether a pid still runs the same program."""
    return (one.name, one.cmdline) == (other.name, other.cmdline)
