"""A fake of :class:`appliance.contracts.Context`, and helpers that run a node to its end.

The fake keeps everything in memory except ``files``, which are real and rooted at a folder of the test.
Services that a test did not plug in (``http``, ``mqtt``, ``sandbox``) fail loudly on first use::

    ctx = FakeContext(root=tmp_path, event={"topic": "a/b"})
    assert run_node(Condition(), {"when": "payload.t > 30"}, {"t": 31}, ctx) == Out({"t": 31}, "true")
    assert ctx.messages() == ["it is hot"]
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from appliance.contracts import (
    Blobs,
    ConfigError,
    Devices,
    ExpressionError,
    Files,
    Http,
    Memory,
    Models,
    Mqtt,
    Node,
    NodeError,
    Overview,
    Pending,
    Sandbox,
    State,
    Wake,
    Workshop,
    decode,
)
from appliance.fleet import check

#: Saturday 2026-11-21 12:00:00 UTC: where the fake clock stands until a test moves it.
NOON = 1795262400.0
#: Seconds a node may take before the test fails; never waited for when all is well.
PATIENCE = 60.0

_EXPRESSIONS = ImmutableSandboxedEnvironment()


class Unplugged:
    """Stands where a test plugged nothing in: any use of it fails and says what is missing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise AssertionError(f"the node used ctx.{self._name}.{attribute}: give FakeContext {self._name}=...")


class MemoryState:
    """``State`` in memory; a value that is not JSON is refused, as the store would."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self.values: dict[str, Any] = dict(values or {})

    def get(self, key: str, default: Any = None) -> Any:
        return copy.deepcopy(self.values.get(key, default))

    def set(self, key: str, value: Any) -> None:
        self.values[key] = msgspec.json.decode(msgspec.json.encode(value))

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def keys(self) -> list[str]:
        return sorted(self.values)


class RootedFiles:
    """``Files`` for one real folder; ``readonly`` names (relative) may be read and not written."""

    def __init__(self, root: Path, readonly: tuple[str, ...] = ()) -> None:
        self.root = root.resolve()
        self._readonly = tuple(self.root / name for name in readonly)

    def resolve(self, path: str, *, write: bool = False) -> Path:
        if "\0" in path:
            raise ConfigError(f"{path!r} is not a path")
        found = (self.root / path).resolve()
        if not found.is_relative_to(self.root):
            raise ConfigError(f"{path!r} is outside the folders that flows may touch")
        if write and any(found.is_relative_to(kept) for kept in self._readonly):
            raise ConfigError(f"{path!r} may not be written by flows")
        return found


class MemoryBlobs:
    """``Blobs`` in memory."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self.stored[digest] = data
        return {"$blob": digest, "size": len(data), "type": mime}

    def get(self, reference: Mapping[str, Any]) -> bytes:
        try:
            return self.stored[reference["$blob"]]
        except KeyError:
            raise NodeError(f"no such blob: {reference!r}", retryable=False) from None


def _unplugged(name: str) -> Callable[[], Any]:
    return lambda: Unplugged(name)


@dataclass
class FakeContext:
    """What a node receives, with everything it did on record: ``logs``, ``streamed``, ``signals``, ``on_cancels``."""

    root: Path | None = None
    flow: str = "flow"
    run: str = "run"
    step: str = "step"
    node: str = "node"
    attempt: int = 1
    clock: float = NOON
    deadline: float = NOON + PATIENCE
    idempotency_key: str = "run/step"
    event: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    state: State = field(default_factory=MemoryState)
    http: Http = field(default_factory=_unplugged("http"))
    mqtt: Mqtt = field(default_factory=_unplugged("mqtt"))
    devices: Devices = field(default_factory=_unplugged("devices"))
    sandbox: Sandbox = field(default_factory=_unplugged("sandbox"))
    files: Files = field(default_factory=_unplugged("files"))
    blobs: Blobs = field(default_factory=MemoryBlobs)
    models: Models = field(default_factory=_unplugged("models"))
    memory: Memory = field(default_factory=_unplugged("memory"))
    overview: Overview = field(default_factory=_unplugged("overview"))
    workshop: Workshop = field(default_factory=_unplugged("workshop"))
    payload: Any = None
    names: dict[str, Any] = field(default_factory=dict)
    logs: list[tuple[str, str]] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    signals: list[tuple[str, Any]] = field(default_factory=list)
    on_cancels: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.root is not None and isinstance(self.files, Unplugged):
            self.files = RootedFiles(self.root)

    def now(self) -> float:
        return self.clock

    def eval(self, expression: str, payload: Any = ..., **names: Any) -> Any:
        """As the engine does it: the step's payload unless another is given; an undefined name is None."""
        scope = {
            "event": self.event,
            "now": self.now,
            **self.names,
            "payload": self.payload if payload is ... else payload,
            **names,
        }
        try:
            return _EXPRESSIONS.compile_expression(expression)(**scope)
        except (TemplateError, TypeError, ValueError, ArithmeticError) as exc:
            raise ExpressionError(f"{expression}: {exc}") from exc

    def log(self, message: str, level: str = "info") -> None:
        self.logs.append((level, message))

    def stream(self, text: str) -> None:
        self.streamed.append(text)

    def signal(self, name: str, value: Any = None) -> None:
        self.signals.append((name, value))

    def on_cancel(self, abort: Callable[[], None]) -> None:
        self.on_cancels.append(abort)

    def cancel(self) -> None:
        """End the work of a blocking node, as a timeout or a cancelled run does: each abort once."""
        aborts, self.on_cancels = self.on_cancels, []
        for abort in aborts:
            abort()

    def messages(self, level: str = "") -> list[str]:
        """The logged texts, of one level if given."""
        return [text for kind, text in self.logs if not level or kind == level]


