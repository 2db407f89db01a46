"""Devices: this engine's side of the edge agents, behind ``ctx.devices``.

The fleet lives in the kernel. The gateway is another process; it asks over ``kernel.sock``
(:mod:`appliance.kernel.fleet_api`), with :class:`appliance.kernel.client.KernelClient`:

``agents {}``
    A list of :class:`appliance.contracts.AgentState`, this machine first.
``devices {agent?}``
    A list of :class:`appliance.contracts.DeviceState`: the entities of the drivers that run, with their last values.
``device_history {agent, driver, config, source}``
    ``[[time, value], …]`` of a number, the last hour.
``device_command {agent, driver, config, command, key?, within?}``
    Answered with the driver's acknowledgement.
``device_look {agent, driver, config, seconds?}``
    Runs a driver for so long, without a flow that wants it: ``{ok, text, devices}``.
``drivers {agent}``
    What an agent could run: ``{type: "" or why not}``.
``agent_pair {name, minutes?}``
    Opens a pairing: ``{name, code, expires, addresses}``. ``agent_pairings {}`` lists the open ones (without codes),
    ``agent_unpair {name}`` ends one that is open, ``agent_revoke {name}`` takes an agent's access away.
``agent_update {name}``
    Offers an agent this engine's own release, ``{version}``; how it goes on is in its state.

Live events go out as those of runs do, at most five times a second: ``{"type": "devices", "agent", "values":
[{"driver", "config", "id", "value", "kind", "time"}, …]}`` for values, ``{"type": "agent", "agent": AgentState}`` when
an agent comes, goes or its drivers change. They are not of a workspace: drivers belong to the engine.
"""
