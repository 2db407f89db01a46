"""The plug-in surface: everything a node or a trigger may know of Flowork.

A plug-in is one file in ``appliance/nodes/`` or ``appliance/triggers/`` (or in the same folders under
``FloworkData/packages/``). It imports this module and its own library and nothing else of ours; whatever
it needs at run time it receives as ``ctx``. The module docstring of a plug-in is its help text, its
``Config`` class is its form, its validation, its JSON Schema and its documentation.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

# --- what a config is made of --------------------------------------------------------------------

#: A Jinja2 expression without braces (``payload.t > 30``); the node evaluates it with ``ctx.eval``.
Expression = Annotated[str, Meta(extra_json_schema={"x-flowork-text": "expression"})]
#: Text that is never a template, such as the source of a script.
Code = Annotated[str, Meta(extra_json_schema={"x-flowork-text": "code"})]
#: Nodes and edges of an inner graph, run by :class:`Spawn` with ``flow=""``; has templates of its own.
Graph = Annotated[dict[str, Any], Meta(extra_json_schema={"x-flowork-text": "graph"})]
#: Seconds as a number, or text such as ``90s``, ``2m``, ``1h30m``, ``3d``; see :func:`seconds`.
Duration = Annotated[float | str, Meta(extra_json_schema={"x-flowork-text": "duration"})]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)
_LONGEST = 100 * 366 * 86400.0


def seconds(value: float | str) -> float:
    """A :data:`Duration` in seconds, 0 to 100 years. Raises ``ConfigError`` for anything else."""
    if isinstance(value, str):
        text = value.strip().lower()
        parts = _DURATION.findall(text)
        if not parts or _DURATION.sub("", text).strip():
            try:
                result = float(text)
            except ValueError:
                raise ConfigError(f"{value!r} is not a duration; write 90s, 2m, 1h30m or 3d") from None
        else:
            result = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        result = float(value)
    if not 0 <= result <= _LONGEST:
        raise ConfigError(f"{value!r} is not between 0 seconds and 100 years")
    return result


class Config(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Base of every config class. Text fields are templates unless typed ``Expression`` or ``Code``."""


C = TypeVar("C", bound=Config)


class Problem(Struct, frozen=True):
    """One fault found on save: ``path`` inside the config (``url``, ``rules[2].when``) and what to do."""

    path: str
    message: str


# --- errors --------------------------------------------------------------------------------------


