"""HTTP/1.1 on asyncio streams by h11: one connection, its requests one after the other, and the caller who hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import h11
import msgspec
from msgspec import Struct

from appliance.ai.host import errors
from appliance.contracts import FlowError

logger = logging.getLogger(__name__)

#: Seconds in which a request that has begun must have come whole.
_PATIENCE = 60.0
_PIECE = 1 << 16
#: Bytes that a caller may send ahead of the answer that it is owed.
_AHEAD = 1 << 20
JSON = "application/json"

Headers = Sequence[tuple[str, str]]


class Request(Struct, frozen=True):
    """One request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply:
    """The answer to one request: whole (:meth:`send`), or as a stream of server-sent events."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self.begun = False

    async def send(self, value: Any, status: int = 200, headers: Headers = (), kind: str = JSON) -> None:
        """The whole answer; ``value`` is encoded as JSON unless it is bytes."""
        body = value if isinstance(value, bytes) else msgspec.json.encode(value)
        self.begun = True
        await self._link.write(
            h11.Response(status_code=status, headers=self._headers(headers, kind, ("Content-Length", str(len(body))))),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )

    async def begin(self) -> None:
        """Begin a stream of events."""
        self.begun = True
        await self._link.write(
            h11.Response(
                status_code=200, headers=self._headers([("Cache-Control", "no-store")], "text/event-stream", _CHUNKED)
            )
        )

    async def events(self, *values: Any) -> None:
        """Events, in one write (the HTML standard, 9.2). Text goes as it is, anything else as JSON."""
        lines = [value.encode() if isinstance(value, str) else msgspec.json.encode(value) for value in values]
        await self._link.write(h11.Data(data=b"".join(b"data: " + line + b"\n\n" for line in lines)))

    async def end(self) -> None:
        """End a stream of events."""
        await self._link.write(h11.EndOfMessage())

    async def fail(self, exc: FlowError) -> None:
        """Answer with an error, or end a stream that has begun with one."""
        body = errors.body_of(exc)
        if self.begun:
            await self.events(body)
            await self.end()
        else:
            await self.send(body, errors.status_of(exc), errors.headers_of(exc))

    def _headers(self, more: Headers, kind: str, length: tuple[str, str]) -> list[tuple[str, str]]:
        # Only who is told so does not ask here again while this end is being closed.
        closing = [("Connection", "close")] if self._link.last else []
        return [("Content-Type", kind), length, *closing, *more]


_CHUNKED = ("Transfer-Encoding", "chunked")


Handler = Callable[[Request, Reply], Awaitable[None]]


class Gone(Exception):
    """The caller has hung up, or says things that are not HTTP."""


class Connection:
    """One caller. ``handler`` answers a request; it is cancelled at once when the caller hangs up.

    ``stopping`` is set when the host is to end: whatever is being answered then ends with ``Stopping``.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        stopping: asyncio.Event,
        limit: int,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._stopping = stopping
        self._limit = limit
        self._conn = h11.Connection(h11.SERVER)
        #: Nothing has been answered yet.
        self.fresh = True
        #: The host leaves: an answer that begins from now on ends the connection.
        self.last = False

    async def serve(self) -> None:
        """Answer requests until the caller hangs up or the host stops."""
        try:
            while not self._stopping.is_set() and (request := await self._unless_stopping(self._read())):
                await self._answer(request)
                self.fresh = False
                if self._conn.our_state is h11.MUST_CLOSE or self._conn.their_state is h11.MUST_CLOSE:
                    break
                self._conn.start_next_cycle()
        except (Gone, h11.ProtocolError, OSError, TimeoutError):
            pass  # nobody is left to tell
        finally:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def write(self, *events: h11.Event) -> None:
        """Send, and wait while the caller reads too slowly. Raises ``Gone``."""
        parts = [self._conn.send(event) or b"" for event in events]
        try:
            self._writer.write(b"".join(parts))
            await self._writer.drain()
        except OSError as exc:
            raise Gone from exc

    # --- a request comes in ------------------------------------------------------------------------

    async def _read(self) -> Request | None:
        """The next request; None if there will be none."""
        reply = Reply(self)
        try:
            head = await self._event()
            if isinstance(head, h11.Request):
                async with asyncio.timeout(_PATIENCE):
                    return await self._whole(head)
        except FlowError as exc:
            await reply.fail(exc)
        except h11.RemoteProtocolError as exc:
            if self._conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await reply.send(errors.body_of(errors.BadRequest(f"not HTTP: {exc}")), exc.error_status_hint)
        return None

    async def _whole(self, head: h11.Request) -> Request:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
        body = bytearray()
        announced = headers.get("content-length", "0")
        if int(announced) > self._limit:  # h11 has seen that these are digits
            raise self._too_large()
        if self._conn.they_are_waiting_for_100_continue:
            await self.write(h11.InformationalResponse(status_code=100, headers=[]))
        while not isinstance(event := await self._event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise Gone
            body += event.data
            if len(body) > self._limit:
                raise self._too_large()
        path = head.target.decode("latin-1").partition("?")[0]
        return Request(head.method.decode("latin-1"), path, headers, bytes(body))

    async def _event(self) -> Any:
        while (event := self._conn.next_event()) is h11.NEED_DATA:
            try:
                self._conn.receive_data(await self._reader.read(_PIECE))
            except OSError as exc:
                raise Gone from exc
        return event

    def _too_large(self) -> FlowError:
        return errors.TooLarge(f"the request has more than {self._limit} bytes")

    # --- and is answered ---------------------------------------------------------------------------

    async def _answer(self, request: Request) -> None:
        reply = Reply(self)
        work = asyncio.ensure_future(self._handled(request, reply))
        ends = {work, asyncio.ensure_future(self._until_gone()), asyncio.ensure_future(self._stopping.wait())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            elif self._stopping.is_set():
                await _end(work)
                await reply.fail(errors.Stopping("the model host is being stopped; ask again and it is started"))
            else:
                raise Gone
        finally:
            for task in ends:
                await _end(task)

    async def _handled(self, request: Request, reply: Reply) -> None:
        try:
            try:
                await self._handler(request, reply)
            except FlowError as exc:
                await reply.fail(exc)
            except (Gone, h11.LocalProtocolError):
                raise
            except Exception:
                logger.exception("%s %s", request.method, request.path)
                await reply.fail(errors.Broken("something broke in the model host that should not; its log has more"))
        except h11.LocalProtocolError as exc:  # an answer cut in the middle: only the connection's end can say so
            raise Gone from exc

    async def _until_gone(self) -> None:
        """Ends when the caller hangs up; what it says meanwhile is its next request."""
        ahead = 0
        while data := await self._hear():
            ahead += len(data)
            self._conn.receive_data(data)
            if ahead > _AHEAD:
                return

    async def _hear(self) -> bytes:
        try:
            return await self._reader.read(_PIECE)
        except OSError:
            return b""

    async def _unless_stopping(self, reading: Awaitable[Request | None]) -> Request | None:
        """None when the host stops before a request has come."""
        task = asyncio.ensure_future(reading)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            await _end(task)
            await _end(stop)


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel, and wait until it has really ended; what it ended with is not asked."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
