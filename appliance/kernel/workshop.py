"""The kernel's side of the workshop: ``ctx.workshop`` for steps, and drafting for those who ask over the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.ai.gateway.names import KnownModels
from appliance.contracts import Analysis, ConfigError, DraftedFlow, DraftRequest, Models, Problem
from appliance.engine.plan import plan_flow
from appliance.engine.validate import validate
from appliance.kernel.answering import answer
from appliance.kernel.params import arguments
from appliance.kernel.server import Params, Reply
from appliance.kernel.wire import LONGEST_DRAFT
from appliance.store.places import make_history
from appliance.workshop.analyst import RUNS, analyse, worded
from appliance.workshop.architect import Architect
from appliance.workshop.palette import Palette
from appliance.world import Machine

if TYPE_CHECKING:
    from appliance.kernel.context import StepContext
    from appliance.kernel.core import Core


class DraftAsked(Struct, kw_only=True):
    """The parameters of ``draft``; what they mean is told by ``DraftRequest``.

    ``id`` is the caller's own: live events ``{"type": "stream", "draft": id, "text"}`` tell the stages under it.
    """

    workspace: str
    id: Annotated[str, Meta(max_length=64)] = ""
    text: Annotated[str, Meta(max_length=20_000)] = ""
    spec: Annotated[str, Meta(max_length=200_000)] = ""
    flow: dict[str, Any] | None = None
    models: tuple[str, ...] = ()
    repairs: Annotated[int, Meta(ge=0, le=10)] = 3


class AnalysisAsked(Struct, kw_only=True):
    """The parameters of ``analyse``: a flow, how many runs, and the models that may word it."""

    flow: str
    workspace: str
    runs: Annotated[int, Meta(ge=1, le=5_000)] = RUNS
    models: tuple[str, ...] = ()


class KernelWorkshop:
    """Makes workbenches. ``models(who)`` are the models for one that belongs to no step."""

    def __init__(self, kernel: Core, models: Callable[[str], Models], show: Callable[[dict[str, Any]], None]) -> None:
        self._kernel = kernel
        self._models = models
        self._show = show

    def for_step(self, ctx: StepContext) -> Bench:
        """The workshop as one step sees it."""
        return Bench(self._kernel, ctx.models, ctx.workspace)

    def draft(self, params: Params, reply: Reply) -> None:
        """DraftedFlow a flow; the work ends when nobody waits for it any more."""
        asked = arguments(params, DraftAsked)
        bench = Bench(self._kernel, self._models("architect"), asked.workspace)
        request = DraftRequest(
            text=asked.text, spec=asked.spec, flow=asked.flow, models=asked.models, repairs=asked.repairs
        )

        def tell(line: str) -> None:
            self._show({"type": "stream", "draft": asked.id, "text": line})

        async def work() -> Any:
            try:
                async with asyncio.timeout(LONGEST_DRAFT):
                    return msgspec.to_builtins(await bench.draft(request, tell))
            except TimeoutError:
                raise ConfigError(
                    f"no draft within {LONGEST_DRAFT:g} seconds: the model is too slow for this"
                ) from None

        answer(reply, self._kernel.engine.steps.io.spawn, work())

    def words(self, params: Params, reply: Reply) -> None:
        """The analysis of a flow with a model's summary."""
        asked = arguments(params, AnalysisAsked)
        bench = Bench(self._kernel, self._models("analyzer"), asked.workspace)

        async def work() -> Any:
            return msgspec.to_builtins(await bench.analyse(asked.flow, asked.runs, asked.models))

        answer(reply, self._kernel.engine.steps.io.spawn, work())


class Bench:
    """Implements :class:`appliance.contracts.Workshop` for a workspace."""

    def __init__(self, kernel: Core, models: Models, workspace: str) -> None:
        self._kernel = kernel
        self._models = models
        self._workspace = workspace

    async def draft(self, request: DraftRequest, tell: Callable[[str], None] | None = None) -> DraftedFlow:
        palette = Palette(self._kernel.registry.catalog())
        return await Architect(palette, self._check, self._models, request, tell or (lambda line: None)).draft()

    def _check(self, flow: dict[str, Any]) -> Sequence[Problem]:
        def exists(name: str) -> bool:
            slots = list(self._kernel.engine.flows.values())
            return any(slot.id == name and slot.workspace == self._workspace for slot in slots)

        known = KnownModels(self._kernel.models.gate.upstreams, {})
        return validate(flow, self._kernel.registry, Machine(exists, self._kernel.data, known))

    async def analyse(self, flow: str, runs: int = RUNS, models: tuple[str, ...] | None = None) -> Analysis:
        found = await asyncio.wrap_future(self._kernel.engine.steps.io.call(lambda: self._look(flow, runs)))
        return found if models is None else await worded(found, self._models, models)

    def _look(self, name: str, runs: int) -> Analysis:
        flows = self._kernel.store.flows
        flow = flows.get(name)
        if flow.workspace != self._workspace or flow.live_number is None:
            raise ConfigError(f"there is no live flow {name!r} in the workspace {self._workspace!r}")
        version = flows.numbered(name, flow.live_number)
        history = make_history(self._kernel.data)
        try:
            return analyse(history, flow, version, plan_flow(version.body, self._kernel.registry), runs)
        finally:
            history.close()
