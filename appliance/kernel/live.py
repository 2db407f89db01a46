"""What is going on right now, told to whoever watches over the kernel's socket.

``live {after?}``
    Items, without an end. The first is ``{"type": "hello", "lives": {life: number}}``: what comes from here on is
    behind that number of this life of the kernel, and nothing is missing since ``after`` (a number by life, as in
    ``lives``; a life that it does not name was never heard). With the type ``reset`` something is missing.
    Then ``{"id": number, "life", "type", …}``; what has no ``id`` is of the moment, and does not come again.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.kernel.server import Asker, BadRequest, Params, Reply

KEPT_LIVE = 4096
#: Seconds for which live events are still made when nobody watches any more.
LINGER = 120.0


class Live:
    """Live events: numbered, the newest kept, so that a watcher who was cut off goes on where it stopped."""

    def __init__(self, post: Callable[[Callable[[], None]], None], switch: Callable[[bool], None]) -> None:
        self._post = post
        self._switch = switch
        self._watchers: dict[Asker, Reply] = {}
        self._kept: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT_LIVE)
        self._number = 0
        #: Tells this life of the kernel from all others: its numbers begin anew.
        self.life = secrets.token_hex(4)
        self._alone_since = 0.0

    def subscribe(self, params: Params, reply: Reply) -> None:
        """See above."""
        after = params.get("after")
        if after is not None and not (isinstance(after, dict) and all(isinstance(n, int) for n in after.values())):
            raise BadRequest("the parameter 'after' must be numbers by name")
        self._post(lambda: self._begin(after, reply))
        reply.caller.on_close.append(lambda: self._post(lambda: self._end(reply.caller)))

    def _begin(self, after: dict[str, int] | None, reply: Reply) -> None:
        oldest = self._kept[0][0] if self._kept else self._number + 1
        heard = self._number if after is None else after.get(self.life, 0)
        whole = oldest - 1 <= heard <= self._number
        heard = heard if whole else self._number
        reply.item({"type": "hello" if whole else "reset", "lives": {self.life: heard}})
        for number, item in self._kept:
            if number > heard:
                reply.item(item)
        self._watchers[reply.caller] = reply
        self._switch(True)

    def _end(self, caller: Asker) -> None:
        self._watchers.pop(caller, None)
        self._alone_since = time.monotonic()

    def watched(self) -> bool:
        """Whether anybody watches now."""
        return bool(self._watchers)

    def show(self, item: dict[str, Any]) -> None:
        """Send something of the moment: it has no number, is not kept, and does not wait for a turn of the engine."""
        for reply in list(self._watchers.values()):
            reply.item(item)

    def tell(self, item: dict[str, Any]) -> None:
        """Number an item, keep it, send it. Goes on for a while without watchers, for those who were cut off."""
        self._number += 1
        if not self._watchers and time.monotonic() - self._alone_since > LINGER:
            # Whoever comes back after this finds its number too old, and begins anew.
            self._kept.clear()
            self._switch(False)
            return
        item["id"], item["life"] = self._number, self.life
        self._kept.append((self._number, item))
        for reply in list(self._watchers.values()):
            reply.item(item)
