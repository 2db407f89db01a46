"""Devices through the whole engine: ``flowork up`` with its own agent, and processes that are killed in between."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from drivers.mqtt_device import MqttDevice, MqttDeviceConfig
from tests.drivers import announcements as said
from tests.drivers.host import FakeHost
from tests.support.appliance import Appliance
from tests.support.broker import Mosquitto, Peer, eventually
from tests.support.flows import compute, flow, node

SIM = {"name": "test", "interval": 3600}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Appliance]:
    with Appliance(tmp_path / "FloworkData") as appliance:
        eventually(lambda: appliance.json("agent", "list")["items"][0]["online"], "the agent is on line")
        yield appliance


def triggers(engine: Appliance, name: str) -> list[dict[str, Any]]:
    """The flow's triggers; the command's exit code says whether one fails."""
    answer = engine.flowork("trigger", "list", "--flow", name, "--json", check=False)
    found: list[dict[str, Any]] = json.loads(answer.stdout)["items"]
    return found


def trigger(kind: str, **config: Any) -> dict[str, Any]:
    return {"id": "t1", "type": kind, "config": config}


def deploy(engine: Appliance, name: str, *nodes: dict[str, Any], **more: Any) -> None:
    """Deploy a flow and wait until its triggers are attached."""
    file = engine.data.parent / f"{name}.json"
    file.write_text(json.dumps(flow(*nodes, name=name, **more)))
    engine.flowork("flow", "deploy", str(file))

    def attached() -> bool:
        found = triggers(engine, name)
        return bool(found) and all(each["ok"] for each in found)

    eventually(attached, f"{name}'s triggers are attached")


def runs(engine: Appliance, name: str, state: str = "succeeded") -> list[dict[str, Any]]:
    """The flow's runs in that state, oldest first, with their outputs."""
    found = engine.json("runs", "--flow", name, "--state", state, "--limit", "500")["items"]
    return list(reversed(found))


def output(engine: Appliance, run: dict[str, Any], step: str) -> Any:
    """What a step returned."""
    return engine.json("show", run["id"], "--step", step)["output"]


def lamp(engine: Appliance) -> Any:
    return engine.json("device", "show", "lamp")["value"]


def press(engine: Appliance) -> None:
    engine.flowork("device", "command", "button", "press")


def test_a_press_lights_the_lamp_whoever_dies_in_between(engine: Appliance) -> None:
    light = node("light", "device_command", {"driver": "sim", "config": SIM, "entity": "lamp", "value": True})
    hold = node("hold", "delay", {"for": "1s"})
    deploy(engine, "press", hold, light, triggers=[trigger("device", driver="sim", config=SIM, events=["pressed"])])
    assert lamp(engine) is False
    press(engine)
    eventually(lambda: runs(engine, "press", "waiting") or runs(engine, "press"), "the press began a run")
    engine.kill("kernel")
    eventually(lambda: runs(engine, "press"), "the run went on")
    eventually(lambda: lamp(engine) is True, "the lamp is lit")
    # Pressed while no kernel is there to hear it.
    engine.kill("kernel", "agent")
    eventually(lambda: engine.flowork("agent", "list", check=False).returncode == 0, "the kernel is back")
    eventually(lambda: engine.json("agent", "list")["items"][0]["online"], "the agent is on line again")
    eventually(lambda: engine.json("device", "list")["items"], "the board is there again")
    for _ in range(3):
        press(engine)
    eventually(lambda: len(runs(engine, "press")) == 4, "each press is one run")
    assert len(engine.json("runs", "--flow", "press")["items"]) == 4


