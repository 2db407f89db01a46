"""A cluster and a single engine, paired: whichever kernel dies, no work between them is lost, and none is doubled."""

from __future__ import annotations

import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ModelOffer, PeerOffers
from appliance.fleet.peers.book import PeerBook
from appliance.kernel import peers_making
from appliance.kernel.kernel import Kernel
from appliance.security.keys import read_engine
from appliance.sharing.peers import PeerStore
from appliance.store.history import RunFilter
from appliance.store.places import make_history
from tests.cluster.conftest import Running
from tests.cluster.test_cluster import deployed, hook, post, states
from tests.kernel.peering.test_kernels import with_models
from tests.support import cluster_node
from tests.support.boxes import EVERYTHING, linked, peers_of
from tests.support.broker import free_port
from tests.support.cluster import Gateway, Part, until
from tests.support.flows import compute, flow, node
from tests.support.kernels import LocalKernel

pytestmark = pytest.mark.timeout(300)  # each kernel that is killed takes ten seconds to be thought dead


class Pair:
    """The cluster, which is called ``house``, and a box by the door."""

    def __init__(self, running: Running, pi: LocalKernel) -> None:
        self.running = running
        self.pi = pi
        self._store = PeerStore(running.house.members)
        self._numbers = iter(range(1000))

    def holder(self) -> str:
        """The machine whose kernel has the links; empty while none that lives has."""
        held = self._store.holder()
        living = self.running.house.living().items()
        return next((name for name, one in living if (one.writer, one.epoch) == held), "")

    def part(self, machine: str) -> Part:
        return self.running.kernels[machine]

    def kill(self, machine: str) -> None:
        self.part(machine).kill()

    def joined(self) -> None:
        """Wait until all kernels live, one has the links, and both sides know of each other."""
        self.running.all_live()
        until(self.holder, "a kernel has the links")
        until(lambda: linked(self.pi, "house"), "the box sees the cluster")
        for gateway in self.running.gateways:
            until(partial(self.sees, gateway), "the cluster sees the box")

    def sees(self, gateway: Gateway) -> bool:
        status, found = gateway.ask("GET", "/api/v1/peers")
        return status == 200 and ("pi", "connected") in [(one["name"], one["state"]) for one in found["items"]]

    def name(self) -> str:
        """One that no flow has yet."""
        return f"peers-{next(self._numbers)}"

    def hooks(self, count: int, *nodes: dict[str, Any]) -> dict[str, int]:
        """Flows that start by a webhook, spread over the kernels."""
        made = {name: deployed(self.running, hook(name, *nodes)) for name in (self.name() for _ in range(count))}
        self.spread(list(made.values()))
        return made

    def spread(self, flows: list[int]) -> None:
        """Wait until these flows have homes; so many are at several kernels."""
        self.running.settled(*flows)
        until(lambda: len({self.running.home_of(number) for number in flows}) > 1, "they are spread")

    def away_from_links(self, flows: dict[str, int]) -> str:
        """One of the flows whose home is not the kernel with the links."""
        return next(name for name, number in flows.items() if self.running.home_of(number) not in ("", self.holder()))

    def without(self, killed: list[str], flow: int) -> None:
        """Wait until others have taken over what these kernels had of the links and of a flow."""
        dead = ("", *killed)
        until(lambda: self.holder() not in dead and self.running.home_of(flow) not in dead, "others have taken over")

    def guest_flow(self) -> int:
        """The number of the flow in which the box's steps run at the cluster."""
        return int(self.running.house.store.flows.get(guest_id(self.pi)).num)


def guest_id(pi: LocalKernel) -> str:
    return f"peer-{read_engine(pi.data).id[:16]}-home"


def has_a_model(kernel: Kernel) -> PeerOffers:
    return PeerOffers(models=(ModelOffer("qwen", "language", 4096),), nodes=tuple(kernel.registry.nodes), exact=True)


@pytest.fixture(scope="module")
def pair(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pi = LocalKernel(tmp_path_factory.mktemp("box") / "pi")
    nodes = pi.data / "packages" / "nodes"
    nodes.mkdir(parents=True)
    shutil.copy(cluster_node.__file__, nodes / "mark.py")
    pi.settings(engine_name="pi", peer_port=free_port(), peer_discovery="never")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers_making, "offers", has_a_model)
        yield from paired(running, pi)


