"""``needs: device:…`` with a real agent and its simulated hardware on the engine that has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.fleet.peers import presence
from tests.support.boxes import box, join, peers_of
from tests.support.flows import flow, node
from tests.support.kernels import LocalKernel, wait_for
from tests.support.local_agent import LocalAgent

BOARD = {"driver": "sim", "config": {"name": "board", "interval": 0.1}}


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LocalKernel, LocalKernel]]:
    """A box at home, and a robot with an agent that has a board."""
    monkeypatch.setattr(presence, "OFFER_EVERY", 0.2)
    made = [box(tmp_path, "home"), box(tmp_path, "robot")]
    join(*made)
    yield made[0], made[1]
    for each in made:
        each.close()


def offered(home: LocalKernel) -> tuple[str, ...]:
    return tuple(peers_of(home)["robot"]["offers"]["devices"])


def lamp(robot: LocalKernel) -> Any:
    """What the board's lamp is, as the robot's own engine knows it."""
    assert robot.kernel is not None and robot.kernel.fleet is not None
    found = {entity.id: entity.value for entity in robot.kernel.fleet.entities() if entity.driver == "sim"}
    return found.get("lamp")


def watched(robot: LocalKernel) -> None:
    """The robot has a flow of its own that watches the board, so its entities are known."""
    trigger = {"id": "t1", "type": "device", "config": {**BOARD, "entity": "button"}}
    robot.deploy(flow(node("log", "log", {"message": "pressed"}), triggers=[trigger]))
    robot.client.call("reload")


@pytest.mark.timeout(180)
def test_a_step_switches_the_lamp_of_the_engine_that_has_the_board(boxes: tuple[LocalKernel, LocalKernel]) -> None:
    home, robot = boxes
    watched(robot)
    config = {**BOARD, "entity": "lamp", "value": True, "repeatable": True}
    light = {**node("light", "device_command", config), "needs": "device:lamp", "timeout": "60s"}
    number = home.deploy(flow(light))
    home.client.call("reload")
    # nobody has it: the step waits, and holds nothing
    early = home.submit(number)["run"]
    wait_for(lambda: home.client.call("placements")["steps"])
    with LocalAgent(robot.data) as agent:
        wait_for(lambda: any(device.endswith("/sim/lamp") for device in offered(home)))
        wait_for(lambda: home.states(number) == ["succeeded"])
        wait_for(lambda: lamp(robot) is True)
        places = [
            record.extra["where"]["engine"] for record in home.detail(early).records if "where" in (record.extra or {})
        ]
        assert places == ["robot"]
        # its agent dies: what is asked for meanwhile waits for it, and is done once it is back
        agent.kill()
        wait_for(lambda: not any("/sim" in device for device in offered(home)))
        home.submit(number)
        wait_for(lambda: home.client.call("placements")["steps"])
        assert home.states(number) == ["succeeded", "waiting"]
        agent.start()
        wait_for(lambda: home.states(number) == ["succeeded", "succeeded"])
    assert len(robot.states()) >= 2, "each was a run of the robot's, too"
