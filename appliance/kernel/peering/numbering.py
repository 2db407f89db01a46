"""Numbers for events on their way out of a cluster: the kernel with the links gives them to what all kernels have kept.

One transaction in the database gives them, so the peers see one sender, whichever kernel has the links.
"""

from __future__ import annotations

import logging
import secrets
import threading
from typing import TYPE_CHECKING

from appliance.kernel.peering.at_home import HomeOutbox
from appliance.kernel.state import OUTBOX
from appliance.sharing.cluster import Cluster
from appliance.sharing.peers import PeerStore

if TYPE_CHECKING:
    from appliance.kernel.engine import Engine

logger = logging.getLogger(__name__)


class Numbering:
    """Of the kernel with the links, from :meth:`begin` to :meth:`stop`. Safe from any thread."""

    def __init__(self, engine: Engine, store: PeerStore, cluster: Cluster, outbox: HomeOutbox) -> None:
        self._engine = engine
        self._store = store
        self._cluster = cluster
        self._outbox = outbox
        self._lock = threading.Lock()
        self._on = False
        #: Events may wait for a number; that is being looked at; the outbox has all that the database has.
        self._rung = self._busy = self._whole = False

    def begin(self) -> None:
        """Send what waits, too. Raises ``StoreError``."""
        self._read()
        self._on = True

    def stop(self) -> None:
        """Give no more numbers. Twice is fine."""
        if self._on:
            self._on = False
            self._engine.post(self._outbox.leave)

    def ring(self) -> None:
        """There may be events without a number."""
        with self._lock:
            self._rung = True
            if self._busy or not self._on:
                return
            self._busy = True
        self._engine.steps.io.call(self._number_all)

    def _number_all(self) -> None:
        while True:
            with self._lock:
                if not (self._rung and self._on):
                    self._busy = False
                    return
                self._rung = False
            try:
                if self._number():
                    self._rung = True
            except Exception as exc:
                # Whether they have their numbers is not known: the next time all is read.
                self._whole = False
                logger.warning("events to peers wait: %s", exc)

    def _number(self) -> bool:
        """Give events their numbers, and send them; whether there were some."""
        if not self._whole:
            self._read()
        heads, events = self._store.number(self._cluster.lease, OUTBOX, secrets.token_hex(6))
        if events:
            self._engine.post(lambda: self._outbox.numbered(heads, events))
        return bool(events)

    def _read(self) -> None:
        values = self._store.events(OUTBOX)
        self._engine.post(lambda: self._outbox.take_over(values))
        self._whole = True
