"""Numbers between two bounds as grammar rules. Pure.

A grammar knows digits, no values, so a range is taken apart by its leading digits: 37 to 215 is ``3 [7-9]``,
``[4-9] [0-9]``, ``1 [0-9] [0-9]``, ``20 [0-9]``, ``21 [0-5]``.
"""

from __future__ import annotations

from decimal import Decimal

#: Longest whole number written, in digits: what a double still tells apart (2^53).
LONGEST = 16


def whole(low: int | None, high: int | None) -> str | None:
    """Whole numbers from ``low`` to ``high`` (None: no bound) in GBNF; None if there are none.

    Numbers without a bound end at 16 digits, or at as many as the bound has.
    """
    longest = max(LONGEST, *(len(str(abs(bound))) for bound in (low, high) if bound is not None), 1)
    edge = 10**longest - 1
    low, high = max(-edge, low if low is not None else -edge), min(edge, high if high is not None else edge)
    if low > high:
        return None
    parts = []
    if low < 0:
        parts.append(f'"-" ({_naturals(max(1, -high), -low)})')
    if high >= 0:
        parts.append(_naturals(max(0, low), high))
    return " | ".join(parts)


def fixed(low: Decimal, high: Decimal, places: int) -> str | None:
    """Numbers with exactly ``places`` (at least 1) digits behind the point from ``low`` to ``high``, or None."""
    scale = Decimal(10) ** places
    first = int((low * scale).to_integral_value(rounding="ROUND_CEILING"))
    last = int((high * scale).to_integral_value(rounding="ROUND_FLOOR"))
    if first > last:
        return None
    parts = []
    if first < 0:
        parts.append(f'"-" ({_pointed(max(1, -last), -first, places)})')
    if last >= 0:
        parts.append(_pointed(max(0, first), last, places))
    return " | ".join(parts)


def _naturals(low: int, high: int) -> str:
    """Whole numbers from ``low`` (at least 0) to ``high`` without leading zeros."""
    parts = []
    while low <= high:
        end = min(high, 10 ** len(str(low)) - 1)
        parts.append(_same_length(str(low), str(end)))
        low = end + 1
    return " | ".join(parts)


def _pointed(low: int, high: int, places: int) -> str:
    """The same, with a point before the last ``places`` digits and at least one digit before it."""
    parts = []
    while low <= high:
        length = max(len(str(low)), places + 1)
        end = min(high, 10**length - 1)
        parts.append(_same_length(str(low).zfill(length), str(end).zfill(length), point=places))
        low = end + 1
    return " | ".join(parts)


def _same_length(low: str, high: str, point: int = 0) -> str:
    """Digit strings of one length between two of them; ``point`` digits stand behind a point."""
    if not low:
        return ""
    dot = '"." ' if point == len(low) and point else ""
    rest = len(low) - 1
    if low == high:
        return f"{dot}{_literal(low, point if not dot else 0)}"
    free = _free(rest, point)
    if low[1:] == "0" * rest and high[1:] == "9" * rest:
        return f"{dot}{_digit(low[0], high[0])} {free}".strip()
    if low[0] == high[0]:
        return f'{dot}"{low[0]}" ({_same_length(low[1:], high[1:], point)})'
    parts = []
    start, stop = int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        parts.append(f'"{low[0]}" ({_same_length(low[1:], "9" * rest, point)})')
        start += 1
    last = None
    if high[1:] != "9" * rest:
        last = f'"{high[0]}" ({_same_length("0" * rest, high[1:], point)})'
        stop -= 1
    if start <= stop:
        parts.append(f"{_digit(str(start), str(stop))} {free}".strip())
    if last is not None:
        parts.append(last)
    return f"{dot}({' | '.join(parts)})"


def _digit(low: str, high: str) -> str:
    return f'"{low}"' if low == high else f"[{low}-{high}]"


def _free(count: int, point: int) -> str:
    """Any ``count`` digits, the last ``point`` of them behind a point."""
    if not count:
        return ""
    if point and point <= count:
        before = count - point
        return f'{_free(before, 0)} "." {_free(point, 0)}'.strip()
    return f"[0-9]{{{count}}}"


def _literal(digits: str, point: int) -> str:
    if point and point < len(digits):
        return f'"{digits[:-point]}.{digits[-point:]}"'
    return f'"{digits}"'
