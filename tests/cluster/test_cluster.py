"""Two gateways and three kernels as real processes on one Postgres and one Redis: what a user relies on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from simple_websocket import Client

from appliance.engine.states import RunState
from appliance.security.owner import show_owner
from appliance.security.wallet import sign_message
from appliance.sharing.members import LEASE
from appliance.store.history import RunFilter
from appliance.store.places import make_history
from appliance.store.runids import from_text
from tests.cluster.conftest import Running
from tests.support.cluster import ROOT, taken_after, until
from tests.support.flows import compute, node

pytestmark = pytest.mark.timeout(240)  # on a busy machine the processes alone take half a minute to come up
#: Seconds within which a dead kernel's runs go on elsewhere.
TAKEOVER = 15.0


def hook(name: str, *nodes: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A flow with a webhook and its nodes in a row."""
    edges = [{"from": one["id"], "to": other["id"]} for one, other in pairwise(nodes)]
    trigger = {"id": "hook", "type": "webhook", "config": {"path": path(name)}}
    return {"name": name, "triggers": [trigger], "nodes": list(nodes), "edges": edges, "settings": settings}


def path(name: str) -> str:
    return f"{name}-".ljust(32, "x")


def mark(file: Path, name: str) -> dict[str, Any]:
    return node(name, "mark", {"file": str(file), "text": f"{name} {{{{ payload.n }}}}"})


def post(running: Running, number: int, flow: str, body: Any) -> tuple[int, Any]:
    return running.gateways[number % 2].ask("POST", f"/hooks/{path(flow)}", body)


def deployed(running: Running, flow: dict[str, Any]) -> int:
    """Deploy, and wait until both gateways know its webhook."""
    number = running.house.deploy(flow)
    running.settled(number)
    for gateway in running.gateways:
        until(lambda gateway=gateway: gateway.ask("PUT", f"/hooks/{path(flow['name'])}")[0] == 405, "the hook is known")
    return number


def states(running: Running, flow: int) -> Counter[str]:
    history = make_history(running.house.folder / "first", running.house.environ)
    try:
        page = history.page(RunFilter(flows=[flow]), limit=10_000)
        return Counter(RunState(head.state).label for head in page.items)
    finally:
        history.close()


def test_any_gateway_reaches_any_kernel(running: Running) -> None:
    names = [f"spread-{number}" for number in range(6)]
    flows = [deployed(running, hook(name, compute("a", "payload.n"))) for name in names]
    until(lambda: len({running.home_of(flow) for flow in flows}) == 3, "the flows are spread over the kernels")
    for number in range(12):
        status, answer = post(running, number, names[number % 6], {"n": number})
        assert (status, set(answer)) == (202, {"run"})
    until(lambda: all(states(running, flow) == {"succeeded": 2} for flow in flows), "all are done")


def test_the_health_page_names_the_kernels(running: Running) -> None:
    for gateway in running.gateways:
        _, health = gateway.ask("GET", "/api/v1/health")
        kernels = {one["machine"]: one for one in health["kernel"]["kernels"]}
        assert kernels.keys() == running.kernels.keys()
        assert len({one["writer"] for one in kernels.values()}) == 3
        assert all(0 < one["lease"] <= LEASE for one in kernels.values())


