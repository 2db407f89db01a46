"""Rows of a data set from what flows' runs have asked models, and what came back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from appliance.ai.training.rows import Row, pair
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.engine.steps_view import Step
    from appliance.store.history import RunHead


def rows_of_runs(session: Session, flow_id: str, step: str, whole: bool, most: int) -> Iterator[Row]:
    """Of the newest runs that succeeded: each question to a model with its answer, or the run's own with ``whole``."""
    from appliance.engine.states import RunState
    from appliance.store.history import RunFilter
    from appliance.store.runids import to_text

    flow = session.store.flows.get(flow_id)
    wanted = RunFilter(flows=[flow.num], states=[RunState.SUCCEEDED])
    cursor: int | None = None
    seen = 0
    while seen < most:
        page = session.history.page(wanted, cursor, min(200, most - seen))
        for head in page.items:
            seen += 1
            source = f"{flow_id}:{to_text(head.id)}"
            yield from _of_run(session, head, source, step, whole)
        cursor = page.next
        if cursor is None:
            break


def _of_run(session: Session, head: RunHead, source: str, step: str, whole: bool) -> Iterator[Row]:
    from appliance.engine.plan import plan_flow
    from appliance.engine.steps_view import story_of

    detail = session.history.detail(head.id)
    if detail is None:
        return
    plan = plan_flow(session.store.flows.version(head.version).body, session.registry).graphs[head.place]
    _, view, payload, _ = detail.event
    story = story_of(plan, payload, detail.records, event=view, ended=True)
    if whole:
        if (asked := _text(payload)) and (answer := _text(story.output)):
            yield pair(asked, answer, source)
        return
    for index, one in enumerate(story.steps):
        if one.state == "done" and (not step or one.node == step):
            yield from _of_step(one, plan.nodes[index].spec.config, source)


def _of_step(step: Step, config: dict[str, Any], source: str) -> Iterator[Row]:
    """A step that has a prompt and gave a text: its config as it was rendered for this run."""
    rendered = {**config, **(step.config or {})}
    prompt, system, answer = rendered.get("prompt"), rendered.get("system") or "", _text(step.output)
    if isinstance(prompt, str) and isinstance(system, str) and answer:
        yield pair(prompt, answer, source, system)


def _text(value: Any) -> str:
    """A text, or the one in a value such as chats and model steps have."""
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else ""
