"""Engines in network namespaces with real multicast: found, paired, cut off, renumbered, copied, revoked."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from appliance.kernel.client import Refused
from tests.support.engines_in_namespaces import REASON, EngineBox, Switch, until

pytestmark = [pytest.mark.skipif(bool(REASON), reason=REASON), pytest.mark.timeout(300)]


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as made:
        yield made


def test_three_engines_find_each_other_and_one_that_is_paired_survives_what_happens_to_networks(
    tmp_path: Path, switch: Switch
) -> None:
    """Found without an address, paired by a code, cut off, given another address, restarted, renamed, revoked."""
    always = {"peer_discovery": "always"}
    with (
        EngineBox(tmp_path / "kitchen", switch, **always) as kitchen,
        EngineBox(tmp_path / "laptop", switch, **always) as laptop,
        EngineBox(tmp_path / "robot", switch, **always) as robot,
    ):
        boxes = (kitchen, laptop, robot)
        for box in boxes:
            for other in boxes:
                if other is not box:
                    until(lambda b=box, o=other: b.state(o.id) == "found", f"{other.data.name} at {box.data.name}")
        found = kitchen.peer("laptop")
        assert f"{laptop.address}:5011" in found["addresses"]
        assert "mdns" in found["seen"]
        # without an address: whoever of those that are found shows the code
        code = kitchen.call("peer_pair", name="notebook")["code"]
        joined = laptop.call("peer_join", code=code)
        assert (joined["name"], joined["id"]) == ("kitchen", kitchen.id)
        assert joined["fingerprint"] == kitchen.peer(kitchen.id)["fingerprint"]
        until(lambda: kitchen.state("notebook") == laptop.state("kitchen") == "connected", "the link")
        assert robot.state(kitchen.id) == "found"
        # a cable is pulled: noticed on both sides, and mended by itself
        laptop.pull()
        began = time.monotonic()
        until(lambda: kitchen.state("notebook") == "away", "the end of the link")
        assert time.monotonic() - began < 30
        until(lambda: laptop.state("kitchen") == "away", "the end of the link")
        laptop.plug()
        until(lambda: kitchen.state("notebook") == laptop.state("kitchen") == "connected", "the link")
        # another address
        switch.renumber(laptop.namespace, laptop.address, "10.213.88.77")
        until(lambda: "10.213.88.77" in (kitchen.peer("notebook")["address"]), "the new address")
        # killed, and started again
        laptop.kill()
        until(lambda: kitchen.state("notebook") == "away", "the end of the link")
        laptop.start()
        until(lambda: kitchen.state("notebook") == laptop.state("kitchen") == "connected", "the link")
        # renamed, and shown what it may do
        kitchen.call("peer_rename", peer="notebook", name="den")
        kitchen.call("peer_allow", peer="den", roles={"rights": ["run"], "workspaces": ["home"]})
        until(lambda: laptop.peer("kitchen")["allows"] == {"rights": ["run"], "workspaces": ["home"]}, "what it may")
        # revoked: cut at once, and shown on both sides
        laptop.call("peer_revoke", peer="kitchen")
        until(lambda: kitchen.state("den") == "refused", "the refusal")
        assert "ended by its owner" in kitchen.peer("den")["text"]
        assert "peer revoke" in kitchen.peer("den")["hint"]
        assert laptop.state(kitchen.id) in {"found", ""}


def test_a_copied_data_folder_is_noticed_refused_and_told_what_to_do(tmp_path: Path, switch: Switch) -> None:
    with (
        EngineBox(tmp_path / "kitchen", switch) as kitchen,
        EngineBox(tmp_path / "laptop", switch) as laptop,
    ):
        kitchen.pair(laptop)
        laptop.stop()
        shutil.copytree(laptop.data, tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock", "*.sock", "*.bell"))
        laptop.start()
        until(lambda: kitchen.state("laptop") == "connected", "the link")
        with EngineBox(tmp_path / "copy", switch, name="laptop") as copy:
            until(lambda: "runs a copy of this engine" in copy.peer(copy.id)["text"], "the copy knows")
            assert "peer new-identity" in copy.peer(copy.id)["hint"]
            until(lambda: "runs a copy of this engine" in laptop.peer(laptop.id)["text"], "the original knows")
            until(lambda: "two machines have the identity of 'laptop'" in kitchen.peer("laptop")["text"], "the third")
            assert kitchen.state("laptop") == "connected"
            assert kitchen.peer("laptop")["address"] == laptop.address
            until(lambda: copy.state("kitchen") == "clone", "the refusal")
            # what the hint says
            old = copy.id
            copy.stop()
            made = copy.flowork_json("peer", "new-identity", "--yes")
            assert made["id"] != old
            copy.flowork("safe-mode", "off")
            copy.start()
            assert copy.id == made["id"]
            assert copy.peer(copy.id)["text"] == "this engine"
            kitchen.pair(copy)
            assert kitchen.peer(copy.id)["name"] == "laptop-2"


def test_nothing_is_said_or_heard_before_there_is_somebody(tmp_path: Path, switch: Switch) -> None:
    with (
        EngineBox(tmp_path / "kitchen", switch) as kitchen,
        EngineBox(tmp_path / "laptop", switch) as laptop,
    ):
        assert "5011" not in listens(kitchen)
        kitchen.call("peer_pair")
        assert "5011" in listens(kitchen)
        laptop.call("peer_look")
        until(lambda: laptop.state(kitchen.id) == "found", "the one that pairs")
        assert kitchen.state(laptop.id) == ""
        kitchen.call("peer_unpair", name="")
        until(lambda: "5011" not in listens(kitchen), "the end of listening")
        until(lambda: laptop.state(kitchen.id) == "", "the goodbye")


def listens(box: EngineBox) -> str:
    command = ["ip", "netns", "exec", box.namespace, "cat", "/proc/net/tcp", "/proc/net/tcp6"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.splitlines()
    return " ".join(str(int(line.split()[1].rpartition(":")[2], 16)) for line in lines if " 0A " in line)


def test_who_is_not_paired_gets_nothing_and_who_sits_in_between_neither(tmp_path: Path, switch: Switch) -> None:
    """From another machine on the network, as an attacker would."""
    with (
        EngineBox(tmp_path / "kitchen", switch) as kitchen,
        EngineBox(tmp_path / "laptop", switch) as laptop,
    ):
        kitchen.pair(laptop)
        outside, _ = switch.cable()
        knock = [sys.executable, "-c", KNOCK, kitchen.address]
        done = subprocess.run(
            ["ip", "netns", "exec", outside, *knock], check=False, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.split() == ["nothing"] * 4, done.stdout + done.stderr
        # somebody takes over the laptop's address, with a certificate of its own
        laptop.pull()
        until(lambda: kitchen.state("laptop") == "away", "the end of the link")
        switch.renumber(outside, _, laptop.address)
        fake = subprocess.Popen(
            ["ip", "netns", "exec", outside, sys.executable, "-c", FAKE, str(tmp_path / "fake")],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert fake.stdout is not None
            assert fake.stdout.readline().strip() == "ready"
            assert fake.stdout.readline().strip() == "refused"
            assert kitchen.state("laptop") == "away"
        finally:
            fake.terminate()
            fake.wait(10)
            assert fake.stdout is not None
            fake.stdout.close()


#: Four ways in for somebody without a key: plain words, TLS without a certificate, TLS with one's own, rubbish.
KNOCK = """
import socket, ssl, sys, tempfile, pathlib
from edge_agent.protocol import certificates
folder = pathlib.Path(tempfile.mkdtemp())
certificates.ensure(folder, "stranger")
def connect():
    link = socket.create_connection((sys.argv[1], 5011), 10)
    link.settimeout(15)
    return link
