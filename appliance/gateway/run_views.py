"""Runs as the API shows them: heads for lists, and a whole run told step by step."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from appliance.engine.states import Letter, RunState
from appliance.gateway.answers import plain
from appliance.gateway.naming import Names
from appliance.store.history import RunHead
from appliance.store.runids import to_text


class RunView(Struct, frozen=True, kw_only=True):
    """A run without its data.

    ``flow`` is the flow's id, ``version`` its version's number; ``place`` is empty or names the node whose body
    this is a run of. ``took`` is in seconds. ``letter`` says where it stands on the dead-letter list.
    """

    id: str
    flow: str
    flow_name: str
    workspace: str
    version: int | None
    place: str
    state: str
    trigger: str
    accepted: float
    finished: float | None
    took: float | None
    error: Any
    parent: str | None
    origin: str | None
    letter: str


class ChildView(RunView, frozen=True, kw_only=True):
    """A run that a step of another started: ``node`` is that step, ``index`` the item's place, ``attempt`` its try."""

    node: str
    index: int
    attempt: int


class RunFlow(Struct, frozen=True, kw_only=True):
    """The flow that a run went through, as its version was saved.

    ``path`` leads to the nodes of this run: it is empty, or names the nodes whose bodies they are in, from outside to
    inside. ``ports`` has each of them with its output ports.
    """

    flow: dict[str, Any]
    path: list[str]
    ports: dict[str, list[str]]


class TryView(Struct, frozen=True):
    """One attempt that failed, and when the next one was due."""

    attempt: int
    at: float
    took: float
    error: Any
    again: float | None


class StepView(Struct, frozen=True, kw_only=True):
    """One node in the run. What a step does not have (yet) is left out.

    ``state``: pending, running, retrying, waiting, unverified, done, failed, skipped (no path led there), kept
    (taken over by a replay) or stopped (the run ended first). ``config`` are the rendered templates, ``saw`` the
    variables, state and times they looked up, ``items`` how many child runs were started, ``fired`` the numbers of the
    edges (as in ``/runs/{run}/flow``) by which the run went on, ``where`` the engine that did it, or does, if it is
    another one: ``engine`` (its name), ``id``, and, once it is done, ``run`` (there) and ``took`` (microseconds there).
    """

    node: str
    type: str
    name: str
    state: str
    attempts: int
    started: float | None
    took: float | None
    port: str
    input: Any | UnsetType = UNSET
    output: Any | UnsetType = UNSET
    error: Any = None
    config: Any = None
    saw: Any = None
    logs: list[Any] = []
    tries: list[TryView] = []
    until: float | None = None
    signals: list[str] = []
    ask: Any = None
    items: int | None = None
    fired: list[int] = []
    where: dict[str, Any] | None = None


class RecordView(Struct, frozen=True, kw_only=True):
    """One thing that happened, in order. The value of a step that is done is its step's ``output``."""

    kind: str
    node: str
    attempt: int
    at: float
    took: float
    port: str
    value: Any | UnsetType = UNSET
    extra: Any = None


class LetterNote(Struct, frozen=True):
    """Who replayed or discarded the run, and why."""

    at: float
    who: str
    reason: str


class RunStory(RunView, frozen=True, kw_only=True):
    """A run with everything. ``fault`` says why its steps cannot be told (its version is lost)."""

    event: dict[str, Any]
    payload: Any | UnsetType = UNSET
    item: list[int] | None
    output: Any | UnsetType = UNSET
    letter_note: LetterNote | None = None
    steps: list[StepView]
    records: list[RecordView]
    fault: str = ""


def run_view(names: Names, head: RunHead) -> RunView:
    """A run as lists show it."""
    return RunView(**run_fields(names, head))


def run_fields(names: Names, head: RunHead) -> dict[str, Any]:
    """The fields of :class:`RunView`."""
    flow = names.flow(head.flow)
    return {
        "id": to_text(head.id),
        "flow": flow.id,
        "flow_name": flow.name,
        "workspace": flow.workspace,
        "version": names.number(head.version),
        "place": head.place,
        "state": RunState(head.state).label,
        "trigger": head.trigger,
        "accepted": head.accepted / 1e6,
        "finished": None if head.finished is None else head.finished / 1e6,
        "took": None if head.finished is None else (head.finished - head.accepted) / 1e6,
        "error": plain(head.error),
        "parent": None if head.parent is None else to_text(head.parent),
        "origin": None if head.origin is None else to_text(head.origin),
        "letter": Letter(head.letter).name.lower(),
    }
