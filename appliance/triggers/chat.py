"""Started by a person's message in a chat window, on the command line (`flowork ask`) or over the API.

Each message is a run: the payload is `{"text", "history", "chat", "user"}`, where `history` holds what was said before
in the same conversation, as messages of `role` (`user`, `assistant`) and `content`. What the flow gives is the answer:
the `text` of its output, if it has one; what its steps stream is shown as it comes. `who` is the least role that may
use it, and with it all that the flow can do. So every answer can be looked into, rewound and replayed as any run.

    {"title": "Ask the house", "about": "Knows how the heating is doing.", "suggestions": ["Is it warm enough?"],
     "who": "runner"}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Config, ConfigError, Trigger, TriggerContext

LONGEST = 20_000


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """What was said before."""

    role: Literal["user", "assistant"]
    content: str


class Asked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A run's payload."""

    text: Annotated[str, Meta(min_length=1, max_length=LONGEST)]
    history: Annotated[list[Message], Meta(max_length=1000)] = []
    chat: Annotated[str, Meta(max_length=100)] = ""
    user: Annotated[str, Meta(max_length=200)] = ""


class ChatConfig(Config, frozen=True):
    title: Annotated[str, Meta(title="Title", description="What it is called; the flow's name if empty")] = ""
    about: Annotated[str, Meta(title="About", description="What one can ask, in a sentence or two")] = ""
    suggestions: Annotated[
        list[Annotated[str, Meta(max_length=200)]],
        Meta(title="Suggestions", description="Questions to begin with", max_length=12),
    ] = []
    who: Annotated[
        Literal["runner", "admin", "owner"], Meta(title="Who", description="The least role that may use it")
    ] = "runner"
    history: Annotated[int, Meta(title="History", description="Earlier messages that a run is given", ge=0, le=200)] = (
        20
    )


class Chat(Trigger[ChatConfig]):
    Config = ChatConfig
    title = "Chat"
    icon = "message"

    def attach(self, ctx: TriggerContext, config: ChatConfig) -> Callable[[], None]:
        return lambda: None

    def accept(self, config: ChatConfig, payload: Any) -> Any:
        given = {"text": payload} if isinstance(payload, str) else payload
        try:
            return msgspec.to_builtins(msgspec.convert(given, Asked))
        except msgspec.ValidationError as exc:
            message, _, place = str(exc).partition(" - at `$.")
            where = f".{place.rstrip('`')}" if place else ""
            raise ConfigError(f"input{where}: {message[:1].lower()}{message[1:]}") from None
