"""The gateway's and the command line's way to the kernels of a cluster: to the one that a call is for, or to all.

A call about a flow or a run goes to the flow's home, over this machine's socket if that kernel runs here, else over
the bus. What was moved meanwhile is asked for again at its new home. How it works: ``docs/decisions/sharing.md``.
"""

from __future__ import annotations

import itertools
import logging
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from appliance.contracts import FlowError
from appliance.kernel import far, wire
from appliance.kernel.client import KernelAway, KernelClient, Refused, Stream, _request, _result
from appliance.kernel.joining import Joined
from appliance.kernel.live_of_all import LiveOfAll
from appliance.kernel.merging import merged_placements, merged_status
from appliance.sharing.members import Member
from appliance.store.errors import StoreError

logger = logging.getLogger(__name__)

#: Methods about one flow or one run, and the parameter that names it.
_BY_FLOW = {"submit": "flow", "try": "flow"}
_BY_RUN = dict.fromkeys(("cancel", "answer", "decide", "replay", "letter"), "run")
#: Methods that every kernel is asked, and what becomes of the answers.
_OF_ALL: dict[str, Callable[[list[Any]], Any]] = {
    "status": merged_status,
    "waiting": lambda answers: [ask for answer in answers for ask in answer],
    "signal": lambda answers: {"woken": sum(answer["woken"] for answer in answers)},
    "reload": lambda answers: None,
    "rest": lambda answers: None,
    "sweep": lambda answers: None,
    "placements": merged_placements,
}
#: Methods about the links to other engines, which one kernel has.
_OF_LINKS = "peer"
#: The error of a kernel that is not the flow's home (any more), and the pause before the new one is asked.
ELSEWHERE, _PAUSE = "elsewhere", 0.05
#: Seconds for which a flow on its way from one kernel to the next is waited for.
_LONGEST_MOVE = 20.0
_LOOK, _ATTEMPT = 0.5, 8.0
#: Seconds that all kernels together may take to answer: one that is frozen has its lease for a while.
_ALL = 6.0
_END: Any = object()


class BusAway(KernelAway):
    """The bus to the other machines cannot be used. What comes in is put down for their kernels to find."""


