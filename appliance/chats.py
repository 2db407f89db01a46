"""Conversations with flows: which flows can be talked to and by whom, what was said, and what a message starts.

Nothing is kept for it but the runs: each message is one, and a conversation is what its runs tell. So its length is
bounded as the history is, and what is deleted there is gone here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct

from appliance.contracts import ConfigError, Event, Trigger, decode
from appliance.engine.flow import TriggerSpec, parse
from appliance.engine.states import RunState
from appliance.registry import Registry
from appliance.security.roles import ADMIN_SCOPE, EVERYWHERE, Identity, Role, allowed
from appliance.store.errors import NotFound
from appliance.store.history import History, RunFilter, RunHead
from appliance.store.metadata import Store
from appliance.store.records import Flow, Version
from appliance.store.runids import to_text

CHAT = "chat"
#: Runs that are looked through for one conversation, and for the list of them.
MOST_RUNS = 2000
RECENT_RUNS = 500
_PAGE = 200
#: Characters of a message that its run's event tells, and that a later run is given of it.
HEADLINE = 200
LONGEST_BEFORE = 4000
_ID = re.compile(r"^([0-9a-f]{12,16})-[0-9a-f]{8}$")

#: A run's payload and output (``UNSET`` while it has none).
Told = Callable[[int], tuple[Any, Any]]


class ChatFlow(Struct, frozen=True):
    """A live flow with a chat trigger."""

    flow: Flow
    version: Version
    trigger: TriggerSpec
    kind: Trigger[Any]
    config: Any

    @property
    def title(self) -> str:
        """What it is called."""
        return self.config.title or self.flow.name


class Exchange(Struct, frozen=True, kw_only=True):
    """A message and what came of it. ``at`` in Unix seconds; ``replay_of`` is the run that this one replays."""

    run: str
    at: float
    by: str
    text: str
    state: str
    answer: str = ""
    error: str = ""
    replay_of: str = ""


class Conversation(Struct, frozen=True, kw_only=True):
    """A conversation by its first message; times in Unix seconds."""

    chat: str
    title: str
    by: str
    began: float
    newest: float
    messages: int


def chat_flows(store: Store, registry: Registry, workspace: str) -> list[ChatFlow]:
    """The flows that can be talked to, those of all workspaces for ``*``."""
    found: list[ChatFlow] = []
    for flow, version in store.flows.live():
        if flow.enabled and workspace in (EVERYWHERE, flow.workspace):
            found += _chats_of(flow, version, registry)
    return found


def _chats_of(flow: Flow, version: Version, registry: Registry) -> Iterator[ChatFlow]:
    kind = registry.triggers.get(CHAT)
    specs = version.body.get("triggers", [])
    if kind is None or not any(isinstance(spec, dict) and spec.get("type") == CHAT for spec in specs):
        return
    for spec in parse(version.body).triggers:
        if spec.type == CHAT and not spec.disabled:
            try:
                yield ChatFlow(flow, version, spec, kind, decode(kind.Config, spec.config))
            except ConfigError:
                continue  # a template whose value does not fit: the flow's problems tell of it


def find_chat(store: Store, registry: Registry, flow: str, trigger: str = "") -> ChatFlow:
    """The chat of a flow, by the trigger's id if it has several. Raises ``NotFound``."""
    for chat in chat_flows(store, registry, EVERYWHERE):
        if chat.flow.id == flow and trigger in ("", chat.trigger.id):
            return chat
    store.flows.get(flow)
    if trigger:
        raise NotFound(f"flow {flow!r} has no chat trigger {trigger!r} that is live")
    raise NotFound(f"flow {flow!r} has no chat: it takes a trigger of type `chat`, deployed and enabled")


def may_chat(identity: Identity, chat: ChatFlow) -> bool:
    """Whether somebody may talk to a flow, and so have it do what it can."""
    workspace = chat.flow.workspace
    if not allowed(identity, "chats:send", workspace):
        return False
    least = Role(chat.config.who)
    if identity.kind == "token":
        return Role.RUNNER.covers(least) or ADMIN_SCOPE in identity.scopes
    role = identity.role_in(workspace)
    return role is not None and role.covers(least)


def new_conversation(now: float) -> str:
    """An id that tells when the conversation began, so that its runs are found quickly."""
    return f"{int(now * 1e6):013x}-{secrets.token_hex(4)}"


