"""Which Flowork this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("flowork")
    except PackageNotFoundError:  # run from a folder that was copied rather than installed
        return "0"


VERSION = _version()
