"""The episodic memory: what flows have remembered, to look at, to search, and to forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import Episode, Problem
from appliance.gateway.common import Cursor, InWorkspace, Limit, Moment, number_in, numbered_page, one_workspace
from appliance.gateway.problems import Invalid
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.records import Page

noun = Noun(
    "memory", "What flows have remembered with the node `memory`; see docs/ai-agents.md for how it is recalled."
)

_Text = Annotated[str, Meta(max_length=2000)]
#: What a memory of a large workspace may take to be searched for the first time.
_PATIENCE = 60.0


class Narrowed(InWorkspace, frozen=True):
    """WhichMemories episodes: all that is given must fit."""

    flow: Annotated[_Text, Meta(description="Remembered by this flow (id)")] = ""
    outcome: Annotated[_Text, Meta(description="Ended so")] = ""
    tag: Annotated[list[_Text], Meta(max_length=20, description="With each of these tags")] = []
    before: Annotated[Moment | None, Meta(description="Remembered before this moment")] = None


class Search(Narrowed, frozen=True):
    """WhichMemories episodes, and how many."""

    query: Annotated[_Text, Meta(description="The best fits for this text, best first; else the newest")] = ""
    cursor: Cursor = ""
    limit: Limit = 50


class WhichMemories(Narrowed, frozen=True):
    """What is to be forgotten."""

    id: Annotated[list[Annotated[int, Meta(ge=1, le=2**53)]], Meta(max_length=500, description="These episodes")] = []
    all: Annotated[bool, Meta(description="Everything in the workspace, if nothing else is given")] = False


class Forgotten(Struct, frozen=True):
    """How many episodes are gone."""

    forgotten: int


class MemoryView(Struct, frozen=True, kw_only=True):
    """A workspace's memory in numbers.

    ``oldest`` and ``newest`` are when these were remembered. ``bytes`` is the size of the whole file. ``vectors`` says
    how many episodes were embedded by which model: where there are none, it goes by words alone. ``outcomes`` counts
    how it ended.
    """

    episodes: int
    oldest: float | None
    newest: float | None
    bytes: int
    vectors: dict[str, int]
    outcomes: dict[str, int]


@noun.get("/memory", permission="memory:read", errors=(503,))
def summary(call: Call[InWorkspace, Nothing]) -> MemoryView:
    """The memory of a workspace in numbers."""
    told = call.gateway.call("memory_summary", workspace=one_workspace(call.workspace))
    return msgspec.convert(told, MemoryView)


@noun.get("/memory/episodes", permission="memory:read", errors=(503,))
def search(call: Call[Search, Nothing]) -> Page[Episode]:
    """Episodes that fit a text, with what their score is made of; without a text the newest."""
    query = call.query
    params = {**_params(call.workspace, query), "query": query.query, "limit": query.limit}
    found = call.gateway.call("memory_recall", _PATIENCE, **params, below=number_in(query.cursor))
    episodes = msgspec.convert(found, list[Episode])
    more = not query.query.strip() and len(episodes) == query.limit
    return numbered_page(episodes, episodes[-1].id if more else None)


@noun.delete("/memory/episodes", permission="memory:write", errors=(503,), audit="memory.forget")
def forget(call: Call[WhichMemories, Nothing]) -> Forgotten:
    """Forget episodes for good: those with these ids, or all that fits."""
    query = call.query
    params = _params(call.workspace, query)
    narrow = any(params[name] not in ("", [], None) for name in ("flow", "outcome", "tags", "before"))
    if not (query.id or narrow or query.all):
        raise Invalid([Problem("?all", "say what is to be forgotten; all of it with all=true")])
    gone = call.gateway.call("memory_forget", _PATIENCE, **params, ids=query.id)
    call.note(call.workspace, ids=query.id[:50], forgotten=gone["forgotten"], **{k: v for k, v in params.items() if v})
    return Forgotten(gone["forgotten"])


def _params(workspace: str, query: Narrowed) -> Mapping[str, Any]:
    return {
        "workspace": one_workspace(workspace),
        "flow": query.flow,
        "outcome": query.outcome,
        "tags": list(query.tag),
        "before": query.before,
    }
