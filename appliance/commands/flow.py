"""``flowork flow``: the flows of this engine, from and to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _flows as flows
from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.store.records import Flow

command = noun("flow", "The flows: list, show, check, deploy, compare, roll back.", default="list")


@leaf("flowork flow list", "flowork flow list --search green --json", of=command, name="list")
@click.option("--search", default="", help="Part of a name or id.")
@click.option("--tag", default="", help="Only flows with this tag.")
@given.workspace_option
def list_(session: Session, search: str, tag: str, workspace: str) -> None:
    """List the flows: which version is live, how its triggers are, when it last ran."""
    found: list[Flow] = []
    cursor = ""
    while True:
        page = session.store.flows.list(workspace, search, tag, cursor, 500)
        found += page.items
        cursor = page.next
        if not cursor:
            break
    flows.show_list(session, found)


@leaf(
    "flowork flow show greenhouse",
    "flowork flow show greenhouse --version 3 --json",
    "flowork flow show greenhouse --spec > greenhouse.md",
    of=command,
)
@click.argument("flow_id", metavar="FLOW")
@click.option("--version", "number", type=int, help="The version. [default: the newest]")
@click.option("--spec", "as_spec", is_flag=True, help="Its spec in markdown, as `flowork draft --spec` takes it.")
def show(session: Session, flow_id: str, number: int | None, as_spec: bool) -> None:
    """Show one flow: its version, its triggers with their health, its steps."""
    flow = session.store.flows.get(flow_id)
    version = session.store.flows.numbered(flow_id, number)
    if as_spec:
        flows.show_spec(session, version)
    else:
        flows.show_one(session, flow, version)


@leaf("flowork flow versions greenhouse", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
def versions(session: Session, flow_id: str, limit: int) -> None:
    """List a flow's versions, newest first."""
    flow = session.store.flows.get(flow_id)
    heads = session.store.flows.versions(flow_id, limit=limit)
    if session.as_json:
        out.emit({"items": [flows.version_view(flow, head) for head in heads]})
        return
    rows = [
        (head.number, "live" if head.id == flow.live else "", out.moment(head.created), head.author, head.message)
        for head in heads
    ]
    out.table(("version", "live", "saved", "by", "message"), rows)


@leaf("flowork flow validate greenhouse.json", "cat flow.json | flowork flow validate - --json", of=command)
@click.argument("file")
@given.workspace_option
def validate(session: Session, file: str, workspace: str) -> int:
    """Check a flow file on this machine and name every fault with its place. Exit code 1 if there are any."""
    from appliance.flowbook import readable

    body, notes = readable(given.read_json_file(file))
    problems = flows.problems(session, body, workspace)
    notes += flows.notes(session, body)
    if session.as_json:
        sends = flows.sends_to(session, body)
        out.emit({"valid": not problems, "problems": flows.plain(problems), "notes": notes, "sends_to": sends})
        return 1 if problems else 0
    flows.show_problems(problems)
    flows.show_sends(flows.sends_to(session, body))
    for note in notes:
        session.note(note)
    if not problems:
        out.say(f"{out.plain(body.get('name'))}: no faults", color="green")
    return 1 if problems else 0


@leaf(
    "flowork flow deploy greenhouse.json --message 'Warn earlier'",
    "flowork flow deploy greenhouse --version 4",
    of=command,
)
@click.argument("what", metavar="FILE|FLOW")
@click.option("--message", "-m", default="", help="What has changed, for the list of versions.")
@click.option("--id", "flow_id", help="The flow's id. [default: of the flow named like the file, or as in the file]")
@click.option("--base", type=int, help="The version that was edited; if it is not the newest, nothing is saved.")
@click.option("--version", "number", type=int, help="With a flow's id: the version to make live. [default: newest]")
@given.workspace_option
def deploy(
    session: Session, what: str, message: str, flow_id: str | None, base: int | None, number: int | None, workspace: str
) -> None:
    """Save a file as a flow's new version and make it live; or make a saved version live.

    Runs that are under way finish on the version they began with.
    """
    if not given.looks_like_a_file(what):
        if message or flow_id or base is not None:
            raise click.UsageError("--message, --id and --base belong to a file.")
        flows.show_saved(session, session.book.deploy(what, number, by=session.identity), "deployed")
        return
    if number is not None:
        raise click.UsageError("--version belongs to a flow's id.")
    raw = given.read_json_file(what)
    saved = flows.save_file(session, what, raw, flow_id=flow_id, base=base, message=message, workspace=workspace)
    flows.show_saved(session, saved, "deployed")


@leaf("flowork flow export greenhouse > greenhouse.json", "flowork flow export greenhouse --version 2", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.option("--version", "number", type=int, help="The version. [default: the newest]")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="Write to this file.")
def export(session: Session, flow_id: str, number: int | None, output: str | None) -> None:
    """Write a flow as JSON, exactly as it was saved.

    The paths of its webhooks are in it, and who knows one can start the flow: take them out before you publish it.
    """
    from pathlib import Path

    text = out.encode(session.store.flows.numbered(flow_id, number).body)
    if output is None:
        out.say(text)
        return
    Path(output).write_text(text + "\n", encoding="utf-8")
    session.done({"file": output}, f"written to {output}")


