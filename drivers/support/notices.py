"""The kernel's notices of changed files (inotify). The only importer of watchdog."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable

from drivers.base import DriverError, Stop

#: A path that may have changed, and whether nobody is writing to it any more.
Notice = Callable[[bytes, bool], None]


def watch(folder: bytes, recursive: bool, notice: Notice, upheaval: Callable[[], None]) -> Stop:
    """Begin to listen, on two threads of watchdog's; ``upheaval`` says that whole folders came or went.

    Raises ``DriverError`` where the folder or the kernel's limits do not allow it.
    """
    from watchdog import events
    from watchdog.observers.inotify import InotifyObserver

    # A folder that was moved out and comes back is still watched under its old name: true, and no harm here,
    # where each notice only says what to look at.
    warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)

    class Handler(events.FileSystemEventHandler):
        def dispatch(self, event: events.FileSystemEvent) -> None:
            if event.is_directory:
                upheaval()
            elif event.event_type == "moved":
                notice(os.fsencode(event.dest_path), True)
                notice(os.fsencode(event.src_path), True)
            else:
                notice(os.fsencode(event.src_path), event.event_type in ("closed", "deleted", "attrib"))

    # What is opened and read without being changed does not even wake us.
    told: list[type[events.FileSystemEvent]] = [
        events.FileCreatedEvent,
        events.FileModifiedEvent,
        events.FileClosedEvent,
        events.FileDeletedEvent,
        events.FileMovedEvent,
        events.DirDeletedEvent,
        events.DirMovedEvent,
    ]
    try:
        observer = InotifyObserver()
    except OSError as exc:
        raise _refusal(folder, exc) from exc
    try:
        observer.schedule(Handler(), os.fsdecode(folder), recursive=recursive, event_filter=told)
        observer.start()
    except OSError as exc:
        observer.stop()
        raise _refusal(folder, exc) from exc

    def stop() -> None:
        observer.stop()
        observer.join()

    return stop


def _refusal(folder: bytes, exc: OSError) -> DriverError:
    shown = os.fsdecode(folder)
    if exc.errno in (errno.ENOSPC, errno.EMFILE):
        limit = "max_user_watches" if exc.errno == errno.ENOSPC else "max_user_instances"
        return DriverError(
            f"{shown} has more folders than the kernel lets us watch: sudo sysctl fs.inotify.{limit}=524288, "
            'or set the method to "poll"'
        )
    return DriverError(f"{shown} cannot be watched: {exc.strerror}")
