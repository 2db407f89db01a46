"""What the gateway and the command line may ask of the fleet, over the kernel's socket.

Calls are answered on the socket's thread; a command when the driver has answered.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from appliance.contracts import ConfigError
from appliance.fleet.codes import MINUTES, OpenPairing
from appliance.fleet.fleet import Fleet
from appliance.kernel.server import BadRequest, Handler, Params, Reply

Name = Annotated[str, Meta(max_length=40)]


class Devices(Struct, kw_only=True):
    """The parameters of ``devices``."""

    agent: Name | None = None


class History(Struct, kw_only=True):
    """The parameters of ``device_history``."""

    agent: Name
    driver: str
    config: dict[str, Any]
    source: str


class Command(Struct, kw_only=True):
    """The parameters of ``device_command``, which has to be acknowledged ``within`` so many seconds."""

    agent: Name
    driver: str
    config: dict[str, Any]
    command: dict[str, Any]
    key: str = ""
    within: Annotated[float, Meta(gt=0, le=600)] = 10.0


class Look(Struct, kw_only=True):
    """The parameters of ``device_look``."""

    agent: Name
    driver: str
    config: dict[str, Any]
    seconds: Annotated[float, Meta(gt=0, le=60)] = 5.0


class Pair(Struct, kw_only=True):
    """The parameters of ``agent_pair``."""

    name: str
    minutes: float = MINUTES


class Named(Struct, kw_only=True):
    """The parameters of what is done to one agent."""

    name: Name


class FleetApi:
    """The methods by name. Raises ``FlowError`` for what cannot be done."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def methods(self) -> dict[str, Handler]:
        return {
            "agents": self._agents,
            "devices": self._devices,
            "device_history": self._history,
            "device_command": self._command,
            "device_look": self._look,
            "drivers": self._drivers,
            "agent_pair": self._pair,
            "agent_pairings": self._pairings,
            "agent_unpair": self._unpair,
            "agent_revoke": self._revoke,
            "agent_update": self._update,
        }

    def _agents(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self._fleet.agents()))

    def _devices(self, params: Params, reply: Reply) -> None:
        reply.ok(msgspec.to_builtins(self._fleet.entities(_form(params, Devices).agent)))

    def _history(self, params: Params, reply: Reply) -> None:
        asked = _form(params, History)
        reply.ok(self._fleet.history(asked.agent, asked.driver, asked.config, asked.source))

    def _command(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Command)

        def done(value: Any, error: BaseException | None) -> None:
            if error is not None:
                reply.error(error)
            else:
                reply.ok(value)

        self._fleet.command(
            asked.agent, asked.driver, asked.config, asked.command, asked.key, asked.within, repeatable=not asked.key
        ).then(done)

    def _look(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Look)
        self._fleet.look(asked.agent, asked.driver, asked.config, asked.seconds).then(lambda found, _: reply.ok(found))

    def _drivers(self, params: Params, reply: Reply) -> None:
        name = _form(params, Named).name
        agent = next((agent for agent in self._fleet.agents() if agent.name == name), None)
        if agent is None:
            raise ConfigError(f"there is no agent {name!r}")
        reply.ok(agent.available)

    def _pair(self, params: Params, reply: Reply) -> None:
        asked = _form(params, Pair)
        made = self._fleet.door.pair(asked.name, asked.minutes)
        reply.ok({**_view(made), "code": made.code, "port": self._fleet.door.port})

    def _pairings(self, params: Params, reply: Reply) -> None:
        reply.ok([_view(each) for each in self._fleet.door.pairings()])

    def _unpair(self, params: Params, reply: Reply) -> None:
        reply.ok({"ended": self._fleet.door.unpair(_form(params, Named).name)})

    def _revoke(self, params: Params, reply: Reply) -> None:
        self._fleet.revoke(_form(params, Named).name)
        reply.ok()

    def _update(self, params: Params, reply: Reply) -> None:
        def offered(version: Any, error: BaseException | None) -> None:
            if error is not None:
                reply.error(error)
            else:
                reply.ok({"version": version})

        self._fleet.update(_form(params, Named).name).then(offered)


def fleet_methods(fleet: Fleet | None) -> dict[str, Handler]:
    """The methods; none in a kernel without a fleet."""
    return {} if fleet is None else FleetApi(fleet).methods()


def _view(pairing: OpenPairing[Any]) -> dict[str, Any]:
    return {"name": pairing.name, "expires": round(time.time() + pairing.expires - time.monotonic())}


def _form(params: Params, form: type[Any]) -> Any:
    try:
        return msgspec.convert(params, form)
    except msgspec.ValidationError as exc:
        raise BadRequest(str(exc)) from None
