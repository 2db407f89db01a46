"""Where an engine's data lies, and the locks that keep two engines out of one folder.

One folder holds all of an engine. The kernel and the gateway of a folder are each allowed once: who runs
one of them (``flowork up`` both, a systemd unit one) holds its :class:`EngineLock` for as long as it lives.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from appliance.contracts import FlowError

INSTALLED = Path("/var/lib/flowork")
_CHECKOUT = Path(__file__).resolve().parent.parent


class FolderError(FlowError):
    """The data folder cannot be used."""

    id = "bad-folder"
    retryable = False


class FolderInUse(FlowError):
    """Another engine works on the data folder."""

    id = "folder-in-use"


def find_folder(given: str | Path | None = None) -> Path:
    """The data folder's absolute path, whether it exists or not.

    In this order: ``given``, ``$FLOWORK_DATA``, ``FloworkData`` in the checkout that this code runs from,
    ``/var/lib/flowork`` if there is one, ``FloworkData`` in the current directory.
    """
    if chosen := given or os.environ.get("FLOWORK_DATA"):
        return Path(chosen).expanduser().absolute()
    if (_CHECKOUT / "setup.cfg").is_file():
        return _CHECKOUT / "FloworkData"
    return INSTALLED if INSTALLED.is_dir() else Path.cwd() / "FloworkData"


def data_folder(given: str | Path | None = None) -> Path:
    """The data folder of :func:`find_folder`, created with mode 0700 if it is not there.

    Raises ``FolderError`` if it cannot be created. Whether it can be written shows when it is locked.
    """
    folder = find_folder(given)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise FolderError(f"{folder} is not a folder; choose another with --data") from None
    except OSError as exc:
        raise _unusable(folder, exc) from None
    return folder


def _unusable(folder: Path, exc: OSError) -> FolderError:
    reason = (exc.strerror or str(exc)).lower()
    return FolderError(f"cannot write to {folder}: {reason}; mend that or choose another with --data")


class EngineLock:
    """The right to run one ``role`` (``kernel``, ``gateway``) on a data folder, held with ``flock``.

    Forked children share it, so a folder stays locked until the last process of a killed engine is gone.
    """

    #: Seconds to wait for what a killed engine left behind to end (it may sit in a slow write).
    patience = 5.0

    def __init__(self, folder: Path, role: str) -> None:
        self.path = folder / f"{role}.lock"
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock. Raises ``FolderInUse`` if another process holds it, else ``FolderError``."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise _unusable(self.path.parent, exc) from None
        try:
            self._wait(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk; the pid is only there to be named
            pass

    def release(self) -> None:
        """Give the lock back; twice is fine."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _wait(self, fd: int) -> None:
        deadline = time.monotonic() + self.patience
        while not _try_lock(fd, self.path):
            pid = _pid_in(fd)
            if time.monotonic() > deadline or (pid and _alive(pid)):
                who = f"another engine (pid {pid})" if pid else "another engine"
                raise FolderInUse(
                    f"{who} is running on {self.path.parent}; stop it or choose another folder with --data"
                )
            time.sleep(0.02)


def holder(folder: Path, role: str) -> int:
    """The pid of who holds the :class:`EngineLock` of a role; 0 if nobody does."""
    path = folder / f"{role}.lock"
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0
    try:
        return 0 if _try_lock(fd, path) else _pid_in(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:  # a network file system without locks
        raise _unusable(path.parent, exc) from None
    return True


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 20, 0).strip()
    return int(text) if text.isdigit() else 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