class FlowError(Exception):
    """Base of every error a person may see. ``id`` is explained in docs/errors.md.

    ``retryable`` says whether the same step may succeed if it is simply tried again later.
    """

    id: ClassVar[str] = "error"
    retryable: bool = True

    def __init__(self, message: str, *, retryable: bool | None = None, detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        if retryable is not None:
            self.retryable = retryable


class ConfigError(FlowError):
    """The config (after its templates were rendered) is wrong; trying again does not help."""

    id = "bad-config"
    retryable = False


class NodeError(FlowError):
    """A node could not do its work."""

    id = "node-failed"


class ExpressionError(FlowError):
    """A template or an expression failed or used up its budget."""

    id = "bad-expression"
    retryable = False


class TimedOut(FlowError):
    """A step passed its timeout and its work was ended."""

    id = "timed-out"


class Busy(FlowError):
    """The queue's bound is reached; ``retry_after`` seconds are a good moment to come back."""

    id = "busy"

    def __init__(self, message: str = "the queue is full", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# --- what a step does, and what it may return ------------------------------------------------------


class Effect(StrEnum):
    """What a node does to the world; decides how it is fenced and what happens after a crash."""

    PURE = "pure"
    IDEMPOTENT = "idempotent"
    ONCE = "once"


class Out(Struct, frozen=True):
    """A result on a named port. A plain return value means ``Out(value)``; port ``""`` fires no edge."""

    value: Any = None
    port: str = "out"


class Park(Struct, frozen=True):
    """Wait durably, holding no thread: until the moment ``until`` (Unix seconds, UTC) or a signal.

    ``signals`` are names that :meth:`Context.signal` or a person's answer may wake; ``memo`` (JSON) is
    kept and handed back to :meth:`Node.resume`. ``ask`` is shown to a person (approvals).
    """

    until: float | None = None
    signals: tuple[str, ...] = ()
    memo: Any = None
    ask: Mapping[str, Any] | None = None


class Spawn(Struct, frozen=True):
    """Run a flow (``flow``: its id) or the node's own body (``flow=""``) once per item, as child runs.

    At most ``concurrency`` at a time. The node is resumed with ``Wake.value`` a list of
    ``{"ok": bool, "output": ..., "error": ..., "run": id}`` in the order of ``items``. A failed child is
    run again up to ``attempts`` times in all, ``backoff`` seconds after it failed (doubling). With
    ``stop_on_error`` the first child that failed for good cancels those that have not finished.
    """

    items: Sequence[Any]
    flow: str = ""
    concurrency: int = 4
    attempts: int = 1
    backoff: float = 1.0
    stop_on_error: bool = False
    memo: Any = None


class Wake(Struct, frozen=True):
    """Why a parked step goes on: ``kind`` is ``time``, ``signal`` or ``children``."""

    kind: str
    signal: str = ""
    value: Any = None
    memo: Any = None


class Pending:
    """A result that comes later from another thread; completing it twice is fine, the first one counts."""

    __slots__ = ("_callback", "_done", "_error", "_value")

    def __init__(self) -> None:
        self._callback: Callable[[Any, BaseException | None], None] | None = None
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None

    def complete(self, value: Any = None, error: BaseException | None = None) -> None:
        """Settle with a value or an error. Safe from any thread."""
        if self._done:
            return
        self._value, self._error, self._done = value, error, True
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(value, error)

    def then(self, callback: Callable[[Any, BaseException | None], None]) -> None:
        """Call ``callback(value, error)`` exactly once, at once if already settled."""
        self._callback = callback
        if self._done:
            claimed, self._callback = self._callback, None
            if claimed is not None:
                claimed(self._value, self._error)


Result = Any | Out | Park | Spawn | Pending | Awaitable[Any]


# --- what a plug-in receives -----------------------------------------------------------------------


class State(Protocol):
    """Durable values of one flow. A change is committed together with the step that made it."""

    def get(self, key: str, default: Any = None) -> Any: ...
    def set(self, key: str, value: Any) -> None: ...
    def delete(self, key: str) -> None: ...
    def keys(self) -> list[str]: ...


class HttpReply(Struct, frozen=True):
    """An HTTP answer; ``body`` is at most the ``limit`` that was asked for."""

    status: int
    headers: dict[str, str]
    body: bytes
    url: str


class Http(Protocol):
    """The engine's one HTTP client. Cancelling the await aborts the request. ``timeout`` in seconds."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float = 30.0,
        limit: int = 10_000_000,
        follow_redirects: bool = True,
        verify: bool = True,
    ) -> HttpReply: ...


class Message(Struct, frozen=True):
    """One MQTT message. ``mid`` is the broker's packet id (0 for QoS 0), ``ack`` is safe from any thread."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int
    ack: Callable[[], None]


class Mqtt(Protocol):
    """Shared MQTT connections, one per broker URL (``mqtt://user:pw@host:1883``, ``mqtts://``)."""

    @property
    def name(self) -> str:
        """What the client ids of this engine begin with; no other engine has it."""

    def publish(self, broker: str, topic: str, payload: bytes, qos: int = 1, retain: bool = False) -> Pending:
        """Completes when the broker has acknowledged (QoS 0: when sent)."""

    def subscribe(
        self,
        broker: str,
        topic: str | Sequence[str],
        qos: int,
        client_id: str,
        on_messages: Callable[[list[Message]], None],
        on_status: Callable[[bool, str], None],
    ) -> Callable[[], None]:
        """A persistent session of its own; returns its stop. Reconnects for ever with backoff.

        ``on_messages`` takes a batch whole or raises ``Busy``: then nothing more is read from the broker
        and the same messages are offered again (perhaps fewer at once) after ``retry_after`` seconds.
        """


class DeviceEvent(Struct, frozen=True, kw_only=True):
    """One thing that a driver on an edge agent saw; ``time`` is Unix seconds (UTC) by this engine's clock.

    ``id`` is the same for every delivery. ``cursor`` (JSON) belongs into :attr:`Event.cursor`: it is how a kernel
    that comes up anew tells what already has its run. ``ack`` is safe from any thread, in any order, and long after
    the connection is gone; call it once the run is on disk (or for an event that starts none), then the agent
    forgets it.
    """

    agent: str
    driver: str
    source: str
    kind: str
    value: Any
    time: float
    attrs: dict[str, Any] = {}
    id: str
    seq: int
    cursor: Any
    ack: Callable[[], None]


class AgentState(Struct, frozen=True, kw_only=True):
    """One edge agent: ``name`` is "" for this machine. ``drivers`` has a row per running driver with its config,
    ``ok``, ``text`` and who wants it; ``offset`` is how many seconds its clock is ahead; times are Unix seconds.
    """

    name: str
    id: str
    online: bool
    text: str
    since: float
    version: str = ""
    host: str = ""
    address: str = ""
    offset: float = 0.0
    latency: float = 0.0
    waiting: int = 0
    dropped: int = 0
    paired: float = 0.0
    drivers: list[dict[str, Any]] = []
    available: dict[str, str] = {}


class DeviceState(Struct, frozen=True, kw_only=True):
    """One entity of a driver that runs on an agent, with what it last said (``time`` 0: nothing yet)."""

    agent: str
    driver: str
    config: dict[str, Any]
    id: str
    name: str
    kind: str
    unit: str = ""
    writable: bool = False
    commands: dict[str, Any] = {}
    value: Any = None
    last: str = ""
    time: float = 0.0
    online: bool = False


class Devices(Protocol):
    """Edge agents and what hangs on them: ``ctx.devices``. An agent is named as at its pairing, "" is this machine."""

    def watch(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        watcher: str,
        on_events: Callable[[list[DeviceEvent]], None],
        on_status: Callable[[bool, str], None],
        cursor: Any = None,
    ) -> Callable[[], None]:
        """Have an agent run a driver; returns the stop (twice is fine).

        ``watcher`` (``flow/trigger``) is for ever: what the agent sees while this engine is away is kept for it and
        handed over later. ``on_events`` takes a batch whole or raises ``Busy``: then the same events are offered
        again (perhaps fewer at once) after ``retry_after`` seconds. ``cursor`` is :attr:`TriggerContext.cursor`; what
        it covers is never handed over again. With ``watcher=""`` nothing is kept: only what is seen while the agent
        is connected comes. The callbacks run on the fleet's thread. Raises ``ConfigError`` for an unknown driver or
        a config that it refuses.
        """

    def command(
        self,
        agent: str,
        driver: str,
        config: Mapping[str, Any],
        command: Mapping[str, Any],
        key: str,
        timeout: float,
        repeatable: bool = False,
    ) -> Pending:
        """Have a driver carry out a command; completes with its acknowledgement (JSON).

        ``key`` makes a repetition harmless: the agent remembers recent keys over its restarts, and answers as it did
        before. ``repeatable`` says that doing it twice does no harm, which spares the agent a write to its disk.
        Fails with ``NodeError`` (the driver's own words), ``TimedOut`` after ``timeout`` seconds, ``ConfigError``.
        """

    def agents(self) -> list[AgentState]:
        """This machine first, then all that are paired, by name."""

    def entities(self, agent: str | None = None) -> list[DeviceState]:
        """The entities of the drivers that run, on one agent or on all."""

    def history(self, agent: str, driver: str, config: Mapping[str, Any], source: str) -> list[tuple[float, float]]:
        """The last hour of a number: ``(time, value)``, oldest first, at most one every 10 seconds."""


class Done(Struct, frozen=True):
    """How a child process ended. ``output`` is a script's parsed JSON answer; a command has ``stdout``."""

    code: int
    stdout: str = ""
    stderr: str = ""
    output: Any = None


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of a child process: seconds of wall clock and CPU, MiB of memory, KiB of output.

    ``cpu`` and ``memory_mb`` count per process of the child; 0 sets no bound. ``confined`` refuses with
    ``ConfigError`` where the machine cannot keep the child from its files and network.
    """

    timeout: float = 60.0
    cpu: float = 30.0
    memory_mb: int = 256
    output_kb: int = 1024
    network: bool = False
    confined: bool = False


class Sandbox(Protocol):
    """Child processes that can really be ended. Cancelling the await kills the whole process group."""

    def languages(self) -> dict[str, str]:
        """Usable script languages and the path of each interpreter."""

    async def script(self, language: str, code: str, payload: Any, limits: Limits) -> Done:
        """JSON in, JSON out, in a warm worker. Raises ``NodeError`` with stderr in ``detail``."""

    async def command(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        limits: Limits,
    ) -> Done:
        """Run a program with a clean environment."""

    async def call(self, module: str, function: str, arguments: Any, limits: Limits) -> Any:
        """Call ``appliance.nodes`` code (JSON arguments and result) in a warm Python child with network."""


class Files(Protocol):
    """The folders flows may touch. Raises ``ConfigError`` for a path outside them or in the engine's keys."""

    def resolve(self, path: str, *, write: bool = False) -> Path: ...


class Blobs(Protocol):
    """Large values, stored once by content. A reference is ``{"$blob": sha256, "size": n, "type": mime}``."""

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]: ...
    def get(self, reference: Mapping[str, Any]) -> bytes: ...


class Context(Protocol):
    """What a node receives beside its config and payload."""

    @property
    def flow(self) -> str: ...
    @property
    def run(self) -> str: ...
    @property
    def step(self) -> str: ...
    @property
    def node(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def deadline(self) -> float:
        """Seconds that this attempt may take."""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this step, also after a crash."""

    @property
    def event(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, Any]:
        """What came in over each edge that fired, by the id of the node it came from."""

    @property
    def state(self) -> State: ...
    @property
    def http(self) -> Http: ...
    @property
    def mqtt(self) -> Mqtt: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def sandbox(self) -> Sandbox: ...
    @property
    def files(self) -> Files: ...
    @property
    def blobs(self) -> Blobs: ...

    def now(self) -> float:
        """Unix seconds, UTC."""

    def eval(self, expression: str, payload: Any = ..., **names: Any) -> Any:
        """The value of an :data:`Expression`; other payload or extra names if given."""

    def log(self, message: str, level: str = "info") -> None:
        """A line kept with the step."""

    def signal(self, name: str, value: Any = None) -> None:
        """Wake the parked steps of this flow that wait for ``name``, with this step's commit."""

    def on_cancel(self, abort: Callable[[], None]) -> None:
        """For blocking nodes: how to end the work now (timeout, cancel). Called at most once."""


class World(Protocol):
    """What :meth:`Node.check` may ask about this machine and engine while a flow is being saved."""

    def languages(self) -> Mapping[str, str]: ...
    def has_program(self, name: str) -> bool: ...
    def has_module(self, name: str) -> bool: ...

    def confined(self) -> bool:
        """Scripts can be kept from files and network here (bubblewrap is installed and works)."""

    def flow_exists(self, flow: str) -> bool: ...

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        """What is wrong with a driver's config (as saved) on an agent, in words; empty if nothing is known to be."""


class Node(Generic[C]):
    """One kind of step. Subclass it in a file of its own; one instance serves all runs (keep no state)."""

    Config: ClassVar[type[Config]] = Config
    title: ClassVar[str] = ""
    category: ClassVar[str] = "logic"
    icon: ClassVar[str] = "box"
    effect: ClassVar[Effect] = Effect.PURE
    ports: ClassVar[tuple[str, ...]] = ("out",)
    #: ``run`` takes microseconds and blocks on nothing: it is called on the engine's own thread.
    inline: ClassVar[bool] = False
    #: The config has a ``body`` (nodes and edges) that :class:`Spawn` runs per item.
    has_body: ClassVar[bool] = False

    def ports_of(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Ports of a node with this config (as saved, templates not rendered); ``error`` is always there."""
        return self.ports

    def effect_of(self, config: Mapping[str, Any]) -> Effect:
        """The effect with this config (as saved, templates not rendered)."""
        return self.effect

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        """Faults that the types cannot express, found on save."""
        return ()

    def run(self, ctx: Context, config: C, payload: Any) -> Result:
        """Do the work. Plain ``def`` (a thread, unless ``inline``) or ``async def``."""
        raise NotImplementedError

    def resume(self, ctx: Context, config: C, payload: Any, wake: Wake) -> Result:
        """Go on after a :class:`Park` or :class:`Spawn`."""
        return payload


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened.

    ``id`` makes delivery idempotent: with ``unique`` it is remembered and starts one run at most;
    with ``redelivered`` (a source that marks its repetitions) the trigger's recent runs are searched.
    ``meta`` is what templates see as ``event`` beside id, time, type and trigger. ``cursor`` (JSON) is
    stored with the run, in one transaction, and is ``TriggerContext.cursor`` from then on.
    """

    payload: Any = None
    id: str = ""
    meta: dict[str, Any] = {}
    time: float | None = None
    unique: bool = False
    redelivered: bool = False
    cursor: Any = None


class RunEnded(Struct, frozen=True):
    """A run that has just ended: ``state`` is succeeded, failed, dead or cancelled.

    ``meta`` is the ``Event.meta`` that had started it.
    """

    flow: str
    run: str
    state: str
    output: Any
    error: Any
    meta: Mapping[str, Any] = {}


Committed = Callable[[str], None]


class TriggerContext(Protocol):
    """What a trigger receives. All methods are safe from any thread.

    ``starting`` is true when the trigger is attached because the engine came up, not by a deploy.
    """

    @property
    def flow(self) -> str: ...
    @property
    def trigger(self) -> str: ...
    @property
    def cursor(self) -> Any:
        """The last committed :attr:`Event.cursor` of this trigger."""

    @property
    def starting(self) -> bool: ...
    @property
    def mqtt(self) -> Mqtt: ...
    @property
    def devices(self) -> Devices: ...

    def emit(self, event: Event, committed: Committed | None = None) -> None:
        """Start a run. ``committed(run_id)`` is called once it is on disk. Raises ``Busy`` past the bound."""

    def emit_many(self, events: Sequence[tuple[Event, Committed | None]]) -> None:
        """The same for a batch, all or none."""

    def dead_letter(self, event: Event, reason: str, committed: Committed | None = None) -> None:
        """Keep an event that no run can be made of (a poison message)."""

    def now(self) -> float: ...

    def clock_ok(self) -> bool:
        """False until the system clock is known to be right."""

    def call_at(self, when: float, function: Callable[[], None]) -> Callable[[], None]:
        """Call once at Unix second ``when`` (UTC); returns the cancel."""

    def on_run_ended(self, function: Callable[[RunEnded], None]) -> Callable[[], None]:
        """Called before the end of a run is committed; what is emitted then is committed with it."""

    def status(self, ok: bool, text: str) -> None:
        """Shown in the health page and the flow list."""


class Trigger(Generic[C]):
    """One kind of run starter."""

    Config: ClassVar[type[Config]] = Config
    title: ClassVar[str] = ""
    icon: ClassVar[str] = "bolt"

    def check(self, config: Mapping[str, Any], world: World) -> Iterable[Problem]:
        """Faults that the types cannot express, found on save."""
        return ()

    def attach(self, ctx: TriggerContext, config: C) -> Callable[[], None]:
        """Start listening; returns the detach (calling it twice is fine). Raising is shown and retried."""
        raise NotImplementedError

    def accept(self, config: C, payload: Any) -> Any:
        """The payload of an event that a person gives by hand. Raises ``ConfigError`` naming the field."""
        return payload

    def next_times(self, config: C, now: float, count: int = 5) -> list[float]:
        """The next moments it fires (Unix seconds), if that can be known."""
        return []


class WebRequest(Struct, frozen=True):
    """An HTTP request as a web trigger sees it; header names are lower case."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    remote: str


class WebRefusal(FlowError):
    """A web trigger's refusal; ``status`` is the HTTP status."""

    id = "refused"
    retryable = False

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class WebTrigger(Trigger[C]):
    """A trigger whose events arrive over HTTP at ``/hooks/<path>``, received by the gateway."""

    def path(self, config: C) -> str:
        raise NotImplementedError

    def receive(self, config: C, request: WebRequest) -> Event:
        """The event of a request. Raises ``WebRefusal``."""
        raise NotImplementedError

    def wait(self, config: C) -> float:
        """Seconds the caller is kept waiting for the result; 0 answers at once with the run id."""
        return 0.0


def decode(kind: type[C], raw: Mapping[str, Any]) -> C:
    """A config instance from JSON values. Raises ``ConfigError`` naming the field."""
    try:
        return msgspec.convert(raw, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise ConfigError(str(exc)) from None
