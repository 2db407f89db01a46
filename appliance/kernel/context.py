"""What a step receives: its context, and the names that its templates see.

The values of ``vars``, ``state`` and ``now`` that were looked up are remembered with the step, since they cannot
be worked out again later. A secret is noted by name only.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from typing import Any

from appliance.contracts import (
    Blobs,
    Devices,
    Engines,
    ExpressionError,
    Files,
    Http,
    Memory,
    Models,
    Mqtt,
    Overview,
    Sandbox,
    State,
    Workshop,
)
from appliance.contracts.peers import Peers
from appliance.engine import expressions
from appliance.engine.runner import Walk
from appliance.kernel.runs import LiveRun
from appliance.kernel.state import FlowStates, StepState
from appliance.kernel.streams import Shown

MAX_LOGS = 200
MAX_LOG = 4_000
_UNSET: Any = object()


class Services:
    """What the kernel lends to every step. Filled once when the kernel starts."""

    http: Http
    mqtt: Mqtt
    devices: Devices
    sandbox: Sandbox
    files: Files
    blobs: Blobs
    #: The models, for one step.
    models: Callable[[StepContext], Models]
    #: The memory of its workspace, for one step.
    memory: Callable[[StepContext], Memory]
    #: The engine as a step may see it.
    overview: Callable[[StepContext], Overview]
    #: The workshop, for one step.
    workshop: Callable[[StepContext], Workshop]
    #: The engines that it can name.
    engines: Callable[[StepContext], Engines]

    def __init__(self) -> None:
        #: Shows a piece of a step's output to whoever watches.
        self.stream: Callable[[StepContext, str], None] = lambda ctx, text: None
        #: Tells them that what was shown is void.
        self.anew: Callable[[StepContext], None] = lambda ctx: None
        #: What a flow's steps have used of models and is not kept yet, by key.
        self.model_use: Callable[[int], dict[str, Any]] = lambda flow: {}
        #: The links to peers, if this kernel has any.
        self.peers: Callable[[], Peers | None] = lambda: None
        self.variables: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.states = FlowStates()
        self.wall: Callable[[], float] = time.time
        self.clock_ok: Callable[[], bool] = lambda: True
        self.timezone: datetime.tzinfo = datetime.UTC


class _Watched(dict[str, Any]):
    """A namespace that remembers what was looked up in it."""

    __slots__ = ("_hide", "_prefix", "_saw")

    def __init__(self, values: Mapping[str, Any], prefix: str, saw: dict[str, Any], hide: bool = False) -> None:
        super().__init__(values)
        self._prefix = prefix
        self._saw = saw
        self._hide = hide

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        self._saw[f"{self._prefix}.{key}"] = "•••" if self._hide else value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default


def steps_view(walk: Walk) -> dict[str, Any]:
    """``steps.<id>``: the output of every settled step."""
    nodes = walk.plan.nodes
    return {nodes[index].id: value for index, value in walk.outputs.items()}


class StepContext:
    """The ``Context`` of the contracts for one attempt at one step."""

    __slots__ = (
        "_abort",
        "_aborted",
        "_payload",
        "_run",
        "_services",
        "_state",
        "attempt",
        "deadline",
        "given",
        "index",
        "logs",
        "node",
        "outgoing",
        "saw",
        "shown",
        "signals",
    )

    def __init__(
        self, services: Services, run: LiveRun, index: int, attempt: int, payload: Any, deadline: float
    ) -> None:
        self._services = services
        self._run = run
        self._payload = payload
        self._state: StepState | None = None
        self._abort: Callable[[], None] | None = None
        self._aborted = False
        self.index = index
        self.node = run.plan.nodes[index].id
        self.attempt = attempt
        self.deadline = deadline
        self.saw: dict[str, Any] = {}
        self.logs: list[list[Any]] = []
        self.signals: list[tuple[str, Any]] = []
        #: Events to other engines: id of the engine, topic, payload.
        self.outgoing: list[tuple[str, str, Any]] = []
        self.shown: Shown | None = None
        #: The rendered config, where another engine has rendered it.
        self.given: dict[str, Any] | None = None

    @property
    def flow_number(self) -> int:
        return self._run.flow.num

    @property
    def workspace(self) -> str:
        return self._run.flow.workspace

    @property
    def priority(self) -> int:
        """Of the flow: which of several steps goes first where they wait for the same thing."""
        return self._run.flow_plan.settings.priority

    @property
    def model_budget(self) -> float | None:
        """US dollars that the flow may spend on models in a day, if it has a bound of its own."""
        return self._run.flow_plan.settings.model_budget

    @property
    def flow(self) -> str:
        return self._run.flow.id

    @property
    def run(self) -> str:
        return self._run.text

    @property
    def step(self) -> str:
        return f"{self._run.text}/{self.node}"

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this step, also after a crash."""
        return f"{self._run.text}-{self._run.place}{'/' if self._run.place else ''}{self.node}"

    @property
    def event(self) -> Mapping[str, Any]:
        return self._run.event

    @property
    def inputs(self) -> Mapping[str, Any]:
        return self._run.walk.inputs_of(self.index)

    @property
    def state(self) -> State:
        return self.step_state

    @property
    def step_state(self) -> StepState:
        if self._state is None:
            self._state = StepState(self._services.states.of(self._run.flow.num))
        return self._state

    @property
    def changes(self) -> dict[str, Any]:
        return self._state.changes if self._state is not None else {}

    @property
    def http(self) -> Http:
        return self._services.http

    @property
    def mqtt(self) -> Mqtt:
        return self._services.mqtt

    @property
    def devices(self) -> Devices:
        return self._services.devices

    @property
    def sandbox(self) -> Sandbox:
        return self._services.sandbox

    @property
    def files(self) -> Files:
        return self._services.files

    @property
    def blobs(self) -> Blobs:
        return self._services.blobs

    @property
    def models(self) -> Models:
        return self._services.models(self)

    @property
    def memory(self) -> Memory:
        return self._services.memory(self)

    @property
    def overview(self) -> Overview:
        return self._services.overview(self)

    @property
    def engines(self) -> Engines:
        return self._services.engines(self)

    @property
    def workshop(self) -> Workshop:
        return self._services.workshop(self)

    def now(self) -> float:
        return self._services.wall()

    def scope(
        self, names: frozenset[str], payload: Any = _UNSET, extra: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The values of just the names that a template reads."""
        values: dict[str, Any] = {"payload": self._payload if payload is _UNSET else payload}
        for name in names:
            if name == "event":
                values[name] = self._run.event
            elif name not in values and name in _NAMES:
                values[name] = _NAMES[name](self)
        if extra:
            values.update(extra)
        return values

    def eval(self, expression: str, payload: Any = _UNSET, **names: Any) -> Any:
        compiled = expressions.expression(expression)
        return expressions.plain(compiled(self.scope(compiled.names, payload, names)))

    def log(self, message: str, level: str = "info") -> None:
        if len(self.logs) < MAX_LOGS:
            self.logs.append([round(self._services.wall(), 3), level, str(message)[:MAX_LOG]])

    def stream(self, text: str) -> None:
        self._services.stream(self, text)

    def anew(self) -> None:
        """What was streamed so far is void."""
        self._services.anew(self)

    def signal(self, name: str, value: Any = None) -> None:
        self.signals.append((name, value))

    def on_cancel(self, abort: Callable[[], None]) -> None:
        self._abort = abort
        if self._aborted:
            self.cancel()

    def cancel(self) -> None:
        """End a blocking node's work, once."""
        self._aborted = True
        abort, self._abort = self._abort, None
        if abort is not None:
            abort()

    def _vars(self) -> Mapping[str, Any]:
        return _Watched(self._services.variables.get(self._run.flow.workspace, {}), "vars", self.saw)

    def _secrets(self) -> Mapping[str, Any]:
        return _Watched(self._services.secrets.get(self._run.flow.workspace, {}), "secrets", self.saw, hide=True)

    def _state_view(self) -> Mapping[str, Any]:
        return _Watched(self._services.states.of(self._run.flow.num), "state", self.saw)

    def _now(self) -> Callable[[], datetime.datetime]:
        def now() -> datetime.datetime:
            moment = datetime.datetime.fromtimestamp(self._services.wall(), self._services.timezone)
            self.saw["now()"] = moment.isoformat()
            return moment

        return now


_NAMES: dict[str, Callable[[StepContext], Any]] = {
    "vars": StepContext._vars,
    "secrets": StepContext._secrets,
    "state": StepContext._state_view,
    "now": StepContext._now,
    "steps": lambda ctx: steps_view(ctx._run.walk),
    "run": lambda ctx: {"id": ctx.run, "flow": ctx.flow, "attempt": ctx.attempt},
}


def judge_for(services: Services, run: LiveRun, index: int) -> Callable[[expressions.Compiled, Any], bool]:
    """Judges edge conditions with the source's output as ``payload``."""

    def judge(compiled: expressions.Compiled, value: Any) -> bool:
        ctx = StepContext(services, run, index, 1, value, 0.0)
        try:
            return bool(compiled(ctx.scope(compiled.names)))
        except ExpressionError as exc:
            raise ExpressionError(f"condition of an edge behind {ctx.node!r}: {exc.message}") from None

    return judge
