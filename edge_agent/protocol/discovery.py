"""Finding each other on the local network: DNS-SD over multicast DNS (RFC 6763, RFC 6762) by the zeroconf library.

Run as a program of its own (``python -m edge_agent.protocol.discovery``): what strangers send is read outside the
kernel and the agent, and neither of them carries the library.

``browse SECONDS`` prints one JSON object for each appliance found (``engine``, ``host``, ``addresses``, ``port``), at
once. How an appliance announces itself: ``appliance/fleet/peers/multicast.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time

SERVICE = "_flowork._tcp.local."


def browse(seconds: float) -> int:
    """Print what answers within ``seconds``."""
    from zeroconf import DNSQuestionType, IPVersion, ServiceBrowser, ServiceListener, Zeroconf

    class Listener(ServiceListener):
        def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
            info = zc.get_service_info(type_, name, int(seconds * 1000))
            if info is None or info.port is None or info.properties.get(b"agents") == b"0":
                return  # it is there for other engines only
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
        # Asked so that all hear the answer: one to this address alone may end at another program with port 5353
        # (avahi's), and the question is only repeated a second later.
        browser = ServiceBrowser(zeroconf, SERVICE, Listener(), question_type=DNSQuestionType.QM)
        time.sleep(seconds)
        browser.cancel()
    finally:
        zeroconf.close()
    return 0


def main() -> int:
    """The command line."""
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="edge_agent.protocol.discovery")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("browse").add_argument("seconds", type=float)
    return browse(parser.parse_args().seconds)


if __name__ == "__main__":
    sys.exit(main())
