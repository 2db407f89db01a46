"""Keeps this process's sockets on the loopback, with an audit hook that no code under test can undo.

Addresses and names that are reserved for documentation (RFC 5737, 3849, 2606) may be used by tests that
want a host which is away: they are unreachable at once. Anything else is noted in :data:`attempts` too.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from typing import Any

#: What was tried since the list was last cleared.
attempts: list[str] = []

_DOCUMENTATION = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
_NOWHERE = [ipaddress.ip_network(network) for network in _DOCUMENTATION]
_NO_NAME = (".invalid", ".example", ".test", "example.com", "example.org", "example.net")
_LOCAL = {"", "localhost", "ip6-localhost", socket.gethostname()}


def install() -> None:
    """Watch every connect, send and name lookup of this process from now on."""
    sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if isinstance(address, tuple) and not _is_local(host := str(address[0])):
            _note(host)
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = _text(args[0])
        if host not in _LOCAL and _ip(host) is None:
            _note(host)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _text(host: Any) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_local(host: str) -> bool:
    address = _ip(host)
    return host in _LOCAL if address is None else address.is_loopback or address.is_unspecified


def _note(host: str) -> None:
    address = _ip(host)
    known = host.endswith(_NO_NAME) if address is None else any(address in net for net in _NOWHERE)
    if not known:
        attempts.append(host)
