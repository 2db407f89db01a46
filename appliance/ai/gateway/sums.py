"""Lines of the account put together for people: by day, flow, node, model, or any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

BY = ("day", "flow", "node", "model")


class Sum(Struct, kw_only=True):
    """Sums of one group; what it is not grouped by is empty.

    `day` is a date, or a month for what is more than two months ago. `flow` is an id, empty for what is no flow's;
    `node` then is who asked. `known` answers came from memory, `failed` calls gave none, `unpriced` are tokens whose
    price nobody knows; `cost` is in US dollars, `seconds` is the time that was waited.
    """

    day: str = ""
    flow: str = ""
    node: str = ""
    model: str = ""
    calls: int = 0
    known: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    unpriced: int = 0
    seconds: float = 0.0


_SUMMED = tuple(name for name in Sum.__struct_fields__ if name not in BY)


def summed(rows: Iterable[Mapping[str, Any]], by: Sequence[str]) -> tuple[list[Sum], Sum]:
    """The groups in order, and all together. ``rows`` have the fields of :class:`Sum`."""
    groups: dict[tuple[str, ...], Sum] = {}
    total = Sum()
    for row in rows:
        names = {name: str(row[name]) if name in by else "" for name in BY}
        for one in (groups.setdefault(tuple(names.values()), msgspec.convert(names, Sum)), total):
            for name in _SUMMED:
                setattr(one, name, round(getattr(one, name) + row[name], 9))
    return [groups[key] for key in sorted(groups)], total


def within(rows: Iterable[Mapping[str, Any]], first: str) -> list[Mapping[str, Any]]:
    """Those of a day (``2026-11-01``) and after it; a month counts if it ends behind it."""
    return [row for row in rows if row["day"] >= first[: len(row["day"])]]
