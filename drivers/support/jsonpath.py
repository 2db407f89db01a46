"""One value out of JSON: ``main.temp``, ``list[0].name``, ``["a key"][-1]``."""

from __future__ import annotations

import re
from typing import Any

from drivers.base import DriverError

_STEP = re.compile(r"""\.?([^.\[\]"]+)|\[(-?\d+)\]|\["([^"]*)"\]""")


def steps(path: str) -> list[str | int]:
    """Raises ``DriverError`` for what is no path."""
    found: list[str | int] = []
    place = 0
    text = path.strip().removeprefix("$")
    while place < len(text):
        match = _STEP.match(text, place)
        if match is None:
            raise DriverError(f"{path!r} is no path; write main.temp or list[0].name", retryable=False)
        key, index, quoted = match.groups()
        found.append(int(index) if index is not None else quoted if key is None else key)
        place = match.end()
    return found


def pick(value: Any, path: list[str | int]) -> Any:
    """Raises ``LookupError`` saying which step is not there."""
    here: Any = value
    for step in path:
        kind: type[Any] = list if isinstance(step, int) else dict
        try:
            if not isinstance(here, kind):
                raise LookupError
            here = here[step]
        except LookupError:
            raise LookupError(f"there is no {step!r}") from None
    return here
