"""A real fleet and a real agent over the Unix socket: events, configuration, commands, cuts, refusals."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import msgspec
import pytest

from appliance.contracts import ConfigError, NodeError, TimedOut
from appliance.fleet.fleet import SOCKET
from edge_agent.blobs import BlobFolder
from edge_agent.clocks import system_clocks
from edge_agent.memory import CommandMemory
from edge_agent.outbox import Outbox
from edge_agent.protocol import messages
from edge_agent.protocol.messages import Body, encode
from tests.fleet.rig import PATIENCE, Listener, Rig, rig

FAST = {"interval": 0.02}


def press(made: Rig, *, key: str = "", **options: object) -> object:
    return made.command({"entity": "button", "value": "press"}, FAST, key=key, **options)  # type: ignore[arg-type]


def test_events_come_once_in_order_with_the_right_time(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        heard = Listener()
        made.watch(heard, FAST)
        heard.until(lambda: len(heard.events) >= 50)
        seqs = [event.seq for event in heard.events]
        assert seqs == sorted(set(seqs))
        assert len({event.id for event in heard.events}) == len(seqs)
        assert heard.events[0].source == "lamp"
        assert all(event.agent == "" and event.driver == "sim" for event in heard.events)
        assert [event.cursor[1] for event in heard.events] == seqs


def test_a_driver_starts_and_stops_with_who_watches_it(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        first, second = Listener(), Listener()
        stop = made.watch(first, FAST, watcher="a/t")
        first.well()
        made.watch(second, {"name": "other"}, watcher="b/t")
        second.well()
        assert len(made.state().drivers) == 2
        stop()
        stop()
        made.until(lambda: len(made.state().drivers) == 1, "the end of the driver")
        assert made.state().drivers[0]["config"]["name"] == "other"


def test_equal_configs_share_a_driver_and_each_watcher_gets_all(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        first, second = Listener(), Listener()
        made.watch(first, {**FAST, "low": 15.0}, watcher="a/t")
        made.watch(second, FAST, watcher="b/t")  # 15.0 is the default
        first.well()
        second.well()
        press(made)
        for heard in (first, second):
            heard.until(lambda heard=heard: heard.kinds("button") == ["press"])  # type: ignore[misc]
        assert len(made.state().drivers) == 1


def test_what_is_on_its_way_is_no_failure_and_what_went_away_is(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        heard = Listener()
        made.watch(heard)
        heard.until(lambda: bool(heard.states), "how it stands")
        assert heard.states == [(None, "this machine's agent is away (not connected yet); it keeps what it sees")]
        stop = made.agent()
        heard.well()
        assert not [text for ok, text in heard.states if ok is False]
        stop()
        heard.until(lambda: heard.states[-1][0] is False, "that it went away")


def test_two_that_claim_one_thing_differently_are_told(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        first, second = Listener(), Listener()
        stop = made.watch(first, FAST, watcher="garden/t1")
        first.well()
        made.watch(second, {"interval": 7.0}, watcher="cellar/t1")
        second.until(lambda: "sim:board is already used by garden/t1" in str(second.states[-1:]))
        assert not second.states[-1][0]
        with pytest.raises(NodeError, match="already used by garden/t1"):
            made.command({"entity": "lamp", "value": True}, {"interval": 9.0})
        stop()
        second.well()


def test_what_only_a_command_had_opened_gives_way(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        made.command({"entity": "lamp", "value": True}, FAST)
        heard = Listener()
        made.watch(heard, {"interval": 7.0})
        heard.well()


def test_an_unknown_agent_driver_or_config_is_refused_at_once(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        heard = Listener()
        with pytest.raises(ConfigError, match="no agent 'attic'"):
            made.watch(heard, agent="attic")
        with pytest.raises(ConfigError, match="no driver 'warp'"):
            made.watch(heard, driver="warp")
        with pytest.raises(ConfigError, match="interval"):
            made.watch(heard, {"interval": "often"})


# --- cuts -------------------------------------------------------------------------------------------


def test_an_appliance_that_is_away_loses_nothing(tmp_path: Path) -> None:
    """Another kernel takes over with the cursor of the last run; the agent has gone on with its configuration."""
    with rig(tmp_path) as made:
        made.agent()
        before = Listener()
        made.watch(before, FAST)
        before.until(lambda: len(before.events) >= 10)
        made.fleet.stop()
        last = before.events[-1]
        made.begin_fleet()
        after = Listener()
        made.watch(after, FAST, cursor=last.cursor)
        after.until(lambda: len(after.events) >= 10)
        seqs = [event.seq for event in before.events + after.events]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


def test_events_that_were_not_acknowledged_come_again_to_the_next_kernel(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        before = Listener(acks=False)
        made.watch(before, FAST)
        before.until(lambda: len(before.events) >= 10)
        made.fleet.stop()
        made.begin_fleet()
        after = Listener()
        made.watch(after, FAST, cursor=before.events[3].cursor)  # so far the journal had come
        after.until(lambda: len(after.events) >= 20)
        assert after.events[0].seq == before.events[4].seq
        again = {event.seq: (event.id, event.value) for event in before.events}
        assert all(again[event.seq] == (event.id, event.value) for event in after.events if event.seq in again)


def test_an_agent_that_starts_without_an_appliance_works_on(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        stop = made.agent()
        before = Listener()
        made.watch(before, FAST)
        before.until(lambda: len(before.events) >= 3)
        stop()
        made.fleet.stop()
        made.agent("agent")
        outbox = tmp_path / "agent" / "outbox.db"
        grown = outbox.with_name("outbox.db-wal")
        made.until(lambda: grown.exists() and grown.stat().st_size > 30_000, "events on disk")
        made.begin_fleet()
        after = Listener()
        made.watch(after, FAST, cursor=before.events[-1].cursor)
        after.until(lambda: len(after.events) >= 10)
        assert after.events[0].time < after.events[-1].time


def test_a_busy_engine_holds_up_and_loses_nothing(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        heard = Listener()
        heard.busy = True
        made.watch(heard, {"interval": 0.01})
        made.until(lambda: made.state().online, "the connection")
        made.until(lambda: bool(made.fleet._remotes[""].deliveries["flow/t"].waiting), "events that wait")
        heard.busy = False
        heard.until(lambda: len(heard.events) >= 100)
        seqs = [event.seq for event in heard.events]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))


# --- commands -----------------------------------------------------------------------------------------


def test_a_command_is_acknowledged_and_its_key_makes_a_repetition_harmless(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        stop = made.agent()
        heard = Listener()
        made.watch(heard, FAST)
        heard.well()
        assert press(made, key="run1/step") == {"entity": "button", "value": "press"}
        assert press(made, key="run1/step") == {"entity": "button", "value": "press"}
        stop()
        made.agent()
        assert press(made, key="run1/step") == {"entity": "button", "value": "press"}
        press(made, key="run2/step")
        heard.until(lambda: len(heard.kinds("button")) == 2)


def test_a_command_that_was_cut_off_in_the_middle_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    memory = CommandMemory(tmp_path / "agent" / "commands.db", lambda: 1.0)
    assert memory.begin("cut") is None  # and then the power went
    memory.close()
    with rig(tmp_path) as made:
        made.agent()
        with pytest.raises(NodeError, match="nobody knows whether it was carried out") as failed:
            press(made, key="cut")
        assert not failed.value.retryable
        press(made, key="cut", repeatable=True)


def test_a_command_waits_for_an_agent_that_is_about_to_come(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        late = threading.Timer(0.3, made.agent)
        late.start()
        assert press(made) == {"entity": "button", "value": "press"}
        late.join()


def test_a_command_to_nobody_fails_in_time_and_says_why(tmp_path: Path) -> None:
    with rig(tmp_path) as made, pytest.raises((NodeError, TimedOut), match="this machine's agent"):
        press(made, timeout=0.2)


def test_a_bad_command_is_refused_in_the_drivers_words(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        with pytest.raises(NodeError, match="oven") as failed:
            made.command({"entity": "oven", "value": 1}, FAST)
        assert not failed.value.retryable


# --- outputs ------------------------------------------------------------------------------------------


def test_outputs_go_to_their_safe_state_when_the_appliance_is_gone(tmp_path: Path) -> None:
    with rig(tmp_path, dead_man=0.3) as made:
        made.agent()
        heard = Listener()
        made.watch(heard, {"interval": 60.0, "safe": False})
        heard.well()
        made.command({"entity": "lamp", "value": True}, {"interval": 60.0})
        made.fleet.stop()
        config = tmp_path / "agent" / "config.json"
        assert msgspec.json.decode(config.read_bytes())["dead_man"] == 0.3
        log = Listener()
        # The agent tells of it, once it can.
        wal = tmp_path / "agent" / "outbox.db-wal"
        size = wal.stat().st_size if wal.exists() else 0
        made.until(lambda: wal.exists() and wal.stat().st_size > size, "the dead-man rule")
        made.begin_fleet()
        made.watch(log, {"interval": 60.0}, cursor=heard.events[-1].cursor)
        log.until(lambda: "safe_state" in [event.kind for event in log.events])
        assert False in log.kinds("lamp")


def test_outputs_are_made_safe_after_a_crash(tmp_path: Path) -> None:
    """The file of what was commanded is what a killed agent leaves."""
    with rig(tmp_path) as made:
        stop = made.agent()
        made.command({"entity": "lamp", "value": True}, FAST)
        left = (tmp_path / "agent" / "outputs.json").read_bytes()
        stop()
        assert not (tmp_path / "agent" / "outputs.json").exists()
        (tmp_path / "agent" / "outputs.json").write_bytes(left)
        made.agent()
        made.until(lambda: any(driver["ok"] for driver in made.state().drivers), "the driver to be opened")


# --- refusals -----------------------------------------------------------------------------------------


class Stranger:
    """Speaks to the fleet's socket by hand."""

    def __init__(self, data: Path) -> None:
        self.link = socket.socket(socket.AF_UNIX)
        self.link.settimeout(PATIENCE)
        self.link.connect(str(data / SOCKET))

    def say(self, data: bytes) -> None:
        self.link.sendall(len(data).to_bytes(4, "big") + data)

    def hear(self) -> object:
        length = int.from_bytes(self.link.recv(4, socket.MSG_WAITALL), "big")
        return messages.decode_down(self.link.recv(length, socket.MSG_WAITALL)) if length else None

    def is_cut_off(self) -> bool:
        while data := self.link.recv(65536):
            assert data
        return True