class ClusterKernel(KernelClient):
    """All kernels of the cluster as if they were one. ``flow_of(run)`` names a run's flow by its number."""

    def __init__(self, data: Path, joined: Joined, flow_of: Callable[[str], int]) -> None:
        super().__init__(data)
        self._joined = joined
        self._flow_of = flow_of
        self._calls = itertools.count(1)
        self._pending: dict[int, queue.SimpleQueue[Any]] = {}
        joined.on_part = self._take
        self.cluster = lambda: joined.cluster

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> Any:
        """As :meth:`KernelClient.call`, of the kernel or kernels that this is for."""
        request = _request(0, method, params)
        if merge := _OF_ALL.get(method):
            return merge(self._ask_all(method, request, min(timeout, _ALL), params))
        if method in _BY_FLOW:
            return self._at_home(method, int(params[_BY_FLOW[method]]), timeout, params)
        if method in _BY_RUN:
            return self._at_home(method, self._flow_of(str(params[_BY_RUN[method]])), timeout, params)
        if method.startswith(_OF_LINKS):
            return self._ask(self._linked(), method, timeout, params)
        return self._ask(self._any(), method, timeout, params)

    def stream(self, method: str, **params: Any) -> Stream:
        """As :meth:`KernelClient.stream`; live events come from all kernels."""
        if method == "live":
            return LiveOfAll(self, params.get("after"))
        member = self._any()
        if self._joined.is_here(member):
            return super().stream(method, **params)
        return FarStream(self, member, method, params)

    def close(self) -> None:
        """Leave the cluster. Twice is fine."""
        super().close()
        self._joined.close()

    def adopt(self) -> None:
        """A run was put down for a kernel: have it looked for."""
        for member in self.kernels():
            self._joined.send(member.box, [far.NOTE, "adopt"])

    # --- whom to ask -----------------------------------------------------------------------------------

    def kernels(self) -> list[Member]:
        """Those that live. Raises ``KernelAway``."""
        try:
            return self._joined.kernels()
        except StoreError as exc:
            raise KernelAway(f"the cluster cannot be looked at: {exc.message}") from None

    def _any(self) -> Member:
        """The kernel of this machine, or the first."""
        kernels = self.kernels()
        if not kernels:
            raise KernelAway("no kernel of the cluster is running")
        return next((one for one in kernels if self._joined.is_here(one)), kernels[0])

    def _linked(self) -> Member:
        """The kernel with the links to other engines; while they are taken over, any."""
        try:
            held = self._joined.linked()
        except StoreError as exc:
            raise KernelAway(f"the cluster cannot be looked at: {exc.message}") from None
        return next((one for one in self.kernels() if (one.writer, one.epoch) == held), None) or self._any()

    def _home(self, flow: int) -> Member | None:
        try:
            return self._joined.home(flow)
        except StoreError as exc:
            raise KernelAway(f"the cluster cannot be looked at: {exc.message}") from None

    def _at_home(self, method: str, flow: int, timeout: float, params: dict[str, Any]) -> Any:
        """Ask the flow's home; the next one if it moves meanwhile, or dies and the request may be sent again."""
        deadline = time.monotonic() + timeout
        moving = time.monotonic() + min(timeout, _LONGEST_MOVE)
        if method == "submit" and not params.get("id") and params.get("starts_run", True):
            # A kernel that dies may have taken it or not: under a key the next one knows.
            params = {**params, "id": f"bus-{secrets.token_hex(10)}", "unique": True}
        again = method == "submit" and bool(params.get("unique"))
        sent = False
        while True:
            member = self._home(flow)
            if member is not None:
                try:
                    left = max(0.1, deadline - time.monotonic())
                    # An answer may be lost with the bus: what can be asked again is not waited for very long.
                    left = min(left, _ATTEMPT) if again and not params.get("wait") else left
                    return self._ask(member, method, left, params)
                except Refused as exc:
                    if exc.error_id != ELSEWHERE:
                        raise
                    self._joined.look_again()
                except BusAway as exc:
                    exc.sent = sent
                    raise
                except KernelAway as exc:
                    sent = sent or exc.sent
                    if exc.sent and not again:
                        raise
                    self._joined.look_again()
            if time.monotonic() >= moving or not (sent or member is not None):
                away = KernelAway("the kernel of this flow is not running; another one takes over within seconds")
                away.sent = sent
                raise away
            time.sleep(_PAUSE)

    def _ask_all(self, method: str, request: bytes, timeout: float, params: dict[str, Any]) -> list[Any]:
        """The answers of all kernels that gave one; raises what the only one raised."""
        kernels = self.kernels()
        if not kernels:
            raise KernelAway("no kernel of the cluster is running")
        asked: list[tuple[Member, Callable[[], Any]]] = []
        answers: list[Any] = []
        failures: list[FlowError] = []
        deadline = time.monotonic() + timeout
        for member in kernels:
            if self._joined.is_here(member):
                asked.append((member, partial(super().call, method, timeout, **params)))
                continue
            try:
                asked.append((member, partial(self._wait, member, *self._send(member, request, timeout), deadline)))
            except BusAway as exc:
                failures.append(exc)
        for member, ask in asked:
            try:
                answer = ask()
                if method == "status":
                    answer = {**answer, "writer": member.writer, "machine": member.machine, "lease": member.left}
                answers.append(answer)
            except FlowError as exc:
                logger.warning("kernel %d does not answer %s: %s", member.writer, method, exc.message)
                failures.append(exc)
        if not answers:
            raise failures[0]
        return answers

    # --- one request ---------------------------------------------------------------------------------------

    def _ask(self, member: Member, method: str, timeout: float, params: dict[str, Any]) -> Any:
        if self._joined.is_here(member):
            return super().call(method, timeout, **params)
        number, box = self._send(member, _request(0, method, params), timeout)
        return self._wait(member, number, box, time.monotonic() + timeout)

    def _send(self, member: Member, request: bytes, timeout: float) -> tuple[int, queue.SimpleQueue[Any]]:
        """Send a request (a frame that :func:`_request` made); its number and where answers come."""
        number, answers = next(self._calls), queue.SimpleQueue[Any]()
        self.ask(member, request, timeout, number, answers)
        return number, answers

    def ask(self, member: Member, request: bytes, timeout: float, number: int, answers: queue.SimpleQueue[Any]) -> None:
        """Send a request whose answers go to a queue that the caller has."""
        self._pending[number] = answers
        message = wire.decode(request[4:])
        try:
            expires = self._joined.service.clock() + timeout
        except FlowError as exc:
            del self._pending[number]
            raise BusAway(exc.message) from None
        body = wire.frame([number, *message[1:]])[4:]
        part = [far.CALL, self._joined.box, number, expires, body]
        self._joined.send(member.box, part, lambda exc: answers.put(BusAway(exc.message)))

    def next_number(self) -> int:
        """For :meth:`ask`."""
        return next(self._calls)

    def forget(self, member: Member, number: int) -> None:
        """Nobody waits for further answers; the kernel ends what it does for them."""
        if self._pending.pop(number, None) is not None:
            self._joined.send(member.box, [far.END, self._joined.box, number])

    def lives(self, member: Member) -> bool:
        """Whether the kernel that was asked has its lease still."""
        try:
            return self._joined.lives(member)
        except StoreError:
            return True  # nobody can tell; the deadline decides

    def _wait(self, member: Member, number: int, answers: queue.SimpleQueue[Any], deadline: float) -> Any:
        try:
            while True:
                left = deadline - time.monotonic()
                try:
                    message = answers.get(timeout=max(0.0, min(left, _LOOK)))
                except queue.Empty:
                    if left <= 0 or not self.lives(member):
                        away = KernelAway(f"the kernel {'did not answer in time' if left <= 0 else 'went away'}")
                        away.sent = True
                        raise away from None
                    continue
                if isinstance(message, KernelAway):
                    raise message
                self._pending.pop(number, None)
                return _result(message)
        finally:
            self.forget(member, number)

    def _take(self, part: Any) -> None:
        """On the thread that empties our box."""
        match part:
            case ["answer", bytes(frame)]:
                message = wire.decode(frame)
                answers = self._pending.get(message[0])
                if answers is not None:
                    answers.put(message)


class FarStream(Stream):
    """A stream of a kernel on another machine."""

    def __init__(self, client: ClusterKernel, member: Member, method: str, params: dict[str, Any]) -> None:
        self._client = client
        self._member = member
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._number = client.next_number()
        client.ask(member, _request(0, method, params), 30.0, self._number, self._answers)

    def _messages(self, timeout: float | None) -> Iterator[Any]:
        quiet = time.monotonic()
        while True:
            try:
                message = self._answers.get(timeout=_LOOK if timeout is None else min(timeout, _LOOK))
            except queue.Empty:
                if not self._client.lives(self._member):
                    raise KernelAway("the kernel went away") from None
                if timeout is not None and time.monotonic() - quiet >= timeout:
                    quiet = time.monotonic()
                    yield None
                continue
            if message is _END:
                raise KernelAway("the stream was closed")
            if isinstance(message, KernelAway):
                raise message
            quiet = time.monotonic()
            yield message

    def close(self) -> None:
        """End the stream. Twice is fine."""
        self._client.forget(self._member, self._number)
        self._answers.put(_END)
