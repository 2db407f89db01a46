"""A real kernel with its socket, on a folder of the test, with a clock that moves when told.

Flows come in through the FlowBook as they do from the command line, so they are checked against this machine::

    with House(tmp_path) as house:
        flow = house.deploy(body)
        answer = house.start(flow, "form", {"meter": "water"})
        house.pass_time(60)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from appliance.contracts import RunEnded, WebTrigger
from appliance.flowbook import FlowBook
from appliance.kernel.client import KernelClient
from appliance.kernel.context import Services
from appliance.kernel.kernel import Kernel
from appliance.registry import Registry
from appliance.security.audit import AuditLog
from appliance.security.keys import init_keys
from appliance.security.roles import DEFAULT_WORKSPACE, local_identity
from appliance.security.secret import Secret
from appliance.security.vault import Secrets
from appliance.store.metadata import open_store
from appliance.store.records import Flow
from tests.support.broker import eventually

#: Seconds that a run may take before the test fails; never waited for when all is well.
PATIENCE = 20.0


class _Kernel(Kernel):
    """Its wall clock is ahead of the machine's by ``offset`` seconds; it tells of every run that has ended."""

    offset = 0.0

    def __init__(self, data: Path, on_ended: Callable[[RunEnded], None]) -> None:
        super().__init__(data)
        self._on_ended = on_ended

    def _open(self) -> None:
        super()._open()
        self.engine.listeners.append(self._on_ended)

    def _make_services(self, sync: bool) -> Services:
        services = super()._make_services(sync)
        services.wall = lambda: time.time() + self.offset
        services.clock_ok = lambda: True
        return services


class House:
    """One engine of the test. ``ended`` are its runs that have ended, children and skipped ones left out."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.ended: list[RunEnded] = []
        self._stops: list[Callable[[], Any]] = []

    def __enter__(self) -> Self:
        init_keys(self.data)
        self.kernel = _Kernel(self.data, self.ended.append)
        self.kernel.start()
        self._stops.append(self.kernel.stop)
        self.client = KernelClient(self.data)
        self._stops.append(self.client.close)
        self.store = open_store(self.data)
        self._stops.append(self.store.close)
        registry = Registry().scan(self.data / "packages")
        self.book = FlowBook(self.store, registry, AuditLog(self.store.audit, self.data), self.client)
        return self

    def __exit__(self, *_exc: object) -> None:
        while self._stops:
            self._stops.pop()()

    def secret(self, name: str, value: str) -> None:
        """Keep a secret and tell the kernel."""
        Secrets(self.store.values.secrets, self.data).put(DEFAULT_WORKSPACE, name, Secret(value))
        self.book.tell_kernel()

    def deploy(self, body: dict[str, Any]) -> Flow:
        """Import a flow as a file would be and make it live; returns once its triggers are attached."""
        saved = self.book.import_flow(body, by=local_identity("tester"), deploy=True)
        names = [trigger["id"] for trigger in body.get("triggers", ())]
        eventually(lambda: all(self._attached(saved.flow, name) for name in names), "a trigger was not attached")
        return saved.flow

    def _attached(self, flow: Flow, name: str) -> bool:
        hosted = self.kernel.hosting.get(flow.num, name)
        if hosted is None or not hosted.ok:
            return False
        # It says that it is attached a moment before it is.
        return hosted.detach is not None or isinstance(hosted.kind, WebTrigger)

    def triggers(self, flow: Flow) -> list[dict[str, Any]]:
        """The state of a flow's triggers."""
        return [view for view in self.kernel.hosting.views() if view["flow"] == flow.id]

    def start(self, flow: Flow, trigger: str, payload: Any = None, **event: Any) -> dict[str, Any]:
        """Start a run by hand and wait for its end: run, state and output or error."""
        given = {"flow": flow.num, "trigger": trigger, "kind": "manual", "payload": payload, **event}
        answer: dict[str, Any] = self.client.call("submit", wait=PATIENCE, **given)
        return answer

    def begin(self, flow: Flow, trigger: str, payload: Any = None) -> str:
        """Start a run by hand; its id, once it is on disk."""
        answer = self.client.call("submit", flow=flow.num, trigger=trigger, kind="manual", payload=payload)
        return str(answer["run"])

    def outcome(self, flow: Flow, number: int = 0) -> RunEnded:
        """How a flow's run ended, the first if ``number`` is not given; waits for it."""

        def found() -> list[RunEnded]:
            ended = [run for run in self.ended if run.flow == flow.id]
            return ended[number:]

        first: RunEnded = eventually(found, f"no run of {flow.id} has ended")[0]
        return first

    def pass_time(self, seconds: float) -> None:
        """Move the wall clock on."""
        self.kernel.offset += seconds
        timers = self.kernel.engine.timers
        with timers._changed:
            timers._changed.notify()

    def until_due(self, flow: Flow) -> None:
        """Move the clock behind the next moment of a flow's schedule, by more than a minute for its jitter."""
        due = min(moment for view in self.triggers(flow) for moment in view["next"])
        self.pass_time(due - self.kernel.services.wall() + 61)

    def waiting(self) -> int:
        """How many runs wait for a moment, a person or an event."""
        waiting: int = self.kernel.engine.keeper.waiting
        return waiting

    def file(self, pattern: str) -> str:
        """The text of the one file in ``files/`` that fits."""
        (path,) = (self.data / "files").glob(pattern)
        return path.read_text()
