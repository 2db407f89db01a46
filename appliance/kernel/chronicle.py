"""What happens to steps: into the journal, and to those who watch live."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from appliance.engine import trace
from appliance.engine.trace import Record
from appliance.kernel.keeper import Keeper
from appliance.kernel.runs import LiveRun
from appliance.store.runids import to_text

logger = logging.getLogger(__name__)


class Chronicle:
    """Used by the engine thread only."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        #: Takes what is told live, while anybody watches.
        self.live: Callable[[dict[str, Any]], None] | None = None

    def record(self, run: LiveRun, record: Record) -> Any:
        """Keep a record; returns its value as it was kept."""
        value = self._keeper.record(run, record)
        if self.live is not None:
            self.news(run, record.node, trace.KINDS[record.kind], record.attempt, record)
        return value

    def news(self, run: LiveRun, index: int, what: str, attempt: int, record: Record | None = None) -> None:
        """A line for those who watch live; not for the journal."""
        if self.live is None:
            return
        line: dict[str, Any] = {"node": run.plan.nodes[index].id, "kind": what, "attempt": attempt}
        if record is not None:
            line |= {"at": record.at, "took": record.took, "port": record.port}
        run.news.append(line)
        self._keeper.touch(run)

    def say(self, item: dict[str, Any]) -> None:
        """Something that is not of a run (health, triggers)."""
        if self.live is not None:
            self.live(item)

    def tell(self, touched: list[LiveRun]) -> None:
        """A commit is through: its runs, to those who watch live."""
        if self.live is None:
            return
        try:
            self._tell(self.live, touched)
        except Exception:
            logger.exception("those who watch live could not be told")

    def _tell(self, live: Callable[[dict[str, Any]], None], touched: list[LiveRun]) -> None:
        for run in touched:
            news, run.news = run.news, []
            live(
                {
                    "type": "run",
                    "run": run.text,
                    "flow": run.flow.id,
                    "version": run.version,
                    "place": run.place,
                    "trigger": run.trigger,
                    "state": run.state.label,
                    "accepted": run.accepted,
                    "finished": run.finished,
                    "parent": to_text(run.parent) if run.parent else None,
                    "origin": to_text(run.origin) if run.origin else None,
                    "error": _in_short(run.error),
                    "letter": run.letter.name.lower(),
                    "steps": news,
                }
            )


def _in_short(error: Any) -> Any:
    """An error without its detail, which may be long."""
    return {key: value for key, value in error.items() if key != "detail"} if isinstance(error, dict) else error