def paired(running: Running, pi: LocalKernel) -> Iterator[Pair]:
    pi.start()
    made = Pair(running, pi)
    try:
        with_models(pi)
        until(made.holder, "a kernel has the links")
        status, code = running.gateways[1].ask("POST", "/api/v1/peers/pairings", {"name": "pi", "roles": EVERYTHING})
        assert status == 201, code
        address = f"127.0.0.1:{code['port']}"
        pi.client.call("peer_join", 30.0, code=code["code"], address=address, name="house", roles=EVERYTHING)
        made.joined()
        yield made
    finally:
        pi.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file that steps wait for; it is there in the end, so that none waits for ever."""
    made = tmp_path / "gate"
    yield made
    made.touch()


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def far(engine: str, file: Path, gate: Path | None = None, effect: str = "once") -> dict[str, Any]:
    """A step at another engine that leaves a line in a file, and may wait for another file then."""
    config = {"file": str(file), "text": "done", "until": str(gate or ""), "effect": effect}
    return node("far", "mark", config, needs=f"engine:{engine}")


def test_a_step_runs_at_the_peer_whichever_kernel_has_its_flow(pair: Pair, tmp_path: Path) -> None:
    pair.joined()
    file = tmp_path / "marks"
    flows = pair.hooks(6, far("pi", file), compute("after", "payload.n + 1"))
    for number, name in enumerate(flows):
        assert post(pair.running, number, name, {"n": number})[0] == 202
    until(lambda: all(states(pair.running, number) == {"succeeded": 1} for number in flows.values()), "all are done")
    assert len(lines(file)) == 6
    assert pair.pi.kernel is not None
    names = [one.name for one in pair.pi.kernel.store.flows.list(None, "", "peer", "", 10).items]
    assert names == ["Work for house"], "one engine, on however many machines"


@pytest.mark.parametrize("victim", ["links", "home", "both"])
def test_a_step_at_the_peer_outlives_the_kernel_that_asked(pair: Pair, tmp_path: Path, gate: Path, victim: str) -> None:
    pair.joined()
    file = tmp_path / "marks"
    flows = pair.hooks(6, far("pi", file, gate), compute("after", "payload.n + 1"))
    name = pair.away_from_links(flows)
    assert post(pair.running, 0, name, {"n": 1})[0] == 202
    until(lambda: lines(file), "the peer has begun")
    links, home = pair.holder(), pair.running.home_of(flows[name])
    killed = {"links": [links], "home": [home], "both": [links, home]}[victim]
    for each in killed:
        pair.kill(each)
    pair.without(killed, flows[name])
    if victim == "home":
        # It comes back with all that it had: the step that is away moves once more.
        pair.running.all_live()
        until(lambda: pair.running.home_of(flows[name]) == home, "the flow is back where it was")
    gate.touch()
    until(lambda: states(pair.running, flows[name]) == {"succeeded": 1}, "it is done")
    assert lines(file) == ["done"]


def begun(pair: Pair, tmp_path: Path, gate: Path, effect: str) -> tuple[int, Path]:
    """A step of the box is under way at the cluster."""
    file = tmp_path / "marks"
    number = pair.pi.deploy(flow(far("house", file, gate, effect), compute("after", "1")))
    pair.pi.client.call("reload")
    pair.pi.submit(number, {"n": 1})
    until(lambda: lines(file), "a kernel has begun")
    return number, file


def unverified(pair: Pair) -> bool:
    assert pair.pi.kernel is not None
    runs = list(pair.pi.kernel.engine.runs.values())
    return any(parked.unverified for run in runs for parked in list(run.parked.values()))


def test_a_peers_step_goes_on_while_another_kernel_takes_the_links(pair: Pair, tmp_path: Path, gate: Path) -> None:
    """The flow of its steps is at home elsewhere: the peer asks the new kernel, and hears how it ended there."""
    pair.joined()
    settled_at(pair, next(name for name in pair.running.kernels if name != pair.holder()))
    number, file = begun(pair, tmp_path, gate, "once")
    before, home = pair.holder(), pair.running.home_of(pair.guest_flow())
    assert home != before
    pair.kill(before)
    pair.without([before], pair.guest_flow())
    until(lambda: linked(pair.pi, "house"), "the box is connected again")
    gate.touch()
    until(lambda: pair.pi.states(number) == ["succeeded"], "it is done")
    assert lines(file) == ["done"]


def settled_at(pair: Pair, machine: str) -> None:
    """Have the flow of the box's steps at home at one kernel; that it is made before it is needed is the test's."""
    store, members = pair.running.house.store.flows, pair.running.house.members
    number = int(store.save(guest_id(pair.pi), "home", flow(compute("first", "1")), "test", "", None).flow)
    with members.reading() as session:
        writer = pair.running.house.living()[machine].writer
        session.execute("INSERT INTO flow_home VALUES (%s, %s, now())", (number, writer))
    until(lambda: pair.running.home_of(number) == machine, "it is at home there")


@pytest.mark.parametrize("effect", ["idempotent", "once"])
@pytest.mark.parametrize("victim", ["home", "links"])
def test_a_peers_step_whose_kernel_dies_keeps_its_promise(
    pair: Pair, tmp_path: Path, gate: Path, effect: str, victim: str
) -> None:
    pair.joined()
    number, file = begun(pair, tmp_path, gate, effect)
    home = pair.running.home_of(pair.guest_flow())
    cut = victim == "home" or home == pair.holder()
    killed = home if victim == "home" else pair.holder()
    pair.kill(killed)
    pair.without([killed], pair.guest_flow())
    if cut and effect == "once":
        until(lambda: unverified(pair), "a person is asked")
        assert lines(file) == ["done"]
        assert pair.pi.kernel is not None
        for run in list(pair.pi.kernel.engine.runs.values()):
            pair.pi.client.call("cancel", run=run.text)
        return
    if cut:
        until(lambda: len(lines(file)) == 2, "it was begun again")
    gate.touch()
    until(lambda: pair.pi.states(number) == ["succeeded"], "it is done")
    assert len(lines(file)) == (2 if cut else 1)


def test_a_frozen_kernel_with_the_links_is_no_copy(pair: Pair, tmp_path: Path) -> None:
    """Its link to the box stands while another kernel calls; once it wakes up it is too late for it."""
    pair.joined()
    frozen = pair.holder()
    part = pair.part(frozen)
    part.signal(signal.SIGSTOP)
    try:
        until(lambda: pair.holder() not in ("", frozen), "another kernel has the links")
        until(lambda: shows(pair, frozen), "the box has another link")
        file = tmp_path / "marks"
        number = pair.pi.deploy(flow(far("house", file)))
        pair.pi.client.call("reload")
        assert pair.pi.submit(number, {"n": 1}, wait=30.0)["state"] == "succeeded"
        assert lines(file) == ["done"]
    finally:
        part.signal(signal.SIGCONT)
    until(lambda: not part.alive, "it ends itself")
    (house,) = (state for state in pair.pi.client.call("peers") if state["name"] == "house")
    assert (house["state"], house["why"]) == ("connected", "")


def shows(pair: Pair, frozen: str) -> bool:
    """The box and the gateways agree that there is a link, and it is not the frozen kernel's."""
    (house,) = (state for state in pair.pi.client.call("peers") if state["name"] == "house")
    return house["state"] == "connected" and pair.sees(pair.running.gateways[0]) and pair.holder() != frozen


