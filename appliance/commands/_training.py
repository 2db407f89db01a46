"""Rows of a data set from what flows' runs have asked models, and what came back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from appliance.ai.training.rows import Row, pair
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.commands._runs import Story
    from appliance.engine.steps_view import Step


def rows_of_runs(session: Session, flow_id: str, step: str, whole: bool, most: int) -> Iterator[Row]:
    """Of the newest runs that succeeded: each question to a model with its answer, or the run's own with ``whole``."""
    from appliance.commands._runs import reader
    from appliance.engine.states import RunState
    from appliance.store.history import RunFilter
    from appliance.store.runids import to_text

    flow = session.store.flows.get(flow_id)
    wanted = RunFilter(flows=[flow.num], states=[RunState.SUCCEEDED])
    runs = reader(session)
    cursor: int | None = None
    seen = 0
    while seen < most:
        page = session.history.page(wanted, cursor, min(200, most - seen))
        for head in page.items:
            seen += 1
            story = runs.story(head.id)
            if story is not None and not story.unreadable:
                body = session.store.flows.version(head.version).body
                yield from _of_run(story, f"{flow_id}:{to_text(head.id)}", step, whole, body)
        cursor = page.next
        if cursor is None:
            break


def _of_run(story: Story, source: str, step: str, whole: bool, flow: Mapping[str, Any]) -> Iterator[Row]:
    if whole:
        if (asked := _text(story.payload)) and (answer := _text(story.output)):
            yield pair(asked, answer, source)
        return
    configs = {node["id"]: node.get("config", {}) for node in flow["nodes"]}
    for one in story.steps:
        if one.state == "done" and (not step or one.node == step):
            yield from _of_step(one, configs.get(one.node, {}), source)


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
