"""``flowork runs``: the history, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.store.history import RunFilter, RunHead

STATES = ("queued", "running", "waiting", "succeeded", "failed", "dead", "cancelled", "skipped")


@leaf(
    "flowork runs --flow greenhouse --state failed --since 2d",
    "flowork runs --text 'sensor 7' --json",
    name="runs",
)
@click.option("--flow", "flows", multiple=True, help="Only of this flow; may be repeated.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Only in this state; may be repeated."
)
@click.option("--trigger", default="", help="Only started by the trigger with this id.")
@click.option("--since", type=given.Moment(), help="Accepted since: 2h (ago), 2026-11-21, 2026-11-21T07:00.")
@click.option("--until", type=given.Moment(), help="Accepted before this moment.")
@click.option("--text", default="", help="This text is in the event, a value or an error.")
@click.option("--children", is_flag=True, help="Also runs that other runs have started.")
@click.option("--before", type=given.RunId(), help="Go on behind this run (`next` of the page before).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="At most so many.")
def command(
    session: Session,
    flows: tuple[str, ...],
    states: tuple[str, ...],
    trigger: str,
    since: float | None,
    until: float | None,
    text: str,
    children: bool,
    before: int | None,
    limit: int,
) -> None:
    """List runs, newest first."""
    from appliance.engine.states import RunState
    from appliance.store.history import RunFilter

    wanted = RunFilter(
        flows=[session.store.flows.get(flow).num for flow in flows],
        states=[RunState[state.upper()] for state in states],
        trigger=trigger,
        since=since,
        until=until,
        text=text,
        children=children,
    )
    show(session, *collect(session, wanted, before, limit))


def collect(session: Session, wanted: RunFilter, before: int | None, limit: int) -> tuple[list[RunHead], int | None]:
    """So many runs, and the cursor behind them. A search in texts may take several looks."""
    found: list[RunHead] = []
    while True:
        page = session.history.page(wanted, before, min(limit - len(found), 500))
        found += page.items
        before = page.next
        if before is None or len(found) >= limit:
            return found, before


def show(session: Session, heads: list[RunHead], cursor: int | None) -> None:
    """A page of runs."""
    from appliance.commands import _runs
    from appliance.store.runids import to_text

    reader = _runs.reader(session)
    views = [reader.head_view(head) for head in heads]
    if session.as_json:
        out.emit({"items": views, "next": None if cursor is None else to_text(cursor)})
        return
    if not views:
        out.say("no runs")
        return
    rows = [
        (
            view["id"],
            view["flow"] + (f"/{view['place']}" if view["place"] else ""),
            view["state"],
            out.moment(view["accepted"]),
            out.lasted(view["took"]),
            view["trigger"],
            _runs.error_line(view["error"])[:60] if view["error"] else "",
        )
        for view in views
    ]
    out.table(("run", "flow", "state", "accepted", "took", "trigger", "error"), rows)
    if cursor is not None:
        session.note(f"there are more: --before {to_text(cursor)}")
