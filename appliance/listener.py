"""The gateway's listening socket, opened before the gateway starts, and what to call it in a browser.

Whoever starts the gateway owns the socket, so that a taken port is said in one line at once, and so that
requests wait for a gateway that is being started again instead of being refused.
"""

from __future__ import annotations

import errno
import re
import socket
from ipaddress import ip_address
from pathlib import Path

from appliance.contracts import FlowError

_BACKLOG = 2048
#: Hosts that mean every address of the machine. The first is the default: an owner exists before it is used.
ANY = ("0.0.0.0", "::")  # noqa: S104
#: Endings that routers give a host's name in a home; none of them can be registered by a stranger.
ENDINGS = (".local", ".lan", ".home", ".home.arpa", ".internal", ".localdomain")
HOSTNAME = Path("/etc/hostname")
#: Letters, digits and dashes between dots (RFC 1123, 2.1).
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")
#: Addresses kept for documentation (RFC 5737, RFC 3849): on the way to them lies the default gateway.
_OUTSIDE = ("192.0.2.1", "2001:db8::1")


class ListenError(FlowError):
    """The address or port cannot be listened on."""

    id = "cannot-listen"
    retryable = False


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket bound to the address, not yet listening. Port 0 takes a free one.

    Raises ``ListenError`` that names who holds a taken port and a port that is free.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
    except (socket.gaierror, UnicodeError):
        raise ListenError(f"{host!r} is not an address of this machine; --host takes an IP address") from None
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        raise ListenError(_refusal(host, port, exc)) from None
    return sock


def listen(sock: socket.socket) -> None:
    """Accept connections from now on. Raises ``ListenError`` if another process was quicker."""
    try:
        sock.listen(_BACKLOG)
    except OSError as exc:
        host, port = sock.getsockname()[:2]
        raise ListenError(_refusal(host, port, exc)) from None


def addresses(sock: socket.socket, scheme: str = "http") -> list[str]:
    """The URLs that reach the socket: from this machine first, then from the network."""
    host, port = sock.getsockname()[:2]
    hosts = ["localhost", *network_addresses()[:1]] if host in ANY else [host]
    return [f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}" for name in hosts]


def host_names() -> tuple[str, ...]:
    """What a home's network may call this machine: its name with each ending, mDNS's first, then without one."""
    names = [name.lower().rstrip(".") for name in (_set_name(), socket.gethostname()) if name]
    found: list[str] = []
    for name in names:
        first = name.partition(".")[0]
        found += [*(first + ending for ending in ENDINGS), first, name]
    return tuple(dict.fromkeys(found))


def _set_name() -> str:
    """The name that was set last; a service that systemd keeps from renaming the machine sees that of its own start."""
    try:
        name = HOSTNAME.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return name if _HOST_NAME.fullmatch(name) else ""


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ip_address(sock.getsockname()[0]).is_loopback


def reached_at(sock: socket.socket) -> tuple[str, int]:
    """Where this machine itself connects to the socket."""
    host, port = sock.getsockname()[:2]
    return dict(zip(ANY, ("127.0.0.1", "::1"), strict=True)).get(host, host), port


def network_addresses() -> list[str]:
    """This machine's addresses on the way to the default gateway, IPv4 first. Sends nothing."""
    found = []
    for family, outside in zip((socket.AF_INET, socket.AF_INET6), _OUTSIDE, strict=True):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))
                found.append(str(probe.getsockname()[0]))
        except OSError:
            continue  # no way out there, or no such protocol here
    return found


def _refusal(host: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} is in use by {_holder(port)}; choose another: --port {_free_port(host, port)}"
    if exc.errno == errno.EACCES:
        return f"port {port} is for root only; choose another: --port {_free_port(host, 5000)}"
    if exc.errno == errno.EPERM:
        allowed = f"SocketBindAllow=ipv4:tcp:{port}"
        return f"systemd does not let it have port {port}: `systemctl edit flowork-gateway`, then [Service] {allowed}"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; leave --host out to listen on all of them"
    return f"cannot listen on {host} port {port}: {(exc.strerror or str(exc)).lower()}"


def _free_port(host: str, taken: int) -> int:
    for port in range(taken + 1, min(taken + 100, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    return 0


def _holder(port: int) -> str:
    """The name and pid of the process that listens on ``port``, as far as this user may see it."""
    links = {f"socket:[{inode}]" for inode in _listening(port)}
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(fd.readlink()) in links:
                name = fd.parents[1].joinpath("comm").read_text().strip()
                return f"{name} (pid {fd.parts[2]})"
        except OSError:
            continue  # gone meanwhile, or not ours to look at
    return "another program"


def _listening(port: int) -> list[str]:
    """Inodes of the sockets that listen on a TCP port (proc(5), /proc/net/tcp; state 0A is LISTEN)."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            rows = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        fields = (row.split() for row in rows)
        found += [f[9] for f in fields if f[3] == "0A" and f[1].endswith(f":{port:04X}")]
    return found
