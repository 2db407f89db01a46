"""How commands show flows, and how a file becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.commands import _output as out
from appliance.commands._session import Session
from appliance.contracts import Problem
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.flowbook import Saved
    from appliance.store.history import RunHead
    from appliance.store.records import Flow, Version, VersionHead


def plain(value: Any) -> Any:
    """A record as JSON data."""
    return msgspec.to_builtins(value, enc_hook=str)


def state_of(flow: Flow) -> str:
    """``live``, ``off`` (deployed, triggers switched off) or ``draft``."""
    if flow.live is None:
        return "draft"
    return "live" if flow.enabled else "off"


def triggers_by_flow(session: Session) -> dict[str, list[dict[str, Any]]] | None:
    """What the running kernel says of the triggers; None if none runs."""
    status = session.status()
    if status is None:
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    for trigger in status["triggers"]:
        found.setdefault(trigger["flow"], []).append(trigger)
    return found


def show_list(session: Session, flows: Sequence[Flow]) -> None:
    """A table of flows."""
    triggers = triggers_by_flow(session)
    last = session.history.newest_of(flow.num for flow in flows)
    if session.as_json:
        out.emit({"items": [flow_view(flow, triggers, last.get(flow.num)) for flow in flows]})
        return
    if not flows:
        out.say("no flows; deploy one with `flowork flow deploy FILE`")
        return
    rows = []
    for flow in flows:
        head = last.get(flow.num)
        state = state_of(flow)
        live = f"{state} v{flow.live_number}" if flow.live_number else state
        ran = f"{_state(head)} {out.moment(head.accepted / 1e6)}" if head else ""
        rows.append((flow.id, out.one_line(flow.name, 40), live, _health(flow, triggers), ran))
    out.table(("flow", "name", "state", "triggers", "last run"), rows)


def flow_fields(flow: Flow) -> dict[str, Any]:
    """A flow as the API shows it; ``live`` and ``newest`` are version numbers."""
    names = ("id", "name", "workspace", "folder", "tags", "newest", "enabled", "created", "updated")
    return {**{name: getattr(flow, name) for name in names}, "live": flow.live_number, "state": state_of(flow)}


def flow_view(flow: Flow, triggers: Mapping[str, list[dict[str, Any]]] | None, last: RunHead | None) -> dict[str, Any]:
    """The same with its triggers (null while no kernel runs) and its last run."""
    ran = None if last is None else {"id": _text(last.id), "state": _state(last), "accepted": last.accepted / 1e6}
    health = None if triggers is None else triggers.get(flow.id, [])
    return {**flow_fields(flow), "triggers": health, "last_run": ran}


def version_view(flow: Flow, version: VersionHead) -> dict[str, Any]:
    """A version as the API shows it."""
    names = ("number", "hash", "author", "message", "created")
    return {**{name: getattr(version, name) for name in names}, "live": version.number == flow.live_number}


def _health(flow: Flow, triggers: Mapping[str, list[dict[str, Any]]] | None) -> str:
    if flow.live is None:
        return ""
    if triggers is None:
        return "engine not running"
    mine = triggers.get(flow.id, [])
    bad = [trigger for trigger in mine if not trigger["ok"]]
    if bad:
        return f"{len(bad)} of {len(mine)} failing"
    return f"{len(mine)} ok" if mine else "none"


def show_spec(session: Session, version: Version) -> None:
    """The spec that was saved with a version, or one that is made of its steps."""
    from appliance.workshop.palette import Palette
    from appliance.workshop.spec import spec_of

    spec = version.body.get("spec") or spec_of(version.body, Palette(session.registry.catalog()))
    if session.as_json:
        out.emit({"spec": spec})
    else:
        out.say(out.plain_lines(spec.rstrip("\n")))


def show_one(session: Session, flow: Flow, version: Version) -> None:
    """One flow with the outline of one version."""
    triggers = triggers_by_flow(session)
    last = session.history.newest_of([flow.num]).get(flow.num)
    if session.as_json:
        shown = {
            "version": version_view(flow, version),
            "flow": version.body,
            "sends_to": sends_to(session, version.body),
        }
        out.emit({**flow_view(flow, triggers, last), **shown})
        return
    body = version.body
    live = f"version {flow.live_number}" + ("" if flow.enabled else ", switched off") if flow.live else "nothing"
    out.fields(
        [
            ("flow", flow.id),
            ("name", flow.name),
            ("live", live),
            ("shown", f"version {version.number} of {flow.newest}"),
            ("saved", f"{out.moment(version.created)} by {version.author}"),
            ("message", version.message),
            ("tags", ", ".join(flow.tags)),
            ("description", body.get("description", "")),
            ("last run", f"{_text(last.id)} {_state(last)} {out.moment(last.accepted / 1e6)}" if last else ""),
        ]
    )
    _show_triggers(body, flow, version, triggers)
    _show_nodes(body)
    show_sends(sends_to(session, body))


def _show_triggers(
    body: Mapping[str, Any], flow: Flow, version: Version, triggers: Mapping[str, list[dict[str, Any]]] | None
) -> None:
    specs = body.get("triggers") or []
    if not specs:
        return
    health = {t["id"]: t for t in (triggers or {}).get(flow.id, [])} if version.id == flow.live else {}
    out.say()
    rows = []
    for spec in specs:
        view = health.get(spec.get("id"), {})
        state = ("ok" if view["ok"] else "failing") if view else ("disabled" if spec.get("disabled") else "")
        coming = out.moment(view["next"][0]) if view.get("next") else ""
        rows.append((spec.get("id"), spec.get("type"), state, view.get("status", ""), coming))
    out.table(("trigger", "type", "health", "status", "next"), rows)


def _show_nodes(body: Mapping[str, Any]) -> None:
    leads: dict[str, list[str]] = {}
    for edge in body.get("edges") or []:
        port = edge.get("port", "out")
        name = str(edge.get("to")) if port == "out" else f"{edge.get('to')} ({port})"
        leads.setdefault(str(edge.get("from")), []).append(name)
    rows = [
        (node.get("id"), node.get("type"), out.one_line(node.get("name", ""), 30), ", ".join(leads.get(node["id"], [])))
        for node in body.get("nodes") or []
    ]
    out.say()
    out.table(("step", "type", "name", "leads to"), rows)


def problems(session: Session, body: Mapping[str, Any], workspace: str) -> list[Problem]:
    """The faults of a flow; without an engine in the data folder, of the flow by itself."""
    if session.has_engine:
        same = _named(session, body.get("name"), workspace)
        return session.book.problems(body, same.id if same else None, workspace)
    from appliance.engine.validate import validate
    from appliance.world import Machine

    return validate(body, session.registry, Machine(lambda flow: False))


def notes(session: Session, body: Mapping[str, Any]) -> list[str]:
    """What is no fault of a flow, and yet to be known; without an engine, as far as the flow says it by itself."""
    if session.has_engine:
        return list(session.book.notes(body))
    from appliance.engine.validate import schema_notes
    from appliance.world import Machine

    return list(schema_notes(body, session.registry, Machine(lambda flow: False)))


def sends_to(session: Session, body: Mapping[str, Any]) -> dict[str, list[str]]:
    """The hosts that see what steps work on because they ask models there, by step; nothing without an engine."""
    if not session.has_engine:
        return {}
    return {name: list(traits.sends_to) for name, traits in session.book.traits(body).items() if traits.sends_to}


def show_sends(found: Mapping[str, Sequence[str]]) -> None:
    """One line for each step that sends something away."""
    for name, places in found.items():
        where = " and ".join("whatever its template names" if place == "?" else place for place in places)
        out.say(out.plain(f"{name} sends its prompt to {where}"), color="yellow")


def show_problems(found: Iterable[Problem]) -> None:
    """One fault a line: where, and what to do."""
    for problem in found:
        out.say(f"{problem.path or 'flow'}: {out.plain(problem.message)}")


def save_file(
    session: Session,
    file: str,
    raw: Any,
    *,
    flow_id: str | None,
    base: int | None,
    message: str,
    workspace: str,
) -> Saved:
    """Save what a file holds as the newest version of its flow, and make it live."""
    from appliance.flowbook import readable

    body, notes = readable(raw)
    for note in notes:
        session.note(note)
    found = _flow_of_file(session, file, body, flow_id, workspace)
    if base is None and found is not None:
        base = found.newest
    target = found.id if found is not None else (flow_id or _id_from(file))
    return session.book.save(
        body, by=session.identity, flow_id=target, workspace=workspace, base=base, message=message, deploy=True
    )


def _flow_of_file(
    session: Session, file: str, body: Mapping[str, Any], flow_id: str | None, workspace: str
) -> Flow | None:
    """The flow that a file is a new version of: by the id given, the file's name, or the name in it."""
    from appliance.store.errors import NotFound

    wanted = flow_id or _id_from(file)
    if wanted is not None:
        try:
            found = session.store.flows.get(wanted)
        except NotFound:
            if flow_id is not None:
                return None
        else:
            return found if found.workspace == workspace else None
    return _named(session, body.get("name"), workspace)


