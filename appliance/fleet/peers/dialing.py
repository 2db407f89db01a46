"""Calling peers: each call is on a thread of its own that lasts seconds, and a few at one time."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from appliance.fleet.peers.outgoing import Lines, identified
from appliance.fleet.peers.remote import split

logger = logging.getLogger(__name__)

#: Calls at one time, and addresses that are tried in one.
AT_ONCE, MOST = 4, 12
#: Seconds for which the end waits for calls that were cut off: only the look-up of a name takes longer than a moment.
ENDING = 1.0

#: Takes a connection, the fingerprint of who is there, the address that was reached and the one that was tried, on the
#: thread of the call; says whether it wants it.
Connected = Callable[[ssl.SSLSocket, str, str, str], bool]


class Dialing:
    """``folder`` has this engine's key. What is done on its threads calls by ``lines``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.lines = Lines()
        self._lock = threading.Lock()
        self._calling: set[threading.Thread] = set()
        self._closed = False

    @property
    def free(self) -> bool:
        """Whether another call may begin."""
        return len(self._calling) < AT_ONCE and not self._closed

    def call(
        self,
        addresses: Sequence[str],
        trusted: list[bytes],
        connected: Connected,
        done: Callable[[str], None],
    ) -> None:
        """Try the addresses in turn, until ``connected`` takes a connection. ``done`` is told at the end why there is
        none, or "".
        """

        def work() -> None:
            why = "no address of it is known"
            try:
                for each in addresses[:MOST]:
                    if self._closed:
                        return
                    why = self._try(each, trusted, connected)
                    if not why:
                        break
                done(why)
            except Exception:
                logger.exception("calling a peer failed")
                done("calling it failed")
            finally:
                with self._lock:
                    self._calling.discard(threading.current_thread())

        self._begin(work, "peer-call")

    def ask(self, work: Callable[[], None]) -> None:
        """Do something that waits for the network, on a thread that the end waits for, for a moment."""

        def guarded() -> None:
            try:
                work()
            except Exception:
                logger.exception("asking another engine failed")
            finally:
                with self._lock:
                    self._calling.discard(threading.current_thread())

        self._begin(guarded, "peer-ask")

    def close(self) -> None:
        """Cut off what is under way. Twice is fine."""
        with self._lock:
            self._closed = True
            calling = list(self._calling)
        self.lines.cut()
        until = time.monotonic() + ENDING
        for thread in calling:
            thread.join(max(0.0, until - time.monotonic()))

    def _begin(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self._lock:
            if self._closed:
                return
            self._calling.add(thread)
        thread.start()

    def _try(self, address: str, trusted: list[bytes], connected: Connected) -> str:
        """Why not, or nothing."""
        try:
            secure, fingerprint, reached = identified(self.lines, *split(address), self._folder, trusted)
        except (OSError, ValueError) as exc:
            return f"{address}: {(getattr(exc, 'strerror', None) or str(exc)).lower()}"
        if self._closed:
            secure.close()
            return "this engine is being stopped"
        return "" if connected(secure, fingerprint, reached, address) else f"{address}: another engine answers there"
