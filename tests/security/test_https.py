"""The authority of a home and the certificates that it gives: what they say, when they are made anew, who believes."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.contracts import FlowError
from appliance.security.files import keys_folder
from appliance.security.https.authority import DAY, EARLIEST, LEAF_DAYS, issue, make_root
from appliance.security.https.certificates import Certificates, HostNames, HttpsError, root_der, state_of

NOW = EARLIEST + 300 * DAY
HOME = HostNames(("flowork.local", "flowork"), ("192.168.1.20",))


@dataclasses.dataclass
class House:
    """A machine whose clock and names a test turns."""

    data: Path
    now: float = NOW
    right: bool = True
    names: HostNames = HOME
    engine: str = "engine-one"

    def certificates(self) -> Certificates:
        return Certificates(
            self.data,
            self.engine,
            lambda: self.names,
            now=lambda: self.now,
            monotonic=lambda: self.now,
            clock_right=lambda: self.right,
        )

    @property
    def folder(self) -> Path:
        return keys_folder(self.data) / "https"

    def leaf(self) -> bytes:
        return (self.folder / "leaf.pem").read_bytes()


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "keys").mkdir(mode=0o700)
    return House(tmp_path)


def shake(server: ssl.SSLContext, root: bytes, host: str) -> str:
    """A handshake as a browser makes it that trusts the root alone; why it was refused, or nothing."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(root))
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as end:
                end.recv(1)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as end:
            end.sendall(b"x")
        return ""
    except ssl.SSLError as exc:
        return str(exc)
    finally:
        ours.close()
        thread.join()
        theirs.close()


@pytest.mark.parametrize("host", ["flowork.local", "flowork", "localhost", "127.0.0.1", "::1", "192.168.1.20"])
def test_a_client_that_trusts_the_root_believes_every_name_of_the_box(house: House, host: str) -> None:
    # Python's clients judge by the machine's own clock.
    del house.now
    certificates = Certificates(house.data, house.engine, lambda: house.names)
    certificates.ensure()
    root = root_der(house.data)
    assert root is not None
    assert shake(certificates.context(), root, host) == ""
    assert "hostname" in shake(certificates.context(), root, "other.local").lower()


def test_the_keys_are_for_nobody_else(house: House) -> None:
    house.certificates().ensure()
    assert stat.S_IMODE(house.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in house.folder.iterdir()} == {0o600}