def _named(session: Session, name: Any, workspace: str) -> Flow | None:
    """The only flow with this name."""
    if not isinstance(name, str) or not name:
        return None
    same = [flow for flow in session.store.flows.list(workspace, name, limit=500).items if flow.name == name]
    return same[0] if len(same) == 1 else None


def _id_from(file: str) -> str | None:
    from appliance.store.names import slug

    return None if file == "-" else slug(Path(file).stem)


def show_saved(session: Session, saved: Saved, what: str) -> None:
    """What was done to a flow, its webhook addresses, and whether the engine has taken it."""
    hooks = web_addresses(session, saved.version.body)
    if session.as_json:
        version = version_view(saved.flow, saved.version)
        more = {"version": version, "webhooks": hooks, "kernel": saved.kernel, "notes": list(saved.notes)}
        out.emit({**flow_fields(saved.flow), **more})
        return
    out.say(f"{what}: {saved.flow.id} version {saved.version.number}", color="green")
    for note in saved.notes:
        out.say(out.plain(note))
    if saved.flow.live == saved.version.id and saved.flow.enabled:
        for trigger, address in hooks.items():
            out.say(f"trigger {trigger}: {address}")
    if not saved.kernel:
        out.say("no engine is running; it counts from the next `flowork up`")


def web_addresses(session: Session, body: Mapping[str, Any]) -> dict[str, str]:
    """The path part of the addresses at which web triggers listen."""
    from appliance.webpaths import WebPaths

    return {trigger: f"/hooks/{path}" for trigger, path in WebPaths(session.registry.triggers).paths(body).items()}


