"""A whole run as text: its head, its steps, the runs it has started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from appliance.commands import _output as out
from appliance.commands import _runs as runs
from appliance.commands._session import Session
from appliance.commands._tell import SIGNS, detail, log_lines
from appliance.store.errors import NotFound
from appliance.store.history import RunFilter
from appliance.store.runids import to_text

if TYPE_CHECKING:
    from appliance.commands._runs import Reader, Story
    from appliance.engine.steps_view import Step

_CHILDREN = 20
_WIDE = 100


def show(session: Session, reader: Reader, story: Story) -> None:
    """The run, then a few lines for each step."""
    _head(reader, story)
    if story.unreadable:
        out.say(f"its steps cannot be told: {story.unreadable}", color="yellow")
    width = max((len(step.node) for step in story.steps), default=0)
    if story.steps:
        out.say()
    for step in story.steps:
        _step(story, step, width)
    for note in story.notes:
        out.say(f"note: {out.one_line(note, 300)}")
    _children(session, reader, story)
    if story.output is not None and story.state.label == "succeeded":
        out.say()
        out.say("output:", bold=True)
        out.say(out.plain_lines(out.encode(story.output)))


def _head(reader: Reader, story: Story) -> None:
    view = reader.head_view(story.head)
    part = f", body of {view['place']}" if view["place"] else ""
    out.fields(
        [
            ("run", view["id"]),
            ("flow", f"{view['flow']} version {view['version']}{part}"),
            ("state", view["state"]),
            ("accepted", f"{out.moment(view['accepted'])} by trigger {view['trigger'] or 'none'}"),
            ("took", out.lasted(view["took"])),
            ("error", runs.error_line(view["error"]) if view["error"] else ""),
            ("replay of", view["origin"]),
            ("started by", view["parent"]),
            ("dead letter", _letter(view["letter"], story)),
            ("payload", out.short(story.payload, _WIDE)),
        ]
    )


def _letter(state: str, story: Story) -> str:
    if state == "none":
        return ""
    if story.letter_note is None:
        return state
    at, who, reason = story.letter_note
    return f"{state} by {who} {out.moment(at / 1e6)}" + (f": {out.one_line(reason, 200)}" if reason else "")


def _step(story: Story, step: Step, width: int) -> None:
    sign, color = SIGNS[step.state]
    took = out.lasted(step.took / 1e6) if step.took is not None else ""
    begun = f"+{out.lasted(step.started / 1e6)}" if step.started is not None else ""
    tries = f"attempt {step.attempts}" if step.attempts > 1 else ""
    port = f"→ {step.port}" if step.port not in {"out", ""} else ""
    facts = "  ".join(part for part in (step.type, step.state, begun, took, tries, port, _where(step)) if part)
    out.say(f"{click.style(sign, fg=color)} {step.node.ljust(width)}  {facts}")
    if step.input is not UNSET and step.state != "skipped":
        out.say(f"    in:  {out.short(step.input, _WIDE)}")
    if step.output is not UNSET:
        same = step.input is not UNSET and step.output == step.input
        out.say(f"    out: {'the same' if same else out.short(step.output, _WIDE)}")
    elif step.state not in {"skipped", "pending", "stopped", "running"}:
        out.say(f"    {detail(step)}")
    for text in log_lines(step):
        out.say(f"    log: {text}")


def _where(step: Step) -> str:
    """The engine that did it, or does, if it is another one, and the run there."""
    if step.where is None:
        return ""
    return f"at {step.where['engine']}" + (f" in run {step.where['run']}" if step.where.get("run") else "")


def _children(session: Session, reader: Reader, story: Story) -> None:
    wanted = RunFilter(parent=story.head.id, since=story.head.accepted / 1e6 - 1)
    page = session.history.page(wanted, limit=_CHILDREN)
    if page.next is not None:
        out.say(f"↳ earlier ones, and the newest {_CHILDREN}:")
    for head in reversed(page.items):
        view = reader.head_view(head)
        out.say(f"↳ run {view['id']}  {view['flow']}  {view['state']}  {out.lasted(view['took'])}")


def step_of(story: Story, node: str) -> Step:
    """One step. Raises ``NotFound``."""
    for step in story.steps:
        if step.node == node:
            return step
    if story.unreadable:
        raise NotFound(f"the steps of run {to_text(story.head.id)} cannot be told: {story.unreadable}")
    names = ", ".join(step.node for step in story.steps)
    raise NotFound(f"there is no step {node!r} in that run; there are: {names}")


def show_step(story: Story, step: Step) -> None:
    """Everything that was kept of a step."""
    started = None if step.started is None else (story.head.accepted + step.started) / 1e6
    out.fields(
        [
            ("step", step.node),
            ("type", step.type),
            ("name", step.name),
            ("state", f"{step.state}{'' if step.output is not UNSET else f' ({detail(step)})'}"),
            ("began", out.moment(started)),
            ("took", out.lasted(step.took / 1e6) if step.took is not None else ""),
            ("attempts", step.attempts or ""),
            ("port", step.port),
            ("done", _where(step)),
        ]
    )
    for one in step.tries:
        out.say(f"attempt {one.attempt} failed: {runs.error_line(one.error)}")
    for name, value in (
        ("input", step.input),
        ("output", step.output),
        ("error", step.error if step.error is not None else UNSET),
        ("config", step.config if step.config is not None else UNSET),
        ("looked up", step.saw if step.saw else UNSET),
        ("asks", step.ask if step.ask is not None else UNSET),
    ):
        _block(name, value)
    for text in log_lines(step):
        out.say(f"log: {text}")


def _block(name: str, value: Any) -> None:
    if value is not UNSET:
        out.say(f"{name}:", bold=True)
        out.say(out.plain_lines(out.encode(value)))
