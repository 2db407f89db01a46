"""A real Mosquitto for tests, an independent client (paho) to talk to it, and a broker made by hand.

Mosquitto runs on a free loopback port with its files in a folder of the test::

    with Mosquitto(tmp_path) as broker, Peer(broker) as peer:
        peer.subscribe("answers/#")
        hub.publish(broker.url, "answers/1", b"42")
        assert peer.next() == ("answers/1", b"42")

:class:`RawBroker` is for what no well-behaved broker does: silence, garbage, a connection cut at one point.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: Seconds that anything may take before the test fails.
PATIENCE = 20.0


def free_port() -> int:
    """A loopback TCP port that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until ``condition()`` is true and return its value; fail after :data:`PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, what or "it did not happen in time"
        time.sleep(0.005)
    return value


class Mosquitto:
    """One broker; ``start`` and ``kill`` may follow each other on the same port.

    ``users`` maps names to passwords (none: anybody may come in), ``tls`` makes certificates (``ca`` is the
    file that trusts them), ``persistence`` keeps sessions over an orderly restart.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        tls: bool = False,
        persistence: bool = False,
        settings: str = "",
    ) -> None:
        self.port = free_port()
        self.ca = folder / "ca.pem"
        self._folder = folder
        self._users = users or {}
        self._tls = tls
        self._persistence = persistence
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        if self._tls:
            return f"mqtts://127.0.0.1:{self.port}?ca={self.ca}"
        return f"mqtt://127.0.0.1:{self.port}"

    def login(self, user: str, password: str) -> str:
        return self.url.replace("://", f"://{user}:{password}@")

    def __enter__(self) -> Self:
        if self._tls:
            make_certificates(self._folder)
        self._write_config()
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Run it and wait until it answers."""
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/mosquitto", "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        eventually(self._answers, f"mosquitto did not start; see {self._folder}/mosquitto.log")

    def stop(self, how: int = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def kill(self) -> None:
        """As if the plug were pulled."""
        self.stop(signal.SIGKILL)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "mosquitto.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _write_config(self) -> None:
        # Without a limit: a slow reader in a test must not lose what a burst sent it (the default is 1000).
        lines = [
            "max_queued_messages 0",
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(not self._users).lower()}",
        ]
        if os.getuid() == 0:
            lines.append("user root")  # else it becomes a user that may not write to the test's folder
        if self._users:
            passwords = self._folder / "passwords"
            passwords.touch(mode=0o600)
            for user, password in self._users.items():
                subprocess.run(["mosquitto_passwd", "-b", passwords, user, password], check=True)
            lines.append(f"password_file {passwords}")
        if self._tls:
            lines += [f"certfile {self._folder}/server.pem", f"keyfile {self._folder}/server.key"]
        if self._persistence:
            lines += ["persistence true", f"persistence_location {self._folder}/"]
        (self._folder / "mosquitto.conf").write_text("\n".join([*lines, self._settings, ""]))


class Peer:
    """A paho client on its own thread: what the rest of the world is to us."""

    def __init__(self, broker: Mosquitto) -> None:
        self._broker = broker
        self._messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._subscribed = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self._messages.put(message)
        self._client.on_subscribe = lambda *_args: self._subscribed.set()

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._broker.port)
        self._client.loop_start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        del self._client  # its wake-up sockets close with it, and a fixture may be kept for longer than its test

    def subscribe(self, topic: str, qos: int = 2) -> None:
        self._subscribed.clear()
        self._client.subscribe(topic, qos)
        assert self._subscribed.wait(PATIENCE)

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, retain: bool = False) -> None:
        """Returns when the broker has it."""
        self._client.publish(topic, payload, qos, retain).wait_for_publish(PATIENCE)

    def publish_many(self, topic: str, payloads: list[bytes], qos: int = 1) -> None:
        """The same for many, without waiting for each."""
        for sent in [self._client.publish(topic, payload, qos) for payload in payloads]:
            sent.wait_for_publish(PATIENCE)

    def message(self) -> paho.MQTTMessage:
        return self._messages.get(timeout=PATIENCE)

    def next(self) -> tuple[str, bytes]:
        message = self.message()
        return message.topic, message.payload

    def empty(self) -> bool:
        return self._messages.empty()


class RawConnection:
    """One client's connection at :class:`RawBroker`, packet by packet."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(PATIENCE)

    def packet(self) -> tuple[int, bytes]:
        """First byte and body of the next packet; ``(0, b"")`` when the client has hung up."""
        first = self._socket.recv(1)
        if not first:
            return 0, b""
        size = shift = 0
        while True:
            byte = self._exactly(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return first[0], self._exactly(size)

    def expect(self, first: int) -> bytes:
        """The body of the next packet, which has to begin with this byte."""
        kind, body = self.packet()
        assert kind == first, f"expected {first:#x}, got {kind:#x} {body!r}"
        return body

    def welcome(self, *, session: bool = False, code: int = 0) -> bytes:
        """Take the CONNECT (returned) and answer it."""
        hello = self.expect(0x10)
        self.send(bytes((0x20, 2, session, code)))
        return hello

    def grant(self, qos: int = 1) -> None:
        """Take one SUBSCRIBE to one filter and answer it."""
        body = self.expect(0x82)
        self.send(b"\x90\x03" + body[:2] + bytes((qos,)))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def cut(self) -> None:
        """Reset the connection, as a crash does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self._socket.close()

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            assert more, "the client hung up inside a packet"
            data += more
        return data


class RawBroker:
    """A listening socket; the test plays the broker itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._open: list[RawConnection] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"mqtt://127.0.0.1:{self.port}"

    def accept(self) -> RawConnection:
        self._open.append(RawConnection(self._listener.accept()[0]))
        return self._open[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        for connection in self._open:
            connection.close()
        self._listener.close()


def make_certificates(folder: Path) -> None:
    """``ca.pem`` and, signed by it for 127.0.0.1, ``server.pem`` with ``server.key``."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("Test CA")
    ca = _certificate(issuer, issuer, ca_key.public_key(), ca_key, authority=True)
    server = _certificate(_name("broker"), issuer, key.public_key(), ca_key, authority=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(signer, hashes.SHA256())
    )
