"""Evaluated beginnings of prompts on disk, so that they are there again after a restart or when memory ran out.

One file is one beginning: a head (JSON in one line: sizes and a checksum), the tokens, then llama.cpp's own state of
them. Its name is made of what the state depends on (the model's content, llama.cpp's version, the adapter) and of the
tokens. Files are put in place whole; one that is damaged or does not fit is ignored and removed. They are a cache: to
spare SD cards nothing is synced, and the checksum finds what a power cut left behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

_SUFFIX = ".state"
#: A file's time of last use is written at most this often, in seconds.
_TOUCH = 3600.0
#: A file that is still being written after this many seconds is none.
_DRAFT = 3600.0
#: Bytes of the disk that are left to others: runs matter more than a prompt that can be evaluated again.
_SPARE = 200_000_000


class States:
    """The states in one folder that belong to ``key`` (16 hexadecimal digits).

    All keys together keep at most ``bound`` bytes, those used last, and less where the disk is nearly full; what was
    not used for ``age`` seconds goes too. ``free`` tells the bytes that a folder's disk has left.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        bound: int,
        age: float,
        clock: Callable[[], float] = time.time,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self._folder = folder
        self._key = key
        self._bound = bound
        self._age = age
        self._clock = clock
        self._free = free

    def has(self, tokens: Sequence[int], adapter: str = "") -> bool:
        """Whether there is a file for exactly these tokens."""
        return self._path(tokens, adapter).exists()

    def save(self, tokens: Sequence[int], adapter: str, state: bytearray | memoryview) -> bool:
        """Keep a state; False if it is too large or the disk refuses."""
        if len(state) > self._bound:
            return False
        ids = np.array(tokens, np.int32).tobytes()
        head = (
            json.dumps({"tokens": len(tokens), "state": len(state), "sum": zlib.crc32(state, zlib.crc32(ids))}).encode()
            + b"\n"
        )
        path = self._path(tokens, adapter)
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self.tidy(room=len(state)):
                return False
            with draft.open("wb") as file:
                file.writelines((head, ids, state))
            now = self._clock()
            os.utime(draft, (now, now))
            draft.replace(path)
        except OSError as error:
            logger.warning("an evaluated prompt could not be kept in %s: %s", self._folder, error)
            with contextlib.suppress(OSError):
                draft.unlink()
            return False
        return True

    def load(self, tokens: Sequence[int], adapter: str = "") -> memoryview | None:
        """The state of exactly these tokens, or None. It stays a part of the file, mapped into memory, so that a small
        machine can drop and read it again as it likes. A file that is damaged is removed.
        """
        path = self._path(tokens, adapter)
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ)
            state = _state(memoryview(content), tokens)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            logger.warning("a kept prompt cannot be read: %s: %s", path, error)
            state = None
        with contextlib.suppress(OSError):
            if state is None:
                path.unlink()
            elif self._clock() - path.stat().st_mtime > _TOUCH:
                os.utime(path, (self._clock(), self._clock()))
        return state

    def tidy(self, room: int = 0) -> bool:
        """Remove what is too old, what nobody finished, and the least used until ``room`` bytes fit in; whether they
        do.
        """
        now = self._clock()
        files = sorted(self._files(), key=lambda found: -found[2])
        spare = self._free(self._folder) - _SPARE + sum(size for _, size, _ in files)
        left = most = min(self._bound, spare) - room
        for path, size, used in files:
            left -= size
            if left < 0 or now - used > (self._age if path.suffix == _SUFFIX else _DRAFT):
                with contextlib.suppress(OSError):
                    path.unlink()
        return most >= 0

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        facts = entry.stat()
                        yield Path(entry.path), facts.st_size, facts.st_mtime

    def _path(self, tokens: Sequence[int], adapter: str) -> Path:
        mark = hashlib.blake2b(adapter.encode() + b"\0" + np.array(tokens, np.int32).tobytes(), digest_size=16)
        return self._folder / f"{self._key}-{mark.hexdigest()}{_SUFFIX}"


def _state(data: memoryview, tokens: Sequence[int]) -> memoryview | None:
    """The state in a file's content, if it is whole and that of ``tokens``."""
    line, newline, _ = bytes(data[:256]).partition(b"\n")
    try:
        head = json.loads(line)
    except ValueError:
        return None
    ids = np.array(tokens, np.int32).tobytes()
    body = data[len(line + newline) :]
    if not isinstance(head, dict) or len(body) != len(ids) + head.get("state", -1) or body[: len(ids)] != ids:
        return None
    return body[len(ids) :] if zlib.crc32(body) == head.get("sum") else None
