"""Restoring this engine from a backup: what was sent in parts, the unpacking on a thread, and how far it is.

The work itself is ``appliance.restoring``. One restore at a time; one that the gateway's end cuts off leaves nothing.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from appliance import restoring
from appliance.contracts import FlowError
from appliance.gateway.uploads import Upload
from appliance.store.seal import Keys, Sealed, is_sealed

logger = logging.getLogger(__name__)

_UPLOAD = "upload"
#: Seconds for the answer to leave before the engine is ended, and for the unpacking to notice that it is to stop.
_BREATH, _PATIENCE = 0.5, 10.0


class NoRestore(FlowError):
    """What was asked does not fit to how far the restore is."""

    id = "no-restore"
    retryable = False


class RestoreView(Struct, kw_only=True):
    """How a restore goes.

    ``stage``: ``idle``; ``unpacking``, which the checks are part of; ``starting``: this engine ends now, and the
    restored one takes its place; ``failed``, with the reason and its error's id. ``done`` of ``total`` are bytes of the
    backup. ``received`` of ``size`` are bytes that were sent; ``sealed`` is known once all are there.
    """

    stage: Literal["idle", "unpacking", "starting", "failed"] = "idle"
    done: int = 0
    total: int = 0
    error: str = ""
    error_id: str = ""
    received: int = 0
    size: int = 0
    sealed: Sealed | None = None


class _Ended(Exception):
    """The gateway ends."""


class Restores:
    """``close`` ends what goes on; twice is fine. ``begin_anew`` ends this engine so that it starts again."""

    def __init__(self, data: Path, begin_anew: Callable[[], object]) -> None:
        self._data = data
        self._begin_anew = begin_anew
        self._upload = Upload(data / restoring.FOLDER / _UPLOAD)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._view = RestoreView()

    def view(self) -> RestoreView:
        """How it goes now."""
        with self._lock:
            upload = self._upload
            self._view.received, self._view.size = upload.received, upload.size
            self._view.sealed = is_sealed(upload.path) if upload.whole else None
            return self._view

    def receive(self, offset: int, size: int, part: bytes) -> RestoreView:
        """Keep a part of a backup of ``size`` bytes; the part at 0 begins anew.

        Raises ``BadPart`` for one that does not follow what is there, ``NoRestore`` or ``StoreFailure`` if there is no
        room.
        """
        with self._lock:
            self._only()
            if offset == 0:
                self._begin(size)
            self._upload.add(offset, size, part)
        return self.view()

    def _begin(self, size: int) -> None:
        restoring.drop(self._data)
        free = shutil.disk_usage(self._data).free
        # Unpacked it is larger; what will not fit for certain is not even sent.
        if 2 * size > free:
            raise NoRestore(f"the backup has {size:,} bytes, and only {free:,} are free here: it cannot be unpacked")
        self._upload.begin(size)

    def forget(self) -> None:
        """Delete what was sent. Raises ``NoRestore`` while it is unpacked."""
        with self._lock:
            self._only()
            self._upload.forget()
            self._view = RestoreView()

    def sent(self) -> Path:
        """What was sent, whole. Raises ``NoRestore``."""
        if self.view().sealed is None:
            raise NoRestore("no whole backup was sent yet")
        return self._upload.path

    def begin(self, opened: Callable[[], AbstractContextManager[Path]], keys: Keys, *, as_another: bool) -> None:
        """Unpack a backup on a thread, then start the engine anew. Raises ``NoRestore`` while one is unpacked."""
        with self._lock:
            self._only()
            self._view = RestoreView(stage="unpacking")
            work = threading.Thread(target=self._work, args=(opened, keys, as_another), name="restore", daemon=True)
            self._thread = work
            work.start()

    def close(self) -> None:
        """End what goes on."""
        self._closing.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_PATIENCE)

    def _only(self) -> None:
        if self._view.stage in {"unpacking", "starting"}:
            raise NoRestore("a backup is being restored already")

    def _work(self, opened: Callable[[], AbstractContextManager[Path]], keys: Keys, as_another: bool) -> None:
        try:
            with opened() as archive:
                restoring.stage(self._data, archive, keys, as_another=as_another, progress=self._tell)
        except _Ended:
            return
        except FlowError as exc:
            self._view = RestoreView(stage="failed", error=exc.message, error_id=exc.id)
        except Exception:
            logger.exception("a backup was not restored")
            self._view = RestoreView(stage="failed", error="it failed; the log says why", error_id="internal")
        else:
            with self._lock:
                self._upload.forget()
                self._view = RestoreView(stage="starting")
            if not self._closing.wait(_BREATH):
                self._begin_anew()

    def _tell(self, done: int, total: int, what: str) -> None:
        if self._closing.is_set():
            raise _Ended
        self._view.done, self._view.total = done, total
