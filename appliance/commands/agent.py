"""``flowork agent``: edge agents, the machines whose pins, ports and files flows see."""

from __future__ import annotations

import time
from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

command = noun("agent", "Edge agents: other machines whose pins, ports, files and processes flows see.", default="list")


@leaf("flowork agent list", "flowork agent list --json", of=command, name="list")
def list_(session: Session) -> None:
    """List the agents: this machine's own, those that are paired, and the pairings that wait for one."""
    agents, waiting = session.call("agents"), session.call("agent_pairings")
    if session.as_json:
        out.emit({"items": agents, "pairings": waiting})
        return
    head = ("name", "state", "since", "address", "drivers", "waiting", "version")
    out.table(head, [_row(agent) for agent in agents])
    for each in waiting:
        out.say(f"{each['name']}: waits to be paired until {out.moment(each['expires'])}")


@leaf("flowork agent pair greenhouse", "flowork agent pair greenhouse --for 1d", of=command)
@click.argument("name")
@click.option("--for", "length", type=given.Length(), default="30m", help="How long the code is valid.")
def pair(session: Session, name: str, length: float) -> None:
    """Show a code with which one agent can be paired, under a name of your choice.

    On the other machine: `flowork-agent pair CODE`, or `code = "CODE"` in flowork-agent.toml on its SD card.
    """
    made = session.call("agent_pair", name=name, minutes=length / 60)
    session.audit("agent.pair", name, {"minutes": round(length / 60, 1)})
    if session.as_json:
        out.emit(made)
        return
    out.fields([("code", made["code"]), ("valid until", out.moment(made["expires"])), ("port", made["port"])])
    session.note(f"on the other machine: flowork-agent pair {made['code']}")


@leaf("flowork agent unpair greenhouse", of=command)
@click.argument("name")
def unpair(session: Session, name: str) -> None:
    """End a pairing that waits: its code is not valid any more."""
    ended = session.call("agent_unpair", name=name)["ended"]
    if ended:
        session.audit("agent.unpair", name)
    session.done({"ended": ended}, f"the code for {name} is not valid any more" if ended else "no such pairing waits")


@leaf("flowork agent revoke greenhouse", of=command)
@click.argument("name")
@given.yes_option
def revoke(session: Session, name: str, yes: bool) -> None:
    """Take an agent's access away, now. What waits in its outbox stays there until it is paired again."""
    given.confirmed(yes, f"Revoke the agent {name}?")
    session.call("agent_revoke", name=name)
    session.audit("agent.revoke", name)
    session.done({"revoked": name}, f"revoked {name}")


def _row(agent: dict[str, Any]) -> tuple[Any, ...]:
    running = sum(driver["ok"] for driver in agent["drivers"])
    return (
        agent["name"] or "(this machine)",
        "connected" if agent["online"] else out.one_line(agent["text"], 40),
        out.lasted(time.time() - agent["since"]),
        agent["address"],
        f"{running}/{len(agent['drivers'])}",
        agent["waiting"],
        agent["version"],
    )
