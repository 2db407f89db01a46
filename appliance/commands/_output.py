"""How commands write: tables, times, sizes, values; JSON for machines.

Text that came from outside (payloads, logs, names) is shown with its control characters made visible, so that no
message can move the cursor or colour the terminal of the person who reads it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_WIDE = 60

STATE_COLORS = {
    "succeeded": "green",
    "done": "green",
    "failed": "red",
    "dead": "red",
    "cancelled": "yellow",
    "skipped": "yellow",
    "waiting": "cyan",
    "running": "blue",
}


def say(text: str = "", *, err: bool = False, color: str | None = None, bold: bool = False) -> None:
    """A line, coloured on a terminal (not with ``NO_COLOR``, https://no-color.org)."""
    if color or bold:
        text = click.style(text, fg=color, bold=bold)
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def plain(text: Any) -> str:
    """Text from outside, safe to print."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], str(text))


def plain_lines(text: str) -> str:
    """Text of several lines, safe to print; its line breaks are kept."""
    return "\n".join(plain(line) for line in text.split("\n"))


def one_line(text: Any, longest: int = _WIDE) -> str:
    """Text from outside on one line, cut where it gets long."""
    flat = plain(" ".join(str(text).split()))
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def encode(value: Any, *, indent: int = 2) -> str:
    """JSON text; what JSON has no form for is shown as text."""
    data = msgspec.json.encode(value, enc_hook=str)
    return (msgspec.json.format(data, indent=indent) if indent else data).decode()


def emit(value: Any) -> None:
    """One JSON document on standard output."""
    say(encode(value))


def emit_line(value: Any) -> None:
    """One JSON document on one line, written at once: for what comes bit by bit."""
    say(encode(value, indent=0))
    sys.stdout.flush()


def short(value: Any, longest: int = _WIDE) -> str:
    """A value as JSON on one line, cut where it gets long."""
    text = plain(encode(value, indent=0))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns as wide as they need to be; a cell that is a state name gets its colour."""
    texts = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(head, *texts, strict=True)]
    _row([name.upper() for name in head], widths, bold=True)
    for line in texts:
        _row(line, widths)


def _row(cells: Sequence[str], widths: Sequence[int], bold: bool = False) -> None:
    last = len(cells) - 1
    padded = [cell if index == last else cell.ljust(widths[index]) for index, cell in enumerate(cells)]
    say("  ".join(click.style(cell, fg=STATE_COLORS.get(cell.strip()), bold=bold or None) for cell in padded))


def saved_draft(saved: Mapping[str, Any]) -> str:
    """Where a draft is now, and what makes it live."""
    flow = saved["flow"]
    return f"saved as version {saved['version']} of {flow}, not deployed; `flowork flow deploy {flow}` makes it live"


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair a line; pairs without a value are left out."""
    shown = [(name, plain(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{click.style(f'{name}:'.ljust(width + 1), bold=True)} {value}")


def moment(when: float | None) -> str:
    """A time of this machine's zone: ``2026-11-21 07:00:00``."""
    return "" if when is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def lasted(seconds: float | None) -> str:
    """A length of time, roughly: ``0.4 ms``, ``12 s``, ``3 h``."""
    if seconds is None:
        return ""
    for limit, divisor, unit in ((0.001, 1e-6, "µs"), (1.0, 1e-3, "ms"), (120.0, 1.0, "s"), (7200.0, 60.0, "min")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}"
    return f"{seconds / 3600:.3g} h" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"


def size(count: float) -> str:
    """Bytes, roughly: ``1.2 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
