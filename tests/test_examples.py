"""Every flow in examples/ is valid on a fresh machine and really runs, in a real kernel.

What an example asks of the world stands on loopback: a real Mosquitto, a web server in the place of the web sites.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.plan import plan_flow
from appliance.engine.trace import records_of
from appliance.engine.validate import validate
from appliance.registry import Registry
from appliance.store.runids import from_text
from appliance.triggers import start
from appliance.world import Machine
from tests.ai.agents.scripted import Scripted, answer, use
from tests.support.broker import Mosquitto, Peer, eventually
from tests.support.cloud import cloud
from tests.support.house import House
from tests.support.local_agent import LocalAgent
from tests.support.web import WebServer, web_server

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
#: Each has a test below that runs it; a new example needs one too.
RUN_BELOW: set[str] = set()


def example(name: str, **instead: str) -> dict[str, Any]:
    """An example's JSON, with addresses of the world replaced by our own."""
    text = (EXAMPLES / f"{name}.json").read_text()
    for there, here in instead.items():
        assert there in text, f"{name} does not mention {there}"
        text = text.replace(there, here)
    body: dict[str, Any] = json.loads(text)
    return body


def runs(name: str) -> Any:
    """Marks the test that runs an example."""
    RUN_BELOW.add(name)
    return lambda test: test


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as house:
        yield house


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as web:
        yield web


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_says_what_it_is_for(name: str) -> None:
    body, registry = example(name), Registry().scan()
    assert validate(body, registry, Machine(lambda flow: False)) == []
    assert plan_flow(body, registry).graphs[""].nodes
    assert 100 < len(body["description"]) < 600
    assert body["tags"]


def test_each_example_is_in_the_table_and_runs_below() -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert len(NAMES) >= 8
    assert [name for name in NAMES if f"({name}.json)" not in index] == []
    assert set(NAMES) == RUN_BELOW


@runs("greenhouse-guard")
def test_greenhouse_guard(house: House, broker: Mosquitto) -> None:
    flow = house.deploy(mqtt_example("greenhouse-guard", broker))
    with Peer(broker) as peer:
        peer.subscribe("greenhouse/bed1/fan")
        peer.subscribe("home/alarms")
        peer.publish("greenhouse/bed1/temp", '{"t": 31.5}')
        peer.publish("greenhouse/bed2/temp", '{"t": 33}')
        eventually(lambda: house.waiting() == 2)
        peer.publish("greenhouse/bed2/temp", '{"t": 25}')
        eventually(lambda: house.waiting() == 1)
        assert peer.empty()
        house.pass_time(121)
        messages = dict([peer.next(), peer.next()])
    assert messages["greenhouse/bed1/fan"] == b"on"
    assert json.loads(messages["home/alarms"])["text"] == "31.5 °C in bed1 for two minutes"
    assert {run.state for run in house.ended if run.flow == flow.id} == {"succeeded"}


@runs("room-average")
def test_room_average(house: House, broker: Mosquitto) -> None:
    flow = house.deploy(mqtt_example("room-average", broker))
    with Peer(broker) as peer:
        peer.subscribe("rooms/+/mean")
        for value in ("20", "21", "22.5"):
            peer.publish("rooms/bath/temp", value)
        house.outcome(flow, 2)
        house.pass_time(61)
        peer.publish("rooms/bath/temp", "23")
        means = [json.loads(peer.next()[1]) for _ in range(2)]
    assert [(mean["mean"], mean["count"]) for mean in means] == [(20, 1), (21.62, 4)]


