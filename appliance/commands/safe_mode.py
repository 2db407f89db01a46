"""``flowork safe-mode``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.safemode import Rest

command = noun("safe-mode", "Whether the kernel rests, after crashes or because it was told to.", default="show")


@leaf("flowork safe-mode", of=command)
def show(session: Session) -> None:
    """Whether safe mode is on, since when, and why.

    In safe mode no trigger fires and no run goes on; the panel works, and webhooks are kept for later.
    """
    from appliance.safemode import SafeMode

    rest = SafeMode(session.need_engine()).on()
    session.done(_view(rest), _text(rest))


@leaf("flowork safe-mode on --reason 'the pump is being repaired'", of=command)
@click.option("--reason", default="turned on by hand", show_default=True, help="Shown on the health page.")
def on(session: Session, reason: str) -> None:
    """Let the kernel rest until `flowork safe-mode off`: runs under way stop where they are and go on then."""
    from appliance.kernel.client import KernelAway
    from appliance.safemode import SafeMode

    safe = SafeMode(session.need_engine())
    rest = safe.enter(reason)
    try:
        session.client.call("rest")
    except KernelAway:
        pass  # it rests as soon as it begins
    session.audit("safe_mode.on", "", {"reason": reason})
    session.done(_view(rest), "safe mode is on: no trigger fires and no run goes on")


@leaf("flowork safe-mode off", "flowork safe-mode off --cancel-runs", of=command)
@click.option("--cancel-runs", is_flag=True, help="End the runs that were under way: one may be what it crashes of.")
def off(session: Session, cancel_runs: bool) -> None:
    """Let the kernel work again: runs under way go on, and what was kept meanwhile is run."""
    from appliance.safemode import SafeMode

    was = SafeMode(session.need_engine()).leave(cancel_runs)
    session.audit("safe_mode.off", "", {"cancel_runs": cancel_runs})
    session.done(_view(None), "the kernel works again" if was else "safe mode was not on")


def _view(rest: Rest | None) -> dict[str, object]:
    if rest is None:
        return {"on": False}
    return {"on": True, "since": rest.since, "until": rest.until, "reason": rest.reason}


def _text(rest: Rest | None) -> str:
    if rest is None:
        return "off"
    until = "until it is turned off" if rest.until is None else f"it tries again by itself at {out.moment(rest.until)}"
    return f"on since {out.moment(rest.since)}: {rest.reason}; {until}"
