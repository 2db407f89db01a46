"""How two engines come to know each other, who does not get in, and copies of an engine."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, PeerAway, PeerRoles
from appliance.fleet import codes, listening
from appliance.fleet.peers import gate, greeting
from appliance.fleet.peers.beacon import Found
from appliance.fleet.peers.book import PeerBook
from appliance.fleet.peers.outgoing import Lines, who
from appliance.fleet.peers.remote import split
from edge_agent.protocol import certificates, pairing
from tests.fleet.peers.rig import PATIENCE, Engine, Engines, engines, until


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Engines]:
    with engines(tmp_path) as made:
        yield made


def wrong(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return True
    return False


# --- the code -----------------------------------------------------------------------------------------


def test_both_owners_see_who_the_other_is_and_say_what_it_may_do(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    roles = PeerRoles(rights=frozenset({"run"}), workspaces=frozenset({"home"}))
    code = a.peers.pair("den", roles).code
    joined = b.peers.join(code, a.address, "", None).result(PATIENCE)
    until(lambda: a.connected("den") and b.connected("alpha"), "the link")
    there, here = a.state("den"), b.state("alpha")
    assert there is not None
    assert here is not None
    assert (joined.id, here.id, there.id) == ("idalpha", "idalpha", "idbeta")
    mine = {state.id: state.fingerprint for state in (a.peers.presence.me(), b.peers.presence.me())}
    assert (there.fingerprint, here.fingerprint) == (mine["idbeta"], mine["idalpha"])
    assert there.roles == here.allows == roles
    # what was not said is the least that is of use: ask models
    assert here.roles == there.allows == PeerRoles(rights=frozenset({"models"}))
    assert [entry[:2] for entry in a.audited] == [("peer.paired", "idbeta")]
    assert b.audited[0][2]["fingerprint"] == mine["idalpha"]
    until(lambda: {item["peer"]["state"] for item in a.told} >= {"away", "connected"}, "the news")


def test_nothing_listens_before_there_is_somebody_to_listen_for(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    assert refused(a.port)
    a.peers.pair("", None)
    assert not refused(a.port)
    a.peers.unpair("")
    until(lambda: refused(a.port), "the end")
    made.pair(a, b)
    assert not refused(a.port)
    assert not refused(b.port)
    a.peers.revoke("beta")
    until(lambda: refused(a.port), "the end")


def test_a_code_that_was_not_used_ends_and_so_does_the_listening(made: Engines, monkeypatch: Any) -> None:
    a = made("alpha")
    now = codes.time.monotonic()
    a.peers.pair("", None, minutes=10)
    monkeypatch.setattr(codes.time, "monotonic", lambda: now + 601)
    assert a.peers.gate.codes.all() == []


def test_an_engine_without_an_owner_or_a_port_lets_nobody_in(made: Engines) -> None:
    with pytest.raises(gate.PeersClosed, match="no owner"):
        made("alpha", owned=lambda: False).peers.pair("", None)
    with pytest.raises(gate.PeersClosed, match="peer_port"):
        made("beta", port=0).peers.pair("", None)
    with pytest.raises(gate.PeersClosed, match="no owner"):
        made("gamma", owned=lambda: False).peers.join("1-234-567", "127.0.0.1", "", None)


def test_a_port_that_is_taken_is_told_and_nothing_else_breaks(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    with socket.create_server(("127.0.0.1", a.port)):
        with pytest.raises(gate.PeersClosed, match="in use"):
            a.peers.pair("", None)
        assert a.peers.gate.codes.all() == []
        a.join(b)  # it can still call
        until(lambda: a.connected("beta"), "the link")
        until(lambda: "in use" in a.peers.health()["port"], "the trouble")


def test_a_wrong_code_is_refused_and_after_some_the_code_is_worth_nothing(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    code = a.peers.pair("", None).code
    for _ in range(codes.GUESSES):
        with pytest.raises(ConfigError, match="the code is not right"):
            b.join(a, code=wrong(code))
    with pytest.raises(PeerAway, match="no pairing with this code is open"):
        b.join(a, code=code)
    assert PeerBook(a.data).all() == PeerBook(b.data).all() == []


def test_a_code_is_good_for_one(made: Engines) -> None:
    a, b, c = made("alpha"), made("beta"), made("gamma")
    code = a.peers.pair("", None).code
    b.join(a, code=code)
    with pytest.raises(PeerAway):
        c.join(a, code=code)


@pytest.mark.parametrize("code", ["", "12", "abc-def", "1-23-456", "99999-123-456"])
def test_what_is_no_code_or_address_is_told_before_anybody_is_asked(made: Engines, code: str) -> None:
    a = made("alpha")
    with pytest.raises(ConfigError, match="is not a pairing code"):
        a.peers.join(code, "127.0.0.1", "", None)
    with pytest.raises(ConfigError, match="is not an address"):
        a.peers.join("1-234-567", "host:notaport", "", None)


def test_an_agents_code_pairs_no_engine_and_the_other_way_round(made: Engines) -> None:
    """The two ceremonies differ in what they begin with."""
    a = made("alpha")
    code = a.peers.pair("", None).code
    with socket.create_connection(("127.0.0.1", a.port), PATIENCE) as link:
        link.settimeout(PATIENCE)
        with pytest.raises((pairing.PairingError, OSError)):
            pairing.request(link, code, pairing.Request(b"", "", ""))
    assert PeerBook(a.data).all() == []


def test_who_sits_in_between_learns_nothing_and_gets_nothing(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    code = a.peers.pair("", None).code
    with socket.create_server(("127.0.0.1", 0)) as trap:
        faults: list[Exception] = []

        def spy() -> None:
            link, _ = trap.accept()
            with link:
                link.settimeout(PATIENCE)
                assert link.recv(len(gate.WHO), socket.MSG_WAITALL) == gate.PEERS.magic
                guest = pairing.Guest(link, gate.PEERS)
                guest.number()
                try:
                    guest.hear(wrong(code), gate.Introduction)
                except pairing.PairingError as exc:
                    faults.append(exc)
                    guest.refuse()

        thread = threading.Thread(target=spy)
        thread.start()
        with pytest.raises(ConfigError, match="the code is not right"):
            b.peers.join(code, f"127.0.0.1:{trap.getsockname()[1]}", "", None).result(PATIENCE)
        thread.join()
        assert faults
    assert PeerBook(b.data).all() == []


def test_names_that_are_taken_get_a_number_and_can_be_changed(made: Engines) -> None:
    a = made("alpha")
    b, c = made("beta", name="Robot in the den!"), made("gamma", name="robot in the den")
    made.pair(a, b)
    made.pair(a, c)
    assert {state.name for state in a.peers.states()[1:]} == {"robot-in-the-den", "robot-in-the-den-2"}
    assert [state.hint for state in a.peers.states()] == [""] * 3
    d = made("delta", name="robot in the den")
    made.pair(a, d)
    twins = [state for state in a.peers.states() if "calls itself that, too" in state.hint]
    assert {state.id for state in twins} == {"idgamma", "iddelta"}
    a.peers.rename("robot-in-the-den-2", "spare")
    assert a.connected("spare")
    with pytest.raises(ConfigError, match="already"):
        a.peers.rename("spare", "robot-in-the-den")
    with pytest.raises(ConfigError, match="is not a name for a peer"):
        a.peers.rename("spare", "../keys")
    with pytest.raises(ConfigError, match="already"):
        a.peers.pair("spare", None)


def test_what_was_agreed_outlives_both(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b, "run", "events")
    a.peers.stop()
    b.peers.stop()
    a.begin()
    b.begin()
    until(lambda: a.connected("beta") and b.connected("alpha"), "the link")
    state = a.state("beta")
    assert state is not None
    assert state.roles.may("run", "any")
    assert state.allows.may("events")


# --- who does not get in --------------------------------------------------------------------------------


def test_a_revoked_peer_is_cut_off_at_once_and_told(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    a.peers.revoke("beta")
    until(lambda: (state := b.state("alpha")) is not None and state.state == "refused", "the refusal")
    assert "ended by its owner" in b.state("alpha").text  # type: ignore[union-attr]
    assert [state.state for state in a.peers.states()] == ["self"]
    # it goes on trying, and is not let in
    b.peers.post(lambda: b.peers.links.hurry())
    until(lambda: not b.connected("alpha") and not b.peers.dialing._calling, "the try")
    assert b.state("alpha").state == "refused"  # type: ignore[union-attr]
    assert not b.peers.states()[1].connected


def test_one_that_was_revoked_while_it_was_away_learns_it_when_it_is_back(made: Engines) -> None:
    a, b, c = made("alpha"), made("beta"), made("gamma")
    made.pair(a, b)
    made.pair(a, c)
    b.peers.stop()
    a.peers.revoke("beta")
    b.begin()
    until(lambda: (state := b.state("alpha")) is not None and state.state == "refused", "the refusal")
    assert "does not know this engine" in b.state("alpha").text  # type: ignore[union-attr]
    assert a.connected("gamma")


def test_one_that_was_revoked_before_it_had_called_learns_it_when_it_calls(
    made: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only peer there was: the door stays open for it, but not for long."""
    a, b = made("alpha"), made("beta")
    a.peers.links.frozen = b.peers.links.frozen = True
    b.join(a)
    a.peers.revoke("beta")
    b.peers.links.frozen = False
    b.peers.post(b.peers.links.hurry)
    until(lambda: (state := b.state("alpha")) is not None and state.state == "refused", "the refusal")
    assert [state.state for state in a.peers.states()] == ["self"]
    assert not refused(a.port)
    monkeypatch.setattr(a.peers.presence, "_parting_until", a.about.up())
    a.peers.post(a.peers.presence.settle)
    until(lambda: refused(a.port), "the end")