def test_any_gateway_and_command_reaches_the_kernel_with_the_links(running: Running) -> None:
    command = [sys.executable, "-m", "appliance.cli", "peer", "list", "--json"]
    where = ["--data", str(running.house.folder / "first")]
    environ = {**os.environ, **running.house.environ}

    def pairings(number: int) -> list[str]:
        status, found = running.gateways[number].ask("GET", "/api/v1/peers/pairings")
        return [each["name"] for each in found["items"]] if status == 200 else []

    until(lambda: running.gateways[0].ask("POST", "/api/v1/peers/pairings", {"name": "den"})[0] == 201, "a code")
    told = subprocess.run(
        [*command, *where], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    listed = json.loads(told.stdout)
    assert ([one["state"] for one in listed["items"]], [one["name"] for one in listed["pairings"]]) == (
        ["self"],
        ["den"],
    )
    assert pairings(0) == pairings(1) == ["den"]
    assert running.gateways[1].ask("DELETE", "/api/v1/peers/pairings/den")[0] < 300
    assert pairings(0) == pairings(1) == []


def test_a_session_counts_at_every_gateway(running: Running) -> None:
    east, west = running.gateways
    key = show_owner(running.house.folder / "first")
    _, challenge = east.ask("GET", f"/api/v1/session/challenge?address={key.address}", headers=_browser(east))
    signed = {"text": challenge["text"], "signature": sign_message(key.private_key, challenge["text"])}
    status, cookie = _sign_in(east, signed)
    assert status == 200
    status, who = west.ask("GET", "/api/v1/session", headers={**_browser(west), "Cookie": cookie})
    assert (status, who["signed_in"], who["id"]) == (200, True, key.address)
    # A signed challenge counts once, wherever it is shown.
    assert _sign_in(west, signed)[0] != 200
    east.ask("DELETE", "/api/v1/session", headers={**_browser(east), "Cookie": cookie})
    assert not west.ask("GET", "/api/v1/session", headers={**_browser(west), "Cookie": cookie})[1].get("signed_in")


def _browser(gateway: Any) -> dict[str, str]:
    return {"Authorization": "", "Host": f"127.0.0.1:{gateway.port}", "Origin": f"http://127.0.0.1:{gateway.port}"}


def _sign_in(gateway: Any, signed: dict[str, str]) -> tuple[int, str]:
    link = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        headers = {**_browser(gateway), "Content-Type": "application/json"}
        del headers["Authorization"]
        link.request("POST", "/api/v1/session", json.dumps(signed).encode(), headers)
        answer = link.getresponse()
        answer.read()
        return answer.status, (answer.getheader("Set-Cookie") or "").partition(";")[0]
    finally:
        link.close()


def test_attempts_to_sign_in_are_counted_over_all_gateways(running: Running) -> None:
    wrong = {"text": "no challenge", "signature": "0x" + "00" * 65}
    statuses = [_sign_in(running.gateways[number % 2], wrong)[0] for number in range(30)]
    refused = statuses.index(429)
    # As many as one gateway alone would let in (some may have been refilled meanwhile).
    assert refused <= 16
    assert 429 in {_sign_in(gateway, wrong)[0] for gateway in running.gateways for _ in range(2)}


def test_a_request_that_is_sent_again_to_the_other_gateway_gets_the_first_answer(running: Running) -> None:
    body = {"name": "for the robot", "scopes": ["runs:read"]}
    key = {"Idempotency-Key": "the same"}
    first = running.gateways[0].ask("POST", "/api/v1/tokens", body, key)
    again = running.gateways[1].ask("POST", "/api/v1/tokens", body, key)
    assert first[0] == 201, first
    assert again == first
    other = running.gateways[1].ask("POST", "/api/v1/tokens", {**body, "name": "another"}, key)
    assert other[0] >= 400


def test_a_live_event_of_any_kernel_reaches_a_panel_at_any_gateway(running: Running) -> None:
    names = [f"live-{number}" for number in range(6)]
    flows = [deployed(running, hook(name, compute("a", "1"))) for name in names]
    until(lambda: len({running.home_of(flow) for flow in flows}) == 3, "the flows are spread over the kernels")
    for gateway in running.gateways:
        _watch_six(running, gateway.port, names)


def _watch_six(running: Running, port: int, names: list[str]) -> None:
    client = Client(f"ws://127.0.0.1:{port}/api/v1/live", headers={"Authorization": f"Bearer {running.house.token}"})
    seen: list[dict[str, Any]] = []
    try:
        _until_seen(client, seen, lambda: any(event["type"] == "hello" for event in seen))
        runs = {post(running, number, name, {})[1]["run"] for number, name in enumerate(names)}
        _until_seen(client, seen, lambda: runs <= {one.get("run") for one in seen if one.get("state") == "succeeded"})
    finally:
        client.close()
        client.thread.join(10)
    ids = [event["id"] for event in seen if event["type"] == "run"]
    assert len(ids) == len(set(ids))
    assert len(ids[-1].split(",")) == 3, "how far each kernel has been heard"


def test_a_panel_that_comes_again_at_the_other_gateway_goes_on_there(running: Running) -> None:
    """Its load balancer sends it elsewhere, again and again, while runs go on at all kernels."""
    running.all_live()
    names = [f"goes-on-{number}" for number in range(6)]
    flows = [deployed(running, hook(name, compute("a", "1"))) for name in names]
    until(lambda: len({running.home_of(flow) for flow in flows}) == 3, "the flows are spread over the kernels")
    seen: list[dict[str, Any]] = []
    runs: set[str] = set()
    after = ""
    for turn in range(6):
        port = running.gateways[turn % 2].port
        client = Client(
            f"ws://127.0.0.1:{port}/api/v1/live{after}", headers={"Authorization": f"Bearer {running.house.token}"}
        )
        try:
            if not seen:
                _until_seen(client, seen, lambda: any(event["type"] == "hello" for event in seen))
            runs.update(post(running, number, name, {})[1]["run"] for number, name in enumerate(names))
            _until_seen(client, seen, lambda: runs <= {one.get("run") for one in seen if one.get("finished")})
        finally:
            client.close()
            client.thread.join(10)
        after = f"?after={[event['id'] for event in seen if 'id' in event][-1]}"
        # nobody is told of these as they happen
        runs.update(post(running, number, name, {})[1]["run"] for number, name in enumerate(names))
    assert [event["type"] for event in seen if event["type"] in {"hello", "reset"}] == ["hello"]
    ends = Counter(event["run"] for event in seen if event.get("finished"))
    assert set(ends.values()) == {1}, "some are told twice"


def _until_seen(client: Client, seen: list[dict[str, Any]], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        message = client.receive(timeout=max(0.01, deadline - time.monotonic()))
        assert message is not None, seen
        seen += json.loads(message)


def test_a_run_can_be_looked_at_answered_and_cancelled_from_anywhere(running: Running) -> None:
    names = [f"asks-{number}" for number in range(3)]
    for name in names:
        deployed(running, hook(name, node("ask", "approval", {"title": "Go on?"})))
    runs = [post(running, number, name, {})[1]["run"] for number, name in enumerate(names)]
    east, west = running.gateways

    def asked() -> set[str]:
        return {one["run"] for one in west.ask("GET", "/api/v1/approvals?workspace=home")[1]["items"]}

    until(lambda: set(runs) <= asked(), "all questions are told")
    for gateway, run in zip((east, west, east), runs, strict=True):
        status, _ = gateway.ask("POST", f"/api/v1/runs/{run}/cancel", {})
        assert status < 300
    until(lambda: not set(runs) & asked(), "nobody is asked any more")


def test_a_kernel_killed_and_one_frozen_lose_nothing(running: Running, tmp_path: Path) -> None:
    """Load through both gateways meanwhile. The frozen one comes back behind its lease, and may commit nothing."""
    file, names = tmp_path / "marks", [f"chaos-{number}" for number in range(6)]
    nodes = (
        compute("first", "payload"),
        mark(file, "before"),
        node("wait", "delay", {"for": "300ms"}),
        mark(file, "behind"),
    )
    flows = [deployed(running, hook(name, *nodes, max_runs=100, on_crash="ask")) for name in names]
    until(lambda: len({running.home_of(flow) for flow in flows}) == 3, "the flows are spread over the kernels")
    accepted: dict[int, str] = {}
    over = threading.Event()

    def send(lane: int) -> None:
        number = lane
        while not over.is_set():
            status, answer = post(running, number // 4, names[number % 6], {"n": number})
            if status == 202:
                accepted[number] = answer["run"]
            number += 4
            over.wait(0.05)

    with ThreadPoolExecutor(4) as lanes:
        busy = [lanes.submit(send, lane) for lane in range(4)]
        try:
            until(lambda: len(accepted) > 40, "runs come in")
            killed, frozen = running.home_of(flows[0]), ""
            frozen = next(name for name in running.kernels if name != killed)
            lost = {name: running.house.living()[name] for name in (killed, frozen)}
            running.kernels[killed].kill()
            running.kernels[frozen].signal(signal.SIGSTOP)
            writers = {one.writer for one in lost.values()}
            until(lambda: not writers & set(running.house.members.homes().values()), "they are taken over", 60)
            assert max(taken_after(running.house.database, one) for one in writers) <= TAKEOVER
            running.kernels[frozen].signal(signal.SIGCONT)
            until(lambda: not running.kernels[frozen].alive, "the frozen one ends when it finds out")
            count = len(accepted)
            until(lambda: len(accepted) > count + 20, "runs come in")
        finally:
            over.set()
        for lane in busy:
            lane.result()
    running.all_live()
    _settle(running, flows)
    history = make_history(running.house.folder / "first", running.house.environ)
    heads = {run: history.head(from_text(run)) for run in accepted.values()}
    history.close()
    assert all(head is not None for head in heads.values()), "an accepted run is lost"
    assert {RunState(head.state).label for head in heads.values() if head} == {"succeeded"}
    done = Counter(file.read_text().splitlines())
    assert max(done.values()) == 1, "a once effect was done twice"
    missing = {f"{name} {number}" for name in ("before", "behind") for number in accepted} - done.keys()
    # Only what was cut off in the middle, and a person has said to skip it.
    assert len(missing) <= 40


def _settle(running: Running, flows: list[int]) -> None:
    """Say `skip` to whatever was cut off in the middle, until every run has ended."""
    gateway = running.gateways[0]

    def settled() -> bool:
        _, asks = gateway.ask("GET", "/api/v1/approvals?workspace=home")
        for one in asks["items"]:
            if one["kind"] == "unverified":
                gateway.ask("POST", f"/api/v1/approvals/{one['run']}/{one['node']}/decide", {"decision": "skip"})
        return all(states(running, flow).keys() <= {"succeeded"} for flow in flows)

    until(settled, "every run has ended", 60)


def test_an_engine_on_one_machine_knows_nothing_of_clusters(tmp_path: Path) -> None:
    code = """
import sys, threading
from pathlib import Path
from appliance.security.keys import init_keys
from appliance.kernel.kernel import Kernel
from appliance.gateway.app import create_app, gateway_of
data = Path(sys.argv[1])
init_keys(data)
kernel = Kernel(data)
kernel.start()
app = create_app(data)
assert gateway_of(app).call("ping") == "pong"
loaded = [name for name in sys.modules if name.startswith(("appliance.sharing", "redis", "psycopg"))]
assert not loaded, loaded
threads = {thread.name for thread in threading.enumerate()}
assert not threads & {"lease", "cluster", "guard", "bus-in", "bus-out"}, threads
gateway_of(app).close()
kernel.stop()
"""
    (tmp_path / "data").mkdir(mode=0o700)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "data")], cwd=ROOT, check=True, timeout=120)