def openssl_verify(folder: Path, root: bytes, leaf: bytes, *more: str) -> str:
    (folder / "r.pem").write_bytes(root)
    (folder / "l.pem").write_bytes(leaf)
    command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW)), "-CAfile", str(folder / "r.pem"), *more]
    done = subprocess.run([*command, str(folder / "l.pem")], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_openssl_finds_nothing_wrong_and_the_root_speaks_for_nothing_outside_of_a_home(
    house: House, tmp_path: Path
) -> None:
    state = house.certificates().ensure()
    root = (house.folder / "root.crt").read_bytes()
    purpose = ("-purpose", "sslserver", "-verify_hostname", "flowork.local")
    assert "OK" in openssl_verify(tmp_path, root, house.leaf(), *purpose)
    assert state.until - state.since <= 398 * DAY
    key = (house.folder / "root.key").read_bytes()
    stolen, _, _ = issue(key, root, ["bank.example.com"], [], NOW)
    assert "permitted subtree violation" in openssl_verify(tmp_path, root, stolen)
    stolen, _, _ = issue(key, root, ["flowork.local"], ["8.8.8.8"], NOW)
    assert "permitted subtree violation" in openssl_verify(tmp_path, root, stolen)


def test_it_is_renewed_before_it_ends_and_the_root_stays(house: House) -> None:
    certificates = house.certificates()
    first = certificates.ensure()
    certificates.context()
    root, leaf = root_der(house.data), house.leaf()
    house.now += (LEAF_DAYS - 61) * DAY
    certificates.context()
    assert house.leaf() == leaf, "not yet"
    house.now += 2 * DAY
    certificates.context()
    second = state_of(house.data)
    assert second is not None
    assert second.until > first.until
    assert root_der(house.data) == root


def changed(house: House, act: Callable[[Certificates], None]) -> bool:
    certificates = house.certificates()
    certificates.ensure()
    certificates.context("192.168.1.20")
    leaf = house.leaf()
    act(certificates)
    return house.leaf() != leaf


def test_a_new_address_is_in_it_at_the_first_call_to_it(house: House) -> None:
    assert not changed(house, lambda made: void(made.context("::ffff:192.168.1.20")))
    assert changed(house, lambda made: void(made.context("192.168.1.77")))
    state = state_of(house.data)
    assert state is not None
    assert {"192.168.1.77", "192.168.1.20"} <= set(state.addresses)
    assert not changed(house, lambda made: void(made.context("2001:db8::5"))), "of the internet: not the root's"
    assert changed(house, lambda made: void(made.context("fe80::1%eth0")))


def void(_: object) -> None:
    pass


def test_a_new_name_is_in_it_and_one_that_the_root_cannot_speak_for_is_not(house: House) -> None:
    def rename(made: Certificates) -> None:
        house.names = HostNames(("attic.local", "attic", "attic.example.org"))
        made.context()

    assert changed(house, rename)
    state = state_of(house.data)
    assert state is not None
    assert "attic.local" in state.names
    assert "attic" not in state.names, "the root was made for the bare name of before"
    assert "attic.example.org" not in state.names
    root = root_der(house.data)
    assert root is not None


def test_addresses_do_not_grow_for_ever(house: House) -> None:
    certificates = house.certificates()
    certificates.ensure()
    for number in range(60):
        certificates.context(f"10.0.0.{number}")
    state = state_of(house.data)
    assert state is not None
    assert len(state.addresses) == 24
    assert "10.0.0.59" in state.addresses
    assert "10.0.0.1" not in state.addresses


def test_a_clock_that_is_not_right_yet_makes_nothing_and_spoils_nothing(house: House) -> None:
    house.now = 1000.0
    with pytest.raises(HttpsError, match="clock"):
        house.certificates().ensure()
    house.now = NOW
    certificates = house.certificates()
    certificates.ensure()
    leaf = house.leaf()
    # The Pi wakes up in the past: the certificate of before is the better one.
    house.now, house.right = EARLIEST + DAY, False
    certificates.context()
    assert house.leaf() == leaf
    # The clock was in the future when it was made, and is right now.
    house.right = True
    certificates.context()
    assert house.leaf() != leaf


def test_another_process_renews_and_the_gateway_takes_it_up(house: House) -> None:
    gateway, other = house.certificates(), house.certificates()
    gateway.ensure()
    before = gateway.context()
    other.renew()
    assert gateway.context() is not before


def test_a_copy_for_another_engine_gets_an_authority_of_its_own(house: House) -> None:
    first = house.certificates().ensure()
    assert house.certificates().ensure() == first
    house.engine = "engine-two"
    second = house.certificates().ensure()
    assert second.fingerprint != first.fingerprint
    assert second.engine == "engine-two"


def test_a_new_authority_when_somebody_asks(house: House) -> None:
    certificates = house.certificates()
    first = certificates.ensure()
    assert certificates.renew().fingerprint == first.fingerprint
    assert certificates.renew(authority=True).fingerprint != first.fingerprint


def test_a_disk_that_cannot_be_written_leaves_the_old_certificate(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = house.certificates()
    certificates.ensure()
    before = certificates.context()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("appliance.security.https.certificates.write_atomic", full)
    house.now += (LEAF_DAYS - 30) * DAY
    assert certificates.context() is before
    assert "No space left" in certificates.problem
    monkeypatch.undo()
    assert certificates.context() is before, "not tried at every connection"
    house.now += 61
    assert certificates.context() is not before
    assert certificates.problem == ""


def test_a_power_cut_between_the_files_leaves_something_that_mends_itself(house: House) -> None:
    house.certificates().ensure()
    (house.folder / "state.json").unlink()
    state = house.certificates().ensure()
    assert state_of(house.data) == state
    (house.folder / "leaf.pem").write_bytes(b"torn")
    certificates = house.certificates()
    certificates.ensure()
    certificates.context()
    (house.folder / "root.key").write_bytes(b"torn")
    with pytest.raises(FlowError, match="renew --authority"):
        house.certificates().renew()
    house.certificates().renew(authority=True)
    house.certificates().context()


def test_a_root_speaks_for_what_it_was_made_for() -> None:
    key, root = make_root("Flowork on attic", ["attic"], NOW)
    made, since, until = issue(key, root, ["attic"], ["10.1.2.3"], NOW)
    assert since == NOW - 2 * DAY
    assert until == NOW + LEAF_DAYS * DAY
    assert made.count(b"BEGIN") == 2
