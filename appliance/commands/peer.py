"""``flowork peer``: other engines on the network, and what they may do here."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

#: Seconds between two looks at who has come, or was found.
_PACE = 0.3
_RIGHTS = ("run", "models", "events", "flows")

command = noun("peer", "Peers: other engines on the network that this one works with.", default="list")

_name_option = click.option("--name", default="", help="What it is called here; else as it calls itself.")
_allow_option = click.option(
    "--allow",
    "rights",
    multiple=True,
    type=click.Choice([*_RIGHTS, "nothing"]),
    help="What it may do here: run steps, ask models, send events, copy flows; models if nothing is said. Repeatable.",
)
_workspace_option = click.option(
    "--workspace",
    "workspaces",
    multiple=True,
    help="Workspace in which it may run steps, send events, copy flows; `*`: all. Default: `default`. Repeatable.",
)


@leaf("flowork peer list", "flowork peer list --json", of=command, name="list")
def list_(session: Session) -> None:
    """List the engines that are paired with this one, and those that were found on the network."""
    peers, waiting = session.call("peers"), session.call("peer_pairings")
    if session.as_json:
        out.emit({"items": peers, "pairings": waiting})
        return
    head = ("name", "state", "since", "address", "may here", "may there", "version", "id")
    out.table(head, [_row(peer) for peer in peers])
    for peer in peers:
        if peer["hint"]:
            out.say(out.plain(f"{peer['name']}: {peer['text']}. {_sentence(peer['hint'])}"))
    for each in waiting:
        out.say(f"{each['name'] or 'a peer'}: waits to be paired until {out.moment(each['expires'])}")


@leaf("flowork peer find", of=command)
@click.option("--for", "length", type=given.Length(), default="4s", help="How long to look.")
def find(session: Session, length: float) -> None:
    """Look who is on the network: engines that announce themselves, and the addresses in the setting `peers`."""
    session.call("peer_look")
    until, gate = time.monotonic() + min(length, 60.0), threading.Event()
    while time.monotonic() < until:
        gate.wait(_PACE)
    found = [peer for peer in session.call("peers") if peer["state"] in ("found", "clone") and not peer["paired"]]
    if session.as_json:
        out.emit({"items": found})
        return
    out.table(
        ("name", "id", "fingerprint", "address", "version", "models"),
        [
            (
                peer["name"],
                peer["id"],
                peer["fingerprint"][:16],
                peer["addresses"][0] if peer["addresses"] else "",
                peer["version"],
                out.one_line(", ".join(model["name"] for model in peer["offers"]["models"]), 40),
            )
            for peer in found
        ],
    )


@leaf("flowork peer show laptop", of=command)
@click.argument("peer")
def show(session: Session, peer: str) -> None:
    """Show one engine: who it is, what it may do here and what this one may do there, what it has."""
    state = _find(session, peer)
    if session.as_json:
        out.emit(state)
        return
    offers, here = state["offers"], state["state"] == "self"
    out.fields(
        [
            ("name", state["name"]),
            ("calls itself", state["calls_itself"]),
            ("id", state["id"]),
            ("fingerprint", state["fingerprint"]),
            ("state", f"{state['state']}: {state['text']}"),
            ("to do", state["hint"]),
            ("since", out.moment(state["since"])),
            ("paired", out.moment(state["paired"]) if state["paired"] else "" if here else "no"),
            ("addresses", ", ".join(state["addresses"])),
            ("panel", state["url"]),
            ("may here", _may(state["roles"]) if state["paired"] else ""),
            ("this engine may there", _may(state["allows"]) if state["paired"] else ""),
            ("clock ahead by", f"{state['offset']:.3f} s" if state["latency"] else ""),
            ("models", ", ".join(model["name"] for model in offers["models"])),
            ("devices", ", ".join(offers["devices"])),
            ("memory free", out.size(offers["memory_free"])),
            ("load per core", f"{offers['load']:.1f} of {offers['cores']} cores"),
            ("version", state["version"]),
        ]
    )


@leaf("flowork peer pair", "flowork peer pair --name laptop --allow run --allow models --workspace home", of=command)
@_name_option
@_allow_option
@_workspace_option
@click.option("--for", "length", type=given.Length(), default="30m", help="How long the code is valid.")
@click.option("--no-wait", is_flag=True, help="Do not wait until somebody has come.")
def pair(
    session: Session, name: str, rights: tuple[str, ...], workspaces: tuple[str, ...], length: float, no_wait: bool
) -> int:
    """Show a code with which one other engine can be paired with this one.

    There: `flowork peer join CODE`. What it may do here is said with --allow, now or later (`flowork peer allow`); what
    this engine may do there is said over there. Ctrl-C ends the waiting and not the code, `flowork peer unpair` does.
    Exit code 1 if nobody came while it was waited for.
    """
    before = {peer["id"]: peer["paired"] for peer in session.call("peers")}
    made = session.call("peer_pair", name=name, minutes=length / 60, roles=_roles(rights, workspaces))
    session.audit("peer.pair", name, {"minutes": round(length / 60, 1), **made["roles"]})
    if session.as_json and no_wait:
        out.emit(made)
        return 0
    if not session.as_json:
        fields = [("code", made["code"]), ("valid until", out.moment(made["expires"])), ("port", made["port"])]
        out.fields([*fields, ("it may here", _may(made["roles"]))])
        session.note(f"on the other engine: flowork peer join {made['code']}")
    if no_wait:
        return 0
    came = _wait_for(session, before, made["expires"])
    if came is None:
        session.done({**made, "peer": None}, "nobody has come with this code")
        return 1
    session.done({**made, "peer": came}, f"paired with {_who(came)}")
    return 0


@leaf("flowork peer unpair", "flowork peer unpair laptop", of=command)
@click.argument("name", default="")
def unpair(session: Session, name: str) -> None:
    """End a pairing that waits (the one without a name, if none is given): its code is not valid any more."""
    ended = session.call("peer_unpair", name=name)["ended"]
    if ended:
        session.audit("peer.unpair", name)
    session.done({"ended": ended}, "the code is not valid any more" if ended else "no such pairing waits")


@leaf("flowork peer join 3-482-913", "flowork peer join 3-482-913 192.168.1.20 --allow run", of=command)
@click.argument("code")
@click.argument("address", default="")
@_name_option
@_allow_option
@_workspace_option
def join(
    session: Session, code: str, address: str, name: str, rights: tuple[str, ...], workspaces: tuple[str, ...]
) -> None:
    """Pair with the engine that shows the code (`flowork peer pair` there): at an address, or wherever it is found.

    --allow says what that engine may do here. What this one may do there its owner says.
    """
    roles = _roles(rights, workspaces)
    peer = session.call("peer_join", 60.0, code=code, address=address, name=name, roles=roles)
    session.audit("peer.join", peer["id"], {"name": peer["name"], **peer["roles"]})
    session.done(peer, f"paired with {_who(peer)}; it may here: {_may(peer['roles'])}")


@leaf("flowork peer allow laptop --allow run --allow models", "flowork peer allow laptop --allow nothing", of=command)
@click.argument("peer")
@_allow_option
@_workspace_option
def allow(session: Session, peer: str, rights: tuple[str, ...], workspaces: tuple[str, ...]) -> None:
    """Say what a peer may do here, from now on: exactly what is named, and nothing else."""
    if not rights:
        raise given.BadInput("say what it may: --allow run, models, events, flows, or nothing")
    state = session.call("peer_allow", peer=peer, roles=_roles(rights, workspaces))
    session.audit("peer.allow", state["id"], {"name": state["name"], **state["roles"]})
    session.done(state, f"{state['name']} may here: {_may(state['roles'])}")


@leaf("flowork peer rename laptop den", of=command)
@click.argument("peer")
@click.argument("name")
def rename(session: Session, peer: str, name: str) -> None:
    """Call a peer otherwise, on this engine. What flows name stays as it was written."""
    state = session.call("peer_rename", peer=peer, name=name)
    session.audit("peer.rename", state["id"], {"name": name})
    session.done(state, f"{peer} is called {name} here")


@leaf("flowork peer revoke laptop", of=command)
@click.argument("peer")
@given.yes_option
def revoke(session: Session, peer: str, yes: bool) -> None:
    """End the pairing with a peer, now: the link is cut, and neither lets the other in any more."""
    given.confirmed(yes, f"End the pairing with {peer}?")
    state = session.call("peer_revoke", peer=peer)
    session.audit("peer.revoke", state["id"], {"name": state["name"]})
    session.done({"revoked": state["name"], "id": state["id"]}, f"the pairing with {state['name']} is ended")


@leaf("flowork peer moved laptop", of=command)
@click.argument("peer")
def moved(session: Session, peer: str) -> None:
    """Let a peer in from other hardware: its data folder was moved there for good (and is not a copy)."""
    state = session.call("peer_moved", peer=peer)
    session.audit("peer.moved", state["id"], {"name": state["name"]})
    session.done(state, f"{state['name']} is let in from the machine that it is on now")


@leaf("flowork peer new-identity", of=command)
@given.yes_option
def new_identity(session: Session, yes: bool) -> None:
    """Make a copied data folder an engine of its own: a new id and new keys, known to no peer and no agent.

    Flows, history, secrets and people stay; who was signed in signs in again. The engine must not be running. Its flows
    would do everything a second time beside the original's: it begins in safe mode; `flowork safe-mode off` ends that.
    """
    from appliance.paths import EngineLock
    from appliance.safemode import SafeMode
    from appliance.security.keys import new_identity as make
    from appliance.security.keys import read_engine

    folder = session.need_engine()
    given.confirmed(yes, f"Give the engine in {folder} a new identity? Peers and agents have to be paired anew.")
    with EngineLock(folder, "kernel"), EngineLock(folder, "gateway"):
        before = read_engine(folder).id
        made = make(folder)
        SafeMode(folder).enter("it has a new identity: its flows would do everything that the original does once more")
        session.audit("engine.new-identity", made.id, {"before": before})
    session.done({"id": made.id, "before": before}, f"this engine is {made.id} now; it was {before}")


def _roles(rights: tuple[str, ...], workspaces: tuple[str, ...]) -> dict[str, Any] | None:
    """What was said on the command line; None if nothing."""
    if not rights:
        if workspaces:
            raise given.BadInput("--workspace says where; say what it may do there with --allow")
        return None
    if "nothing" in rights:
        if len(rights) > 1:
            raise given.BadInput("--allow nothing goes with no other")
        return {"rights": [], "workspaces": []}
    where = workspaces or (("default",) if set(rights) - {"models"} else ())
    return {"rights": sorted(set(rights)), "workspaces": sorted(set(where))}


def _wait_for(session: Session, before: Mapping[str, float], expires: float) -> dict[str, Any] | None:
    """Who has come with the code; None if it is not valid any more."""
    gate = threading.Event()
    while True:
        for peer in session.call("peers"):
            if peer["paired"] and peer["paired"] != before.get(peer["id"]):
                found: dict[str, Any] = peer
                return found
        if time.time() > expires + 1:
            return None
        gate.wait(_PACE)


def _find(session: Session, name: str) -> dict[str, Any]:
    from appliance.store.errors import NotFound

    for peer in session.call("peers"):
        if name in (peer["name"], peer["id"]):
            found: dict[str, Any] = peer
            return found
    raise NotFound(f"there is no peer {name!r}; `flowork peer list` names them")


def _who(peer: Mapping[str, Any]) -> str:
    return f"{peer['name']} (id {peer['id']}, fingerprint {peer['fingerprint'][:16]}…)"


def _may(roles: Mapping[str, Any]) -> str:
    where = ", ".join(sorted(roles["workspaces"]))
    bound = set(roles["rights"]) - {"models"}
    said = ", ".join(sorted(roles["rights"])) or "nothing"
    return f"{said} (in {where or 'no workspace'})" if bound else said


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _row(peer: Mapping[str, Any]) -> tuple[Any, ...]:
    paired = bool(peer["paired"])
    return (
        peer["name"],
        "this engine" if peer["state"] == "self" else peer["state"],
        out.lasted(time.time() - peer["since"]),
        peer["address"] or (peer["addresses"][0] if peer["addresses"] else ""),
        _may(peer["roles"]) if paired else "",
        _may(peer["allows"]) if paired else "",
        peer["version"],
        peer["id"],
    )