def _state(head: RunHead) -> str:
    from appliance.engine.states import RunState

    return RunState(head.state).label


def _text(number: int) -> str:
    from appliance.store.runids import to_text

    return to_text(number)


def lacking(session: Session, flow_id: str, to: str, workspace: str) -> str:
    """What will have to be given anew at a peer to which a flow is sent, as a sentence; empty if nothing."""
    found = session.call("flow_preview", 30.0, flow=flow_id, to=to, workspace=workspace)
    if not found["secrets"]:
        return ""
    names, where = ", ".join(found["secrets"]), f"the workspace {found['workspace']!r} of {found['peer']}"
    return f"Secrets are never sent; to be set in {where} before it can work: {names}."


def send(session: Session, flow_id: str, to: str, workspace: str, *, move: bool) -> None:
    """Copy or move a flow to a peer, and tell what is to be done there."""
    by = session.identity.label
    sent = session.call("flow_send", 150.0, flow=flow_id, to=to, workspace=workspace, by=by, move=move)
    if session.as_json:
        out.emit(sent)
        return
    what = "moved" if move else "copied"
    count = counted(sent["versions"], "version")
    out.say(f"{what} to {sent['peer']} as {sent['flow']} with {count}; it is saved there, not deployed")
    if sent["secrets"]:
        out.say(f"to be set there: {', '.join(sent['secrets'])}  (flowork secret set NAME)")
    for problem in sent["problems"]:
        out.say(f"there: {problem['path']}: {problem['message']}", color="yellow")
    if move:
        session.note(f"{flow_id} is switched off here; `flowork flow delete {flow_id}` takes it away")
