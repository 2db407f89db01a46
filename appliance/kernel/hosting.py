"""The trigger host: attaches the triggers of live versions, detaches those that are gone, retries the failed ones.

One thread does so, one trigger at a time; a trigger that cannot start is shown with its reason and tried again with
backoff, and holds up no other for longer than its own attach takes.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from appliance.contracts import Committed, Config, Devices, Event, FlowError, Mqtt, RunEnded, Trigger, WebTrigger
from appliance.engine.configs import ConfigPlan
from appliance.engine.flow import TriggerSpec
from appliance.kernel.peered_engine import PeeredEngine
from appliance.kernel.runs import FlowSlot
from appliance.kernel.submission import Submission
from appliance.registry import Registry

logger = logging.getLogger(__name__)

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
#: Seconds that stopping waits for a trigger that hangs.
PATIENCE = 10.0
_TEMPLATE = re.compile(r"\{[{%]")


class Missing(Trigger[Config]):
    """Stands for a type that is not there (any more), so that its triggers are shown with the reason."""


class Hosted:
    """One trigger of one live version: its context, its state, its detach."""

    def __init__(
        self, engine: PeeredEngine, slot: FlowSlot, version: int, spec: TriggerSpec, kind: Trigger[Any], starting: bool
    ) -> None:
        self.slot = slot
        self.version = version
        self.spec = spec
        self.kind = kind
        self.detach: Callable[[], None] | None = None
        self.ok = False
        self.text = "starting"
        self.failures = 0
        self.retry_at = 0.0
        self.gone = False
        self.config: Any = None
        #: Attached because the engine came up, not by a deploy.
        self.starting = starting
        self._engine = engine

    # --- TriggerContext -------------------------------------------------------------------------

    @property
    def flow(self) -> str:
        return self.slot.id

    @property
    def trigger(self) -> str:
        return self.spec.id

    @property
    def cursor(self) -> Any:
        return self._engine.services.states.of(self.slot.num).get(f"@cursor:{self.spec.id}")

    @property
    def mqtt(self) -> Mqtt:
        return self._engine.services.mqtt

    @property
    def devices(self) -> Devices:
        return self._engine.services.devices

    def emit(self, event: Event, committed: Committed | None = None) -> None:
        self.emit_many([(event, committed)])

    def emit_many(self, events: Sequence[tuple[Event, Committed | None]]) -> None:
        self._engine.submit([self._submission(event, committed) for event, committed in events])

    def dead_letter(self, event: Event, reason: str, committed: Committed | None = None) -> None:
        submission = self._submission(event, committed)
        submission.poison = reason
        submission.starts_run = True
        self._engine.submit([submission])

    def _submission(self, event: Event, committed: Committed | None) -> Submission:
        submission = Submission(self.slot.num, self.spec.id, self.spec.type, event)
        submission.version = self.version
        submission.starts_run = self.spec.starts_runs
        submission.committed = committed
        return submission

    def now(self) -> float:
        return self._engine.services.wall()

    def clock_ok(self) -> bool:
        return self._engine.services.clock_ok()

    def call_at(self, when: float, function: Callable[[], None]) -> Callable[[], None]:
        def due() -> None:
            if not self.gone:
                function()

        number = self._engine.timers.at(when, due)
        return lambda: self._engine.timers.cancel(number)

    def on_run_ended(self, function: Callable[[RunEnded], None]) -> Callable[[], None]:
        listeners = self._engine.listeners
        listeners.append(function)

        def remove() -> None:
            if function in listeners:
                listeners.remove(function)

        return remove

    def on_peer_event(self, wants: Callable[[str, str], bool]) -> Callable[[], None]:
        return self._engine.peer_events.watch(self, self.slot.workspace, wants)

    def status(self, ok: bool | None, text: str) -> None:
        if (bool(ok), text) != (self.ok, self.text):
            level = logging.WARNING if ok is False else logging.INFO
            logger.log(level, "trigger %s of %s: %s", self.spec.id, self.slot.id, text)
        self.ok, self.text = bool(ok), text

    # --- for the host ---------------------------------------------------------------------------

    def start(self) -> None:
        """Attach. Raises whatever the trigger raises."""
        if isinstance(self.kind, Missing):
            raise FlowError(f"there is no trigger type {self.spec.type!r} (any more)")
        self.config = self._rendered()
        if isinstance(self.kind, WebTrigger):
            self.status(True, f"listening at /hooks/{self.kind.path(self.config)}")
            return
        self.status(True, "attached")
        self.detach = self.kind.attach(self, self.config)

    def _rendered(self) -> Any:
        services = self._engine.services
        scope = {
            "vars": services.variables.get(self.slot.workspace, {}),
            "secrets": services.secrets.get(self.slot.workspace, {}),
        }
        plan = ConfigPlan(self.kind.Config, self.spec.config)
        return plan.constant if plan.constant is not None else plan.decode(plan.rendered(scope))

    def is_stale(self) -> bool:
        """Whether its templates give something else now than when it was attached."""
        if self.config is None:
            return True
        try:
            return bool(self._rendered() != self.config)
        except Exception:
            return True

    def stop(self) -> None:
        """Detach. Twice is fine."""
        self.gone = True
        detach, self.detach = self.detach, None
        if detach is not None:
            detach()

    def failed(self, exc: Exception, now: float) -> None:
        """The attach failed; when to try again."""
        self.failures += 1
        pause = min(FIRST_RETRY * 2.0 ** (self.failures - 1), LONGEST_RETRY)
        self.retry_at = now + pause
        reason = exc.message if isinstance(exc, FlowError) else f"{type(exc).__name__}: {exc}"
        self.status(False, f"cannot start: {reason}")

    def view(self) -> dict[str, Any]:
        """For the health page and the flow list."""
        times: list[float] = []
        if self.config is not None:
            try:
                times = self.kind.next_times(self.config, self.now())
            except Exception:
                logger.exception("next_times of %s failed", self.spec.type)
        return {
            "flow": self.slot.id,
            "workspace": self.slot.workspace,
            "id": self.spec.id,
            "type": self.spec.type,
            "name": self.spec.name,
            "version": self.version,
            "ok": self.ok,
            "status": self.text,
            "next": times,
            #: The agent that it listens to; None for a trigger on nothing of an agent's.
            "agent": getattr(self.config, "agent", None),
        }


class TriggerHost:
    """Keeps what is attached equal to what is live."""

    def __init__(self, engine: PeeredEngine, registry: Registry, monotonic: Callable[[], float]) -> None:
        self._engine = engine
        self._registry = registry
        self._monotonic = monotonic
        self._hosted: dict[tuple[int, str], Hosted] = {}
        self._wanted: dict[tuple[int, str], tuple[FlowSlot, int, TriggerSpec]] = {}
        self._changed = threading.Condition()
        self._dirty = False
        #: How often something was wanted, and how often that was done.
        self._asked = self._done = 0
        self._stopping = False
        self._refresh: set[int] = set()
        self._thread: threading.Thread | None = None
        #: Set once everything wanted at start has been tried; ``on_settled`` is called then.
        self.settled = threading.Event()
        self.on_settled: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to attach what is wanted."""
        self._thread = threading.Thread(target=self._run, name="triggers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Detach everything. Twice is fine. A trigger that hangs is left behind."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(PATIENCE)
            if self._thread.is_alive():
                logger.error("a trigger does not come back from its attach or detach; it is left behind")

    def want(self, live: Sequence[tuple[FlowSlot, int, Sequence[TriggerSpec]]], refresh: bool = False) -> None:
        """What is to be attached from now on; ``refresh`` attaches anew, since variables or secrets changed."""
        wanted = {
            (slot.num, spec.id): (slot, version, spec)
            for slot, version, specs in live
            for spec in specs
            if not spec.disabled
        }
        with self._changed:
            self._wanted = wanted
            self._asked += 1
            self._dirty = True
            if refresh:
                self._refresh = {
                    id(hosted) for hosted in self._hosted.values() if _TEMPLATE.search(str(hosted.spec.config))
                }
            self._changed.notify()

    def attached_flows(self) -> set[int] | None:
        """The flows that have triggers attached; None while that is being changed."""
        with self._changed:
            return {flow for flow, _ in self._hosted} if self._done == self._asked else None

    def views(self) -> list[dict[str, Any]]:
        """Every trigger with its state."""
        return [hosted.view() for hosted in list(self._hosted.values())]

    def get(self, flow: int, trigger: str) -> Hosted | None:
        """One hosted trigger."""
        return self._hosted.get((flow, trigger))

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._dirty or self._stopping):
                    wait = self._until_retry()
                    if wait is not None and wait <= 0:
                        break
                    self._changed.wait(wait)
                stopping = self._stopping
                self._dirty = False
                wanted, asked = {} if stopping else dict(self._wanted), self._asked
                refresh, self._refresh = self._refresh, set()
            self._detach(wanted, refresh)
            if stopping:
                return
            self._attach(wanted)
            with self._changed:
                self._done = asked
            if not self.settled.is_set():
                self.settled.set()
                self.on_settled()

    def _until_retry(self) -> float | None:
        moments = [hosted.retry_at for hosted in self._hosted.values() if hosted.retry_at]
        return min(moments) - self._monotonic() if moments else None

    def _detach(self, wanted: dict[tuple[int, str], tuple[FlowSlot, int, TriggerSpec]], refresh: set[int]) -> None:
        for key, hosted in list(self._hosted.items()):
            entry = wanted.get(key)
            fresh = id(hosted) not in refresh or not hosted.is_stale()
            if entry is not None and fresh and entry[2] == hosted.spec:
                hosted.slot, hosted.version = entry[0], entry[1]
                continue
            try:
                hosted.stop()
            except Exception:
                logger.exception("detaching trigger %s of %s failed", hosted.spec.id, hosted.slot.id)
            del self._hosted[key]

    def _attach(self, wanted: dict[tuple[int, str], tuple[FlowSlot, int, TriggerSpec]]) -> None:
        for key, (slot, version, spec) in wanted.items():
            hosted = self._hosted.get(key)
            if hosted is None:
                kind = self._registry.triggers.get(spec.type)
                starting = not self.settled.is_set()
                hosted = Hosted(self._engine, slot, version, spec, kind or Missing(), starting)
                self._hosted[key] = hosted
            elif not hosted.retry_at or hosted.retry_at > self._monotonic():
                continue
            hosted.retry_at = 0.0
            try:
                hosted.start()
                hosted.failures = 0
            except Exception as exc:
                hosted.failed(exc, self._monotonic())
