"""Agents on other machines: pairing by a code, TLS with pinned certificates, and who does not get in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.contracts import Busy, ConfigError
from appliance.fleet import codes, door, listening
from appliance.fleet.book import Book
from edge_agent import network
from edge_agent.clocks import Clocks, system_clocks
from edge_agent.machine import machine_id
from edge_agent.network import Network
from edge_agent.protocol import certificates, pairing
from edge_agent.protocol.pairing import PairingError
from tests.fleet.rig import PATIENCE, Listener, Rig, rig
from tests.support.broker import free_port

FAST = {"interval": 0.02}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path / "box", port=free_port(), owned=lambda: True) as made:
        yield made


def where(made: Rig) -> str:
    return f"127.0.0.1:{made.options['port']}"


def pair(made: Rig, name: str = "greenhouse", machine: str | None = None) -> Network:
    code = made.fleet.door.pair(name).code
    folder = made.data / name
    appliance = network.pair(folder, code, [where(made)], machine or machine_id(), search=False)
    assert appliance.name == name
    return Network(folder, appliance, [], search=False)


def start(made: Rig, route: Network, name: str = "greenhouse") -> None:
    made.agent(name, route, identity=route.identity)
    made.until(lambda: made.state(name).online, "the agent")


def test_an_agent_is_paired_and_its_events_come(made: Rig) -> None:
    route = pair(made)
    start(made, route)
    heard = Listener()
    made.watch(heard, FAST, agent="greenhouse")
    heard.until(lambda: len(heard.events) >= 20)
    assert {event.agent for event in heard.events} == {"greenhouse"}
    assert abs(heard.events[-1].time - heard.events[-2].time) < 5.0
    state = made.state("greenhouse")
    assert state.address == "127.0.0.1"
    assert abs(state.offset) < 1.0
    made.command({"entity": "lamp", "value": True}, FAST, agent="greenhouse")
    heard.until(lambda: True in heard.kinds("lamp"))


def test_an_agent_with_a_wrong_clock_tells_the_right_time(made: Rig) -> None:
    """As a Pi without a clock of its own, before anybody has told it the time."""
    real = system_clocks()
    wrong = Clocks(lambda: real.wall() - 1_700_000_000.0, real.up, real.boot)
    route = pair(made)
    made.agent("greenhouse", route, identity=route.identity, clocks=wrong)
    heard = Listener()
    made.watch(heard, FAST, agent="greenhouse")
    heard.until(lambda: len(heard.events) >= 10)
    assert all(abs(event.time - real.wall()) < PATIENCE for event in heard.events)
    made.until(lambda: abs(made.state("greenhouse").offset + 1_700_000_000.0) < 1.0, "the offset")


def test_the_pairing_outlives_both_sides(made: Rig) -> None:
    route = pair(made)
    made.fleet.stop()
    made.begin_fleet()
    again = network.paired(made.data / "greenhouse")
    assert again is not None
    start(made, Network(made.data / "greenhouse", again, [], search=False))
    assert made.state("greenhouse").id == route.identity


def test_nothing_listens_before_there_is_somebody_to_listen_for(made: Rig) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", made.options["port"]), 1.0)
    made.fleet.door.pair("greenhouse")
    socket.create_connection(("127.0.0.1", made.options["port"]), 1.0).close()
    made.fleet.door.unpair("greenhouse")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", made.options["port"]), 1.0)


def test_an_engine_without_an_owner_stays_off_the_network(tmp_path: Path) -> None:
    with rig(tmp_path, port=free_port(), owned=lambda: False) as made, pytest.raises(door.Closed, match="no owner"):
        made.fleet.door.pair("greenhouse")


def test_the_port_may_be_turned_off(tmp_path: Path) -> None:
    with rig(tmp_path, port=0, owned=lambda: True) as made, pytest.raises(door.Closed, match="agent_port"):
        made.fleet.door.pair("greenhouse")


def test_a_port_that_is_taken_is_told(made: Rig) -> None:
    with socket.create_server(("127.0.0.1", made.options["port"])), pytest.raises(door.Closed, match="in use"):
        made.fleet.door.pair("greenhouse")


# --- codes --------------------------------------------------------------------------------------------


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


def test_a_wrong_code_is_refused_and_after_some_the_code_is_worth_nothing(made: Rig) -> None:
    code = made.fleet.door.pair("greenhouse").code
    for _ in range(codes.GUESSES):
        with pytest.raises(PairingError, match="the code is not right"):
            network.pair(made.data / "thief", wrong(code), [where(made)], "m", search=False)
    with pytest.raises(PairingError, match="no open pairing"):
        network.pair(made.data / "agent", code, [where(made)], "m", search=False)
    assert Book(made.data).names() == []
    assert made.fleet.door.pairings() == []


def test_a_code_is_good_for_one(made: Rig) -> None:
    code = made.fleet.door.pair("greenhouse").code
    network.pair(made.data / "one", code, [where(made)], "m", search=False)
    with pytest.raises(PairingError):
        network.pair(made.data / "two", code, [where(made)], "m", search=False)


def test_a_code_ends_by_itself(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    code = made.fleet.door.pair("greenhouse", minutes=10).code
    now = codes.time.monotonic()
    monkeypatch.setattr(codes.time, "monotonic", lambda: now + 601)
    assert made.fleet.door.pairings() == []
    with pytest.raises(PairingError, match="no open pairing"):
        network.pair(made.data / "agent", code, [where(made)], "m", search=False)


@pytest.mark.parametrize("code", ["", "12", "abc-def", "1-23-456", "1-123-4567", "99999-123-456"])
def test_what_is_no_code_is_told_before_anybody_is_asked(tmp_path: Path, code: str) -> None:
    with pytest.raises(PairingError, match="is not a pairing code"):
        network.pair(tmp_path, code, ["127.0.0.1:1"], "m", search=False)


@pytest.mark.parametrize("name", ["", "Green House", "../keys", "x" * 41])
def test_a_bad_name_is_refused(made: Rig, name: str) -> None:
    with pytest.raises(ConfigError, match="is not a name for an agent"):
        made.fleet.door.pair(name)


def test_a_name_is_given_once_and_pairings_are_bounded(made: Rig) -> None:
    pair(made)
    with pytest.raises(ConfigError, match="already"):
        made.fleet.door.pair("greenhouse")
    for number in range(codes.OPEN):
        made.fleet.door.pair(f"a{number}")
    with pytest.raises(Busy):
        made.fleet.door.pair("onemore")


def test_who_sits_in_between_learns_nothing_and_gets_nothing(made: Rig) -> None:
    """Answers in the appliance's place with a guess of its own, and forwards the agent's words to the appliance."""
    code = made.fleet.door.pair("greenhouse").code
    with socket.create_server(("127.0.0.1", 0)) as trap:
        faults: list[Exception] = []

        def spy() -> None:
            link, _ = trap.accept()
            with link:
                link.settimeout(PATIENCE)
                assert link.recv(len(pairing.AGENTS.magic), socket.MSG_WAITALL) == pairing.AGENTS.magic
                guest = pairing.Guest(link)
                guest.number()
                try:
                    guest.exchange(wrong(code))
                except PairingError as exc:
                    faults.append(exc)
                    guest.refuse()

        thread = threading.Thread(target=spy)
        thread.start()
        with pytest.raises(PairingError, match="the code is not right"):
            network.pair(made.data / "agent", code, [f"127.0.0.1:{trap.getsockname()[1]}"], "m", search=False)
        thread.join()
        assert faults
    assert network.paired(made.data / "agent") is None


# --- who does not get in ------------------------------------------------------------------------------


def test_an_unpaired_agent_gets_nothing(made: Rig) -> None:
    route = pair(made)
    stranger = made.data / "stranger"
    certificates.ensure(stranger, "stranger")
    appliance = network.paired(made.data / "greenhouse")
    assert appliance is not None
    made.agent("stranger", Network(stranger, appliance, [], search=False), identity="0" * 64)
    start(made, route)
    made.until(lambda: made.state("greenhouse").online, "the paired one")
    assert [state.name for state in made.fleet.agents() if state.online] == ["greenhouse"]


def test_an_appliance_that_is_another_one_is_not_spoken_to(made: Rig, tmp_path: Path) -> None:
    route = pair(made)
    with rig(tmp_path / "other", port=free_port(), owned=lambda: True) as other:
        other.fleet.door.pair("greenhouse")
        with pytest.raises(OSError, match="it is not the appliance that this agent was paired with"):
            route._dial(where(other))


def test_a_revoked_agent_is_cut_off_at_once_and_stays_out(made: Rig) -> None:
    start(made, pair(made))
    heard = Listener()
    made.watch(heard, FAST, agent="greenhouse")
    heard.well()
    made.fleet.revoke("greenhouse")
    heard.until(lambda: heard.states[-1] == (False, "the agent greenhouse was revoked"))
    assert [state.name for state in made.fleet.agents()] == [""]
    with pytest.raises(ConfigError, match="no agent 'greenhouse'"):
        made.watch(heard, FAST, agent="greenhouse")


def test_a_card_that_moved_to_other_hardware_is_noticed(made: Rig) -> None:
    route = pair(made, machine="serial:another machine")
    made.agent("greenhouse", route, identity=route.identity)
    if not machine_id():
        pytest.skip("this machine has neither a serial number nor a network card")
    made.until(lambda: made.state("greenhouse").text.startswith("refused"), "the refusal")
    assert "this looks like a copy of its SD card" in made.state("greenhouse").text
    assert not made.state("greenhouse").online


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 50, b"FLOWORK-PAIR-9xx", b""]
)
def test_garbage_on_the_port_harms_nobody(made: Rig, data: bytes) -> None:
    start(made, pair(made))
    # A reset is as good an end as any.
    with suppress(OSError), socket.create_connection(("127.0.0.1", made.options["port"]), PATIENCE) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        while link.recv(4096):
            pass
    assert made.command({"entity": "lamp", "value": True}, FAST, agent="greenhouse")["value"] is True


def test_more_visitors_than_there_are_seats_are_turned_away(made: Rig) -> None:
    start(made, pair(made))
    idle = [socket.create_connection(("127.0.0.1", made.options["port"]), 5.0) for _ in range(listening.VISITORS)]
    late = socket.create_connection(("127.0.0.1", made.options["port"]), 5.0)
    assert late.recv(1) == b""
    assert made.command({"entity": "lamp", "value": True}, FAST, agent="greenhouse")["value"] is True
    for link in (*idle, late):
        link.close()


@pytest.mark.parametrize(
    "start", [pairing.AGENTS.magic + b"\0\0\xff\xff", b"\x16\x03\x01\x40\x00"], ids=["pairing", "tls"]
)
def test_a_visitor_that_speaks_ever_so_slowly_has_no_more_time_than_others(
    made: Rig, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    """A byte now and then, each well within the patience for one: a seat is not to be held so."""
    monkeypatch.setattr(listening, "PATIENCE", 0.5)
    made.fleet.door.pair("greenhouse")
    with socket.create_connection(("127.0.0.1", made.options["port"]), PATIENCE) as link:
        link.sendall(start)
        link.settimeout(0.05)  # the pace of the bytes
        sent = 0
        with suppress(ConnectionError):
            while sent < 200:
                with suppress(TimeoutError):
                    if link.recv(1) == b"":
                        break
                link.sendall(b"\0")
                sent += 1
        assert sent < 200
    made.until(lambda: not made.fleet.door._listening._hearing, "the end of the visit")
