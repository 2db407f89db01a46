"""``flowork show``: one run, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from appliance.commands import _input as given
from appliance.commands._base import leaf
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.commands._runs import Story


@leaf("flowork show 0S9V11PMM0000", "flowork show 0S9V11PMM0000 --step greeting --json", name="show")
@click.argument("run", type=given.RunId())
@click.option("--step", "node", help="Only this step, with everything that was kept of it.")
def command(session: Session, run: int, node: str | None) -> None:
    """Show what happened in a run: every step with what went in, what came out, how often it was tried."""
    from appliance.commands import _output as out
    from appliance.commands import _runs, _story

    reader = _runs.reader(session)
    story = find(session, run)
    if node is None:
        if session.as_json:
            out.emit(reader.story_view(story))
        else:
            _story.show(session, reader, story)
        return
    step = _story.step_of(story, node)
    if session.as_json:
        out.emit(_runs.step_view(step, story.head.accepted))
    else:
        _story.show_step(story, step)


def find(session: Session, run: int) -> Story:
    """A run with everything. Raises ``NotFound``."""
    from appliance.commands import _runs
    from appliance.store.errors import NotFound
    from appliance.store.runids import to_text

    story = _runs.reader(session).story(run)
    if story is None:
        raise NotFound(f"there is no run {to_text(run)} (any more); `flowork runs` lists what is kept")
    return story
