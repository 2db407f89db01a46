"""``flowork-agent``: runs the agent of a machine without an appliance, pairs it, or lists the appliances near it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_agent import __version__, config, launcher
from edge_agent.config import Settings, SettingsError
from edge_agent.machine import is_running, machine_id
from edge_agent.notify import Systemd
from edge_agent.protocol.pairing import PairingError

logger = logging.getLogger("flowork-agent")

_ABOUT = "The edge agent: gives a Flowork engine on another machine this one's pins, ports, files and programs."
#: Seconds between two tries to pair with the code from the settings.
PAIR_AGAIN = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    asked = sys.argv[1:] if arguments is None else list(arguments)
    plainly = asked in ([], ["run"])
    given = SimpleNamespace(data=None, config=None, verb="run") if plainly else _parsed(asked)
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(levelname)s: %(message)s")
    folder = config.state_folder(given.data)
    try:
        settings = config.load(given.config, folder)
        if given.verb == "find":
            return _find()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if given.verb == "pair":
            return _pair(folder, given.code, [*given.appliance, *settings.appliance], settings)
        return _run(folder, settings)
    except (SettingsError, PairingError) as exc:
        sys.stderr.write(f"flowork-agent: {exc}\n")
        return 1
    except OSError as exc:
        sys.stderr.write(f"flowork-agent: {exc.filename or folder}: {(exc.strerror or str(exc)).lower()}\n")
        return 1


def _parsed(arguments: Sequence[str]) -> Any:
    """What was asked for. A service asks for nothing but to run, and is spared the parser's memory."""
    import argparse

    parser = argparse.ArgumentParser(prog="flowork-agent", description=_ABOUT)
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--data", type=Path, help="where keys and the outbox are kept")
    parser.add_argument("--config", type=Path, help="the settings (flowork-agent.toml)")
    verbs = parser.add_subparsers(dest="verb")
    verbs.add_parser("run", help="run until told to stop (the default)")
    pairing = verbs.add_parser("pair", help="become an agent of the appliance that shows the code")
    pairing.add_argument("code", help="as `flowork agent pair NAME` shows it, such as 3-482-913")
    pairing.add_argument("--appliance", action="append", default=[], metavar="HOST[:PORT]", help="where it is")
    verbs.add_parser("find", help="list the appliances on the local network")
    return parser.parse_args(arguments)


def _run(folder: Path, settings: Settings) -> int:
    from edge_agent import network

    appliance = network.paired(folder)
    if appliance is None:
        if not settings.code:
            raise SettingsError(
                "this agent is not paired yet: show a code on the appliance with `flowork agent pair NAME`, then "
                '`flowork-agent pair CODE`, or write code = "CODE" into flowork-agent.toml'
            )
        _wait_for_pairing(folder, settings)
        return 0
    if launcher.VERSION in os.environ:
        code = _work(folder, settings)
    else:
        code = launcher.launch(folder, settings.well_within, lambda: _work(folder, settings))
    if code == launcher.AGAIN and launcher.TRIAL not in os.environ:
        launcher.again()
    return code


def _work(folder: Path, settings: Settings) -> int:
    """Run this version of the agent; the exit code."""
    from edge_agent import network
    from edge_agent.agent import Agent
    from edge_agent.local import serve

    appliance = network.paired(folder)
    assert appliance is not None
    route = network.Network(folder, appliance, settings.appliance, search=settings.discovery)
    agent = Agent(
        folder,
        route,
        identity=route.identity,
        max_bytes=int(settings.outbox_mb * 1_000_000),
        max_age=settings.outbox_days * 86400.0,
        well_for=settings.well_for,
        no_updates="" if settings.updates else f"updates are turned off on that machine ({config.FILE})",
    )
    return serve(agent)


def _wait_for_pairing(folder: Path, settings: Settings) -> None:
    """Try until the appliance is there, in a child each time; then begin anew, without what pairing has loaded."""
    import subprocess

    systemd = Systemd()
    systemd.tell("READY=1")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    base = [sys.executable, "-m", "edge_agent", "--data", str(folder), "pair", settings.code]
    for where in settings.appliance:
        base += ["--appliance", where]
    while not stop.is_set():
        systemd.tell("WATCHDOG=1")
        if subprocess.run(base, check=False, timeout=120.0).returncode == 0:
            sys.stderr.flush()
            os.execv(sys.executable, [sys.executable, "-m", "edge_agent", *sys.argv[1:]])  # noqa: S606 itself
        stop.wait(min(PAIR_AGAIN, systemd.beat or PAIR_AGAIN))


def _pair(folder: Path, code: str, given: Sequence[str], settings: Settings) -> int:
    from edge_agent import network

    known = network.paired(folder)
    made = network.pair(folder, code, given, machine_id(), search=settings.discovery)
    if known is not None:
        sys.stderr.write(f"flowork-agent: it was the agent {known.name} of {known.engine} before\n")
    if is_running(folder):
        sys.stdout.write(
            "an agent runs here already: start it again, so that it knows (systemctl restart flowork-agent)\n"
        )
    sys.stdout.write(f"paired: this is the agent {made.name} of the appliance {made.engine} at {made.address}\n")
    return 0


def _find() -> int:
    from edge_agent import network

    found = False
    for each in network.browse(network.BROWSE):
        found = True
        sys.stdout.write(f"{each.engine}  {each.host}  {', '.join(each.addresses)}  port {each.port}\n")
    if not found:
        sys.stderr.write("flowork-agent: no appliance answers on the local network\n")
    return 0 if found else 1
