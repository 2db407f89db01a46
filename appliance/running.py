"""Who runs an engine on a data folder, and where its gateway listens: found out from outside, changing nothing."""

from __future__ import annotations

import fcntl
import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Every IPv4 address, in /proc/net/tcp.
_ANY4 = "00000000"
#: ::1 there, and how 127.0.0.0/8 ends (words are little-endian).
_LOOPBACK = frozenset({"00000000000000000000000001000000"})
_LOOPBACK_NET = "7F"


def holder(data: Path, role: str) -> int | None:
    """The pid of who runs the ``kernel`` or the ``gateway`` of a folder (0: not known); None if nobody does."""
    try:
        handle = os.open(data / f"{role}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(handle, 20, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(handle)
    return None


def listening(pid: int) -> list[tuple[str, int]]:
    """Where a process of this user listens on TCP: host and port as this machine reaches it (proc(5))."""
    inodes = set(_sockets(pid))
    return [(_address(row.host, row.loopback), row.port) for row in _rows() if row.inode in inodes]


def gateway_port(data: Path, known: int = 0) -> int:
    """The port at which other machines reach a folder's gateway; 0 if they do not. ``known`` is what it was before.

    Where the gateway's own sockets cannot be seen (a service with ``PrivateUsers=``) this user's others are asked.
    """
    pid = holder(data, "gateway")
    if pid is None:
        return 0
    open_ = [row for row in _rows() if row.host not in _LOOPBACK and not row.host.endswith(_LOOPBACK_NET)]
    seen, own = set(_sockets(pid)), set(_sockets(os.getpid()))
    for row in open_:
        if row.inode in seen:
            return row.port
    others = [row for row in open_ if row.user == os.getuid() and row.inode not in own] if not seen else []
    if known in {row.port for row in others}:
        return known
    return next((row.port for row in others if answers(_address(row.host, row.loopback), row.port)), 0)


class _Row(NamedTuple):
    """A socket that listens on TCP: its address as the table has it, and what loopback is called in that family."""

    host: str
    port: int
    inode: str
    user: int
    loopback: str


def _rows() -> Iterator[_Row]:
    for table, loopback in (("tcp", "127.0.0.1"), ("tcp6", "::1")):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in (row.split() for row in rows):
            if fields[3] == "0A":
                host, _, port = fields[1].partition(":")
                yield _Row(host, int(port, 16), fields[9], int(fields[7]), loopback)


def _sockets(pid: int) -> Iterator[str]:
    try:
        links = list(Path("/proc", str(pid), "fd").iterdir())
    except OSError:
        return
    for link in links:
        try:
            target = str(link.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield target[8:-1]


def _address(hexadecimal: str, loopback: str) -> str:
    """An IPv4 address as the table has it (hex of the little-endian word); IPv6 ones only as the loopback."""
    if len(hexadecimal) != len(_ANY4) or hexadecimal == _ANY4:
        return loopback
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(hexadecimal)))


def answers(host: str, port: int, timeout: float = 5.0) -> bool:
    """Whether a gateway answers there."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/api/v1/health", headers={"Host": f"localhost:{port}"})
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