def numbers_of(where: Any, number: int, found: Callable[[Any], Any]) -> Counter[Any]:
    """What the runs of a flow began with."""
    with closing(where) as history:
        heads = history.page(RunFilter(flows=[number]), limit=10_000).items
        return Counter(found(history.detail(head.id).event[2]) for head in heads)


def heard(pair: Pair, number: int) -> Counter[int]:
    running = pair.running.house
    return numbers_of(make_history(running.folder / "first", running.environ), number, lambda payload: payload["n"])


def test_events_of_a_peer_come_to_every_flow_once(pair: Pair) -> None:
    pair.joined()
    topic, most = pair.name(), 240
    trigger = {"id": "t1", "type": "peer_event", "config": {"topic": topic}}
    flows = [pair.running.house.deploy(flow(compute("a", "1"), triggers=[trigger], name=pair.name())) for _ in range(4)]
    pair.spread(flows)
    sends = pair.pi.deploy(flow(node("send", "emit", {"topic": topic, "to": ["house"]})))
    pair.pi.client.call("reload")

    def listen() -> bool:
        # An event that comes before the kernels have read what was deployed is for nobody.
        pair.pi.submit(sends, {"n": -1}, wait=10.0)
        return all(heard(pair, number) for number in flows)

    until(listen, "they listen")
    for n in range(most):
        pair.pi.submit(sends, {"n": n}, wait=10.0)
        if n == 60:
            pair.kill(pair.holder())
        if n == 120:
            pair.running.all_live()
            home = next(home for number in flows if (home := pair.running.home_of(number)) not in ("", pair.holder()))
            pair.kill(home)
        threading.Event().wait(0.02)
    once = dict.fromkeys(range(most), 1)
    until(lambda: all(heard(pair, number).keys() >= once.keys() for number in flows), "all has come to all")
    for number in flows:
        assert {n: count for n, count in heard(pair, number).items() if n >= 0} == once
    until(lambda: pair.pi.client.call("placements")["outbox"] == [], "all is acknowledged")


