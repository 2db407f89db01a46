"""A crowd of engines on a network, simulated: their announcements, as multicast DNS has them, and nothing behind them.

A program of its own: ``python -m tests.support.crowd COUNT SECONDS`` announces that many engines, again every few
seconds, answers nothing, and prints how many packets it has sent.
"""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
import time
from collections.abc import Iterator

GROUP = ("224.0.0.251", 5353)
_PTR, _TXT, _A, _SRV = 12, 16, 1, 33
_IN, _FLUSH = 1, 0x8001
TTL = 120
#: Announcements of one packet, and seconds between two rounds.
OF_ONE_PACKET, EVERY = 3, 5.0


def packets(count: int) -> Iterator[bytes]:
    """The announcements of ``count`` engines (RFC 6762, 18; RFC 6763, 4 and 6)."""
    for first in range(0, count, OF_ONE_PACKET):
        records = [record for number in range(first, min(count, first + OF_ONE_PACKET)) for record in _records(number)]
        yield struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def _records(number: int) -> Iterator[bytes]:
    engine = hashlib.sha256(str(number).encode()).hexdigest()[:16]
    service, host = _name("_flowork", "_tcp", "local"), _name(f"crowd{number}-{engine[:8]}", "local")
    instance = _name(f"crowd{number} {engine[:8]}", "_flowork", "_tcp", "local")
    facts = {
        "engine": engine,
        "version": "1",
        "agents": "0",
        "peers": "5011",
        "name": f"crowd{number}",
        "fp": hashlib.sha256(engine.encode()).hexdigest(),
        "instance": engine,
        "place": engine,
        "models": "qwen2.5-1.5b,smollm2-360m",
        "devices": "gpio,serial",
        "mem": str(number % 16),
        "load": "0.5",
    }
    text = b"".join(bytes([len(pair)]) + pair for pair in (f"{k}={v}".encode() for k, v in facts.items()))
    yield _record(service, _PTR, _IN, instance)
    yield _record(instance, _SRV, _FLUSH, struct.pack("!3H", 0, 0, 5011) + host)
    yield _record(instance, _TXT, _FLUSH, text)
    yield _record(host, _A, _FLUSH, bytes([10, 213, 99 + number // 250, 1 + number % 250]))


def _name(*labels: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"


def _record(name: bytes, kind: int, group: int, data: bytes) -> bytes:
    return name + struct.pack("!2HIH", kind, group, TTL, len(data)) + data


def main() -> int:
    """Announce until the time is up."""
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    ready = list(packets(count))
    until, sent = time.monotonic() + seconds, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        link.bind(("", GROUP[1]))  # what does not come from this port is no announcement (RFC 6762, 11)
        link.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        while time.monotonic() < until:
            for packet in ready:
                link.sendto(packet, GROUP)
                sent += 1
                if sent % 20 == 0:
                    time.sleep(0.01)  # as fast as a socket's buffer bears
            sys.stdout.write(f"{sent}\n")
            sys.stdout.flush()
            time.sleep(EVERY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
