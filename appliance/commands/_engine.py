"""A kernel to work with: the one that runs, or one in this process for as long as a command takes.

A kernel in this process is ``alone``: no trigger is attached and runs that were under way are left as they are. It
holds the folder's kernel lock, so ``flowork up`` and it keep out of each other's way.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from appliance.commands._session import Session
from appliance.kernel.client import KernelAway, KernelClient
from appliance.paths import EngineLock, FolderInUse

if TYPE_CHECKING:
    from appliance.kernel.kernel import Kernel

_SCRATCH = "scratch"
#: Seconds after which a scratch folder that nobody holds is left over and not just being made.
_FRESH = 60.0


def kernel_runs(session: Session) -> bool:
    """Whether the folder's kernel answers."""
    try:
        session.client.call("ping", 10.0)
    except KernelAway as exc:
        if exc.sent:
            raise
        return False
    return True


@contextmanager
def kernel(session: Session) -> Iterator[KernelClient]:
    """The running kernel, or one in this process where none runs.

    Raises ``KernelAway`` for an engine whose kernel does not answer at the moment.
    """
    if kernel_runs(session):
        yield session.client
        return
    lock = EngineLock(session.folder, "kernel")
    try:
        lock.acquire()
    except FolderInUse:
        raise KernelAway(
            f"an engine runs on {session.folder}, but its kernel does not answer; try again in a moment"
        ) from None
    try:
        with running(session.folder, session.folder, debug=session.debug):
            yield session.client
    finally:
        lock.release()


@contextmanager
def running(folder: Path, home: Path, *, debug: bool = False) -> Iterator[Kernel]:
    """A kernel alone in this process, on a folder whose kernel lock the caller holds; see ``Kernel``."""
    from appliance.kernel.kernel import Kernel

    made = Kernel(folder, alone=True, home=home)
    with _logging(made.log_filter(), debug=debug):
        try:
            with stopped_by_sigterm():
                made.start()
                yield made
        finally:
            made.stop()


@contextmanager
def _logging(scrubbed: logging.Filter, *, debug: bool) -> Iterator[None]:
    """Show what goes wrong, and with ``--debug`` everything; never a secret."""
    root, own = logging.getLogger(), logging.StreamHandler(sys.stderr)
    own.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    own.setLevel(logging.ERROR)
    if not debug:
        root.addHandler(own)
    handlers = list(root.handlers)
    for handler in handlers:
        handler.addFilter(scrubbed)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(scrubbed)
        root.removeHandler(own)


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C: the run is cancelled, and nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def scratch(session: Session) -> Iterator[Path]:
    """A folder for one run of a file, gone at the end.

    It lies in the data folder, since an engine writes nowhere else, and has a copy of ``flowork.db`` (subflows,
    variables, settings, secrets). Without an engine it has none of these and lies where temporary files do.
    """
    home = _home(session)
    folder = Path(tempfile.mkdtemp(prefix="flowork-run-", dir=home))
    lock = EngineLock(folder, "kernel")
    try:
        lock.acquire()
        _furnish(session, folder, home is not None)
        with _on_its_own():
            yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _home(session: Session) -> Path | None:
    """Where a scratch folder goes; what killed commands left there is removed."""
    if not session.has_engine:
        return None
    home = session.folder / _SCRATCH
    home.mkdir(mode=0o700, exist_ok=True)
    for left in home.iterdir():
        if abs(time.time() - left.stat().st_mtime) < _FRESH:
            continue
        lock = EngineLock(left, "kernel")
        lock.patience = 0.0
        try:
            lock.acquire()
        except FolderInUse:
            continue
        shutil.rmtree(left, ignore_errors=True)
        lock.release()
    return home


def _furnish(session: Session, folder: Path, engine: bool) -> None:
    from appliance.security.keyring import VAULT_KEY
    from appliance.security.keys import init_keys
    from appliance.store.places import copy_store

    # An identity of its own: with the engine's it would throw the engine off its MQTT brokers.
    init_keys(folder)
    # The kernel would else put 8 MB aside for a full disk.
    (folder / "reserve").touch()
    if not engine:
        return
    shutil.copyfile(session.folder / "keys" / VAULT_KEY, folder / "keys" / VAULT_KEY)
    copy_store(session.folder, folder / "flowork.db")


@contextmanager
def _on_its_own() -> Iterator[None]:
    """What is opened in the block is in its folder, also where the engine's data is on a server."""
    from appliance.store.places import URL

    url = os.environ.pop(URL, None)
    try:
        yield
    finally:
        if url is not None:
            os.environ[URL] = url
