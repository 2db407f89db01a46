"""A large file that a browser sends in parts: each is written down as it comes, and nothing of it is held in memory."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.contracts import FlowError
from appliance.store.errors import explained


class BadPart(FlowError):
    """A part of a file does not follow what is there."""

    id = "bad-part"
    retryable = False


class Upload:
    """One file, at ``path``; its owner sees to it that one thread at a time calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Bytes that were announced; 0 if nothing was.
        self.size = 0

    @property
    def received(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def whole(self) -> bool:
        """Whether all of it is there."""
        return self.size > 0 and self.received == self.size

    def begin(self, size: int) -> None:
        """Begin anew with a file of ``size`` bytes. Raises ``StoreFailure``."""
        with explained(self.path):
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self.size = size
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))

    def add(self, offset: int, size: int, part: bytes) -> None:
        """The next part. Raises ``BadPart`` for one that does not follow, ``StoreFailure`` if there is no room."""
        there = self.received
        if size != self.size or offset != there or offset + len(part) > size:
            raise BadPart(f"the part at byte {offset:,} does not follow the {there:,} bytes that are there")
        with explained(self.path), self.path.open("ab") as file:
            file.write(part)

    def forget(self) -> None:
        """Delete what was sent. Twice is fine."""
        self.path.unlink(missing_ok=True)
        self.size = 0
