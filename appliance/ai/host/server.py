"""The host's server: takes connections from the door, ends when nobody has wanted anything for a while."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress

from appliance.ai.host.http import Connection, Handler, Reply, Request
from appliance.ai.host.shelf import Shelf
from appliance.contracts import Busy

#: Each takes a file descriptor; more callers than this are told to come back.
MOST_CALLERS = 200
#: Bytes of a request: a picture in base64, some hundred pages of text.
LIMIT = 48_000_000
#: Seconds that callers get to hear that the host ends, and models to write what they keep.
_FAREWELL = 5.0
#: Seconds for which one that is told to leave waits for a moment without work, before it lets nobody else in.
_POLITE = 30.0
#: Seconds for which somebody may stand in the door without a word, and between two looks at that.
_STANDING, _LOOK = 2.0, 0.01


class Server:
    """Serves one shelf by ``handler``. ``idle`` is the seconds without work after which it ends; 0: never.

    Looking (GET) is no work: whoever watches the host does not keep it alive.
    """

    def __init__(self, handler: Handler, shelf: Shelf, idle: float, clock: Callable[[], float]) -> None:
        self._handler = handler
        self._shelf = shelf
        self._idle = idle
        self._clock = clock
        self._working = 0
        self._last = self._asked = 0.0
        self._callers: dict[asyncio.Task[None], Connection] = {}
        self._stopping = asyncio.Event()
        self._leaving = asyncio.Event()

    def stop(self) -> None:
        """End soon: what is being answered ends with an error that says so. Twice is fine."""
        self._stopping.set()

    def leave(self) -> None:
        """End as soon as nothing works, or when the work under way is done if that takes long: what comes later is for
        the next host, which has other settings.
        """
        if not self._leaving.is_set():
            self._asked = self._clock()
            self._leaving.set()

    async def run(self, door: socket.socket) -> bool:
        """Serve until :meth:`stop` or until idle; whether everything could be put away in time."""
        self._last = self._clock()
        # Not start_unix_server, which from Python 3.13 on removes the socket's file: that is the door-keeper's.
        server = await asyncio.start_server(self._connected, sock=door)
        idle = asyncio.create_task(self._until_idle())
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({idle, stop}, return_when=asyncio.FIRST_COMPLETED)
        # From here on requests wait in the door, for the next host. First no more are taken, for asyncio forgets a
        # connection that it has taken in the very turn in which the server is closed.
        asyncio.get_running_loop().remove_reader(door)
        await asyncio.sleep(_LOOK)
        server.close()
        idle.cancel()
        for link in self._callers.values():
            link.last = True
        await self._serve_the_last()
        self.stop()
        return await self._farewell()

    async def _serve_the_last(self) -> None:
        """Those who came in before the door was shut are still served; who only stands there is not waited for."""
        began = self._clock()
        while not self._stopping.is_set():
            standing = any(link.fresh for link in self._callers.values()) and self._clock() - began <= _STANDING
            if not (self._busy or standing):
                return
            await asyncio.sleep(_LOOK)

    async def _farewell(self) -> bool:
        """Callers end first: only then nobody uses a model."""
        if self._callers:
            await asyncio.wait(self._callers, timeout=_FAREWELL)
        try:
            async with asyncio.timeout(_FAREWELL):
                await self._shelf.close()
        except TimeoutError:  # something is being loaded, which cannot be cut short
            return False
        return not self._callers

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handler = self._work if len(self._callers) < MOST_CALLERS else _full
        self._callers[task] = link = Connection(reader, writer, handler, self._stopping, LIMIT)
        try:
            await link.serve()
        finally:
            del self._callers[task]

    async def _work(self, request: Request, reply: Reply) -> None:
        if request.method == "GET":
            await self._handler(request, reply)
            return
        self._working += 1
        try:
            await self._handler(request, reply)
        finally:
            self._working -= 1
            self._last = self._clock()

    @property
    def _busy(self) -> bool:
        return bool(self._working) or self._shelf.busy

    async def _until_idle(self) -> None:
        while True:
            left = self._last + self._idle - self._clock() if self._idle else math.inf
            if not self._busy and (left <= 0 or self._leaving.is_set()):
                return
            if self._leaving.is_set():
                if self._clock() - self._asked >= _POLITE:
                    return
                await asyncio.sleep(_LOOK)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), max(left, self._idle / 10) if self._idle else None)


async def _full(request: Request, reply: Reply) -> None:
    raise Busy("too many callers at once", retry_after=2.0)
