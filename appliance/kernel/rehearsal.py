"""A dry run of a whole flow with a payload that somebody chose: every step without effect really runs, none is kept.

A step with an effect only tells what it would have done, and the run goes on with what came into it; the same for
one that would wait or start other runs. Everything behind such a step is marked as a guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from appliance.contracts import ExpressionError
from appliance.engine.expressions import Compiled
from appliance.engine.plan import FlowPlan, PlannedNode
from appliance.engine.runner import Walk
from appliance.engine.validate import ERROR_PORT
from appliance.kernel.context import steps_view
from appliance.kernel.runs import FlowSlot
from appliance.kernel.trial import Asked, Trial, trial_plan

if TYPE_CHECKING:
    from appliance.engine.validate import Catalog
    from appliance.kernel.engine import Engine

#: Steps of one dry run, and seconds that each may take.
MOST_STEPS = 200
STEP_LIMIT = 20.0
#: Outcomes behind which nobody knows what really comes.
_UNKNOWN = {"held", "waits", "starts"}


class Asking(Struct, kw_only=True):
    """The parameters of ``rehearse``: a whole flow that has no faults, and what starts it."""

    flow: dict[str, Any]
    workspace: str
    payload: Any = None
    event: dict[str, Any] = {}


class Rehearsal:
    """One dry run. Begins and ends on the engine's thread; answers with ``{"steps": […], "complete": bool}``."""

    def __init__(
        self, engine: Engine, catalog: Catalog, plan: FlowPlan, asked: Asking, done: Callable[[dict[str, Any]], None]
    ) -> None:
        self._engine = engine
        self._catalog = catalog
        self._asked = asked
        self._done = done
        self._plan = plan.graphs[""]
        self._walk = Walk(self._plan, asked.payload)
        self._slot = FlowSlot(0, "", asked.flow.get("name", ""), asked.workspace, None)
        self._ready: deque[int] = deque()
        self._guessed: set[int] = set()
        self._steps: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Start; the answer comes when the last step is through."""
        self._ready.extend(self._walk.start())
        self._next()

    def _next(self) -> None:
        if not self._ready or len(self._steps) >= MOST_STEPS:
            self._done({"steps": self._steps, "complete": not self._ready})
            return
        node = self._plan.nodes[self._ready.popleft()]
        payload = self._walk.payload_of(node.index)
        asked = Asked(
            flow=0,
            node=node.spec,
            payload=payload,
            event=self._asked.event,
            steps=steps_view(self._walk),
            hold=True,
            limit=STEP_LIMIT,
        )
        # By way of the engine's queue, so that a long flow is no deep recursion.
        trial = Trial(self._engine, asked, lambda told: self._engine.post(lambda: self._take(node, payload, told)))
        trial.begin(self._slot, trial_plan(node.spec, self._catalog))

    def _take(self, node: PlannedNode, payload: Any, told: Mapping[str, Any]) -> None:
        guess = bool(self._sources(node) & self._guessed)
        self._steps.append({"node": node.id, "type": node.spec.type, "input": payload, "guess": guess, **told})
        outcome = told["outcome"]
        if outcome in _UNKNOWN or guess:
            self._guessed.add(node.index)
        if outcome == "failed":
            if node.wired_error:
                self._settle(node, ERROR_PORT, told["error"])
        elif outcome in _UNKNOWN:
            ports = node.kind.ports_of(node.spec.config)
            self._settle(node, ports[0] if ports else "out", payload)
        else:
            self._settle(node, told["port"], told["output"])
        self._next()

    def _sources(self, node: PlannedNode) -> set[int]:
        return {edge.source for edge in node.incoming}

    def _settle(self, node: PlannedNode, port: str, value: Any) -> None:
        try:
            self._ready.extend(self._walk.settle(node.index, port, value, self._judge))
        except ExpressionError as exc:
            self._steps[-1] |= {
                "outcome": "failed",
                "port": ERROR_PORT,
                "error": {"id": exc.id, "message": exc.message},
            }

    def _judge(self, compiled: Compiled, value: Any) -> bool:
        variables = self._engine.services.variables.get(self._asked.workspace, {})
        names = {"payload": value, "event": self._asked.event, "steps": steps_view(self._walk), "vars": variables}
        return bool(compiled({**names, "state": {}}))
