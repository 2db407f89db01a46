"""Seeing a run through to its end: waiting, telling its steps as they happen, cancelling it on Ctrl-C.

What is told is read from the journal; the kernel's live items only say when to look. So nothing is missed when
the kernel is started again meanwhile, and a run that began earlier is told from its beginning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from appliance.commands import _output as out
from appliance.commands import _runs as runs
from appliance.commands._session import Session
from appliance.commands._tell import Teller
from appliance.contracts import FlowError
from appliance.kernel.client import KernelAway, KernelClient, Refused, Stream
from appliance.store.runids import from_text

if TYPE_CHECKING:
    from appliance.commands._runs import Reader, Story

#: Seconds between two looks at the journal when much happens, and when nothing is heard.
_OFTEN, _SELDOM = 0.05, 1.0
_AWAY = 0.5
#: Seconds that a cancelled run gets to end its work.
_CANCEL = 15.0


class NoHistory(FlowError):
    """The run has ended, and nothing of it could be kept."""

    id = "store-failed"


class Live:
    """A kernel's live items, over restarts of it. Close it."""

    def __init__(self, client: KernelClient) -> None:
        self._client = client
        self._stream: Stream | None = None

    def items(self) -> Generator[dict[str, Any] | None, None, None]:
        """Items as they come; None when nothing has come for a moment, or the kernel is away."""
        while True:
            try:
                self._stream = self._client.stream("live")
                yield from self._stream.items(_OFTEN * 4)
            except KernelAway:
                self.close()
                threading.Event().wait(_AWAY)
                yield None

    def close(self) -> None:
        """Twice is fine."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()


class Follower:
    """Follows one run at a time. ``told`` is called with its story whenever there may be something new."""

    def __init__(self, client: KernelClient, reader: Reader, told: Callable[[Story], None]) -> None:
        self._client = client
        self._reader = reader
        self._told = told

    @contextmanager
    def listening(self) -> Iterator[Iterator[dict[str, Any] | None]]:
        """Live items from now on: to be entered before the run is started, so that none is missed."""
        live = Live(self._client)
        items = live.items()
        try:
            next(items)
            yield items
        finally:
            items.close()
            live.close()

    def until_ended(self, run: str, items: Iterator[dict[str, Any] | None], timeout: float | None = None) -> Story:
        """The run as it is at its end, or after ``timeout`` seconds. Raises ``NoHistory``."""
        number, looked = from_text(run), 0.0
        deadline = None if timeout is None else time.monotonic() + timeout
        story = self._look(number)
        while story is None or story.state.under_way:
            if deadline is not None and time.monotonic() >= deadline and story is not None:
                return story
            item = next(items)
            mine = item is not None and run in (item.get("run"), item.get("parent"))
            over = item is not None and item.get("run") == run and item.get("finished") is not None
            if over or time.monotonic() - looked >= (_OFTEN if mine else _SELDOM):
                looked = time.monotonic()
                story = self._look(number) or story
            if over and story is None:
                state = item["state"] if item is not None else "ended"
                raise NoHistory(f"run {run} has {state}, but nothing of it could be kept: is the disk full?")
        return story

    def _look(self, number: int) -> Story | None:
        story = self._reader.story(number)
        if story is not None:
            self._told(story)
        return story


def see_through(
    session: Session,
    client: KernelClient,
    reader: Reader,
    begin: Callable[[], str],
    *,
    follow: bool,
    timeout: float | None = None,
    hint: str = "",
) -> int:
    """Start a run by ``begin``, wait for its end, tell of it; the exit code. Ctrl-C cancels the run.

    ``hint`` is what to add to commands that are suggested (``--data …``).
    """
    teller = Teller(session, reader, hint) if follow else None
    follower = Follower(client, reader, teller.tell if teller else lambda story: None)
    with follower.listening() as items:
        run = begin()
        if not run:
            session.done({"run": None}, "the event woke the steps that wait for it; it starts no run")
            return 0
        try:
            story = follower.until_ended(run, items, timeout)
        except KeyboardInterrupt:
            session.note("cancelling the run")
            story = _cancelled(session, client, follower, run, items)
            _finish(session, reader, story, follow=follow)
            return 130
    _finish(session, reader, story, follow=follow)
    return runs.EXIT.get(story.state, runs.UNDER_WAY)


def _cancelled(
    session: Session, client: KernelClient, follower: Follower, run: str, items: Iterator[dict[str, Any] | None]
) -> Story:
    try:
        client.call("cancel", run=run, by=session.identity.label)
    except Refused:
        pass  # it has just ended by itself
    return follower.until_ended(run, items, _CANCEL)


def _finish(session: Session, reader: Reader, story: Story, *, follow: bool) -> None:
    view = reader.story_view(story)
    if session.as_json:
        if follow:
            view.pop("steps")  # they were told one by one
            out.emit_line({"kind": "run", "run": view})
        else:
            out.emit(view)
        return
    lasted = runs.took(story.head)
    line = f"run {view['id']} {view['state']}" + (f" in {out.lasted(lasted)}" if lasted is not None else "")
    if follow:
        out.say(line, color=out.STATE_COLORS.get(view["state"]), bold=True)
    else:
        session.note(line)
    if story.head.error and not story.state.under_way:
        out.say(f"Error: {runs.error_line(story.head.error)}", err=True, color="red")
    if story.state.under_way:
        session.note(f"it goes on; look at it with `flowork show {view['id']}`")
    elif view.get("output") is not None:
        out.say(out.plain_lines(out.encode(story.output)))