def heard(link):
    try:
        return link.recv(100)
    except OSError:
        return b""
with connect() as link:
    link.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    print("nothing" if not heard(link) else "something")
for own in (False, True):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own:
        context.load_cert_chain(folder / "link.crt", folder / "link.key")
    try:
        with context.wrap_socket(connect()) as link:
            print("nothing" if not heard(link) else "something")
    except OSError:
        print("nothing")
with connect() as link:
    link.sendall(b"FLOWORK-PEER-1" + b"\\xff" * 64)
    print("nothing" if not heard(link) else "something")
"""
#: An engine that is another one, at the address of a peer.
FAKE = """
import pathlib, socket, ssl, sys
from edge_agent.protocol import certificates
folder = pathlib.Path(sys.argv[1])
certificates.ensure(folder, "fake")
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "link.crt", folder / "link.key")
with socket.create_server(("0.0.0.0", 5011)) as listener:
    print("ready", flush=True)
    link, _ = listener.accept()
    try:
        with context.wrap_socket(link, server_side=True) as secure:
            print("it spoke" if secure.recv(100) else "refused", flush=True)
    except OSError:
        print("refused", flush=True)
    sys.stdin.read()
"""


def test_a_wrong_code_from_the_network_ends_a_pairing_after_five(tmp_path: Path, switch: Switch) -> None:
    with (
        EngineBox(tmp_path / "kitchen", switch) as kitchen,
        EngineBox(tmp_path / "laptop", switch) as laptop,
    ):
        code = kitchen.call("peer_pair")["code"]
        wrong = code[:-1] + str((int(code[-1]) + 1) % 10)
        for _ in range(5):
            with pytest.raises(Refused, match="the code is not right"):
                laptop.call("peer_join", code=wrong, address=kitchen.address)
        with pytest.raises(Refused, match="no pairing with this code is open"):
            laptop.call("peer_join", code=code, address=kitchen.address)
        assert kitchen.call("peer_pairings") == []
        assert [peer["state"] for peer in kitchen.call("peers")] == ["self"]


def test_a_crowd_on_the_network_neither_hides_a_peer_nor_fills_the_memory(tmp_path: Path, switch: Switch) -> None:
    """A thousand engines announce themselves; the paired one comes back under another address, found among them."""
    with (
        EngineBox(tmp_path / "kitchen", switch) as kitchen,
        EngineBox(tmp_path / "laptop", switch) as laptop,
    ):
        kitchen.pair(laptop)
        outside, _ = switch.cable()
        noise = [sys.executable, "-m", "tests.support.crowd", "1000", "300"]
        with subprocess.Popen(["ip", "netns", "exec", outside, *noise], stdout=subprocess.DEVNULL) as crowd:
            try:
                until(lambda: len(kitchen.call("peers")) > 200, "the crowd")
                assert kitchen.state("laptop") == "connected"
                laptop.pull()
                until(lambda: kitchen.state("laptop") == "away", "the end of the link")
                kitchen.pull()
                switch.renumber(laptop.namespace, laptop.address, "10.213.88.99")
                laptop.plug()
                kitchen.plug()
                until(lambda: "10.213.88.99:5011" in kitchen.peer("laptop")["addresses"], "it, among the crowd")
                until(lambda: kitchen.state("laptop") == "connected", "the link")
                assert len(kitchen.call("peers")) <= 256 + 2
                assert kitchen.process is not None
                family = psutil.Process(kitchen.process.pid)
                assert sum(each.memory_full_info().pss for each in [family, *family.children(True)]) < 150_000_000
            finally:
                crowd.terminate()


@pytest.mark.skipif(shutil.which("avahi-daemon") is None, reason="there is no avahi here")
def test_where_avahi_runs_the_name_of_the_machine_is_its_own(tmp_path: Path, switch: Switch) -> None:
    """Both answer on one machine; neither disputes a name of the other, and engines are found all the same."""
    with EngineBox(tmp_path / "kitchen", switch, peer_discovery="always") as kitchen:
        settings, log = tmp_path / "avahi.conf", tmp_path / "avahi.log"
        name = socket.gethostname().split(".")[0]
        settings.write_text(f"[server]\nhost-name={name}\nenable-dbus=no\n")
        avahi = f"mount -t tmpfs run /run && mkdir /run/avahi-daemon && exec avahi-daemon -f {settings}"
        command = ["unshare", "-m", "sh", "-c", f"{avahi} --no-drop-root --no-chroot --no-rlimits"]
        with (
            log.open("wb") as file,
            subprocess.Popen(["ip", "netns", "exec", kitchen.namespace, *command], stdout=file, stderr=file) as daemon,
        ):
            try:
                until(lambda: "Server startup complete" in log.read_text(), "avahi")
                with EngineBox(tmp_path / "laptop", switch, peer_discovery="always") as laptop:
                    until(lambda: laptop.state(kitchen.id) == "found", "the engine beside avahi")
                    until(lambda: kitchen.state(laptop.id) == "found", "the other one")
                    assert f"{kitchen.address}:5011" in laptop.peer(kitchen.id)["addresses"]
                    kitchen.pair(laptop)
            finally:
                daemon.terminate()
        assert "onflict" not in log.read_text()
        assert f"Host name is {name}.local" in log.read_text()


def test_without_multicast_an_address_in_the_settings_is_enough(tmp_path: Path, switch: Switch) -> None:
    kitchen = EngineBox(tmp_path / "kitchen", switch, peer_discovery="never")
    laptop = EngineBox(tmp_path / "laptop", switch, peers=[kitchen.address], peer_discovery="never")
    with kitchen, laptop:
        code = kitchen.call("peer_pair")["code"]
        assert laptop.call("peer_join", code=code)["id"] == kitchen.id
        until(lambda: kitchen.state("laptop") == "connected", "the link")
