"""What the engine lends to plug-ins: state, HTTP, MQTT, child processes, files, blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from appliance.contracts.results import Pending


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
