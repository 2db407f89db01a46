"""Requests between two engines over their link: what we ask, and what we are asked.

:class:`Asking` and :class:`Asked` may be used by any thread; all else is on the peers' thread.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import (
    Busy,
    ConfigError,
    FlowError,
    PeerAway,
    PeerFailed,
    PeerNotAllowed,
    PeerRequest,
    PeerRight,
    PeerState,
    TimedOut,
)
from appliance.fleet.peers import wire
from appliance.fleet.peers.link import PeerLink
from edge_agent.protocol.channel import ChannelClosed

logger = logging.getLogger(__name__)

#: Requests of one peer that are worked on at one time, and ours that wait for its answers.
MOST_ASKED, MOST_ASKING = 256, 1000
#: Bytes of the bodies of requests that are worked on at one time.
MOST_BYTES = 64_000_000
#: Bytes that the peer has not taken yet, beyond which no more items are sent.
MOST_WAITING = 8_000_000
#: Bytes of a detail that goes along with an error.
_DETAIL = 100_000


class Served(Struct, frozen=True):
    """A method that peers may ask for."""

    handler: Callable[[PeerRequest], None]
    right: PeerRight | None


class Body(Struct, frozen=True):
    """Plain data, encoded, and the blobs that it refers to."""

    data: bytes
    blobs: list[wire.Blob]


def pack(value: Any) -> Body:
    """Plain data for the wire. Raises ``ConfigError``."""
    try:
        data = wire.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigError(f"this cannot be sent to a peer: {exc}") from None
    if len(data) > wire.LARGEST_BODY:
        raise ConfigError(f"{len(data):,} bytes are too many for one message to a peer; put what is large into a blob")
    return Body(data, list(wire.blobs_in(value)))


class Asking(Struct, eq=False):
    """A request of ours that is not answered yet; ``until`` is monotonic, ``title`` names the peer."""

    future: Future[Any]
    method: str
    until: float
    timeout: float
    title: str
    on_item: Callable[[Any], None] | None = None

    def give(self, value: Any) -> None:
        """It was answered."""
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            self.future.set_result(value)

    def fail(self, exc: BaseException) -> None:
        """It will not be."""
        with suppress(InvalidStateError):
            self.future.set_exception(exc)


class Asked:
    """Implements :class:`appliance.contracts.PeerRequest`. ``size`` is that of its body, which is set once the blobs
    are here; ``post`` does something on the peers' thread.
    """

    def __init__(
        self,
        peer: PeerState,
        number: int,
        size: int,
        until: float,
        link: PeerLink,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self.peer = peer
        self.body: Any = None
        self.until = until
        self.number = number
        self.size = size
        self._link = link
        self._post = post
        self._lock = threading.Lock()
        self._on_end: list[Callable[[str], None]] = []
        self._ended = ""
        self._answered = False

    def answer(self, value: Any = None) -> None:
        """As the contract says."""
        try:
            body = pack(value)
        except FlowError as exc:
            self.error(exc)
            return
        self._last(wire.Answer(id=self.number, body=msgspec.Raw(body.data), blobs=body.blobs), body.blobs)

    def error(self, exc: BaseException) -> None:
        """As the contract says."""
        self._last(failure(self.number, exc), [])

    def item(self, value: Any) -> None:
        """As the contract says."""
        if self._answered or self._ended:
            return
        if self._link.waiting > MOST_WAITING:
            raise Busy("the peer does not take what was sent", retry_after=0.1)
        body = pack(value)
        message = wire.Item(id=self.number, body=msgspec.Raw(body.data), blobs=body.blobs)
        self._send(message, body.blobs, size=len(body.data))

    def on_end(self, callback: Callable[[str], None]) -> None:
        """As the contract says."""
        with self._lock:
            if self._answered:
                return
            if not self._ended:
                self._on_end.append(callback)
                return
        callback(self._ended)

    def end(self, why: str) -> None:
        """Nobody waits for the answer any more. On the peers' thread."""
        with self._lock:
            if self._answered or self._ended:
                return
            self._ended = why
            calls, self._on_end = self._on_end, []
        self._link.asked.pop(self.number, None)
        for call in calls:
            try:
                call(why)
            except Exception:
                logger.exception("ending what a peer has asked failed")

    def _last(self, message: wire.Message, blobs: list[wire.Blob]) -> None:
        with self._lock:
            if self._answered or self._ended:
                return
            self._answered = True
            self._on_end.clear()
        self._send(message, blobs, last=True)

    def _send(self, message: wire.Message, blobs: list[wire.Blob], last: bool = False, size: int = 0) -> None:
        def send() -> None:
            self._link.count(-size)
            if last:
                self._link.asked.pop(self.number, None)
            self._link.transfers.offer(blobs)
            with suppress(ChannelClosed):  # the switchboard will see it
                self._link.send(message)

        self._link.count(size)
        self._post(send)