def test_events_for_a_peer_go_out_once_whichever_kernel_has_the_flow(pair: Pair) -> None:
    pair.joined()
    topic, most = pair.name(), 240
    trigger = {"id": "t1", "type": "peer_event", "config": {"topic": topic}}
    listens = pair.pi.deploy(flow(compute("a", "1"), triggers=[trigger]))
    pair.pi.client.call("reload")
    flows = list(pair.hooks(6, node("send", "emit", {"topic": topic, "to": ["pi"]})))
    accepted = set[int]()
    for n in range(most):
        if post(pair.running, n, flows[n % len(flows)], {"n": n})[0] == 202:
            accepted.add(n)
        if n == 60:
            pair.kill(pair.holder())
        if n == 120:
            pair.running.all_live()
            pair.kill(next(name for name in pair.running.kernels if name != pair.holder()))
    assert len(accepted) > most / 2

    def came() -> Counter[int]:
        return numbers_of(make_history(pair.pi.data), listens, lambda payload: payload["n"])

    until(lambda: set(came()) >= accepted, "all has come")
    assert max(came().values()) == 1


def test_its_models_answer_at_every_kernel(pair: Pair) -> None:
    pair.joined()
    flows = pair.hooks(6, node("ask", "llm", {"prompt": "hello {{ payload.n }}"}))
    for number, name in enumerate(flows):
        assert post(pair.running, number, name, {"n": number})[0] == 202
    until(lambda: all(states(pair.running, number) == {"succeeded": 1} for number in flows.values()), "all are done")


def test_a_flow_is_copied_and_the_boxes_are_looked_at_from_any_gateway(pair: Pair) -> None:
    pair.joined()
    pair.running.house.deploy({"name": "travels", "nodes": [compute("a", "1")]})
    for gateway in pair.running.gateways:
        status, sent = gateway.ask("POST", "/api/v1/flows/travels/send", {"to": "pi"})
        assert (status, sent["peer"], sent["versions"]) == (200, "pi", 1), sent
        status, told = gateway.ask("GET", "/api/v1/placements/boxes")
        assert status == 200 and {box["name"] for box in told["items"]} >= {"house", "pi"}, told


def test_the_pairing_outlives_all_kernels_and_its_end_holds_for_all(pair: Pair) -> None:
    pair.joined()
    for name in pair.running.kernels:
        pair.kill(name)
    pair.joined()
    east, west = pair.running.gateways
    assert east.ask("PATCH", "/api/v1/peers/pi", {"roles": {"rights": ["run"], "workspaces": ["home"]}})[0] == 200
    until(lambda: linked(pair.pi, "house")["allows"]["rights"] == ["run"], "the box hears what it may")
    assert west.ask("DELETE", "/api/v1/peers/pi")[0] < 300
    until(lambda: peers_of(pair.pi)["house"]["state"] == "refused", "the box is not let in any more")
    for name in pair.running.kernels:
        pair.kill(name)
    pair.running.all_live()
    parts = pair.running.kernels.values()
    until(lambda: not any(PeerBook(part.data).all() for part in parts), "no machine knows the box any more")
    until(lambda: names_at(east), "a kernel answers")
    assert "pi" not in names_at(east)


def names_at(gateway: Gateway) -> list[str]:
    """The engines that a gateway shows."""
    status, found = gateway.ask("GET", "/api/v1/peers")
    return [one["name"] for one in found["items"]] if status == 200 else []
