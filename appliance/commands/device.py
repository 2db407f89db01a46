"""``flowork device``: what hangs on this machine and on edge agents, what it last said, and telling it what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._agents import must_be_paired
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session
from appliance.contracts import ConfigError

if TYPE_CHECKING:
    from appliance.contracts import DeviceState

command = noun(
    "device", "Devices: the entities of the drivers that live flows use, here and on agents.", default="list"
)

_agent = click.option("--agent", help="Only of this agent; '' is this machine.")


@leaf("flowork device list", "flowork device list --agent shed --json", of=command, name="list")
@_agent
def list_(session: Session, agent: str | None) -> None:
    """List the devices with what they last said."""
    found = _states(session, agent)
    where = f" at the agent {agent}" if agent else ""
    if not found and agent:
        must_be_paired(agent, session.call("agents"))
    _tell(
        session,
        found,
        f"no devices{where}: no live flow uses a driver there; `flowork device look DRIVER` runs one",
    )


@leaf(
    "flowork device look sim",
    'flowork device look mqtt_device --config \'{"broker": "mqtt://127.0.0.1:1883"}\'',
    "flowork device look gpio --config '{\"line\": 17}' --agent shed",
    of=command,
)
@click.argument("driver")
@click.option("--config", help="The driver's settings as JSON, @file or -.")
@click.option("--seconds", type=click.FloatRange(0.5, 30), default=5.0, help="For how long.", show_default=True)
@click.option("--agent", default="", help="Where. [default: this machine]")
def look(session: Session, driver: str, config: str | None, seconds: float, agent: str) -> int:
    """Run a driver for some seconds, though no flow uses it, and list what it finds. Exit code 1 if it cannot run."""
    from appliance.gateway.device_views import states

    settings = given.json_argument(config, "--config") or {}
    found = session.call("device_look", seconds + 10.0, agent=agent, driver=driver, config=settings, seconds=seconds)
    session.audit("device.look", driver, {"agent": agent})
    if not session.as_json and not found["ok"]:
        out.say(f"{driver}: {out.plain(found['text'])}", err=True, color="red")
    if session.as_json or found["ok"]:
        _tell(session, states(found["devices"]), f"nothing was found in {seconds:g} s (--seconds: up to 30)")
    return 0 if found["ok"] else 1


@leaf("flowork device show lamp", "flowork device show 5f0c2b7e11a94d03", of=command)
@click.argument("device")
@_agent
def show(session: Session, device: str, agent: str | None) -> None:
    """Show a device, by its id, entity or name: what to write into a flow, and what it takes."""
    from appliance.gateway.device_views import view

    key, state = _find(session, device, agent)
    shown = view(key, state)
    if session.as_json:
        out.emit(shown)
        return
    out.fields(
        [
            ("id", key),
            ("name", shown.name),
            ("agent", shown.agent or "this machine"),
            ("driver", shown.driver),
            ("config", out.encode(shown.config, indent=0)),
            ("entity", shown.entity),
            ("kind", shown.kind),
            ("value", f"{out.short(shown.value)} {shown.unit}".strip() if shown.time else "nothing yet"),
            ("last heard", f"{shown.last}, {out.moment(shown.time)}" if shown.time else ""),
            ("online", "yes" if shown.online else "no"),
            ("takes", out.encode(shown.commands.get("properties", {}), indent=0) if shown.writable else "no commands"),
        ]
    )


@leaf("flowork device history temperature", of=command)
@click.argument("device")
@_agent
def history(session: Session, device: str, agent: str | None) -> None:
    """Show the last hour of a number."""
    _, state = _find(session, device, agent)
    points = session.call(
        "device_history", agent=state.agent, driver=state.driver, config=state.config, source=state.id
    )
    if session.as_json:
        out.emit({"unit": state.unit, "points": points})
    elif not points:
        out.say("no numbers in the last hour")
    else:
        out.table(("time", "value"), [(out.moment(at), f"{value:g} {state.unit}") for at, value in points])


@leaf(
    "flowork device command lamp true",
    "flowork device command light.desk true --set '{\"brightness\": 128}'",
    "flowork device command button press",
    of=command,
    name="command",
)
@click.argument("device")
@click.argument("value", required=False)
@click.option("--set", "also", help="What else, as JSON: brightness, position, temperature.")
@click.option("--timeout", type=click.FloatRange(0.1, 600), default=10.0, help="Seconds for the acknowledgement.")
@_agent
def command_(
    session: Session, device: str, value: str | None, also: str | None, timeout: float, agent: str | None
) -> None:
    """Tell a device what to do. The value is JSON, or text where it is none."""
    from appliance.gateway.device_views import command_to

    _, state = _find(session, device, agent)
    more = given.json_argument(also, "--set") or {}
    if not isinstance(more, dict):
        raise given.BadInput('--set: a JSON object, such as {"brightness": 128}')
    wanted = command_to(state, more) if value is None else command_to(state, more, _value(value))
    answer = session.call(
        "device_command",
        timeout + 5.0,
        agent=state.agent,
        driver=state.driver,
        config=state.config,
        command=wanted,
        within=timeout,
    )
    session.audit("device.command", state.id, {"agent": state.agent, "driver": state.driver})
    session.done(answer, f"done: {out.short(answer, 200)}")


def _states(session: Session, agent: str | None) -> dict[str, DeviceState]:
    from appliance.gateway.device_views import states

    return states(session.call("devices", agent=agent))


def _find(session: Session, device: str, agent: str | None) -> tuple[str, DeviceState]:
    """By id; by entity or name where only one is called so. Raises ``NotFound``, ``ConfigError``."""
    from appliance.store.errors import NotFound

    found = _states(session, agent)
    if device in found:
        return device, found[device]
    fitting = [(key, state) for key, state in found.items() if device in (state.id, state.name)]
    if not fitting:
        raise NotFound(f"there is no device {device!r}; `flowork device list` shows those that there are")
    if len(fitting) > 1:
        ids = ", ".join(f"{key} ({state.name}{state.agent and ' at '}{state.agent})" for key, state in fitting)
        raise ConfigError(f"there are {len(fitting)} devices {device!r}; name one by its id or full name: {ids}")
    return fitting[0]


def _tell(session: Session, found: dict[str, DeviceState], nothing: str) -> None:
    from appliance.gateway.device_views import view

    if session.as_json:
        out.emit({"items": [view(key, state) for key, state in found.items()]})
    elif not found:
        out.say(nothing)
    else:
        out.table(
            ("id", "agent", "driver", "entity", "name", "value", "heard"),
            [_row(key, state) for key, state in found.items()],
        )


def _row(key: str, state: DeviceState) -> tuple[Any, ...]:
    value = f"{out.short(state.value, 24)} {state.unit}".strip() if state.time else ""
    moment = out.moment(state.time) if state.time else ""
    heard = moment if state.online else f"{moment} (off line)".lstrip()
    return key, state.agent or "-", state.driver, state.id, out.one_line(state.name, 32), value, heard


def _value(text: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
