"""The steps of a run as lines: one for each step that has changed since the last look."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click
from msgspec import UNSET

from appliance.commands import _output as out
from appliance.commands import _runs as runs
from appliance.commands._session import Session
from appliance.store.runids import to_text
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.commands._runs import Reader, Story
    from appliance.engine.steps_view import Step

SIGNS = {
    "done": ("✓", "green"),
    "kept": ("↷", "green"),
    "failed": ("✗", "red"),
    "retrying": ("↻", "yellow"),
    "waiting": ("…", "cyan"),
    "running": ("▸", "blue"),
    "unverified": ("?", "yellow"),
    "stopped": ("■", "yellow"),
    "skipped": ("–", None),
    "pending": (" ", None),
}
#: A step that takes longer than this (seconds) is told while it runs.
_LONG = 0.5
_NOT_TOLD = {"pending", "skipped", "stopped"}


class Teller:
    """Tells what is new in a run each time it is shown one."""

    def __init__(self, session: Session, reader: Reader, hint: str = "") -> None:
        self._json = session.as_json
        self._reader = reader
        self._hint = hint
        self._told: dict[str, tuple[object, ...]] = {}
        self._since: dict[str, float] = {}
        self._logs: dict[str, int] = {}
        self._tries: dict[str, int] = {}

    def tell(self, story: Story) -> None:
        """Print the steps that have changed, in the order in which they began."""
        width = max((len(step.node) for step in story.steps), default=0)
        for step in sorted(story.steps, key=_when):
            if self._is_news(step):
                self._print(story, step, width)

    def _is_news(self, step: Step) -> bool:
        mark = (step.state, step.attempts, step.until)
        if step.state in _NOT_TOLD or self._told.get(step.node) == mark:
            return False
        if step.state == "running":
            began = self._since.setdefault(f"{step.node} {step.attempts}", time.monotonic())
            if time.monotonic() - began < _LONG:
                return False
        self._told[step.node] = mark
        return True

    def _print(self, story: Story, step: Step, width: int) -> None:
        if self._json:
            view = runs.step_view(step, story.head.accepted)
            out.emit_line({"kind": "step", "run": to_text(story.head.id), "step": view})
            return
        self._say_tries(step, width)
        sign, color = SIGNS[step.state]
        length = out.lasted(step.took / 1e6) if step.took is not None else ""
        line = f"{step.node.ljust(width)}  {step.type}  {length}".rstrip()
        out.say(f"{click.style(sign, fg=color)} {line}  {detail(step)}".rstrip())
        for text in self._new_logs(step):
            out.say(f"    {text}")
        if step.ask is not None:
            self._say_how(story, step)

    def _say_tries(self, step: Step, width: int) -> None:
        """Attempts that failed and that nobody saw while the step waited for the next one."""
        begin = self._tries.get(step.node, 0)
        # The last one of a step that waits is told with its state.
        self._tries[step.node] = len(step.tries)
        end = len(step.tries) - (step.state == "retrying")
        sign, color = SIGNS["retrying"]
        for failed in step.tries[begin:end]:
            text = f"{step.node.ljust(width)}  {step.type}  attempt {failed.attempt} failed: {_error(failed.error)}"
            out.say(f"{click.style(sign, fg=color)} {text}")

    def _new_logs(self, step: Step) -> Iterator[str]:
        begin = self._logs.get(step.node, 0)
        self._logs[step.node] = len(step.logs)
        yield from log_lines(step, begin)

    def _say_how(self, story: Story, step: Step) -> None:
        verb = "decide" if step.state == "unverified" else "answer"
        choices = "|".join(step.ask.get("choices", [])) if isinstance(step.ask, dict) else ""
        command = f"flowork {verb} {to_text(story.head.id)} {step.node} {choices} {self._hint}".rstrip()
        out.say(f"    {command}", bold=True)


def _when(step: Step) -> int:
    """What was taken over comes first, then the steps in the order in which they ended."""
    return -1 if step.started is None else step.started + (step.took or 0)


def log_lines(step: Step, begin: int = 0) -> Iterator[str]:
    """A step's log, a line each: ``[seconds, level, text]`` in the journal."""
    for entry in step.logs[begin:]:
        level, text = (entry[1], entry[2]) if isinstance(entry, list) and len(entry) == 3 else ("info", entry)
        mark = "" if level == "info" else f"{level}: "
        yield f"{mark}{out.one_line(text, 500)}"


def detail(step: Step) -> str:
    """What there is to say of a step in its state, on one line."""
    if step.state in {"done", "kept"}:
        port = f"→ {step.port}  " if step.port not in {"out", ""} else ""
        return f"{port}{out.short(step.output)}" if step.output is not UNSET else port
    if step.state == "failed":
        return _error(step.error)
    if step.state == "retrying" and step.tries:
        last = step.tries[-1]
        again = f"; again at {out.moment(last.again)}" if last.again else ""
        return f"attempt {last.attempt} failed: {_error(last.error)}{again}"
    if step.state == "unverified":
        return "cut off by a crash: was it done?"
    return _waits_for(step) if step.state == "waiting" else step.state


def _waits_for(step: Step) -> str:
    reasons = []
    if isinstance(step.ask, dict):
        reasons.append(f"asks: {out.one_line(step.ask.get('title', ''), 200)}")
    if step.items is not None:
        reasons.append(counted(step.items, "child run"))
    if step.until is not None:
        reasons.append(f"until {out.moment(step.until)}")
    reasons += [f"for {out.one_line(signal)}" for signal in step.signals if signal.startswith("event:")]
    return "waits " + (", ".join(reasons) or "for a signal")


def _error(error: object) -> str:
    return out.one_line(error.get("message", "") if isinstance(error, dict) else error, 300)