def began(chat: str) -> float:
    """When a conversation began, in Unix seconds. Raises ``NotFound`` for what is no id of one."""
    match = _ID.match(chat)
    if match is None:
        raise NotFound(f"there is no conversation {chat[:40]!r}")
    return int(match[1], 16) / 1e6


class Conversations:
    """What was said. ``told`` gives a run's payload and output."""

    def __init__(self, history: History, told: Told) -> None:
        self._history = history
        self._told = told

    def recent(self, chat: ChatFlow, by: str) -> list[Conversation]:
        """Somebody's conversations with a flow, as far as its newest 500 messages tell of them; newest first."""
        found: dict[str, Conversation] = {}
        for head, event in self._runs(chat, None, RECENT_RUNS):
            key = str(event.get("chat", ""))
            if event.get("by") != by or _ID.match(key) is None:
                continue
            at, known = head.accepted / 1e6, found.get(key)
            found[key] = Conversation(
                chat=key,
                title=str(event.get("text", "")),  # the first message's in the end: the list begins with the newest
                by=by,
                began=began(key),
                newest=known.newest if known else at,
                messages=(known.messages if known else 0) + 1,
            )
        return list(found.values())

    def messages(self, chat: ChatFlow, conversation: str, by: str, limit: int) -> list[Exchange]:
        """The newest messages of a conversation, oldest of them first. Raises ``NotFound`` if it is another's."""
        mine: list[tuple[RunHead, dict[str, Any]]] = []
        for head, event in self._runs(chat, began(conversation), MOST_RUNS):
            if event.get("chat") == conversation:
                if by and event.get("by") != by:
                    raise NotFound(f"there is no conversation {conversation!r}")
                mine.append((head, event))
        return [self._exchange(head, event) for head, event in reversed(mine[:limit])]

    def _runs(self, chat: ChatFlow, since: float | None, most: int) -> Iterator[tuple[RunHead, dict[str, Any]]]:
        wanted = RunFilter(flows=[chat.flow.num], trigger=chat.trigger.id, since=since)
        cursor: int | None = None
        for _ in range(0, most, _PAGE):
            page = self._history.page(wanted, cursor, _PAGE)
            for head in page.items:
                event = self._history.event(head.id)
                if event is not None:
                    yield head, event
            cursor = page.next
            if cursor is None:
                return

    def _exchange(self, head: RunHead, event: dict[str, Any]) -> Exchange:
        try:
            payload, output = self._told(head.id)
        except NotFound:
            payload, output = None, UNSET
        text = payload.get("text") if isinstance(payload, dict) else None
        state = RunState(head.state)
        error = head.error if isinstance(head.error, dict) else {}
        return Exchange(
            run=to_text(head.id),
            at=head.accepted / 1e6,
            by=str(event.get("by", "")),
            text=str(text if text is not None else event.get("text", "")),
            state=state.label,
            answer=answer_text(output) if state is RunState.SUCCEEDED else "",
            error=str(error.get("message", "")),
            replay_of=str(event.get("replay_of", "")) if head.origin is not None else "",
        )


def answer_text(output: Any) -> str:
    """What a flow answers, from its output."""
    if isinstance(output, dict) and isinstance(output.get("text"), str):
        return str(output["text"])
    if output is None or output is UNSET:
        return ""
    return output if isinstance(output, str) else msgspec.json.encode(output, enc_hook=str).decode()


def said_before(exchanges: Sequence[Exchange], count: int) -> list[dict[str, str]]:
    """The newest ``count`` messages as a run is given them. A replay stands in for what it replays."""
    said: dict[str, Exchange] = {}
    for one in exchanges:
        if one.answer:
            said[one.replay_of if one.replay_of in said else one.run] = one
    messages = [
        {"role": role, "content": text[:LONGEST_BEFORE]}
        for one in said.values()
        for role, text in (("user", one.text), ("assistant", one.answer))
    ]
    return messages[-count:] if count else []


def message_event(
    chat: ChatFlow, text: str, conversation: str, before: Sequence[Exchange], identity: Identity, key: str = ""
) -> Event:
    """The event of a message. Raises ``ConfigError`` for a text that is none."""
    history = said_before(before, chat.config.history)
    user = identity.name or identity.label
    payload = {"text": text.strip(), "history": history, "chat": conversation, "user": user}
    meta = {"by": identity.label, "chat": conversation, "text": text.strip()[:HEADLINE]}
    return Event(payload=chat.kind.accept(chat.config, payload), id=key, unique=bool(key), meta=meta)
