"""Words around numbers, for whoever reads them."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """``1 row``, ``12 rows``; ``many`` where an s is not enough."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
