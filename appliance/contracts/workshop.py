"""The workshop: what ``ctx.workshop`` offers to nodes that draft flows and look at their runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from appliance.contracts.config import Problem


class DraftRequest(Struct, frozen=True, kw_only=True):
    """What is wanted: in ``text`` a sentence or more, in ``spec`` a flow's (edited) spec, or both.

    ``flow`` is what there is already, to be changed. ``models`` are tried in this order; none: the engine's default.
    At most ``repairs`` times the model is shown the faults of its flow.
    """

    text: str = ""
    spec: str = ""
    flow: Mapping[str, Any] | None = None
    models: tuple[str, ...] = ()
    repairs: int = 3
    timeout: float = 600.0


class DraftedFlow(Struct, frozen=True, kw_only=True):
    """A flow that a model has written. ``problems`` are the faults that are left: with any it cannot be deployed.

    ``sample`` is a payload such as its trigger would bring, ``spec`` the flow in markdown, ``answers`` how often the
    model was asked, ``cost`` in US dollars.
    """

    flow: dict[str, Any]
    spec: str
    sample: Any
    problems: Sequence[Problem]
    answers: int
    model: str
    provider: str
    tokens: int
    cost: float


class RunFinding(Struct, frozen=True, kw_only=True):
    """One thing that a flow's runs have shown.

    ``kind`` is ``failing``, ``slow``, ``unused``, ``oversized`` or ``wasteful``; ``weight`` (0 to 1) orders them;
    ``node`` is where, ``evidence`` the figures, ``runs`` some ids to look at. ``change`` is a flow in which the
    suggestion is carried out, if that can be done by a change of the flow.
    """

    kind: str
    title: str
    text: str
    weight: float
    node: str = ""
    evidence: dict[str, Any] = {}
    runs: Sequence[str] = ()
    suggestion: str = ""
    change: dict[str, Any] | None = None


class Analysis(Struct, frozen=True, kw_only=True):
    """What the newest ``runs`` of one version of a flow have shown, the weightiest first.

    ``since`` is when the oldest of them began (Unix seconds); ``words`` is a model's summary if one was asked for.
    """

    flow: str
    version: int
    runs: int
    since: float
    findings: Sequence[RunFinding]
    words: str = ""


class Workshop(Protocol):
    """Drafting and looking at flows, for one step; models are put to the step's account."""

    async def draft(self, request: DraftRequest, tell: Callable[[str], None] | None = None) -> DraftedFlow:
        """A flow for what is wanted, checked on this machine, and never saved. ``tell`` gets a line per stage.

        Raises what ``Models.chat`` raises, and ``NodeError`` for an answer that is no flow at all.
        """

    async def analyse(self, flow: str, runs: int = 500, models: tuple[str, ...] | None = None) -> Analysis:
        """What the newest runs of a flow's live version have shown; worded by a model if ``models`` is given.

        Raises ``ConfigError`` for a flow that is not there.
        """
