"""JSON Schema's numbers as grammar rules: bounds and steps. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from appliance.ai.grammar import digits
from appliance.ai.grammar.words import MOST_VALUES, Schema, is_a, literal, refuse

_FEWEST_PLACES, _MOST_PLACES = 4, 9


def number_rule(schema: Schema, kind: str, place: str) -> str:
    """The right side of a rule for a number or integer (``kind``)."""
    low, high = _limits(schema, place)
    step = schema.get("multipleOf")
    if step is not None and (not is_a(step, "number") or step <= 0):
        refuse(f"{place}/multipleOf", "it must be a number above 0")
    if step is not None and (kind == "number" or Decimal(str(step)) != 1):
        return _steps(low, high, Decimal(str(step)), kind, place)
    if low is None and high is None:
        return kind
    found = [_wholes(low, high)]
    if kind == "number":
        found += _decimals(low, high)
    made = [part for part in found if part]
    if not made:
        refuse(place, "no number lies between its bounds")
    return " | ".join(f"({part})" for part in made)


def _wholes(low: _Limit | None, high: _Limit | None) -> str | None:
    first = low.value.to_integral_value(rounding="ROUND_CEILING") if low else None
    last = high.value.to_integral_value(rounding="ROUND_FLOOR") if high else None
    if low and low.open and first == low.value:
        first = low.value + 1
    if high and high.open and last == high.value:
        last = high.value - 1
    return digits.whole(None if first is None else int(first), None if last is None else int(last))


def _decimals(low: _Limit | None, high: _Limit | None) -> Iterable[str | None]:
    """With one to a few digits behind the point, by what the bounds themselves have."""
    edge = Decimal(10) ** digits.LONGEST - 1
    bounds = [limit.value for limit in (low, high) if limit]
    places = max(_FEWEST_PLACES, *(min(_places(bound) + 1, _MOST_PLACES) for bound in bounds))
    for count in range(1, places + 1):
        unit = Decimal(1).scaleb(-count)
        first = low.value if low else -max(edge, abs(bounds[0]))
        last = high.value if high else max(edge, abs(bounds[0]))
        if low and low.open and first % unit == 0:
            first += unit
        if high and high.open and last % unit == 0:
            last -= unit
        yield digits.fixed(first, last, count)


def _steps(low: _Limit | None, high: _Limit | None, step: Decimal, kind: str, place: str) -> str:
    """Multiples of a number, as a list of values: so there must be bounds."""
    if low is None or high is None:
        refuse(f"{place}/multipleOf", "it needs a minimum and a maximum beside it")
    first = int((low.value / step).to_integral_value(rounding="ROUND_CEILING"))
    last = int((high.value / step).to_integral_value(rounding="ROUND_FLOOR"))
    first += low.open and first * step == low.value
    last -= high.open and last * step == high.value
    if last - first >= MOST_VALUES:
        refuse(f"{place}/multipleOf", f"its bounds hold {last - first + 1} values; {MOST_VALUES} can be told apart")
    found = [number * step for number in range(first, last + 1)]
    if kind == "integer":
        found = [value for value in found if value == value.to_integral_value()]
    if not found:
        refuse(place, "no number fits")
    return " | ".join(literal(_plain(value)) for value in found)


class _Limit:
    """One bound of a number; ``open`` if the bound itself is outside."""

    def __init__(self, value: Decimal, *, open: bool) -> None:  # noqa: A002  the field's own term
        self.value = value
        self.open = open


def _limits(schema: Schema, place: str) -> tuple[_Limit | None, _Limit | None]:
    found: list[_Limit | None] = []
    for closed, opened, pick in (("minimum", "exclusiveMinimum", max), ("maximum", "exclusiveMaximum", min)):
        limits = []
        for key, is_open in ((closed, False), (opened, True)):
            if key in schema:
                if not is_a(schema[key], "number"):
                    refuse(f"{place}/{key}", "a bound is a number")
                limits.append(_Limit(Decimal(str(schema[key])), open=is_open))
        limits.sort(key=lambda limit: (limit.value, limit.open == (pick is max)))
        found.append(None if not limits else limits[-1] if pick is max else limits[0])
    return found[0], found[1]


def _places(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _plain(value: Decimal) -> str:
    text = format(value.normalize(), "f")
    return "0" if text == "-0" else text