@runs("fridge-door")
def test_fridge_door(house: House, broker: Mosquitto) -> None:
    flow = house.deploy(mqtt_example("fridge-door", broker))
    with Peer(broker) as peer:
        peer.subscribe("home/alarms")
        peer.publish("home/fridge/opened", '{"door": "upper"}')
        eventually(lambda: house.waiting() == 1)
        peer.publish("home/fridge/closed", '{"door": "lower"}')
        peer.publish("home/fridge/closed", '{"door": "upper"}')
        assert house.outcome(flow).state == "succeeded"
        peer.publish("home/fridge/opened", '{"door": "lower"}')
        eventually(lambda: house.waiting() == 1)
        house.pass_time(181)
        assert peer.next() == ("home/alarms", b"the lower door is open")
        eventually(lambda: house.waiting() == 1)
        peer.publish("home/fridge/closed", '{"door": "lower"}')
        assert peer.next() == ("home/alarms", b"the lower door is closed again")
        assert house.outcome(flow, 1).state == "succeeded"
        assert peer.empty()


# --- with devices; the hardware is simulated, the agent is real ---


@pytest.fixture
def agent(house: House) -> Iterator[LocalAgent]:
    with LocalAgent(house.data) as agent:
        eventually(lambda: house.client.call("agents")[0]["online"])
        yield agent


def device(house: House, board: str, entity: str) -> dict[str, Any]:
    """One device of a board, once it is there."""

    def found() -> list[dict[str, Any]]:
        known = house.client.call("devices")
        return [each for each in known if (each["config"].get("name"), each["id"]) == (board, entity)]

    one: dict[str, Any] = eventually(found, f"{entity} of {board} is there")[0]
    return one


def folder(house: House) -> dict[str, Any]:
    """The folder that is watched."""
    return next((each for each in house.client.call("devices") if each["driver"] == "files"), {"last": ""})


def tell(house: House, board: str, entity: str, value: Any) -> None:
    config = device(house, board, entity)["config"]
    command = {"entity": entity, "value": value}
    house.client.call("device_command", agent="", driver="sim", config=config, command=command)


@runs("stair-light")
def test_stair_light(house: House, agent: LocalAgent) -> None:
    flow = house.deploy(example("stair-light"))
    tell(house, "stairs", "button", "press")
    eventually(lambda: device(house, "stairs", "lamp")["value"] is True, "the lamp is lit")
    eventually(lambda: house.waiting() == 1)
    house.pass_time(100)
    tell(house, "stairs", "button", "press")
    assert house.outcome(flow).state == "cancelled"
    eventually(lambda: house.waiting() == 1)
    house.pass_time(100)
    assert device(house, "stairs", "lamp")["value"] is True
    house.pass_time(21)
    assert house.outcome(flow, 1).state == "succeeded"
    eventually(lambda: device(house, "stairs", "lamp")["value"] is False, "the lamp is out")


@runs("frost-guard")
def test_frost_guard(house: House, agent: LocalAgent) -> None:
    house.deploy(example("frost-guard"))
    for degrees, heats in ((4, False), (2.5, True), (4, True), (5.5, False)):
        tell(house, "greenhouse", "temperature", degrees)
        eventually(lambda heats=heats: device(house, "greenhouse", "lamp")["value"] is heats, f"{degrees} °C")
        tell(house, "greenhouse", "temperature", degrees)  # a second reading of the same kind switches nothing
    eventually(lambda: house.file("frost.log").endswith(" heating off at 5.5 °C\n"), "it was noted")
    noted = [line.partition(" ")[2] for line in house.file("frost.log").splitlines()]
    assert noted[-2:] == ["heating on at 2.5 °C", "heating off at 5.5 °C"]
    assert sum("on at" in line for line in noted) == 1


