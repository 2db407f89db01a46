"""Chats: flows that can be talked to. Each message is a run of its flow; its answer is what that run gives."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from appliance.chats import (
    ChatFlow,
    Conversation,
    Conversations,
    Exchange,
    answer_text,
    chat_flows,
    find_chat,
    may_chat,
    message_event,
    new_conversation,
)
from appliance.gateway.common import Body, InWorkspace, Query
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.gateway.starting import start
from appliance.security.roles import Forbidden, allowed
from appliance.store.errors import NotFound
from appliance.store.records import Flow, Page
from appliance.store.runids import from_text

noun = Noun("chats", "Flows that can be talked to (trigger `chat`). Each message is a run, and its output the answer.")

ChatId = Annotated[str, Meta(pattern="^[0-9a-f]{12,16}-[0-9a-f]{8}$", description="A conversation's id")]
_Trigger = Annotated[str, Meta(max_length=64, description="Of a flow with several chats: the trigger's id")]


class ChatView(Struct, frozen=True, kw_only=True):
    """A flow that can be talked to. ``may``: the caller has the role ``who`` that it asks for."""

    flow: str
    workspace: str
    trigger: str
    title: str
    about: str
    suggestions: list[str]
    who: str
    may: bool


class OfTrigger(Query, frozen=True):
    """Which of a flow's chats."""

    trigger: _Trigger = ""


class Newest(OfTrigger, frozen=True):
    """Which of a flow's chats, and how much of it."""

    limit: Annotated[int, Meta(ge=1, le=200, description="So many of the newest messages")] = 50


class NewMessage(Body, frozen=True):
    """What is said."""

    text: Annotated[str, Meta(min_length=1, max_length=20_000)]
    chat: Annotated[ChatId | None, Meta(description="Goes on with this conversation; a new one if left out")] = None
    trigger: _Trigger = ""
    wait: Annotated[float, Meta(ge=0, le=60, description="Seconds to wait for the answer")] = 0.0


class Sent(Struct, frozen=True, kw_only=True):
    """The run that a message started, and its conversation.

    After waiting, ``state`` tells how it ended, with the ``answer`` or the ``error``'s message; it is empty while the
    run goes on. ``kernel`` is false if no kernel runs: the message is on disk, and is answered when there is one.
    """

    chat: str
    run: str
    state: str = ""
    answer: str = ""
    error: str = ""
    repeated: bool = False
    kernel: bool = True


@noun.get("/chats", permission="chats:read")
def list_chats(call: Call[InWorkspace, Nothing]) -> Page[ChatView]:
    """The flows that can be talked to."""
    gateway = call.gateway
    return Page([_view(call, chat) for chat in chat_flows(gateway.store, gateway.registry, call.workspace)])


@noun.get("/chats/{flow}/conversations", permission="chats:read")
def list_conversations(call: Call[OfTrigger, Nothing], flow: Flow) -> Page[Conversation]:
    """The caller's own conversations with a flow, newest first, as far as its newest 500 messages tell of them."""
    chat = _find(call, flow, call.query.trigger)
    return Page(_conversations(call).recent(chat, call.identity.label))


@noun.get("/chats/{flow}/conversations/{chat}", permission="chats:read")
def show(call: Call[Newest, Nothing], flow: Flow, chat: ChatId) -> Page[Exchange]:
    """The newest messages of a conversation with their answers, oldest first. Another's is only shown to an admin."""
    found = _find(call, flow, call.query.trigger)
    by = "" if allowed(call.identity, "flows:write", flow.workspace) else call.identity.label
    messages = _conversations(call).messages(found, chat, by, call.query.limit)
    if not messages:
        raise NotFound(f"there is no conversation {chat!r}; its runs may have been too old to be kept")
    return Page(messages)


@noun.post(
    "/chats/{flow}/messages",
    permission="chats:send",
    status=202,
    errors=(200, 404, 503),
    unaudited="the run itself says who started it",
    own_key=True,
)
def send(call: Call[Nothing, NewMessage], flow: Flow) -> Sent:
    """Say something. Answered once the message is on disk, or with `wait` once it is answered (200), if that comes.

    The answer is the run's: watch it live (`/live?flow=…`: events of type `stream` with its `run` hold the text as it
    is made) or look at `/runs/{run}`.
    """
    body, identity = call.body, call.identity
    chat = _find(call, flow, body.trigger)
    if not may_chat(identity, chat):
        raise Forbidden(f"you may not do that: {chat.title!r} is for the role {chat.config.who} or a higher one")
    conversation, before = body.chat, list[Exchange]()
    if conversation is None:
        conversation = new_conversation(call.gateway.now())
    else:
        before = _conversations(call).messages(chat, conversation, identity.label, chat.config.history)
    event = message_event(chat, body.text, conversation, before, identity, call.key)
    started = start(call, flow, chat.version, chat.trigger.id, chat.trigger.type, event, wait=body.wait)
    if call.key:
        # Said before, perhaps: then the conversation is the one that it began.
        conversation = (call.gateway.history.event(from_text(started.run)) or {}).get("chat", conversation)
    error = started.error if isinstance(started.error, dict) else {}
    return Sent(
        chat=conversation,
        run=started.run,
        state="" if started.state is UNSET or started.timeout else str(started.state),
        answer=answer_text(started.output),
        error=str(error.get("message", "")),
        repeated=started.repeated,
        kernel=started.kernel,
    )


def _find(call: Call[Any, Any], flow: Flow, trigger: str) -> ChatFlow:
    return find_chat(call.gateway.store, call.gateway.registry, flow.id, trigger)


def _conversations(call: Call[Any, Any]) -> Conversations:
    teller = call.gateway.teller

    def told(run: int) -> tuple[Any, Any]:
        story = teller.tell(run, values=True)
        return story.payload, story.output

    return Conversations(call.gateway.history, told)


def _view(call: Call[Any, Any], chat: ChatFlow) -> ChatView:
    return ChatView(
        flow=chat.flow.id,
        workspace=chat.flow.workspace,
        trigger=chat.trigger.id,
        title=chat.title,
        about=chat.config.about,
        suggestions=chat.config.suggestions,
        who=chat.config.who,
        may=may_chat(call.identity, chat),
    )
