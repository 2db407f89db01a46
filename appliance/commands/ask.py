"""``flowork ask``: say something to a flow with a chat trigger, and see its answer as it is made."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.chats import ChatFlow, Conversations

#: The flow that is asked where none is named.
USUAL = "ask"


@leaf(
    'flowork ask "Did anything fail today?"',
    'flowork ask "And yesterday?" --again',
    'flowork ask "Is it warm enough?" --flow house --json',
    name="ask",
)
@click.argument("text")
@click.option("--flow", "flow_id", default="", help="The flow (id). [default: `ask`, else the only one with a chat]")
@click.option("--again", is_flag=True, help="Go on with your last conversation with this flow.")
@click.option("--chat", "conversation", default="", help="Go on with this conversation (its id).")
@click.option("--timeout", type=given.Length(), help="Stop waiting after this long, such as 30s.")
@given.workspace_option
def command(
    session: Session,
    text: str,
    flow_id: str,
    again: bool,
    conversation: str,
    timeout: float | None,
    workspace: str,
) -> int:
    """Say something to a flow, such as the AI agent of the example `ask`. Ctrl-C ends what it does.

    Each message is a run: look into its answer with `flowork show`, rewind it with `flowork replay`.
    """
    from appliance.chats import message_event, new_conversation
    from appliance.commands import _runs as runs
    from appliance.commands._follow import Follower
    from appliance.engine.states import RunState

    chat, said = _chat(session, flow_id, workspace), _conversations(session)
    by = session.identity.label
    if again and not conversation:
        mine = said.recent(chat, by)
        conversation = mine[0].chat if mine else ""
    before = said.messages(chat, conversation, by, chat.config.history) if conversation else []
    conversation = conversation or new_conversation(time.time())
    event = message_event(chat, text, conversation, before, session.identity)
    params: dict[str, Any] = {
        "flow": chat.flow.num,
        "version": chat.version.id,
        "trigger": chat.trigger.id,
        "kind": "chat",
    }
    session.call("ping")
    follower = Follower(session.client, runs.reader(session), lambda story: None)
    teller = _Stream(session)
    with follower.listening() as items:
        run = session.call("submit", **params, payload=event.payload, meta=event.meta)["run"]
        try:
            story = follower.until_ended(run, teller.told(run, items), timeout)
        except KeyboardInterrupt:
            session.call("cancel", run=run, by=by)
            session.fail("cancelled", "ended")
            return 130
    _answer(session, teller, story, conversation, run)
    return 0 if story.state is RunState.SUCCEEDED else runs.EXIT.get(story.state, runs.UNDER_WAY)


class _Stream:
    """Writes what a run's steps show, as it comes."""

    def __init__(self, session: Session) -> None:
        self._silent = session.as_json
        self.shown = ""
        self._node = ""

    def told(self, run: str, items: Iterator[dict[str, Any] | None]) -> Iterator[dict[str, Any] | None]:
        """Hand all items on; what is shown for this run is written out."""
        for item in items:
            if item is not None and item.get("type") == "stream" and item.get("run") == run:
                self._take(item)
            yield item

    def _take(self, item: dict[str, Any]) -> None:
        # A step that goes on after a tool's run begins to show anew.
        if self.shown and not self.shown.endswith("\n") and (item["node"] != self._node or item["from"] == 0):
            self.shown += "\n"
            self._write("\n")
        self._node = item["node"]
        self.shown += item["text"]
        self._write(item["text"])

    def _write(self, text: str) -> None:
        if not self._silent and text:
            click.echo(out.plain_lines(text), nl=False)


def _answer(session: Session, teller: _Stream, story: Any, conversation: str, run: str) -> None:
    from appliance.chats import answer_text
    from appliance.commands import _runs as runs
    from appliance.engine.states import RunState

    answer = answer_text(story.output) if story.state is RunState.SUCCEEDED else ""
    if session.as_json:
        error = story.head.error if isinstance(story.head.error, dict) else None
        out.emit({"run": run, "chat": conversation, "state": story.state.label, "answer": answer, "error": error})
        return
    if teller.shown and not teller.shown.endswith("\n"):
        out.say("")
    if answer and not teller.shown.rstrip().endswith(answer.strip()):
        out.say(out.plain_lines(answer))
    if story.head.error and not story.state.under_way:
        out.say(f"Error: {runs.error_line(story.head.error)}", err=True, color="red")
    elif story.state.under_way:
        session.note(f"it goes on; look at it with `flowork show {run}`, or `flowork approvals`")


def _chat(session: Session, flow: str, workspace: str) -> ChatFlow:
    """The flow to talk to. Raises ``NotFound`` that says what there is."""
    from appliance.chats import chat_flows, find_chat
    from appliance.store.errors import NotFound

    if flow:
        return find_chat(session.store, session.registry, flow)
    found = chat_flows(session.store, session.registry, workspace)
    usual = [chat for chat in found if chat.flow.id == USUAL] or found
    if len(usual) == 1:
        return usual[0]
    if not found:
        raise NotFound("no flow can be talked to; `flowork flow deploy examples/ask.json` adds one")
    raise NotFound(f"name the flow with --flow; there are: {', '.join(chat.flow.id for chat in found)}")


def _conversations(session: Session) -> Conversations:
    from appliance.chats import Conversations
    from appliance.commands._runs import reader
    from appliance.store.errors import NotFound

    told = reader(session)

    def run(number: int) -> tuple[Any, Any]:
        story = told.story(number)
        if story is None:
            raise NotFound("the run is gone")
        return story.payload, story.output

    return Conversations(session.history, run)
