"""Progress bars: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from appliance.commands._progress import progress
from appliance.commands._session import Session


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("unit", ["bytes", "runs"])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(Session(None), "backing up", unit=unit) as tell:
        tell(1, 2, "flowork.db")
        tell(2, 2, "runs/2026-11-21.db")
    assert "backing up" in terminal.getvalue()


def test_nothing_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(Session(None), "backing up") as tell:
        tell(1, 2, "x")
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress(Session(None, as_json=True), "backing up") as tell:
        tell(1, 2, "x")
    assert stream.getvalue() + terminal.getvalue() == ""