def test_a_file_starts_a_run_also_one_that_came_while_nobody_looked(engine: Appliance, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    deploy(
        engine,
        "inbox",
        compute("name", "payload.value.name"),
        triggers=[trigger("file", folder=str(inbox), patterns=["*.csv"], events=["created"])],
    )
    (inbox / "one.csv").write_text("a,b\n")
    (inbox / "ignored.txt").write_text("")
    eventually(lambda: len(runs(engine, "inbox")) == 1, "the first file")
    engine.stop()
    (inbox / "two.csv").write_text("c,d\n")
    engine.start()
    eventually(lambda: len(runs(engine, "inbox")) == 2, "the file that came meanwhile")
    names = [output(engine, run, "name") for run in runs(engine, "inbox")]
    assert names == ["one.csv", "two.csv"]


def test_the_end_of_a_program_starts_a_run(engine: Appliance) -> None:
    marker = f"flowork-test-{os.getpid()}"
    watching = trigger("process", cmdline=f"*{marker}*", events=["started", "exited"], options={"poll": 0.05})
    deploy(engine, "program", compute("kind", "payload.kind"), triggers=[watching])
    child = subprocess.Popen([sys.executable, "-c", "input()", marker], stdin=subprocess.PIPE)
    eventually(lambda: len(runs(engine, "program")) == 1, "it was seen to start")
    child.communicate(b"\n")
    eventually(lambda: len(runs(engine, "program")) == 2, "it was seen to end")
    assert [output(engine, run, "kind") for run in runs(engine, "program")] == ["started", "exited"]


def test_a_line_on_a_serial_port_is_answered_there(engine: Appliance) -> None:
    near, far = pty.openpty()
    tty.setraw(far)
    port = {"port": os.ttyname(far), "baud": 9600}
    try:
        answer = node("answer", "serial_write", {**port, "value": "heard {{ payload.value }}"})
        deploy(engine, "echo", answer, triggers=[trigger("serial", **port)])
        for word in (b"hello", b"again"):
            os.write(near, word + b"\n")
            heard = b""
            while not heard.endswith(b"\n"):
                heard += os.read(near, 1000)
            assert heard == b"heard " + word + b"\n"
        eventually(lambda: len(runs(engine, "echo")) == 2, "both runs ended")
    finally:
        for fd in (near, far):
            with suppress(OSError):
                os.close(fd)


def test_a_zigbee_plug_follows_a_thermometer(engine: Appliance, tmp_path: Path) -> None:
    plug = "switch.0x0017880104e45524_switch_zigbee2mqtt"
    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        for topic, payload in (said.Z2M_TEMPERATURE, said.Z2M_PLUG):
            peer.publish(topic, payload, retain=True)
        hub = {"driver": "mqtt_device", "config": {"broker": broker.url}}
        temperature = "sensor.*_temperature_zigbee2mqtt"
        warm = node("warm", "condition", {"when": "payload.value > 25"})
        switch = node("switch", "device_command", {**hub, "entity": plug, "value": True, "repeatable": True})
        links = [{"from": "warm", "to": "switch", "port": "true"}]
        deploy(engine, "fan", warm, switch, links=links, triggers=[trigger("device", **hub, entity=temperature)])
        eventually(lambda: len(engine.json("device", "list")["items"]) == 2, "both are found")
        peer.subscribe("zigbee2mqtt/plug/set")
        for value in (21, 28):
            peer.publish("zigbee2mqtt/weather_sensor", json.dumps({"temperature": value}))
        assert peer.next() == ("zigbee2mqtt/plug/set", b"ON")
        peer.publish("zigbee2mqtt/plug", '{"state": "ON"}')
        eventually(lambda: len(runs(engine, "fan")) == 2, "both readings are runs")
        shown = engine.json("device", "show", plug)
        assert (shown["name"], shown["value"]) == ("plug", True)
        assert shown["online"] is True
        peer.publish("zigbee2mqtt/bridge/state", '{"state": "offline"}', retain=True)
        eventually(lambda: engine.json("device", "show", plug)["online"] is False, "it is seen to be off line")
        assert "is off line" in engine.flowork("device", "command", plug, "true", check=False).stderr
        found = engine.json("device", "history", "sensor.0x0017880104e45522_temperature_zigbee2mqtt")
        assert [value for _, value in found["points"]][-1] == 28


def test_two_flows_that_want_one_thing_differently_are_told_so(engine: Appliance) -> None:
    one, other = {"name": "claimed", "interval": 60}, {"name": "claimed", "interval": 61}
    deploy(engine, "first", compute("a", "1"), triggers=[trigger("device", driver="sim", config=one)])
    file = engine.data.parent / "second.json"
    body = flow(compute("a", "1"), name="second", triggers=[trigger("device", driver="sim", config=other)])
    file.write_text(json.dumps(body))
    told = engine.flowork("flow", "deploy", str(file), check=False)
    assert told.returncode != 0
    assert "triggers[0].config" in told.stderr
    assert "sim:claimed is used by flow 'first'" in told.stderr
    engine.flowork("flow", "undeploy", "first")
    engine.flowork("flow", "deploy", str(file))
    eventually(
        lambda: [each["ok"] for each in triggers(engine, "second")] == [True],
        "it has its turn",
    )


def test_home_assistant_sees_the_flows_and_runs_them(engine: Appliance, tmp_path: Path) -> None:
    deploy(engine, "greet", compute("hello", "'hello'"), triggers=[trigger("manual")])
    with Mosquitto(tmp_path, users={"flowork": "hunter2"}) as broker:
        engine.flowork("secret", "set", "broker", stdin="hunter2")
        url = f"mqtt://flowork:{{{{ secrets.broker }}}}@127.0.0.1:{broker.port}"
        engine.flowork("settings", "set", f"announce_broker={url}")
        engine.stop()
        engine.start()
        driver = MqttDevice(MqttDeviceConfig(broker=broker.login("flowork", "hunter2")), FakeHost(tmp_path))
        try:
            driver.open()
            found = eventually(lambda: {each.name.partition(" ")[2]: each.id for each in driver.entities()})
            (run,) = [place for name, place in found.items() if name.endswith("greet: run")]
            (switch,) = [place for name, place in found.items() if name.endswith(" greet")]
            driver.write({"entity": run, "value": "press"})
            eventually(lambda: len(runs(engine, "greet")) == 1, "the button began a run")
            driver.write({"entity": switch, "value": False})
            assert engine.json("audit", "list")["items"][0]["action"] == "flow.disable"
            eventually(lambda: triggers(engine, "greet") == [], "its triggers are off")
        finally:
            driver.close()