@leaf("flowork flow import greenhouse.json", "flowork flow import old-preset.json --deploy", of=command, name="import")
@click.argument("file")
@click.option("--id", "flow_id", help="The new flow's id. [default: from its name]")
@click.option("--deploy", "live", is_flag=True, help="Make it live at once.")
@click.option("--message", "-m", default="imported", help="For the list of versions.")
@given.workspace_option
def import_(session: Session, file: str, flow_id: str | None, live: bool, message: str, workspace: str) -> None:
    """Make a new flow of a file; presets of older Flowork versions are converted."""
    saved = session.book.import_flow(
        given.read_json_file(file),
        by=session.identity,
        flow_id=flow_id,
        workspace=workspace,
        message=message,
        deploy=live,
    )
    flows.show_saved(session, saved, "imported and deployed" if live else "imported")


@leaf("flowork flow diff greenhouse", "flowork flow diff greenhouse 3 5", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.argument("old", type=int, required=False)
@click.argument("new", type=int, required=False)
def diff(session: Session, flow_id: str, old: int | None, new: int | None) -> None:
    """Show what differs between two versions. [default: the live one, or the one before it, and the newest]"""
    from appliance.commands import _diff

    flow = session.store.flows.get(flow_id)
    new = new if new is not None else flow.newest
    if old is None:
        old = flow.live_number if flow.live_number not in (None, new) else max(new - 1, 1)
    _diff.show(session, session.store.flows.numbered(flow_id, old), session.store.flows.numbered(flow_id, new))


@leaf("flowork flow rollback greenhouse", "flowork flow rollback greenhouse 3", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.argument("number", type=int, required=False)
def rollback(session: Session, flow_id: str, number: int | None) -> None:
    """Make an older version live again. [default: the last one that was live before]"""
    flows.show_saved(session, session.book.rollback(flow_id, number, by=session.identity), "rolled back")


@leaf("flowork flow undeploy greenhouse", of=command)
@click.argument("flow_id", metavar="FLOW")
def undeploy(session: Session, flow_id: str) -> None:
    """Take a flow out of service: its triggers are detached, runs under way finish."""
    flows.show_saved(session, session.book.undeploy(flow_id, by=session.identity), "undeployed")


@leaf("flowork flow enable greenhouse", of=command)
@click.argument("flow_id", metavar="FLOW")
def enable(session: Session, flow_id: str) -> None:
    """Switch a flow's triggers on again."""
    flows.show_saved(session, session.book.enable(flow_id, True, by=session.identity), "switched on")


@leaf("flowork flow disable greenhouse", of=command)
@click.argument("flow_id", metavar="FLOW")
def disable(session: Session, flow_id: str) -> None:
    """Switch a flow's triggers off; it stays deployed and can be started by hand."""
    flows.show_saved(session, session.book.enable(flow_id, False, by=session.identity), "switched off")


@leaf("flowork flow copy greenhouse --to laptop", "flowork flow copy greenhouse --to laptop --json", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.option("--to", required=True, help="The name of a paired engine.")
@click.option("--workspace", default="", help="The workspace there. [default: of the same name]")
def copy(session: Session, flow_id: str, to: str, workspace: str) -> None:
    """Copy a flow with all its versions to a paired engine. It is a draft there; its secrets are not sent."""
    if missing := flows.lacking(session, flow_id, to, workspace):
        session.note(missing)
    flows.send(session, flow_id, to, workspace, move=False)


@leaf("flowork flow move greenhouse --to laptop --yes", of=command)
@click.argument("flow_id", metavar="FLOW")
@click.option("--to", required=True, help="The name of a paired engine.")
@click.option("--workspace", default="", help="The workspace there. [default: of the same name]")
@given.yes_option
def move(session: Session, flow_id: str, to: str, workspace: str, yes: bool) -> None:
    """Copy a flow to a paired engine, compare the versions, and switch it off here."""
    if missing := flows.lacking(session, flow_id, to, workspace):
        session.note(missing)
    given.confirmed(yes, f"Move the flow {flow_id!r} to {to}, and switch it off here?")
    flows.send(session, flow_id, to, workspace, move=True)


@leaf("flowork flow delete greenhouse --yes", of=command)
@click.argument("flow_id", metavar="FLOW")
@given.yes_option
def delete(session: Session, flow_id: str, yes: bool) -> None:
    """Delete a flow and its state. Its runs stay in the history."""
    flow = session.store.flows.get(flow_id)
    given.confirmed(yes, f"Delete the flow {flow_id!r} ({counted(flow.newest, 'version')}) and what it remembers?")
    session.book.delete(flow_id, by=session.identity)
    answer: dict[str, Any] = {"deleted": flow_id}
    session.done(answer, f"deleted {flow_id}")
