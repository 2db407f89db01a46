"""A value that must not be seen: it prints as ``•••`` and is only handed out by ``reveal()``."""

from __future__ import annotations

import hmac
from typing import Any, NoReturn

#: What stands in the place of every hidden value.
MASK = "•••"


class Secret:
    """Text that neither ``repr``, ``str``, formatting, pickling nor encoding gives away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Whoever calls this answers for where it goes."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret is not written anywhere; seal it with the vault")
