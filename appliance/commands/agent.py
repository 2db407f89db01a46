"""``flowork agent``: edge agents, the machines whose pins, ports and files flows see."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._agents import must_be_paired
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

#: Seconds between two looks at an update, and those that one may take in all.
_PACE, _LONGEST = 0.5, 3600.0
#: How an update can have ended.
_ENDS = ("updated", "refused", "rolled back")

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
    if not session.call("agent_unpair", name=name)["ended"]:
        from appliance.store.errors import NotFound

        raise NotFound(f"no pairing waits under the name {name!r}")
    session.audit("agent.unpair", name)
    session.done({"ended": True}, f"the code for {name} is not valid any more")


@leaf("flowork agent revoke greenhouse", of=command)
@click.argument("name")
@given.yes_option
def revoke(session: Session, name: str, yes: bool) -> None:
    """Take an agent's access away, now. What waits in its outbox stays there until it is paired again."""
    must_be_paired(name, session.call("agents"))
    given.confirmed(yes, f"Revoke the agent {name}?")
    session.call("agent_revoke", name=name)
    session.audit("agent.revoke", name)
    session.done({"revoked": name}, f"revoked {name}")


@leaf("flowork agent update greenhouse", "flowork agent update --all --no-wait", of=command)
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="All that are connected and have an older version.")
@click.option("--no-wait", is_flag=True, help="Only begin; `flowork agent list` shows how it goes on.")
def update(session: Session, name: str | None, every: bool, no_wait: bool) -> int:
    """Update an agent to this engine's release, and see it through. Exit code 1 if it was not updated.

    The agent checks the package, starts it, and shows for a minute that it is well; else it goes back by itself.
    """
    if (name is None) != every:
        raise given.BadInput("name an agent, or say --all")
    agents = {agent["name"]: agent for agent in session.call("agents") if agent["name"]}
    if name is not None:
        must_be_paired(name, agents.values())
    chosen = [name] if name is not None else [each for each, agent in agents.items() if _can_have(agent)]
    if every and not chosen:
        session.done({"items": []}, "no connected agent has an older version than this engine")
        return 0
    for each in chosen:
        version = session.call("agent_update", 60.0, name=each)["version"]
        session.audit("agent.update", each, {"version": version})
        session.note(f"{each}: is offered version {version}")
    before = {each: agents.get(each, {}).get("update") for each in chosen}
    ends = {} if no_wait else _see_through(session, before)
    if session.as_json:
        out.emit({"items": [{"name": each, "update": ends.get(each)} for each in chosen]})
    return 0 if no_wait or all(end["phase"] == "updated" for end in ends.values()) else 1


def _can_have(agent: Mapping[str, Any]) -> bool:
    return bool(agent["newer"] and agent["online"])


def _see_through(session: Session, before: Mapping[str, Any]) -> dict[str, Any]:
    """Tell of each update until all have ended; how. ``before`` is what had come of an earlier one."""
    ends: dict[str, Any] = {}
    told: dict[str, str] = {}
    until, gate = time.monotonic() + _LONGEST, threading.Event()
    while len(ends) < len(before) and time.monotonic() < until:
        for agent in session.call("agents"):
            name, state = agent["name"], agent["update"]
            if name not in before or name in ends or state is None or state == before[name]:
                continue
            text = out.plain(f"{name}: {state['phase']}{_more(state)}")
            if text != told.get(name):
                told[name] = text
                session.note(text)
            if state["phase"] in _ENDS:
                ends[name] = state
        gate.wait(_PACE)
    for name in before.keys() - ends.keys():
        ends[name] = {"phase": "refused", "text": "nothing was heard of it for an hour"}
        session.note(f"{name}: nothing was heard of it for an hour")
    return ends


def _more(state: Mapping[str, Any]) -> str:
    if state["phase"] == "receiving":
        return f" {state['percent']} %"
    return f", {state['text']}" if state["text"] else ""


def _row(agent: dict[str, Any]) -> tuple[Any, ...]:
    running = sum(driver["ok"] for driver in agent["drivers"])
    return (
        agent["name"] or "(this machine)",
        "connected" if agent["online"] else out.one_line(agent["text"], 40),
        out.lasted(time.time() - agent["since"]),
        agent["address"],
        f"{running}/{len(agent['drivers'])}",
        agent["waiting"],
        f"{agent['version']} ({agent['newer']} is there)" if agent["newer"] else agent["version"],
    )
