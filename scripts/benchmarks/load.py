"""Load generators that cost little themselves: HTTP over kept connections, MQTT over raw sockets."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable


def http_load(port: int, path: str, body: bytes, count: int, concurrency: int) -> tuple[float, list[float]]:
    """POST ``count`` times over ``concurrency`` kept connections; (seconds in all, latencies in seconds)."""
    request = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    latencies: list[float] = []
    failures: list[bytes] = []
    broken: list[OSError] = []

    def worker(share: int) -> None:
        try:
            work(share)
        except OSError as exc:
            broken.append(exc)

    def work(share: int) -> None:
        link = socket.create_connection(("127.0.0.1", port))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mine: list[float] = []
        with link:
            for _ in range(share):
                began = time.perf_counter()
                link.sendall(request)
                answer = _read_answer(link)
                mine.append(time.perf_counter() - began)
                if not answer.startswith(b"HTTP/1.1 2"):
                    failures.append(answer[:200])
        latencies.extend(mine)

    threads = [threading.Thread(target=worker, args=(count // concurrency,)) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if broken:
        raise broken[0]
    if failures:
        raise RuntimeError(f"{len(failures)} requests failed, one of them: {failures[0]!r}")
    return took, latencies


def _read_answer(link: socket.socket) -> bytes:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = link.recv(65536)
        if not piece:
            raise ConnectionError("the server closed the connection")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        body += link.recv(65536)
    return head


def _packet(kind: int, body: bytes) -> bytes:
    length, head = len(body), b""
    while True:
        digit, length = length & 127, length >> 7
        head += bytes((digit | (128 if length else 0),))
        if not length:
            return bytes((kind,)) + head + body


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


class Mqtt:
    """A bare MQTT 3.1.1 client for measuring: publish QoS 1 without waiting, receive QoS 1."""

    def __init__(self, port: int, name: str) -> None:
        self._link = socket.create_connection(("127.0.0.1", port))
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._link.sendall(_packet(0x10, _text("MQTT") + b"\x04\x02\x00\x3c" + _text(name)))
        self._next_packet()
        self._mid = 0

    def close(self) -> None:
        """Disconnect."""
        self._link.sendall(b"\xe0\x00")
        self._link.close()

    def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 1 and wait for the broker's word."""
        self._link.sendall(_packet(0x82, b"\x00\x01" + _text(topic) + b"\x01"))
        self._next_packet()

    def publish(self, topic: str, payload: bytes) -> None:
        """Send one message with QoS 1; the acknowledgement is read by :meth:`drain`."""
        self._mid = self._mid % 65535 + 1
        self._link.sendall(_packet(0x32, _text(topic) + struct.pack("!H", self._mid) + payload))

    def publish_many(self, topic: str, payloads: list[bytes]) -> None:
        """Send many at once, reading acknowledgements on a thread meanwhile, until all are acknowledged."""
        reader = threading.Thread(target=self._acks, args=(len(payloads),))
        reader.start()
        block = bytearray()
        for payload in payloads:
            self._mid = self._mid % 65535 + 1
            block += _packet(0x32, _text(topic) + struct.pack("!H", self._mid) + payload)
            if len(block) > 16_384:
                self._link.sendall(block)
                block.clear()
        self._link.sendall(block)
        reader.join()

    def _acks(self, count: int) -> None:
        for _ in range(count):
            self._next_packet()

    def drain(self) -> None:
        """Read and forget one acknowledgement."""
        self._next_packet()

    def receive(self, on_message: Callable[[bytes], bool]) -> None:
        """Give payloads to ``on_message`` until it returns False; acknowledges in batches."""
        going = True
        while going:
            acks = bytearray()
            for kind, body in self._packets():
                if kind & 0xF0 != 0x30:
                    continue
                length = struct.unpack_from("!H", body)[0]
                position = 2 + length
                if kind & 0x06:
                    acks += b"\x40\x02" + body[position : position + 2]
                    position += 2
                going = on_message(body[position:]) and going
            if acks:
                self._link.sendall(acks)

    def _packets(self) -> list[tuple[int, bytes]]:
        """All whole packets that are there, at least one."""
        found: list[tuple[int, bytes]] = []
        while True:
            start = 0
            while (parsed := self._parse(start)) is not None:
                kind, body, start = parsed
                found.append((kind, body))
            del self._buffer[:start]
            if found:
                return found
            data = self._link.recv(262_144)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._buffer += data

    def _parse(self, start: int) -> tuple[int, bytes, int] | None:
        buffer = self._buffer
        if len(buffer) - start < 2:
            return None
        length = shift = 0
        position = start + 1
        while True:
            if position >= len(buffer):
                return None
            digit = buffer[position]
            length |= (digit & 127) << shift
            shift += 7
            position += 1
            if not digit & 128:
                break
        if len(buffer) - position < length:
            return None
        return buffer[start], bytes(buffer[position : position + length]), position + length

    def _next_packet(self) -> tuple[int, bytes]:
        while True:
            parsed = self._parse(0)
            if parsed is not None:
                del self._buffer[: parsed[2]]
                return parsed[0], parsed[1]
            data = self._link.recv(65536)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._buffer += data
