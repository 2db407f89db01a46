"""A progress bar for work that takes a while: on a terminal only, and rich is loaded only then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.commands._session import Session

#: ``tell(done, in all, what is being worked on)``.
Tell = Callable[[int, int, str], None]


@contextmanager
def progress(session: Session, title: str, *, unit: str = "bytes") -> Iterator[Tell]:
    """Something to call as the work goes on; draws on standard error, nothing where nobody looks."""
    if session.as_json or not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        count,
        TimeRemainingColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, at="")

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, at=what[-40:])

        yield tell


def _silent(done: int, total: int, what: str) -> None:
    """Nobody looks."""
