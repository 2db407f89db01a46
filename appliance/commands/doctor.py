"""``flowork doctor``."""

from __future__ import annotations

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.wording import counted

_COLORS = {"notice": "cyan", "warning": "yellow", "critical": "red"}


@leaf("flowork doctor", "flowork doctor --json", name="doctor")
@click.option("--port", type=int, default=5000, show_default=True, help="Where the gateway would listen.")
def command(session: Session, port: int) -> int:
    """Look at everything: folder, disk, keys, databases, flows, clock, kernel, gateway. Changes nothing.

    Exit code 0 if all is well, 1 for warnings, 2 for faults. Every day of the history is read, which takes a while
    where it is long.
    """
    from appliance import doctor, findings

    data = session.folder
    status = session.status() if session.has_engine else None
    with progress(session, "looking", unit="checks") as tell:
        found = doctor.examine(data, status, port=port, tell=tell)
    level = findings.overall(found)
    if session.as_json:
        out.emit({"status": level, "data": str(data), "findings": found, "kernel": status})
    else:
        for one in found:
            out.say(f"{one.level}: {out.plain(one.text)}", color=_COLORS[one.level])
            out.say(f"    {out.plain(one.mend)}")
        for kernel in (status or {}).get("kernels", ()):
            out.say(
                f"kernel {kernel['writer']} on {out.plain(kernel['machine'])}: {counted(kernel['flows'], 'flow')}, "
                f"{counted(kernel['runs'], 'run')} under way, its lease holds {kernel['lease']:.0f} s more"
            )
        if not found:
            out.say("all is well", color="green")
    return {"ok": 0, "warning": 1}.get(level, 2)
