"""Edge agents: the machines that hold the drivers, this one first, and how others are paired with this engine."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, convert

from appliance.contracts import AgentState
from appliance.gateway.common import Body, Query
from appliance.gateway.device_views import without_logins
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.store.errors import NotFound
from appliance.store.records import Page

noun = Noun(
    "agents",
    "Edge agents hold drivers on their machines. This machine's own has no name, and is `-` in addresses. An agent is "
    "paired with a code that is shown once; `flowork-agent pair CODE` on its machine takes it.",
)

_NAME = "^[a-z0-9][a-z0-9_-]{0,39}$"
AgentName = Annotated[str, Meta(pattern=_NAME, description="An agent's name")]
AgentPlace = Annotated[str, Meta(pattern=f"^-$|{_NAME}", description="An agent's name; `-` is this machine")]


class NewPairing(Body, frozen=True):
    """Who is to come in."""

    name: Annotated[str, Meta(pattern=_NAME, description="What the agent will be called")]
    minutes: Annotated[float, Meta(ge=1, le=1440, description="For how long the code is good")] = 10.0


class Pairing(Struct, frozen=True, kw_only=True):
    """A code that is still good, until ``expires`` (Unix seconds)."""

    name: str
    expires: float


class MadePairing(Pairing, frozen=True, kw_only=True):
    """The code, shown this once, and the port at which agents are let in."""

    code: str
    port: int


@noun.get("/agents", permission="devices:read", anywhere=True, errors=(503,))
def list_agents(call: Call[Query, Nothing]) -> Page[AgentState]:
    """This machine first, then all that are paired, by name."""
    return Page(_agents(call))


@noun.get("/agents/pairings", permission="devices:manage", errors=(503,))
def list_pairings(call: Call[Query, Nothing]) -> Page[Pairing]:
    """The pairings that are open, without their codes."""
    return Page([Pairing(**each) for each in call.gateway.call("agent_pairings")])


@noun.post("/agents/pairings", permission="devices:manage", status=201, errors=(409, 422, 503), audit="agent.pair")
def pair(call: Call[Query, NewPairing]) -> MadePairing:
    """Show a code with which an agent may come in. A name that is paired already is paired anew."""
    call.note(call.body.name, minutes=call.body.minutes)
    return MadePairing(**call.gateway.call("agent_pair", name=call.body.name, minutes=call.body.minutes))


@noun.delete("/agents/pairings/{name}", permission="devices:manage", errors=(404, 503), audit="agent.unpair")
def unpair(call: Call[Query, Nothing], name: AgentName) -> None:
    """End a pairing that is open."""
    call.note(name)
    if not call.gateway.call("agent_unpair", name=name)["ended"]:
        raise NotFound(f"no pairing of {name!r} is open")


@noun.get("/agents/{agent}", permission="devices:read", anywhere=True, errors=(404, 503), etag=True)
def show(call: Call[Query, Nothing], agent: AgentPlace) -> AgentState:
    """One agent, with the drivers that run there and those that could."""
    return _find(call, "" if agent == "-" else agent)


@noun.delete("/agents/{agent}", permission="devices:manage", errors=(404, 503), audit="agent.revoke")
def revoke(call: Call[Query, Nothing], agent: AgentName) -> None:
    """Take an agent's access away. What it still keeps for flows is lost to them."""
    call.note(agent)
    _find(call, agent)
    call.gateway.call("agent_revoke", name=agent)


@noun.post(
    "/agents/{agent}/update", permission="devices:manage", status=202, errors=(404, 409, 503), audit="agent.update"
)
def update(call: Call[Query, Nothing], agent: AgentPlace) -> AgentState:
    """Update an agent to this engine's release. `update` of its state says how that goes on, also as live events.

    The agent checks the package, starts it, and is back with it in about a minute; what does not work is rolled back.
    """
    name = "" if agent == "-" else agent
    _find(call, name)
    call.note(agent, version=call.gateway.call("agent_update", name=name)["version"])
    return _find(call, name)


def _agents(call: Call[Any, Any]) -> list[AgentState]:
    return [convert(without_logins(each), AgentState) for each in call.gateway.call("agents")]


def _find(call: Call[Any, Any], name: str) -> AgentState:
    for agent in _agents(call):
        if agent.name == name:
            return agent
    raise NotFound(f"there is no agent {name!r}")
