"""Accepting events while there is no kernel: the gateway writes the run itself, and the kernel finds it.

The run is on disk before the sender is told so; a note in the queue wakes the kernel for it when it is back.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from appliance.contracts import Busy, Event
from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.kernel.client import KernelClient
from appliance.kernel.packing import packable
from appliance.kernel.runs import event_view, key_of
from appliance.queue.app import make_huey
from appliance.queue.tasks import TaskQueue
from appliance.security.scrub import Scrubber
from appliance.security.vault import Secrets
from appliance.store.errors import EventTaken, LeaseLost
from appliance.store.journal import Batch, Journal, Lease, RunRow
from appliance.store.metadata import open_store
from appliance.store.places import make_journal
from appliance.store.runids import to_text

logger = logging.getLogger(__name__)

#: Who makes the ids of runs accepted here (see ``runids``); the kernel is 0.
WRITER = 1
MAX_WAITING = 10_000
#: Seconds after which the secrets are read again.
SECRETS_KNOWN = 30.0


def adopt_task(queue: TaskQueue, work: Callable[[], None]) -> Callable[[], Any]:
    """The note "there are runs that you do not know": the same task in the gateway and in the kernel."""

    def adopt() -> None:
        work()

    note: Callable[[], Any] = queue.volatile_task(name="adopt")(adopt)
    return note


class StandIn:
    """Commits runs in the kernel's place. Opens its files at first use; safe from any thread."""

    def __init__(
        self,
        data: Path,
        *,
        sync: bool = True,
        queue_url: str | None = None,
        secrets: Callable[[], Iterable[str]] | None = None,
        kernel: KernelClient | None = None,
    ) -> None:
        """``secrets`` gives the values that must not get into the journal; without it they are read from the store.

        ``kernel`` is for a gateway of a cluster: under its number runs are made, and by it the kernels are told.
        """
        self._kernel = kernel
        self._data = data
        self._secrets = secrets or (lambda: secrets_of(data))
        self._scrubber = Scrubber()
        self._scrub_until = 0.0
        self._sync = sync
        self._queue_url = queue_url
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._queue: TaskQueue | None = None
        self._note: Callable[[], Any] = lambda: None
        self._accepted = 0

    def accept(self, flow: int, version: int, trigger: str, kind: str, event: Event) -> str:
        """The id of the run that this event has become. Raises ``StoreFailure``, or ``Busy`` after 10,000 of them."""
        with self._lock:
            try:
                run = self._accept(flow, version, trigger, kind, event)
            except EventTaken as exc:  # a kernel of the cluster was quicker
                return to_text(next(iter(exc.taken.values())))
            except LeaseLost as exc:  # this gateway was taken for dead, and has another number from now on
                raise Busy(exc.message, retry_after=2.0) from None
        try:
            self._note()
        except Exception as exc:
            # The kernel looks for such runs by itself, only later.
            logger.warning("the kernel could not be told of run %s: %s", run, exc)
        return run

    def _accept(self, flow: int, version: int, trigger: str, kind: str, event: Event) -> str:
        journal = self._open()
        key = key_of(flow, trigger, event.id)
        known = journal.run_of_key(key) if event.unique and event.id else None
        if known is not None:
            return to_text(known)
        if self._accepted >= MAX_WAITING:
            raise Busy("the kernel is away and too much waits for it", retry_after=10.0)
        row = self._row(journal, flow, version, trigger, kind, event)
        batch = Batch()
        batch.runs.append(row)
        if event.unique and event.id:
            batch.keys.append((key, row.id))
        journal.commit(batch)
        self._accepted += 1
        return to_text(row.id)

    def _row(self, journal: Journal, flow: int, version: int, trigger: str, kind: str, event: Event) -> RunRow:
        now = time.time()
        accepted = int(now * 1e6)
        form = [event.id, event_view(event, kind, trigger, accepted / 1e6), event.payload, None]
        try:
            data = trace.pack_event(form, trigger, accepted)
        except Exception:
            form = [packable(part) for part in form]
            data = trace.pack_event(form, trigger, accepted)
        if self._scrubber.found_in(data):
            data = trace.pack_event(self._scrubber.scrub(form), trigger, accepted)
        number = journal.ids.next(now)
        return RunRow(
            number, flow, version, "", RunState.QUEUED, accepted, None, trigger, data, None, None, None, 0, b""
        )

    def _open(self) -> Journal:
        if time.monotonic() >= self._scrub_until:
            self._scrubber.update(self._secrets())
            self._scrub_until = time.monotonic() + SECRETS_KNOWN
        if self._kernel is not None and self._kernel.cluster is not None:
            return self._open_shared(self._kernel, self._kernel.cluster().lease)
        if self._journal is None:
            journal = make_journal(self._data, writer=WRITER, sync=self._sync)
            journal.open()
            self._journal = journal
            self._queue = make_huey(self._queue_url or os.environ.get("FLOWORK_QUEUE_URL"), self._data)
            self._note = adopt_task(self._queue, lambda: None)
        return self._journal

    def _open_shared(self, kernel: KernelClient, lease: Lease) -> Journal:
        if self._journal is not None and self._journal.fence != lease:
            self._journal.close()
            self._journal = None
        if self._journal is None:
            journal = make_journal(self._data, writer=lease.writer, sync=self._sync, shared=True)
            journal.fence = lease
            journal.open()
            self._journal = journal
            self._note = kernel.adopt
        return self._journal

    def kernel_is_back(self) -> None:
        """Let go of the shards, so that the kernel is their only writer again."""
        with self._lock:
            self._accepted, self._scrub_until = 0, 0.0
            journal, self._journal = self._journal, None
            queue, self._queue = self._queue, None
        if journal is not None:
            journal.close()
        if queue is not None:
            queue.close()

    def close(self) -> None:
        """Twice is fine."""
        self.kernel_is_back()


def secrets_of(data: Path) -> list[str]:
    """The values of all secrets that can be opened."""
    store = open_store(data)
    try:
        opened = Secrets(store.values.secrets, data).open_all()
    finally:
        store.close()
    return [secret.reveal() for values in opened.values.values() for secret in values.values()]
