"""Finding each other on the local network: DNS-SD over multicast DNS (RFC 6763, RFC 6762) by the zeroconf library.

Run as a program of its own (``python -m edge_agent.protocol.discovery``): what strangers send is read outside the
kernel and the agent, and neither of them carries the library.

``browse SECONDS``
    Prints one JSON object for each appliance found (``engine``, ``host``, ``addresses``, ``port``), at once.
``announce ENGINE PORT``
    Announces this machine until its standard input ends or it is told to stop.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import socket
import sys
import threading
import time

SERVICE = "_flowork._tcp.local."


def browse(seconds: float) -> int:
    """Print what answers within ``seconds``."""
    from zeroconf import IPVersion, ServiceBrowser, ServiceListener, Zeroconf

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            info = zc.get_service_info(type_, name, int(seconds * 1000))
            if info is None or info.port is None:
                return
            found = {
                "engine": (info.properties.get(b"engine") or b"").decode(errors="replace"),
                "host": (info.server or "").rstrip("."),
                "addresses": info.parsed_scoped_addresses(IPVersion.All),
                "port": info.port,
            }
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()

        def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """What has changed was found before."""

        def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            """It will not answer when it is dialled."""

    zeroconf = Zeroconf()
    try:
        browser = ServiceBrowser(zeroconf, SERVICE, Listener())
        time.sleep(seconds)
        browser.cancel()
    finally:
        zeroconf.close()
    return 0


def announce(engine: str, port: int) -> int:
    """Announce until told to stop."""
    from zeroconf import ServiceInfo, Zeroconf

    host = socket.gethostname().split(".")[0]
    zeroconf = Zeroconf()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    info = ServiceInfo(
        SERVICE,
        # The engine's id, since two boxes of one name would otherwise both claim it.
        f"{host} {engine[:8]}.{SERVICE}",
        port=port,
        properties={"engine": engine, "version": "1"},
        server=f"{host}-{engine[:8]}.local.",
        parsed_addresses=addresses(),
    )
    try:
        zeroconf.register_service(info, allow_name_change=True)
        sys.stdout.write("announced\n")
        sys.stdout.flush()
        threading.Thread(target=_until_end, args=(stop,), daemon=True).start()
        stop.wait()
        zeroconf.unregister_all_services()
    finally:
        zeroconf.close()
    return 0


def addresses() -> list[str]:
    """This machine's addresses on its networks."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        for each in adapter.ips:
            address = each.ip if isinstance(each.ip, str) else each.ip[0]
            if not address.startswith(("127.", "::1", "fe80")):
                found.append(address)
    return found or ["127.0.0.1"]


def _until_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def main() -> int:
    """The command line."""
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="edge_agent.protocol.discovery")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("browse").add_argument("seconds", type=float)
    announcing = verbs.add_parser("announce")
    announcing.add_argument("engine")
    announcing.add_argument("port", type=int)
    given = parser.parse_args()
    return browse(given.seconds) if given.verb == "browse" else announce(given.engine, given.port)


if __name__ == "__main__":
    sys.exit(main())