def hello(versions: list[int]) -> bytes:
    return encode(messages.Hello(versions=versions, instance="i", outbox="o"))


def test_an_unknown_protocol_version_is_told_which_there_are(tmp_path: Path) -> None:
    with rig(tmp_path):
        stranger = Stranger(tmp_path)
        stranger.say(hello([7, 8]))
        answer = stranger.hear()
        assert isinstance(answer, messages.Refused)
        assert answer.id == "version"
        assert "speaks protocol 7, 8, this appliance 1" in answer.message
        stranger.link.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 100,
        b"\0\0\0\5hello",
        (3).to_bytes(4, "big") + b"\x81\xa1t",
        len(encode(messages.Pong(sent=0, at=0, up=0))).to_bytes(4, "big") + encode(messages.Done(id=1)),
    ],
)
def test_garbage_is_cut_off_and_harms_nobody(tmp_path: Path, garbage: bytes) -> None:
    with rig(tmp_path) as made:
        made.agent()
        heard = Listener()
        made.watch(heard, FAST)
        heard.well()
        stranger = Stranger(tmp_path)
        stranger.link.sendall(garbage + b"\0" * 10)
        stranger.link.shutdown(socket.SHUT_WR)
        assert stranger.is_cut_off()
        stranger.link.close()
        count = len(heard.events)
        heard.until(lambda: len(heard.events) > count + 5)


