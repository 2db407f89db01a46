"""What stands for a tunnel in tests: a program of its own that takes connections from "the internet" and hands them on.

    python proxy.py TARGET_PORT FORWARDED_FOR

As cloudflared and Tailscale do, it says who called and that they came by https; it changes nothing else. It prints the
port that it listens on, and ends with its standard input.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress


def main(target: int, behind: str) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=_accept, args=(listening, target, behind), daemon=True).start()
    sys.stdin.read()


def _accept(listening: socket.socket, target: int, behind: str) -> None:
    while True:
        client, _ = listening.accept()
        threading.Thread(target=_relay, args=(client, target, behind), daemon=True).start()


def _relay(client: socket.socket, target: int, behind: str) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        if not (data := client.recv(65536)):
            return
        head += data
    first, _, rest = head.partition(b"\r\n")
    more = "X-Forwarded-Proto: https\r\n" + (f"X-Forwarded-For: {behind}\r\n" if behind else "")
    with client, socket.create_connection(("127.0.0.1", target)) as engine:
        engine.sendall(first + b"\r\n" + more.encode() + rest)
        back = threading.Thread(target=_pump, args=(engine, client), daemon=True)
        back.start()
        _pump(client, engine)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