def test_a_machine_without_the_keys_is_told_what_to_copy(running: Running, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "appliance.cli", "init", "--data", str(tmp_path / "other")]
    environ = {**os.environ, **running.house.environ}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "copy the folder keys/" in done.stdout + done.stderr
    assert not (tmp_path / "other" / "keys" / "engine.json").exists()


def test_a_run_that_is_handed_in_while_no_kernel_lives_is_done_by_the_next(running: Running) -> None:
    flow = deployed(running, hook("handed-in", compute("a", "1")))
    command = [sys.executable, "-m", "appliance.cli", "run", "handed-in", "--data", str(running.house.folder / "first")]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **running.house.environ}
        return subprocess.run([*command, *options], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)

    try:
        for part in running.kernels.values():
            part.stop()
        refused = run()
        assert (refused.returncode, "--detach" in refused.stderr) == (5, True), refused
        handed = [run("--detach") for _ in range(2)]
        assert [done.returncode for done in handed] == [0, 0], handed
        assert {"begins when one comes up" in done.stderr for done in handed} == {True}
        assert states(running, flow) == {"queued": 2}
    finally:
        running.all_live()
    until(lambda: states(running, flow) == {"succeeded": 2}, "the runs are done")
    assert len({done.stdout.strip() for done in handed}) == 2


def test_a_kernel_that_is_started_again_at_once_goes_on(running: Running) -> None:
    flow = deployed(running, hook("again", node("wait", "delay", {"for": "2s"}), compute("a", "1")))
    assert post(running, 0, "again", {})[0] == 202
    part = running.kernels[running.home_of(flow)]
    part.kill()
    running.all_live()
    until(lambda: states(running, flow) == {"succeeded": 1}, "the run is done")


def test_kernels_go_in_good_order(running: Running) -> None:
    """A kernel that is stopped hands its flows on at once: nobody waits for its lease to end."""
    flow = deployed(running, hook("order", compute("a", "1")))
    name = running.home_of(flow)
    stopping = threading.Thread(target=running.kernels[name].stop)
    stopping.start()
    began = time.monotonic()
    try:
        while running.home_of(flow) in ("", name):
            for number in range(2):
                status, answer = post(running, number, "order", {})
                assert status == 202, answer
            assert time.monotonic() - began < 60
    finally:
        stopping.join()
    running.all_live()
