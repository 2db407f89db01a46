"""Live events, from the kernel's one stream to every panel that watches.

One thread reads the stream and hands each event, encoded once, to the bounded queue of every watcher. Who reads
too slowly is dropped and told so; nobody is waited for. Without watchers there is neither thread nor stream.

An event's id is ``<epoch>-<number>``: the kernel numbers its events, and begins anew when it is started again,
so an epoch is one life of the kernel as this process has seen it.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.gateway import answers
from appliance.kernel.client import KernelAway, Stream

logger = logging.getLogger(__name__)

#: Events kept for a watcher that was cut off, and that may wait for one that is slow.
KEPT = 4096
MAX_WAITING = 2048
#: Events that may wait when something of the moment comes: what a step shows while it works.
MAX_PASSING = 256
#: Seconds between two tries to reach a kernel that is away.
RETRY = 0.5
_PAUSE = 1.0
_SAME = 0.25

#: Stands for the flow of events that are about devices and agents; no flow's id is like it.
DEVICES = "*devices"
#: The same for events that are about peers.
PEERS = "*peers"
_ABOUT = {"devices": DEVICES, "agent": DEVICES, "peer": PEERS}
#: An event: its number (0: not one of the kernel's), the flow it is about, and its JSON.
Item = tuple[int, str, bytes]


class Watcher:
    """One panel's queue. ``wants`` says whether an event about a flow (empty: about none) is for it.

    ``bell`` is set when something came, or when it is over. One thread puts and another takes.
    """

    def __init__(self, wants: Callable[[str], bool], bell: threading.Event) -> None:
        self.wants = wants
        self.bell = bell
        self.dropped = False
        self.closed = False
        self._items: deque[bytes] = deque()

    def show(self, item: Item) -> None:
        """Add something of the moment, or leave it out for a watcher that is behind."""
        if len(self._items) < MAX_PASSING:
            self.put(item)

    def put(self, item: Item) -> None:
        """Add an event if it is wanted and there is room; a watcher without room is dropped."""
        if self.closed or not self.wants(item[1]):
            return
        if len(self._items) >= MAX_WAITING:
            self.dropped = True
            self.close()
        else:
            self._items.append(item[2])
            self.bell.set()

    def take(self) -> list[bytes]:
        """What has come since the last time."""
        items = self._items
        return [items.popleft() for _ in range(len(items))]

    def close(self) -> None:
        """Nothing more comes. Twice is fine."""
        self.closed = True
        self.bell.set()


class Hub:
    """Fans the kernel's live stream out.

    ``connect(after)`` opens it, ``life`` tells which kernel answers now (its process, and when that began),
    ``shape`` makes an event of the kernel's what the API calls it.
    """

    def __init__(
        self,
        connect: Callable[[int | None], Stream],
        life: Callable[[], tuple[int, float]],
        shape: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._connect = connect
        self._life = life
        self._shape = shape
        self._watchers: set[Watcher] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._kept: deque[Item] = deque(maxlen=KEPT)
        self._epoch = ""
        self._kernel: tuple[int, float] | None = None
        self._newest = 0
        self._up: bool | None = None
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        #: Watchers, and those that are about to be.
        self._users = 0

    def add(self, watcher: Watcher, after: str) -> None:
        """Begin to hand events to a watcher: those behind ``after`` if they are still there, else a ``reset``."""
        with self._changed:
            self._users += 1
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: self._up is not None or self._closing, _PAUSE)
            # Greeted and added in one breath: nothing is missed in between, and nothing comes twice.
            for item in self._greeting(after):
                watcher.put(item)
            self._watchers.add(watcher)
            if self._closing:
                watcher.close()

    def _greeting(self, after: str) -> list[Item]:
        """What a new watcher hears first."""
        up = _item(0, {"type": "kernel", "up": bool(self._up)})
        epoch, _, number = after.partition("-")
        if not after:
            return [up, self._at("hello")]
        oldest = self._kept[0][0] if self._kept else self._newest + 1
        known = epoch == self._epoch and number.isdigit() and oldest - 1 <= int(number) <= self._newest
        missed = [item for item in self._kept if item[0] > int(number)] if known else []
        # Who has missed more than may wait would be dropped at once, come again, and be dropped again.
        if not known or len(missed) > MAX_WAITING // 2:
            return [up, self._at("reset")]
        return [up, *missed]

    def _at(self, kind: str) -> Item:
        return _item(0, {"type": kind, "id": f"{self._epoch}-{self._newest}"})

    def remove(self, watcher: Watcher) -> None:
        """Forget a watcher; the last one ends the stream. Twice is fine."""
        watcher.close()
        with self._changed:
            if watcher in self._watchers:
                self._watchers.discard(watcher)
                self._users -= 1
            if not self._users:
                self._end_stream()

    def close(self) -> None:
        """Let go of all watchers and of the stream. Twice is fine."""
        with self._changed:
            self._closing = True
            for watcher in list(self._watchers):
                watcher.close()
            self._end_stream()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        self._changed.notify_all()

    # --- the one thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while self._go_on():
            try:
                self._follow()
            except KernelAway:
                self._say_up(False)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or not self._users, RETRY)
            except Exception:
                logger.exception("the live stream failed")
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY)

    def _go_on(self) -> bool:
        with self._changed:
            if self._users and not self._closing:
                return True
            self._thread = None
            self._up = None
            return False

    def _follow(self) -> None:
        """Read the stream until it ends."""
        kernel = self._life()
        same = self._kernel is not None and self._same_life(self._kernel, kernel)
        stream = self._connect(self._newest if same else None)
        with self._changed:
            self._stream = stream
            self._kernel = kernel
        if same:
            self._say_up(True)  # nothing greets one who goes on
        else:
            self._new_epoch()
        try:
            for item in stream.items():
                self._take(item)
        except KernelAway:
            if self._stream is stream:
                raise
        finally:
            stream.close()

    def _same_life(self, old: tuple[int, float], new: tuple[int, float]) -> bool:
        """Same process, begun at the same moment (told to a tenth of a second, and asked over a socket).

        Taking one life for two costs a watcher a reload; taking two for one would hide what happened.
        """
        return old[0] == new[0] and abs(old[1] - new[1]) < _SAME

    def _new_epoch(self) -> None:
        with self._lock:
            # Also who was greeted before this kernel answered may have missed what it did since.
            again = bool(self._epoch or self._watchers)
            self._epoch = secrets.token_hex(4)
            self._kept.clear()
            self._newest = 0
        if again:
            self._tell(self._at("reset"))

    def _take(self, event: dict[str, Any]) -> None:
        kind, number = event.get("type"), int(event.get("id", 0))
        if kind in {"hello", "reset"}:
            with self._lock:
                self._newest = number
                if kind == "reset":
                    self._kept.clear()
            if kind == "reset":
                self._tell(self._at("reset"))
            self._say_up(True)
            return
        if kind == "stream":
            self._show(_item(0, event, str(event.get("flow", ""))))
            return
        shaped = {**self._shape(event), "id": f"{self._epoch}-{number}"}
        about = _ABOUT.get(str(kind)) or str(event.get("flow", ""))
        item = _item(number, shaped, about)
        with self._lock:
            self._newest = number
            self._kept.append(item)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.put(item)

    def _show(self, item: Item) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.show(item)

    def _say_up(self, up: bool) -> None:
        with self._changed:
            if self._up == up:
                return
            first, self._up = self._up is None, up
            self._changed.notify_all()
        if not first:
            self._tell(_item(0, {"type": "kernel", "up": up}))

    def _tell(self, item: Item) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.put(item)


def _item(number: int, event: dict[str, Any], flow: str = "") -> Item:
    return number, flow, answers.encode(event)
