"""Files of a folder: created, changed, moved, deleted.

`patterns` and `ignore` are shell patterns; one with a slash is held against the path within the folder, others against
the file's name. A file that is still being written is not told: `settle` seconds have to pass after it was closed, or
two seconds without a write. What changed while the agent was down is found by comparing with what was last told, and
told with `missed`. At the very first start the files that are there are only counted (`initial`), unless `existing`.

The kernel tells of changes by itself (`inotify`); where other machines write too (network mounts) the folder is looked
through every `poll` seconds, and `auto` knows such mounts. More than `max_rate` changes a second wait for their turn;
none is left out. If the folder vanishes (a stick, a mount), that is told as `lost`, and its files are not `deleted`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from drivers.base import Driver, DriverConfig, DriverError, Emit, Entity, Host, Observation, Stop
from drivers.support import notices
from drivers.support.rate import Bound
from drivers.support.snapshots import Snapshot
from drivers.support.trees import Entry, Selection, on_network
from drivers.support.worker import Watch, Worker

logger = logging.getLogger(__name__)

#: Seconds without a write after which a file that is still open counts as written.
_UNCLOSED = 2.0
#: Changes kept in memory; past it the folder is compared once more when these are told.
_MOST_PENDING = 10_000
#: Seconds between looks whether the folder is still the same one.
_HEALTH = 10.0
_RETURN_PAUSE = 2.0
_AT_ONCE = 500
#: Notices at once after which the kernel's queue (16,384 by default) may have run over.
_UPROAR = 8000

Change = Literal["created", "changed", "moved", "deleted"]


class FilesConfig(DriverConfig, frozen=True):
    folder: Annotated[str, Meta(title="Folder", description="An absolute path", min_length=1)]
    patterns: Annotated[tuple[str, ...], Meta(title="Patterns", min_length=1)] = ("*",)
    ignore: Annotated[tuple[str, ...], Meta(title="Ignore")] = (".*", "*~", "*.tmp", "*.part", "*.swp")
    recursive: Annotated[bool, Meta(title="Folders within too")] = False
    changes: Annotated[tuple[Change, ...], Meta(title="What to tell", min_length=1)] = (
        "created",
        "changed",
        "moved",
        "deleted",
    )
    settle: Annotated[float, Meta(title="Settle time", description="Seconds", ge=0, le=86400)] = 0.2
    existing: Annotated[bool, Meta(title="Tell the files that are there at the first start")] = False
    method: Annotated[Literal["auto", "inotify", "poll"], Meta(title="How to watch")] = "auto"
    poll: Annotated[float, Meta(title="Seconds between looks", ge=0.05)] = 10.0
    max_rate: Annotated[int, Meta(title="Most events a second", ge=1, le=5000)] = 100


class Files(Driver[FilesConfig]):
    type = "files"
    title = "Files of a folder"
    Config = FilesConfig

    def __init__(self, config: FilesConfig, host: Host) -> None:
        super().__init__(config, host)
        self._lock = threading.Lock()
        self._method: Literal["inotify", "poll"] | None = None
        self._watching = Watch()

    def open(self) -> None:
        with self._lock:
            if not Path(self.config.folder).is_absolute():
                raise DriverError(f"folder: {self.config.folder!r} is not an absolute path", retryable=False)
            try:
                os.scandir(self.config.folder).close()
                distant = self.config.method == "auto" and on_network(self.config.folder)
            except OSError as exc:
                if isinstance(exc, FileNotFoundError):
                    self._state("absent").touch()
                raise DriverError(f"{self.config.folder} cannot be read: {exc.strerror}") from exc
            self._method = "poll" if distant or self.config.method == "poll" else "inotify"

    def close(self) -> None:
        self._watching.end()
        with self._lock:
            self._method = None

    def events(self, emit: Emit) -> Stop:
        with self._lock:
            if self._method is None:
                raise DriverError(f"{self.config.folder} is not open")
            return self._watching.begin(f"files {self.config.folder}", emit, self._watch)

    def entities(self) -> list[Entity]:
        return [Entity(self.config.folder, f"Files in {self.config.folder}", "event")]

    def _state(self, ending: str) -> Path:
        config = self.config
        about = [config.folder, config.patterns, config.ignore, config.recursive]
        digest = hashlib.sha256(msgspec.json.encode(about)).hexdigest()[:16]
        return self.host.state(f"files-{digest}.{ending}")

    def _watch(self, worker: Worker) -> None:
        config, absent = self.config, self._state("absent")
        # All that lies in a folder which was made while it was waited for has come; what was mounted may be old.
        existing = config.existing or (absent.exists() and not os.path.ismount(config.folder))
        snapshot = Snapshot(self._state("db"))
        snapshot.open()
        try:
            follower = _Follower(
                config, self.host, snapshot, self._watching.tell, worker, self._method or "poll", existing
            )
            absent.unlink(missing_ok=True)
            lost = math.nan
            while not worker.stopping:
                try:
                    follower.follow(None if math.isnan(lost) else self.host.monotonic() - lost)
                    return
                except OSError as exc:
                    if math.isnan(lost) or follower.was_well:
                        lost = self.host.monotonic()
                        self._tell("lost", exc.strerror or str(exc))
                worker.pause(_RETURN_PAUSE)
        finally:
            snapshot.close()

    def _tell(self, kind: str, value: Any, **attrs: Any) -> None:
        self._watching.tell(Observation(self.config.folder, kind, value, self.host.now(), attrs))


class _Ended(Exception):
    """The watch ends while the folder is looked through."""


class _Follower:
    """Brings notices, the disk and the snapshot together. All but ``_notice`` runs on the watch's thread."""

    def __init__(
        self,
        config: FilesConfig,
        host: Host,
        snapshot: Snapshot,
        tell: Emit,
        worker: Worker,
        method: str,
        existing: bool,
    ) -> None:
        self._config = config
        self._existing = existing
        self._host = host
        self._snapshot = snapshot
        self._tell = tell
        self._worker = worker
        self._polls = method == "poll"
        self._files = Selection(config.folder, config.patterns, config.ignore, config.recursive)
        self._bound = Bound(config.max_rate, host.monotonic)
        self._lock = threading.Lock()
        self._pending: dict[bytes, float] = {}  # when each may be told
        self._seen: dict[bytes, Entry] = {}  # polling: as each was at the last look
        self._missed: set[bytes] = set()  # what happened while nobody watched
        self._noticed = 0
        self._rescan = False
        self.was_well = False

    def follow(self, away: float | None) -> None:
        """Until the watch ends. Raises ``OSError`` when the folder is gone."""
        self.was_well = False
        folder = self._identity()
        if self._vanished(folder):
            raise OSError(errno.ENOENT, "it is empty and on another device: not mounted?")
        stop = self._listen()
        try:
            self._begin(away)
            self.was_well = True
            next_look = next_health = self._host.monotonic()
            while not self._worker.stopping:
                now = self._host.monotonic()
                if now >= next_health:
                    next_health = now + _HEALTH
                    if self._identity() != folder:
                        raise OSError(errno.ENOENT, "the folder was unmounted or replaced")
                if (self._polls and now >= next_look) or (self._rescan and not self._pending):
                    self._compare(missed=False)
                    next_look = self._host.monotonic() + self._config.poll
                self._settle(now)
                self._worker.pause(self._patience(next_look, next_health))
        except _Ended:
            self._snapshot.roll_back()
        finally:
            stop()
            self._snapshot.commit()

    def _listen(self) -> Stop:
        if self._polls:
            return lambda: None
        try:
            return notices.watch(self._files.folder, self._files.recursive, self._notice, self._upheaval)
        except DriverError as exc:
            if self._config.method != "auto":
                raise OSError(errno.EIO, exc.message) from exc
            logger.warning("%s; it is looked through every %g s instead", exc.message, self._config.poll)
            self._polls = True
            return lambda: None

    def _notice(self, path: bytes, closed: bool) -> None:
        """From watchdog's thread."""
        name = self._files.name_of(path)
        if name is None:
            return
        due = self._host.monotonic() + (self._config.settle if closed else max(self._config.settle, _UNCLOSED))
        with self._lock:
            self._noticed += 1
            if self._noticed > _UPROAR or (len(self._pending) >= _MOST_PENDING and name not in self._pending):
                self._rescan = True
            else:
                self._pending[name] = due
        self._worker.ring()

    def _upheaval(self) -> None:
        """From watchdog's thread: folders came or went."""
        self._rescan = True
        self._worker.ring()

    def _identity(self) -> tuple[int, int]:
        found = Path(os.fsdecode(self._files.folder)).stat()
        return found.st_dev, found.st_ino

    def _vanished(self, folder: tuple[int, int]) -> bool:
        """Whether this is but the empty place where something was mounted."""
        known = self._snapshot.fact("device")
        return known not in ("", str(folder[0])) and self._snapshot.count() > 0 and not any(self._files.walk())

    def _begin(self, away: float | None) -> None:
        if not self._snapshot.fact("device"):
            if not self._existing:
                self._snapshot.fill(self._walk())
            self._mark()
            self._say("initial", self._snapshot.count(), method="poll" if self._polls else "inotify")
            if self._existing:
                self._compare(missed=False)
            return
        self._mark()
        if away is not None:
            self._say("gap", round(away, 3))
        else:
            self._say("initial", self._snapshot.count(), method="poll" if self._polls else "inotify")
        self._compare(missed=True)

    def _walk(self) -> Iterator[tuple[bytes, Entry]]:
        """All files; ``_Ended`` in the middle of it, for half a look would tell the rest as gone."""
        for found in self._files.walk():
            if self._worker.stopping:
                raise _Ended
            yield found

    def _mark(self) -> None:
        self._snapshot.note("device", str(self._identity()[0]))
        self._snapshot.commit()

    # --- what has changed ---

    def _compare(self, *, missed: bool) -> None:
        """Hold the disk against what was told."""
        with self._lock:
            self._rescan, self._noticed = False, 0
        settled, seen = self._host.monotonic(), dict[bytes, Entry]()
        for name in self._snapshot.differences(self._walk()):
            if len(self._pending) >= _MOST_PENDING:
                self._rescan = True
                break
            entry = self._files.look(name)
            if entry is not None and not missed and self._still_written(name, entry):
                seen[name] = entry
                continue
            with self._lock:
                self._pending.setdefault(name, settled)
            if missed:
                self._missed.add(name)
        self._seen = seen

    def _still_written(self, name: bytes, entry: Entry) -> bool:
        """Polling: told once it was the same at two looks, and its last write is ``settle`` seconds old."""
        if not self._polls or self._snapshot.same(entry):  # only its name is new
            return False
        age = self._host.now() - entry.mtime / 1e9
        return self._seen.get(name) != entry or 0 <= age < self._config.settle

    def _settle(self, now: float) -> None:
        """Tell what is due, the files that are there before those that are gone: one may have become the other."""
        with self._lock:
            due = list(islice((name for name, at in self._pending.items() if at <= now), _AT_ONCE))
            if not self._pending:
                self._noticed = 0
        there = {name: self._files.look(name) for name in due}
        for name in sorted(due, key=lambda name: there[name] is None):
            if self._worker.stopping or not self._bound.afford():
                break
            with self._lock:
                if self._pending.get(name, math.inf) > now:
                    continue  # it was written to meanwhile
                del self._pending[name]
            self._look_at(name, there[name])
        self._snapshot.commit()

    def _look_at(self, name: bytes, entry: Entry | None) -> None:
        known = self._snapshot.get(name)
        attrs = {"missed": True} if name in self._missed else {}
        self._missed.discard(name)
        if entry is None:
            if known is not None:
                self._identity()  # raises when not only the file is gone
                self._change("deleted", name, known, **attrs)
                self._snapshot.remove(name)
        elif known is None:
            before = next((old for old in self._snapshot.same(entry) if self._files.look(old) is None), None)
            if before is None:
                self._change("created", name, entry, **attrs)
            else:
                self._change("moved", name, entry, before=_shown(self._files.path_of(before)), **attrs)
                self._snapshot.remove(before)
            self._snapshot.put(name, entry)
        elif known != entry:
            self._change("changed", name, entry, **attrs)
            self._snapshot.put(name, entry)

    # --- telling ---

    def _change(self, kind: Change, name: bytes, entry: Entry, **attrs: Any) -> None:
        if kind in self._config.changes:
            path = _shown(self._files.path_of(name))
            value = {"path": path, "name": _shown(name), "size": entry.size, "modified": round(entry.mtime / 1e9, 3)}
            self._say(kind, value, **attrs)

    def _say(self, kind: str, value: Any, **attrs: Any) -> None:
        self._tell(Observation(self._config.folder, kind, value, self._host.now(), attrs))

    def _patience(self, next_look: float, next_health: float) -> float:
        """Seconds until something is due."""
        with self._lock:
            first = min(self._pending.values(), default=math.inf)
            rescan = self._rescan and not self._pending
        now = self._host.monotonic()
        if first <= now:  # there was no room for it
            return 1 / self._config.max_rate
        wait = min(first, next_health, next_look if self._polls else math.inf) - now
        return 0.0 if rescan else max(0.0, wait)


def _shown(path: bytes) -> str:
    """A path as text; what is no UTF-8 in it is replaced."""
    return path.decode("utf-8", "replace")
