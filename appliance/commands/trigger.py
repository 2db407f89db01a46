"""``flowork trigger``: what starts runs, and trying it out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.commands._starting import Start

command = noun("trigger", "The triggers of deployed flows: their health, their next times; try one.", default="list")


@leaf("flowork trigger list", "flowork trigger list --flow greenhouse --json", of=command, name="list")
@click.option("--flow", help="Only of this flow.")
def list_(session: Session, flow: str | None) -> int:
    """List the triggers of what is live, with health and next times. Exit code 1 if one is failing."""
    if flow is not None:
        session.store.flows.get(flow)
    status = session.status()
    views = status["triggers"] if status is not None else _configured(session)
    views = [view for view in views if flow in (None, view["flow"])]
    if session.as_json:
        out.emit({"items": views, "kernel": status is not None})
    elif not views:
        out.say("no triggers are live")
    else:
        rows = [
            (
                view["flow"],
                view["id"],
                view["type"],
                {True: "ok", False: "failing", None: "?"}[view["ok"]],
                ", ".join(out.moment(when) for when in view["next"][:2]),
                out.one_line(view["status"], 80),
            )
            for view in sorted(views, key=lambda view: (view["flow"], view["id"]))
        ]
        out.table(("flow", "trigger", "type", "health", "next", "status"), rows)
    if status is None:
        session.note("no engine is running, so nothing fires")
    return 1 if any(view["ok"] is False for view in views) else 0


def _configured(session: Session) -> list[dict[str, Any]]:
    """The triggers as they would be attached."""
    views = []
    for flow, version in session.store.flows.live():
        for spec in version.body.get("triggers") or []:
            if not spec.get("disabled") and flow.enabled:
                fields = {name: spec.get(name, "") for name in ("id", "type", "name")}
                more = {"flow": flow.id, "workspace": flow.workspace, "version": version.id, **fields}
                views.append({**more, "ok": None, "status": "engine not running", "next": _next(session, spec)})
    return views


def _next(session: Session, spec: Mapping[str, Any]) -> list[float]:
    from appliance.contracts import ConfigError, decode

    kind = session.registry.triggers.get(spec["type"])
    if kind is None:
        return []
    try:
        return kind.next_times(decode(kind.Config, spec.get("config", {})), time.time())
    except ConfigError:
        return []  # templates, whose values only the kernel has


@leaf(
    'flowork trigger test greenhouse t1 --event \'{"payload": {"t": 31}, "topic": "greenhouse/1/temp"}\'',
    of=command,
)
@click.argument("flow_id", metavar="FLOW")
@click.argument("trigger_id", metavar="TRIGGER")
@click.option("--event", help="JSON object, @file or -: `payload`, and what templates see as `event`.")
@click.option("--follow", "-f", is_flag=True, help="Show each step as it happens.")
@click.option("--timeout", type=given.Length(), help="Stop waiting after this long.")
def test(
    session: Session, flow_id: str, trigger_id: str, event: str | None, follow: bool, timeout: float | None
) -> int:
    """Start a run as if the trigger had fired with this event, and wait for its end, as `flowork run` does."""
    from appliance.commands import _starting as starting
    from appliance.commands._engine import kernel
    from appliance.commands._follow import see_through
    from appliance.commands._runs import reader

    flow, version = starting.version_for(session, flow_id, None)
    start = _fired(session, version.body, trigger_id, given.json_argument(event, "--event"))
    params = starting.submission(session, flow, version, start)
    with kernel(session) as client:

        def begin() -> str:
            return str(client.call("submit", **params)["run"])

        return see_through(session, client, reader(session), begin, follow=follow, timeout=timeout)


def _fired(session: Session, body: Mapping[str, Any], trigger: str, event: Any) -> Start:
    import msgspec

    from appliance.commands import _starting as starting

    event = {} if event is None else event
    if not isinstance(event, dict):
        raise click.UsageError('--event must be a JSON object, such as {"payload": {"t": 31}, "topic": "a/b"}.')
    start = starting.by_hand(body, session.registry.triggers, trigger, event.get("payload"))
    meta = {name: value for name, value in event.items() if name != "payload"}
    return msgspec.structs.replace(start, meta={**meta, "test": True})
