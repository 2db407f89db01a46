"""The listening socket: what is refused, how it is said, and what the panel's address is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from appliance import listener
from appliance.listener import ListenError


def test_a_bound_socket_refuses_until_it_listens() -> None:
    with listener.bind("127.0.0.1", 0) as sock, socket.socket() as first, socket.socket() as second:
        with pytest.raises(ConnectionRefusedError):
            first.connect(sock.getsockname())
        listener.listen(sock)
        second.connect(sock.getsockname())


def test_a_taken_port_names_its_holder_and_a_free_port() -> None:
    with listener.bind("127.0.0.1", 0) as taken:
        listener.listen(taken)
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as refusal:
            listener.bind("127.0.0.1", port)
    message = refusal.value.message
    assert "\n" not in message
    assert f"port {port} is in use by" in message
    assert f"(pid {os.getpid()})" in message
    free = int(message.rpartition(" ")[2])
    with listener.bind("127.0.0.1", free) as sock:
        listener.listen(sock)


def test_a_port_taken_between_bind_and_listen_is_said_too() -> None:
    with listener.bind("127.0.0.1", 0) as slow, socket.socket() as quick:
        quick.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        quick.bind(slow.getsockname())
        quick.listen()
        with pytest.raises(ListenError, match="is in use by"):
            listener.listen(slow)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "\ud800", "a" * 300])
def test_nonsense_is_not_a_host(host: str) -> None:
    with pytest.raises(ListenError, match="is not an address of this machine"):
        listener.bind(host, 0)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ListenError, match=r"^192\.0\.2\.7 is not an address of this machine"):
        listener.bind("192.0.2.7", 5000)


def test_the_panel_is_where_the_socket_is() -> None:
    with listener.bind("127.0.0.1", 0) as sock:
        assert listener.addresses(sock) == [f"http://127.0.0.1:{sock.getsockname()[1]}"]


def test_an_address_of_ipv6_is_put_in_brackets() -> None:
    with listener.bind("::1", 0) as sock:
        assert listener.addresses(sock) == [f"http://[::1]:{sock.getsockname()[1]}"]


@pytest.mark.parametrize("host", listener.ANY)
def test_every_address_means_this_machine_and_its_network(host: str) -> None:
    with listener.bind(host, 0) as sock:
        listener.listen(sock)
        urls = listener.addresses(sock)
        port = sock.getsockname()[1]
        assert urls[0] == f"http://localhost:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


@pytest.mark.parametrize("text", ["", "# a comment", "localhost; rm -rf /", "-x", "\u00e4"])
def test_a_name_that_was_set_counts_before_a_restart_and_nonsense_does_not(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HOSTNAME", tmp_path / "hostname")
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.lan")
    (tmp_path / "hostname").write_text("Greenhouse\n")
    names = listener.host_names()
    assert names[0] == "greenhouse.local"
    assert {"greenhouse", "greenhouse.home.arpa", "box.local", "box", "box.lan"} <= set(names)
    (tmp_path / "hostname").write_text(text)
    assert listener.host_names()[0] == "box.local"
    (tmp_path / "hostname").unlink()
    assert listener.host_names()[0] == "box.local"
