"""The live events of all kernels of a cluster as one stream, as :mod:`appliance.kernel.live` tells those of one.

The numbers stay each kernel's own. So what a panel has heard at one gateway says at any other where it is to go on.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any, Protocol

from appliance.kernel import wire
from appliance.kernel.client import KernelAway, Stream, _request
from appliance.sharing.members import Member

#: Seconds between two looks at which kernels there are, and for which the first words of all of them are waited for.
LOOK, GREETING = 0.5, 0.8
_END: Any = object()


class Asking(Protocol):
    """What this needs of the way to the kernels. Each raises ``KernelAway``."""

    def kernels(self) -> list[Member]:
        """Those that live."""

    def next_number(self) -> int:
        """A number for the next request."""

    def ask(self, member: Member, request: bytes, timeout: float, number: int, answers: queue.SimpleQueue[Any]) -> None:
        """Send a request whose answers go to a queue that the caller has."""

    def forget(self, member: Member, number: int) -> None:
        """Nobody waits for further answers."""


class LiveOfAll(Stream):
    """Follows every kernel that lives. ``after`` is where the listener stopped, by the kernels' lives."""

    def __init__(self, client: Asking, after: dict[str, int] | None) -> None:
        self._client = client
        self._after = after
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        #: By box: the kernel, and the number of what it was asked; by that number: its life, once it has said so.
        self._followed: dict[str, tuple[Member, int]] = {}
        self._lives: dict[int, str] = {}
        #: By life: the last number that was heard, and where its items began.
        self._heard: dict[str, int] = {}
        self._begins: dict[str, int] = {}
        self._greeted = False
        self._whole = True
        self._look_at = 0.0
        self._look()

    def items(self, timeout: float | None = None) -> Iterator[Any]:
        """``hello`` or ``reset`` first, and again for each kernel that comes or goes, always with all ``lives``."""
        begun = quiet = time.monotonic()
        waiting: list[Any] = []
        while True:
            try:
                message = self._answers.get(timeout=LOOK if timeout is None else min(LOOK, timeout))
            except queue.Empty:
                message = None
            if message is _END:
                raise KernelAway("the stream was closed")
            waiting += self._hear(message)
            waiting += self._look()
            now = time.monotonic()
            if not self._greeted and (len(self._lives) == len(self._followed) or now - begun >= GREETING):
                self._greeted = True
                waiting = [item for item in waiting if "lives" not in item]
                yield {"type": "hello" if self._whole else "reset", "lives": dict(self._begins)}
            if self._greeted and waiting:
                yield from waiting
                waiting, quiet = [], now
            elif timeout is not None and now - quiet >= timeout:
                quiet = now
                yield None

    def _hear(self, message: Any) -> list[Any]:
        """What a message of a kernel brings."""
        if not isinstance(message, list) or message[1] != wire.ITEM:
            return []
        item = message[2]
        if "lives" not in item:
            if "life" in item:
                self._heard[item["life"]] = item["id"]
            return [item]
        ((life, number),) = item["lives"].items()
        self._lives[message[0]] = life
        self._heard[life] = self._begins[life] = number
        # Who was greeted already knows nothing of what this one did before.
        whole = item["type"] == "hello" and (not self._greeted or number == 0 or life in (self._after or {}))
        self._whole = self._whole and whole
        return [{"type": "hello" if whole else "reset", "lives": dict(self._heard)}]

    def _look(self) -> list[Any]:
        """Follow the kernels that there are now. Of one that has ended the last events may be lost."""
        if time.monotonic() < self._look_at:
            return []
        self._look_at = time.monotonic() + LOOK
        living = {member.box: member for member in self._client.kernels()}
        if not living and not self._followed:
            raise KernelAway("no kernel of the cluster is running")
        for box, member in living.items():
            if box not in self._followed:
                number, after = self._client.next_number(), self._after
                if self._greeted and after is None:
                    after = {}  # it has come up since: all that it has told
                request = _request(0, "live", {} if after is None else {"after": after})
                self._client.ask(member, request, 30.0, number, self._answers)
                self._followed[box] = (member, number)
        gone = self._followed.keys() - living.keys()
        for box in gone:
            member, number = self._followed.pop(box)
            self._client.forget(member, number)
            self._heard.pop(self._lives.pop(number, ""), None)
        return [{"type": "reset", "lives": dict(self._heard)}] if gone else []

    def result(self, wanted: Any, every: float) -> Any:
        """There is none."""
        raise KernelAway("live events have no end")

    def close(self) -> None:
        """End the stream. Twice is fine."""
        for member, number in list(self._followed.values()):
            self._client.forget(member, number)
        self._answers.put(_END)
