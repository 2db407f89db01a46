"""The engine seen by its own flows, ``ctx.overview``: a step is shown its own workspace and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from appliance.contracts import ConfigError
from appliance.engine.states import RunState
from appliance.store.history import RunFilter, RunHead
from appliance.store.places import make_history
from appliance.store.runids import to_text

if TYPE_CHECKING:
    from appliance.kernel.context import StepContext
    from appliance.kernel.core import Core

MOST = 100
#: Bytes of free disk below which that is a problem.
LITTLE_ROOM = 200_000_000


class KernelOverview:
    """Implements :class:`appliance.contracts.Overview` for one step."""

    def __init__(self, kernel: Core, ctx: StepContext) -> None:
        self._kernel = kernel
        self._workspace = ctx.workspace

    async def health(self) -> dict[str, Any]:
        status = await asyncio.to_thread(self._kernel.status)
        own = {flow.id for flow, _ in await asyncio.to_thread(self._flows)}
        return {
            "problems": list(_problems(status, own)) or ["none"],
            "uptime_hours": round(status["uptime"] / 3600, 1),
            "runs_under_way": status["runs"],
            "runs_waiting": status["waiting"],
            "runs_ended_since_start": status["ended"],
            "free_disk_mb": status["free_bytes"] // 1_000_000,
            "clock": status["clock"]["text"],
        }

    async def flows(self) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._told_flows)

    async def runs(self, *, flow: str = "", state: str = "", limit: int = 20) -> list[dict[str, Any]]:
        return await asyncio.to_thread(self._told_runs, flow, state, min(max(limit, 1), MOST))

    async def waiting(self) -> list[dict[str, Any]]:
        engine = self._kernel.engine
        return [
            {
                "flow": run.flow.id,
                "run": run.text,
                "step": run.node(index).id,
                "question": parked.ask.get("title", ""),
                "until": parked.until,
            }
            for run in list(engine.runs.values())
            for index, parked in list(run.parked.items())
            if parked.ask is not None and run.flow.workspace == self._workspace
        ]

    def _flows(self) -> list[Any]:
        return [pair for pair in self._kernel.store.flows.live() if pair[0].workspace == self._workspace]

    def _told_flows(self) -> list[dict[str, Any]]:
        live = self._flows()
        history = make_history(self._kernel.data)
        try:
            last = history.newest_of([flow.num for flow, _ in live])
        finally:
            history.close()
        return [
            {
                "flow": flow.id,
                "name": flow.name,
                "about": str(version.body.get("description", ""))[:200],
                "enabled": flow.enabled,
                "last_run": _told(last[flow.num], flow.id) if flow.num in last else None,
            }
            for flow, version in live
        ]

    def _told_runs(self, name: str, state: str, limit: int) -> list[dict[str, Any]]:
        known = {flow.num: flow.id for flow, _ in self._flows()}
        if name and name not in known.values():
            raise ConfigError(f"there is no live flow {name!r} in this workspace")
        if state and state.upper() not in RunState.__members__:
            raise ConfigError(f"there is no state {state!r}; there are {', '.join(one.label for one in RunState)}")
        wanted = RunFilter(
            flows=[num for num, flow in known.items() if name in ("", flow)],
            states=[RunState[state.upper()]] if state else (),
        )
        if not wanted.flows:
            return []
        history = make_history(self._kernel.data)
        try:
            return [_told(head, known[head.flow]) for head in history.page(wanted, limit=limit).items]
        finally:
            history.close()


def _told(head: RunHead, flow: str) -> dict[str, Any]:
    error = head.error.get("message", "") if isinstance(head.error, dict) else ""
    return {
        "run": to_text(head.id),
        "flow": flow,
        "state": RunState(head.state).label,
        "began": round(head.accepted / 1e6, 1),
        "seconds": None if head.finished is None else round((head.finished - head.accepted) / 1e6, 2),
        **({"error": str(error)[:300]} if error else {}),
    }


def _problems(status: dict[str, Any], flows: set[str]) -> Any:
    """What is not as it should be, in words."""
    if status["degraded"]:
        yield f"the history cannot be written: {status['degraded']}"
    if status["damaged"]:
        yield f"damaged days of the history: {', '.join(map(str, status['damaged']))}"
    if not status["clock"]["ok"]:
        yield f"the clock is not known to be right: {status['clock']['text']}"
    if status["free_bytes"] < LITTLE_ROOM:
        yield f"only {status['free_bytes'] // 1_000_000} MB of disk are free"
    for view in status["triggers"]:
        if view["flow"] in flows and not view["ok"]:
            yield f"trigger {view['id']} of flow {view['flow']}: {view['status']}"
    for broken in status["broken"]:
        yield f"{broken['kind']} {broken['type']} is disabled: {broken['error']}"