@runs("incoming-scans")
def test_incoming_scans(house: House, agent: LocalAgent, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    flow = house.deploy(example("incoming-scans", **{"/srv/scans": str(scans)}))
    eventually(lambda: folder(house)["last"] == "initial", "the folder was looked at for the first time")
    (scans / "letter.pdf").write_bytes(b"%PDF-1.7")
    (scans / "notes.txt").write_bytes(b"not a scan")
    eventually(lambda: house.waiting() == 1)
    house.pass_time(2)
    ended = house.outcome(flow)
    assert (ended.state, ended.output) == ("succeeded", {"entity": "lamp", "value": False})
    assert house.file("scans.csv").splitlines() == ["name,bytes", "letter.pdf,8"]
    assert len(house.ended) == 1


def mqtt_example(name: str, broker: Mosquitto) -> dict[str, Any]:
    return example(name, **{"mqtt://127.0.0.1:1883": broker.url})


@runs("morning-report")
def test_morning_report(house: House, web: WebServer) -> None:
    forecast = {"daily": {"temperature_2m_max": [18.5], "precipitation_sum": [4.2]}}
    headers = {"Content-Type": "application/json"}
    web.answer("/v1/forecast", headers=headers, body=json.dumps(forecast).encode())
    flow = house.deploy(example("morning-report", **{"https://api.open-meteo.com": web.origin}))
    house.until_due(flow)
    assert house.outcome(flow).state == "succeeded"
    assert house.file("report/*.txt") == "Up to 18.5 °C, 4.2 mm of rain. Take an umbrella.\n"
    assert "latitude=52.52" in web.requests[0].target


def test_morning_report_without_an_answer(house: House, web: WebServer) -> None:
    web.answer("/v1/forecast", status=404)
    flow = house.deploy(example("morning-report", **{"https://api.open-meteo.com": web.origin}))
    house.until_due(flow)
    assert house.outcome(flow).state == "succeeded"
    assert house.file("report/*.txt").startswith("No forecast today: ")


@runs("pantry")
def test_pantry(house: House) -> None:
    flow = house.deploy(example("pantry"))
    items = {"items": [{"name": "Rice", "change": 2}, {"name": "milk", "change": -1}, {"name": "rice"}]}
    answer = house.start(flow, "scan", items)
    rows = [{"name": "rice", "stock": 2}, {"name": "milk", "stock": -1}, {"name": "rice", "stock": 3}]
    assert answer["output"] == {"stock": rows, "buy": ["milk"]}
    assert house.start(flow, "scan", {"items": [{"name": "milk", "change": 3}]})["output"]["buy"] == []


@runs("letter-box")
def test_letter_box(house: House) -> None:
    flow = house.deploy(example("letter-box"))
    with cloud() as server:
        house.store.settings.set(
            {
                "model_upstreams": {"cloud": {"config": {"url": server.url}}},
                "model_default": ["cloud/small"],
            }
        )
        house.client.call("reload")
        server.say('"bill"')
        server.say('{"from": "Water, Ltd", "amount": 41.5, "due": "1 December"}')
        house.start(flow, "letter", {"from": "water@example", "text": "Please pay 41.50 by 1 December."})
        server.say('"appointment"')
        server.say('{"day": "2026-12-03", "what": "dentist"}')
        house.start(flow, "letter", {"text": "Your dentist expects you on 3 December."})
        server.say('"other"')
        assert house.start(flow, "letter", {"text": "Greetings from the sea!"})["state"] == "succeeded"
        assert "Please pay 41.50" in server.bodies[1]["messages"][1]["content"]
        assert len(server.bodies) == 5
    files = house.data / "files"
    assert (files / "bills.csv").read_text().splitlines() == ["from,amount,due", '"Water, Ltd",41.5,1 December']
    assert (files / "dates.csv").read_text().splitlines() == ["day,what", "2026-12-03,dentist"]


@runs("doorbell")
@pytest.mark.parametrize(
    ("answer", "log"),
    [("yes", "opened for a friend; rm -rf /"), ("no", "Eva said no"), (None, "nobody answered")],
)
def test_doorbell(house: House, answer: str | None, log: str) -> None:
    flow = house.deploy(example("doorbell"))
    run = house.begin(flow, "ring", {"who": "a friend; rm -rf /"})
    (question,) = eventually(lambda: house.client.call("waiting"))
    assert question["ask"]["text"] == "a friend; rm -rf / is at the door"
    if answer is None:
        house.pass_time(121)
    else:
        house.client.call("answer", run=run, node="ask", answer=answer, by="Eva")
    assert house.outcome(flow).state == "succeeded"
    # The end of a run is told just before it is committed.
    eventually(lambda: logs(house, run) == [log])


def logs(house: House, run: str) -> list[str]:
    """The log lines of a run's last step that has some."""
    row, chunks = house.kernel.journal.load(from_text(run)) or pytest.fail("the run is not there")
    found = [record.extra["logs"] for record in records_of([row.steps, *chunks]) if "logs" in (record.extra or {})]
    return [line[2] for lines in found[-1:] for line in lines]


def rss(*titles: str) -> bytes:
    items = "".join(
        f"<item><title>{title}</title><link>https://e.org/{title}</link><guid>{title}</guid></item>" for title in titles
    )
    return f'<rss version="2.0"><channel><title>feed</title>{items}</channel></rss>'.encode()


@runs("reading-list")
def test_reading_list(house: House, web: WebServer) -> None:
    web.answer("/News/news", body=rss("One", "Two"))
    web.answer("/atom.xml", body=rss("two", "Three"))
    hosts = {"https://www.debian.org": web.origin, "https://planet.debian.org": web.origin}
    flow = house.deploy(example("reading-list", **hosts))
    house.until_due(flow)
    assert house.outcome(flow).state == "succeeded"
    lines = sorted(house.file("reading/*.md").splitlines(), key=str.lower)
    assert [line.lower() for line in lines] == [f"- [{name}](https://e.org/{name})" for name in ("one", "three", "two")]
    web.answer("/News/news", status=404)
    web.answer("/atom.xml", body=rss("two", "Three", "Four"))
    house.until_due(flow)
    assert house.outcome(flow, 1).state == "succeeded"
    assert house.file("reading/*.md").splitlines()[-1] == "- [Four](https://e.org/Four)"


@runs("nightly-backup")
def test_nightly_backup(house: House, tmp_path: Path) -> None:
    (tmp_path / "files" / "notes.txt").write_text("water the plants")
    flow = house.deploy(example("nightly-backup"))
    answer = house.start(flow, "now")
    assert answer["state"] == "succeeded", answer
    (archive,) = (tmp_path / "files" / "backups").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        assert "./notes.txt" in packed.getnames()
        assert not [name for name in packed.getnames() if "backups" in name]
    assert house.file("backups/newest.txt") == f"backups/{archive.name}"


def test_nightly_backup_that_fails_for_good(house: House) -> None:
    wrong = {'"--exclude", "./backups"': '"--no-such-option"', '"backoff": "1m"': '"backoff": "10ms"'}
    flow = house.deploy(example("nightly-backup", **wrong))
    assert house.start(flow, "now")["state"] == "succeeded"
    assert "tar ended with exit code 64" in house.file("backups/failures.txt")
    assert not list((house.data / "files" / "backups").glob("*.tar.gz"))


@runs("failure-notice")
def test_failure_notice(house: House, web: WebServer) -> None:
    web.answer("/me")
    house.secret("me", f"{web.origin.replace('http', 'json')}/me")
    notice = house.deploy(example("failure-notice"))
    broken = {"name": "Broken", "nodes": [{"id": "x", "type": "file_read", "config": {"path": "not-there"}}]}
    failing = house.deploy(broken)
    assert house.start(failing, "now")["state"] == "failed"
    assert house.outcome(notice).state == "succeeded"
    (sent,) = web.requests
    assert json.loads(sent.body)["title"] == "Flow broken failed"
    assert "there is no file 'not-there'" in json.loads(sent.body)["message"]
    house.start(failing, "now")
    house.outcome(notice, 1)
    assert len(web.requests) == 1


@runs("meter-reading")
def test_meter_reading(house: House) -> None:
    flow = house.deploy(example("meter-reading"))
    assert house.start(flow, "form", {"meter": "water", "value": 100.5})["output"] == {"meter": "water", "used": None}
    assert house.start(flow, "form", {"meter": "water", "value": 102})["output"]["used"] == 1.5
    backwards = house.start(flow, "form", {"meter": "water", "value": 90})
    assert backwards["state"] == "failed"
    assert "water went from 102 back to 90" in backwards["error"]["message"]
    day, *rows = [line.split(",") for line in house.file("meters/water.csv").splitlines()]
    assert day == ["day", "value", "used"]
    assert [row[1:] for row in rows] == [["100.5", ""], ["102", "1.5"]]


@runs("internet-watch")
def test_internet_watch(house: House, web: WebServer) -> None:
    web.answer("/")
    flow = house.deploy(example("internet-watch", **{"https://deb.debian.org": web.origin}))
    for number, status in enumerate((200, 200, 404, 404, 200)):
        web.answer("/", status=status)
        house.until_due(flow)
        assert house.outcome(flow, number).state == "succeeded"
    assert [line.split(",")[1] for line in house.file("internet.csv").splitlines()] == ["line", "up", "down", "up"]


@runs("ask")
def test_ask(house: House) -> None:
    flow = house.deploy(example("ask"))
    broken = house.deploy(
        {"name": "Broken", "nodes": [{"id": "a", "type": "transform", "config": {"expression": "1/0"}}]}
    )
    house.start(broken, "manual")
    models = Scripted(
        use("health"), use("runs", state="failed"), use("remember", text="the pump is red"), use("recall", text="pump"),
        use("recall", text="zarquon"), use("flows"), use("waiting"), use("lamp", on=True), answer("It failed once."),
    )  # fmt: skip
    house.kernel.services.models = lambda ctx: models
    run = house.begin(flow, "chat", {"text": "How are you?", "history": [], "chat": "", "user": ""})
    (asked,) = eventually(lambda: house.client.call("waiting"), "nobody was asked about the lamp")
    assert (asked["ask"]["tool"], asked["ask"]["arguments"]) == ("lamp", {"on": True})
    house.client.call("answer", run=run, node="answer", answer="no", by="ann")
    outcome = house.outcome(flow)
    assert outcome.output["text"] == "It failed once."
    told = [request.messages[-1]["content"] for request in models.asked[1:]]
    assert '"problems": ["none"]' in told[0]
    assert '"flow": "broken"' in told[1]
    assert "division by zero" in told[1]
    assert told[3] == "Result of recall:\n- the pump is red"
    assert told[4] == "Result of recall:\nnothing like it is remembered"
    assert '"name": "Ask"' in told[5]
    assert told[6] == "Result of waiting:\n[]"
    assert told[7] == "lamp was not used: a person said no"


@runs("power-log")
def test_power_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "files" / "power.log"
    with House(tmp_path) as house:
        flow = house.deploy(example("power-log"))
        assert not log.exists()
    for life in ("second", "third"):
        monkeypatch.setattr(start, "_LIFE", life)  # it names a process, and this is all one
        with House(tmp_path) as house:
            assert house.outcome(flow).state == "succeeded"
    assert log.read_text().count("\n") == 2


@runs("all-boxes")
def test_all_boxes(house: House) -> None:
    flow = house.deploy(example("all-boxes"))
    assert house.start(flow, "now")["state"] == "succeeded"
    (kept,) = (house.data / "files" / "boxes").iterdir()
    text = kept.read_text()
    assert text.endswith("\n") and ": " in text and "silent" not in text


@runs("heard-elsewhere")
def test_heard_elsewhere(house: House) -> None:
    flow = house.deploy(example("heard-elsewhere"))
    assert house.start(flow, "news", {"text": "pi: none\n"})["state"] == "succeeded"
    assert (house.data / "files" / "heard.log").read_text().endswith("somebody : pi: none\n")