def test_somebody_elses_certificate_at_a_known_address_is_not_spoken_to(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    b.peers.stop()
    until(lambda: not a.connected("beta"), "the end of the link")
    thief = made("thief", port=b.port)
    thief.peers.pair("", None)
    a.peers.post(lambda: a.peers.links.hurry())
    until(lambda: "another engine answers there" in a.state("beta").text, "the refusal")  # type: ignore[union-attr]
    assert [state.state for state in thief.peers.states()] == ["self"]


def test_an_id_that_is_taken_with_another_key_is_not_paired(made: Engines) -> None:
    """Who has a code may not put its own key in the place of another peer's."""
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    b.peers.stop()
    liar = made("beta", "liar")
    with pytest.raises(ConfigError, match="paired already, with another key"):
        liar.join(a)
    assert PeerBook(liar.data).all() == []
    b.begin()
    until(lambda: a.connected("beta"), "the real one")


def test_what_is_no_engine_or_speaks_ever_so_slowly_is_cut_off(made: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PATIENCE", 0.3)
    a = made("alpha")
    a.peers.pair("", None)
    for beginning in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"FLOWORK-PAIR-1",
        b"FLOWORK-PEER-1\0\0\xff\xff",
        b"\x16\x03\x01",
        b"",
    ):
        with socket.create_connection(("127.0.0.1", a.port), PATIENCE) as link:
            link.settimeout(PATIENCE)
            link.sendall(beginning)
            try:
                assert link.recv(1) == b""
            except ConnectionError:
                pass


def test_strangers_are_told_what_is_announced_and_nothing_where_nothing_is(made: Engines) -> None:
    a, b = made("alpha", discovery="paired"), made("beta")
    a.peers.pair("", None)
    b.peers.pair("", None)
    card = who(Lines(), "127.0.0.1", a.port)
    assert (card["engine"], card["name"], card["fp"]) == ("idalpha", "alpha", a.peers.presence.me().fingerprint)
    with pytest.raises(OSError, match="tells strangers nothing"):
        who(Lines(), "127.0.0.1", b.port)


def test_addresses_of_the_setting_are_asked_who_is_there(made: Engines) -> None:
    a = made("alpha", discovery="paired")
    a.peers.pair("", None)
    b = made("beta", listed=(a.address, "127.0.0.1:1"))
    b.peers.look()
    until(lambda: b.state("idalpha") is not None, "the one at the address")
    state = b.state("idalpha")
    assert state is not None
    assert (state.state, state.seen, state.addresses) == ("found", ("list",), (a.address,))
    code = a.peers.pair("", None).code
    b.peers.join(code, "", "", None).result(PATIENCE)
    until(lambda: a.connected("beta"), "the link")


# --- copies -----------------------------------------------------------------------------------------------


def copy_of(made: Engines, engine: Engine, folder: str, **changes: Any) -> Engine:
    target = engine.data.parent / folder
    shutil.copytree(engine.data, target, ignore=shutil.ignore_patterns(".*.tmp"))  # half-written files come and go
    return made(engine.about.engine.removeprefix("id"), folder, **changes)


def test_a_copy_that_calls_is_refused_while_the_original_is_there_and_all_three_know(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    copy = copy_of(made, b, "copy")
    until(lambda: "runs a copy of this engine" in copy.peers.presence.me().text, "the copy knows")
    until(lambda: "two machines have the identity of 'beta'" in a.state("beta").text, "the third")  # type: ignore[union-attr]
    assert a.connected("beta")
    assert (state := copy.state("alpha")) is not None
    assert state.state == "clone"
    assert "new-identity" in state.hint
    assert "new-identity" in copy.peers.presence.me().hint
    b.peers.post(lambda: b.peers.presence.saw(announcement(copy)))
    until(lambda: "runs a copy of this engine" in b.peers.presence.me().text, "the original")
    assert ("peer.clone", "idbeta") in [entry[:2] for entry in copy.audited]


def announcement(engine: Engine) -> Found:
    """What multicast says of an engine."""
    facts = {"engine": engine.about.engine, "peers": str(engine.port), **engine.peers.presence.facts()}
    return Found(f"{engine.data.name}.local", facts, ["127.0.0.1"], engine.port)


def test_its_own_announcement_is_no_copy_and_no_peer(made: Engines) -> None:
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    before = announcement(a)
    a.peers.post(lambda: a.peers.presence.saw(announcement(a)))
    old = Found("old", {**before.facts, "instance": "of an earlier start"}, ["127.0.0.1"], a.port)
    a.peers.post(lambda: a.peers.presence.saw(old))
    until(lambda: a.peers.presence._probed and not a.peers.dialing._calling, "the question")
    until(lambda: len(a.peers.links.board._links) == 1, "the end of the question")
    assert a.peers.presence.me().text == "this engine"
    assert [state.id for state in a.peers.states()] == ["idalpha", "idbeta"]


def test_a_folder_on_other_hardware_is_refused_until_its_owner_says_that_it_has_moved(made: Engines) -> None:
    a, b = made("alpha"), made("beta", machine="board one")
    made.pair(a, b)
    b.peers.stop()
    moved = copy_of(made, b, "moved", machine="board two")
    until(lambda: (state := a.state("beta")) is not None and state.state == "refused", "the refusal")
    assert "made on other hardware" in a.state("beta").text  # type: ignore[union-attr]
    until(lambda: (state := moved.state("alpha")) is not None and state.state == "refused", "the refusal")
    reasons = [state.why for state in (a.state("beta"), moved.state("alpha")) if state is not None]
    assert reasons == ["moved", "moved-here"]
    a.peers.moved("beta")
    moved.peers.post(moved.peers.links.hurry)
    until(lambda: a.connected("beta") and moved.connected("alpha"), "the link")
    assert [state.why for state in a.peers.states()] == ["", ""]
    moved.peers.stop()
    b.begin()
    until(lambda: (state := a.state("beta")) is not None and state.state == "refused", "the old one")


def test_one_that_does_not_answer_any_more_is_replaced_and_no_copy(
    made: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its power was cut: it is back before its old link was found dead."""
    monkeypatch.setattr(greeting, "PROOF", 0.2)
    a, b = made("alpha"), made("beta")
    made.pair(a, b)
    hold = threading.Event()
    b.peers.post(lambda: assert_set(hold))
    again = copy_of(made, b, "again")
    until(lambda: again.connected("alpha"), "the link")
    assert a.connected("beta")
    assert a.state("beta").text == "connected"  # type: ignore[union-attr]
    hold.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE)


def test_certificates_of_peers_and_agents_are_not_the_same(made: Engines, tmp_path: Path) -> None:
    a = made("alpha")
    agents = certificates.ensure(a.data / "keys" / "agents", "x")
    assert certificates.fingerprint(agents) != a.peers.presence.me().fingerprint


def test_an_address_without_a_port_is_where_engines_usually_listen(made: Engines) -> None:
    """However this engine itself is set up: its own port says nothing of another one's."""
    assert split("box.lan") == ("box.lan", 5011)
    assert split("[fe80::1]") == ("fe80::1", 5011)
    a = made("alpha", listed=("127.0.0.1",))
    assert a.port != 5011
    with pytest.raises(PeerAway, match=r"127\.0\.0\.1:5011: "):
        a.peers.join("3-482-913", "127.0.0.1", "", None).result(PATIENCE)
    with pytest.raises(PeerAway, match=r"127\.0\.0\.1:5011: "):
        a.peers.join("3-482-913", "", "", None).result(PATIENCE)


def test_the_end_waits_for_no_address_that_is_dead(made: Engines) -> None:
    """One to which no connection comes about, and one where somebody takes it and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_server(("127.0.0.1", 0)) as mute:
        places = [listener.getsockname() for listener in (full, mute)]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:  # until its queue is full, and it leaves the next one without an answer
            each.setblocking(False)
            each.connect_ex(places[0])
        a = made("alpha")
        for host, port in places:
            joined = a.peers.join("3-482-913", f"{host}:{port}", "", None)
            with pytest.raises(TimeoutError):
                joined.result(0.3)
            began = time.monotonic()
            a.peers.stop()
            assert time.monotonic() - began < 1.0
            assert joined.exception(PATIENCE) is not None
            assert not a.peers.dialing._calling
            a.begin()
        for each in waiting:
            each.close()