@dataclass
class FakeWorld:
    """What :meth:`Node.check` may ask, as sets that a test fills."""

    installed: Mapping[str, str] = field(default_factory=dict)
    programs: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    flows: frozenset[str] = frozenset()
    confining: bool = True
    #: Models and the hosts where they are; without any every name is good.
    models: Mapping[str, str] = field(default_factory=dict)
    data: Path | None = None

    def languages(self) -> Mapping[str, str]:
        return self.installed

    def has_program(self, name: str) -> bool:
        return name in self.programs

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def confined(self) -> bool:
        return self.confining

    def flow_exists(self, flow: str) -> bool:
        return flow in self.flows

    def model_fault(self, name: str) -> str:
        return "" if name in self.models or not self.models else f"there is no model {name!r}"

    def model_places(self, names: Sequence[str], kind: str) -> Sequence[str]:
        return [self.models[name] for name in names if self.models.get(name)]

    def schema_fault(self, schema: Any, names: Sequence[str]) -> str:
        return ""

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        return check.fault(self.data, agent, driver, config)


def run_node(node: Node[Any], config: Mapping[str, Any], payload: Any = None, ctx: Any = None) -> Any:
    """Decode the config, run the node (plain, async or Pending) to its end, return what it returned.

    ``config`` holds final values: the engine renders templates before a node sees them. Raises what the
    node raises, ``ConfigError`` for a config that does not decode.
    """
    ctx = FakeContext() if ctx is None else ctx
    ctx.payload = payload
    return finish(node.run(ctx, decode(node.Config, config), payload))


def resume_node(node: Node[Any], config: Mapping[str, Any], payload: Any, wake: Wake, ctx: Any = None) -> Any:
    """The same for :meth:`Node.resume`, after the node returned a Park or a Spawn."""
    ctx = FakeContext() if ctx is None else ctx
    ctx.payload = payload
    return finish(node.resume(ctx, decode(node.Config, config), payload, wake))


async def arun_node(node: Node[Any], config: Mapping[str, Any], payload: Any = None, ctx: Any = None) -> Any:
    """:func:`run_node` inside a running loop, for services that belong to one loop and for cancelling."""
    ctx = FakeContext() if ctx is None else ctx
    ctx.payload = payload
    result = node.run(ctx, decode(node.Config, config), payload)
    return await result if inspect.isawaitable(result) else result


def finish(result: Any) -> Any:
    """What a node's result becomes in the end; raises what it failed with."""
    if isinstance(result, Pending):
        return _settled(result)
    if inspect.isawaitable(result):
        return asyncio.run(_bounded(result))
    return result


async def _bounded(result: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await result


def _settled(pending: Pending) -> Any:
    done = threading.Event()
    outcome: list[tuple[Any, BaseException | None]] = []

    def settle(value: Any, error: BaseException | None) -> None:
        outcome.append((value, error))
        done.set()

    pending.then(settle)
    if not done.wait(PATIENCE):
        raise AssertionError("the Pending was never completed")
    value, error = outcome[0]
    if error is not None:
        raise cast("Exception", error)
    return value