def test_a_second_agent_of_one_identity_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.agent()
        made.until(lambda: made.state().online, "the agent")
        copy = Stranger(tmp_path)
        copy.say(hello([1]))
        answer = copy.hear()
        assert isinstance(answer, messages.Refused)
        assert answer.id == "clone"
        assert made.state().online
        copy.link.close()


def test_a_large_value_goes_ahead_of_what_names_it(tmp_path: Path) -> None:
    """As a camera's picture: the event names it by its content, and it is in the engine's store by then."""
    folder = BlobFolder(tmp_path / "agent" / "blobs")
    (tmp_path / "agent").mkdir()
    picture = bytes(range(256)) * 4000
    reference = folder.keep(picture, "image/jpeg")
    with rig(tmp_path) as made:
        agent = made.agent()
        heard = Listener()
        made.watch(heard, FAST)
        heard.well()
        agent()
        outbox = Outbox(tmp_path / "agent" / "outbox.db", lambda: None, system_clocks())
        outbox.open()
        outbox.keep({"flow/t": True})
        outbox.put(("flow/t",), Body("cam", "taken", reference), 1_800_000_000.0, 0)
        outbox.close()
        made.agent()
        heard.until(lambda: heard.kinds("cam") == [reference])
        assert made.blobs.get(reference) == picture
        made.until(lambda: not list((tmp_path / "agent" / "blobs").iterdir()), "the end of the agent's copy")
