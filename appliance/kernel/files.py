"""The folders that flows may touch: what nodes receive as ``ctx.files``.

``<data>/files`` always, and further folders that the owner has named. Everything else in the data folder
(keys, databases, blobs, packages) is closed even when a named folder lies around it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from appliance.contracts import ConfigError


class FlowFiles:
    """Implements :class:`appliance.contracts.Files`.

    A relative path belongs to ``<data>/files``. What is returned is free of symbolic links, so opening
    it reaches what was checked. Folders in ``read_only`` can be read and never written.
    """

    def __init__(self, data: Path, roots: Iterable[Path] = (), read_only: Iterable[Path] = ()) -> None:
        self._data = data
        self._home = data / "files"
        self._writable = (self._home, *roots)
        self._readable = tuple(read_only)

    def resolve(self, path: str, *, write: bool = False) -> Path:
        """The real path. It need not exist. Raises ``ConfigError`` with what is allowed instead."""
        _refuse_odd(path)
        try:
            real = (self._home / path).resolve()
            looped = any(place.is_symlink() for place in (real, *real.parents))  # which Python 3.13 does not raise
        except (OSError, RuntimeError, UnicodeError):
            looped = True
        if looped:
            raise ConfigError(f"{path!r} is not a usable path (a loop of links, or not a path)")
        if self._is_open(real, self._writable):
            return real
        if self._is_open(real, self._readable):
            if write:
                raise ConfigError(f"{path!r} is in a folder that flows may read but not write")
            return real
        raise ConfigError(
            f"{path!r} is outside the folders that flows may touch; use a path relative to "
            f"{self._home}, or let the owner allow another folder"
        )

    def _is_open(self, real: Path, roots: Iterable[Path]) -> bool:
        # Resolved at each call: a folder may be a link to a stick that is plugged in later.
        home, data = self._home.resolve(), self._data.resolve()
        if real.is_relative_to(data) and not real.is_relative_to(home):
            return False
        return any(real.is_relative_to(root.resolve()) for root in roots)


def _refuse_odd(path: str) -> None:
    if not path or "\0" in path:
        raise ConfigError(f"{path!r} is not a path")
    if ".." in Path(path).parts:
        raise ConfigError(f"{path!r} climbs out with '..'; write the path without it")
    if path.startswith("~"):
        raise ConfigError(f"{path!r}: '~' has no meaning here; write an absolute or a relative path")