class Calls:
    """What goes on over all links. ``served`` are the methods by name, ``state`` says how the peer of a link stands."""

    def __init__(
        self,
        served: dict[str, Served],
        state: Callable[[PeerLink], PeerState],
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._served = served
        self._state = state
        self._post = post

    # --- what we ask --------------------------------------------------------------------------------

    def ask(self, link: PeerLink, asking: Asking, body: Body) -> None:
        """Send a request. Raises ``ChannelClosed``."""
        if asking.future.cancelled():
            return
        if len(link.asking) >= MOST_ASKING:
            asking.fail(Busy(f"{asking.title} has {MOST_ASKING} requests to answer already"))
            return
        number = next(link.numbers)
        link.asking[number] = asking
        link.expires = min(link.expires, asking.until)
        link.transfers.offer(body.blobs)
        left = max(0.0, asking.until - time.monotonic())
        raw = msgspec.Raw(body.data)
        link.send(wire.Ask(id=number, method=asking.method, left=left, body=raw, blobs=body.blobs))

        def settled(future: Future[Any]) -> None:
            if future.cancelled():
                self._post(lambda: self._cancel(link, number))

        asking.future.add_done_callback(settled)

    def _cancel(self, link: PeerLink, number: int) -> None:
        if link.asking.pop(number, None) is not None:
            with suppress(ChannelClosed):
                link.send(wire.Cancel(id=number))

    def answered(self, link: PeerLink, message: wire.Answer | wire.Item) -> None:
        """The answer to what we asked, or an item ahead of it."""
        asking = link.asking.get(message.id)
        if asking is None:
            return

        def deliver() -> None:
            if isinstance(message, wire.Item):
                self._give_item(asking, message.body)
            elif link.asking.pop(message.id, None) is not None:
                asking.give(wire.decode_body(message.body))

        def failed(why: str) -> None:
            if link.asking.pop(message.id, None) is not None:
                asking.fail(PeerFailed(f"{asking.title}: {why}", error_id="blob"))

        link.transfers.take_up(("answer", message.id), len(message.body), message.blobs, deliver, failed)

    def _give_item(self, asking: Asking, body: msgspec.Raw) -> None:
        if asking.on_item is None or asking.future.done():
            return
        try:
            asking.on_item(wire.decode_body(body))
        except Exception:
            logger.exception("what a peer sent could not be taken")

    def failed(self, link: PeerLink, message: wire.Failed) -> None:
        """What we asked could not be done."""
        asking = link.asking.pop(message.id, None)
        if asking is not None:
            asking.fail(exception(asking.title, message))

    # --- what we are asked ----------------------------------------------------------------------------

    def asked(self, link: PeerLink, ask: wire.Ask) -> None:
        """The peer asks something."""
        state = self._state(link)
        served = self._served.get(ask.method)
        refusal: FlowError | None = None
        if served is None:
            refusal = PeerNotAllowed(f"this engine does not know {ask.method[:60]!r}; bring both to the same release")
        elif served.right is not None and not state.roles.may(served.right):
            refusal = PeerNotAllowed(f"{state.name} may not do that here; `flowork peer allow` gives it {served.right}")
        elif len(link.asked) >= MOST_ASKED or sum(each.size for each in link.asked.values()) > MOST_BYTES:
            refusal = Busy(f"{len(link.asked)} requests of this peer are under way already")
        if refusal is not None or served is None:
            link.send(failure(ask.id, refusal or PeerNotAllowed("")))
            return
        until = time.monotonic() + min(max(ask.left, 0.0), 10 * 86400.0)
        request = Asked(state, ask.id, len(ask.body), until, link, self._post)
        link.asked[ask.id] = request
        link.expires = min(link.expires, until)

        def deliver() -> None:
            if link.asked.get(ask.id) is request:
                request.body = wire.decode_body(ask.body)
                self._handle(served, request)

        def failed(why: str) -> None:
            request.error(PeerFailed(why, error_id="blob"))

        link.transfers.take_up(("ask", ask.id), request.size, ask.blobs, deliver, failed)

    def _handle(self, served: Served, request: Asked) -> None:
        try:
            served.handler(request)
        except Exception as exc:
            if not isinstance(exc, FlowError):
                logger.exception("what a peer has asked failed")
            request.error(exc)

    # --- ends -----------------------------------------------------------------------------------------

    def expire(self, link: PeerLink, now: float) -> None:
        """Give up what has waited for too long (monotonic). Raises ``ChannelClosed``."""
        if now < link.expires:
            return
        for number, asking in list(link.asking.items()):
            if now >= asking.until:
                del link.asking[number]
                asking.fail(TimedOut(f"{asking.title} has not answered within {asking.timeout:g} s"))
                link.send(wire.Cancel(id=number))
        for request in list(link.asked.values()):
            if now >= request.until:
                request.end("late")
        due = [asking.until for asking in link.asking.values()] + [asked.until for asked in link.asked.values()]
        link.expires = min(due, default=math.inf)

    def gone(self, link: PeerLink, why: str) -> None:
        """A link has ended: nobody answers any more, on either side."""
        asking, link.asking = link.asking, {}
        for each in asking.values():
            each.fail(PeerAway(f"the link to {each.title} broke ({why})", sent=True))
        for request in list(link.asked.values()):
            request.end("away")


def failure(number: int, exc: BaseException) -> wire.Failed:
    """An error for the wire."""
    if not isinstance(exc, FlowError):
        return wire.Failed(id=number, error="internal", text=f"{type(exc).__name__}: {exc}"[:2000])
    detail = exc.detail
    try:
        if len(wire.encode(detail)) > _DETAIL:
            detail = None
    except (TypeError, ValueError, OverflowError, RecursionError):
        detail = None
    return wire.Failed(
        id=number,
        error=str(getattr(exc, "error_id", exc.id)),
        text=exc.message[:20_000],
        retryable=exc.retryable,
        detail=detail,
        retry_after=exc.retry_after if isinstance(exc, Busy) else 0.0,
    )


def exception(title: str, message: wire.Failed) -> FlowError:
    """What was said to have gone wrong over there."""
    text = f"{title}: {message.text}"
    if message.error == Busy.id:
        return Busy(text, retry_after=message.retry_after or 1.0)
    if message.error == PeerNotAllowed.id:
        return PeerNotAllowed(text)
    return PeerFailed(text, error_id=message.error, retryable=message.retryable, detail=message.detail)
