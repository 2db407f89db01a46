"""Live events, from the kernel's one stream to every panel that watches.

One thread reads the stream and hands each event, encoded once, to the bounded queue of every watcher. Who reads
too slowly is dropped and told so; nobody is waited for. Without watchers there is neither thread nor stream.

An event's id says how far the stream is behind it: ``<life>-<number>``, in a cluster one for each kernel, with commas.
A kernel numbers its events, and begins anew with each life. So a panel can go on at another gateway, too.
"""

from __future__ import annotations

import logging
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

#: Stands for the flow of events that are about devices and agents; no flow's id is like it.
DEVICES = "*devices"
#: The same for events that are about peers.
PEERS = "*peers"
_ABOUT = {"devices": DEVICES, "agent": DEVICES, "peer": PEERS}
#: An event: the life of the kernel and its number there ("" and 0: it has none), the flow it is about, and its JSON.
Item = tuple[str, int, str, bytes]
#: How far somebody has heard each life of a kernel.
Heard = dict[str, int]


class Watcher:
    """One panel's queue. ``wants`` says whether an event about a flow (empty: about none) is for it.

    ``bell`` is set when something came, or when it is over. One thread puts and another takes. ``heard`` is what it has
    had elsewhere already.
    """

    def __init__(self, wants: Callable[[str], bool], bell: threading.Event) -> None:
        self.wants = wants
        self.bell = bell
        self.heard: Heard = {}
        self.dropped = False
        self.closed = False
        self._items: deque[bytes] = deque()

    def show(self, item: Item) -> None:
        """Add something of the moment, or leave it out for a watcher that is behind."""
        if len(self._items) < MAX_PASSING:
            self.put(item)

    def put(self, item: Item) -> None:
        """Add an event if it is wanted and there is room; a watcher without room is dropped."""
        life, number, flow, data = item
        if self.closed or not self.wants(flow) or 0 < number <= self.heard.get(life, 0):
            return
        if len(self._items) >= MAX_WAITING:
            self.dropped = True
            self.close()
        else:
            self._items.append(data)
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

    ``connect(after)`` opens it (``appliance/kernel/live.py`` says what comes), ``shape`` makes an event of the kernel's
    what the API calls it.
    """

    def __init__(
        self,
        connect: Callable[[Heard | None], Stream],
        shape: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._connect = connect
        self._shape = shape
        self._watchers: set[Watcher] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._kept: deque[Item] = deque(maxlen=KEPT)
        #: The newest number of each life that is followed, and the one behind which all is kept.
        self._newest: Heard = {}
        self._since: Heard = {}
        #: Where the first one who came wants to go on.
        self._wish: Heard | None = None
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
            heard = _heard(after)
            if self._wish is None and not self._newest:
                self._wish = heard
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="live", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: self._up is not None or self._closing, _PAUSE)
            # Greeted and added in one breath: nothing is missed in between, and nothing comes twice.
            for item in self._greeting(watcher, after, heard):
                watcher.put(item)
            self._watchers.add(watcher)
            if self._closing:
                watcher.close()

    def _greeting(self, watcher: Watcher, after: str, heard: Heard | None) -> list[Item]:
        """What a new watcher hears first."""
        up = _item({"type": "kernel", "up": bool(self._up)})
        if not after:
            return [up, self._at("hello")]
        if heard is None or not self._knows(heard):
            return [up, self._at("reset")]
        missed = [item for item in self._kept if item[1] > heard.get(item[0], 0)]
        # Who has missed more than may wait would be dropped at once, come again, and be dropped again.
        if len(missed) > MAX_WAITING // 2:
            return [up, self._at("reset")]
        watcher.heard = heard
        return [up, *missed]

    def _knows(self, heard: Heard) -> bool:
        """Whether all is kept that somebody has not heard who came from here, or from a gateway that is ahead of us."""
        return all(number - self._newest.get(life, -KEPT) <= KEPT for life, number in heard.items()) and all(
            heard.get(life, 0) >= number for life, number in self._since.items()
        )

    def _at(self, kind: str) -> Item:
        return _item({"type": kind, "id": self._position()})

    def _position(self) -> str:
        return ",".join(f"{life}-{number}" for life, number in sorted(self._newest.items()))

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
        stream = self._connect(self._newest or self._wish)
        with self._changed:
            self._stream = stream
        try:
            for item in stream.items():
                self._take(item)
        except KernelAway:
            if self._stream is stream:
                raise
        finally:
            stream.close()

    def _take(self, event: dict[str, Any]) -> None:
        if "lives" in event:
            self._begin(event["lives"], whole=event["type"] == "hello")
            self._say_up(True)
            return
        if "life" not in event:
            self._show(_item(event, str(event.get("flow", ""))))
            return
        life, number = event.pop("life"), event["id"]
        shaped, about = self._shape(event), _ABOUT.get(str(event.get("type"))) or str(event.get("flow", ""))
        with self._lock:
            if number <= self._newest.get(life, 0):
                return  # it was told before the stream was cut
            self._newest[life] = number
            item: Item = (life, number, about, answers.encode({**shaped, "id": self._position()}))
            if len(self._kept) == KEPT:
                self._since[self._kept[0][0]] = self._kept[0][1]
            self._kept.append(item)
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.put(item)

    def _begin(self, lives: Heard, whole: bool) -> None:
        """The stream goes on with these lives, each behind that number."""
        with self._lock:
            # Also who was greeted before any kernel answered may have missed what it did since.
            first = not self._newest
            anew = not whole or not self._newest.keys() <= lives.keys()
            if anew or first:
                self._kept.clear()
                self._newest, self._since = dict(lives), dict(lives)
            for life in lives.keys() - self._newest.keys():
                self._newest[life] = self._since[life] = lives[life]
        if anew or first:
            self._tell(self._at("reset"))

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
            self._tell(_item({"type": "kernel", "up": up}))

    def _tell(self, item: Item) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            watcher.put(item)


def _item(event: dict[str, Any], flow: str = "") -> Item:
    """Something that has no number."""
    return "", 0, flow, answers.encode(event)


def _heard(after: str) -> Heard | None:
    """What :meth:`Hub._position` said; None if it is nothing of the kind."""
    found: Heard = {}
    for part in after.split(","):
        life, _, number = part.partition("-")
        if not (life and number.isascii() and number.isdigit() and len(number) < 16):
            return None
        found[life] = int(number)
    return found
