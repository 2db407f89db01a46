"""A thorough look at an engine, whether it runs or not, that changes nothing: ``flowork doctor``."""

from __future__ import annotations

import platform
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.contracts import FlowError
from appliance.engine.validate import validate
from appliance.findings import (
    Finding,
    of_agents,
    of_clock,
    of_disk,
    of_https,
    of_name,
    of_plugins,
    of_safe_mode,
    of_status,
    of_strain,
    of_update,
)
from appliance.kernel.clock import Clock
from appliance.kernel.maintenance import check_shards
from appliance.listener import ANY, ListenError, bind
from appliance.registry import Registry
from appliance.running import answers, holder, listening
from appliance.safemode import SafeMode
from appliance.security.audit import AuditLog
from appliance.security.https.certificates import state_of
from appliance.security.keycheck import check_keys
from appliance.security.vault import Secrets
from appliance.store.errors import StoreError
from appliance.store.metadata import Store, open_store
from appliance.store.migrations import pending
from appliance.store.opening import DATABASE, RESTORING
from appliance.store.places import database_url
from appliance.store.sqlite_file import check_database
from appliance.strain import look
from appliance.update.request import told
from appliance.update.updater import OPT
from appliance.world import Machine

#: Where a gateway listens if nothing else is said.
PORT = 5000
#: Where avahi listens while it runs.
AVAHI = Path("/run/avahi-daemon/socket")
_PYTHON = (3, 11)
_SQLITE = (3, 37, 0)  # Debian 11 is too old; STRICT tables and RETURNING are in use


def examine(
    data: Path,
    status: Mapping[str, Any] | None,
    *,
    port: int = PORT,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> list[Finding]:
    """All faults of the engine in ``data``; ``status`` is the running kernel's own word, None if there is none.

    Slow for a long history: every shard is read. ``port`` is where a gateway that does not run would listen;
    ``tell(done, in all, what)`` says how far it is.
    """
    if not data.is_dir():
        return [Finding("no-folder", "critical", f"there is no folder {data}", "make an engine: `flowork init`")]
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("the versions", of_versions),
        ("the data folder", lambda: _folder(data)),
        ("the disk", lambda: of_disk(data)),
        ("the machine", lambda: [*of_strain(look(data)), *of_name(OPT.exists(), AVAHI.exists())]),
        ("the keys", lambda: [*_keys(data), *_https(data)]),
        ("the database", lambda: _database(data)),
        ("the history", lambda: _history(data)),
        ("flows, secrets and the audit log", lambda: _contents(data, status is not None)),
        ("the kernel", lambda: _kernel(status) if status is not None else _away(data)),
        ("the gateway", lambda: _gateway(data, port)),
    ]
    found: list[Finding] = []
    for number, (what, check) in enumerate(checks):
        tell(number, len(checks), what)
        try:
            found += check()
        except (FlowError, OSError, sqlite3.Error) as exc:
            text = exc.message if isinstance(exc, FlowError) else f"{what} could not be looked at: {_reason(exc)}"
            found.append(Finding("unreadable", "critical", text, "mend that, then look again"))
            if what == "the data folder":
                break  # all the rest lies in it
    tell(len(checks), len(checks), "")
    return found


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError) and exc.strerror:
        return f"{exc.filename}: {exc.strerror.lower()}" if exc.filename else exc.strerror.lower()
    return str(exc)


def of_versions() -> Iterator[Finding]:
    """Is what Flowork stands on new enough?"""
    if sys.version_info < _PYTHON:
        yield Finding("python", "critical", f"Python {platform.python_version()} is too old", "install 3.11 or newer")
    if sqlite3.sqlite_version_info < _SQLITE:
        yield Finding("sqlite", "critical", f"SQLite {sqlite3.sqlite_version} is too old", "install 3.37 or newer")


def _folder(data: Path) -> Iterator[Finding]:
    with tempfile.TemporaryFile(dir=data):
        pass
    if stat.S_IMODE(data.stat().st_mode) & 0o022:
        text = f"{data} can be written to by other users of this machine"
        yield Finding("open-folder", "critical", text, f"chmod go-w {data}")
    if (data / RESTORING).exists():
        text = "a restore into this folder was cut off"
        yield Finding("restoring", "critical", text, "empty the folder, then run `flowork restore` again")
    corrupt = data / "corrupt"
    moved = sorted(path.name for path in corrupt.iterdir()) if corrupt.is_dir() else []
    if moved:
        text = f"damaged files were moved aside: {', '.join(moved[:3])}" + (" …" if len(moved) > 3 else "")
        yield Finding("moved-aside", "warning", text, f"look at the disk; delete {corrupt} when you are done with it")


def _keys(data: Path) -> Iterator[Finding]:
    for problem in check_keys(data):
        text, _, mend = problem.partition("; ")
        yield Finding("keys", "critical", text, mend or "see docs/security.md")


def _https(data: Path) -> Iterator[Finding]:
    if (state := state_of(data)) is not None:
        yield from of_https(state.root_until, time.time(), "")


def _database(data: Path) -> Iterator[Finding]:
    if url := database_url():
        from appliance.store.postgres.opening import pending as pending_on

        try:
            if pending_on(url):
                text = "the database is of an older Flowork"
                yield Finding("old-database", "warning", text, "the next `flowork up` brings it up to date")
        except StoreError as exc:
            yield Finding("no-database", "critical", exc.message, "start its server, or correct FLOWORK_DATABASE_URL")
        return
    path = data / DATABASE
    if not path.exists():
        yield Finding("no-database", "critical", f"{path} is missing", "`flowork up` restores it or makes a new one")
    elif damage := check_database(path):
        mend = "stop Flowork and start it again: the last good copy takes its place"
        yield Finding("damaged-database", "critical", f"{DATABASE} is damaged: {damage}", mend)


def _history(data: Path) -> Iterator[Finding]:
    for damaged in check_shards(data):
        mend = "it is moved into corrupt/ when it is next written to; restore that day from a backup"
        yield Finding("damaged-day", "critical", f"a day of history is damaged: {damaged}", mend)


def _contents(data: Path, running: bool) -> Iterator[Finding]:
    """What is in the database. Not opened if opening would change it: that is for a start to do."""
    path = data / DATABASE
    if database_url():
        if any(_database(data)):
            return
    elif not path.exists() or check_database(path) is not None:
        return
    elif pending(path):
        text = f"{DATABASE} is of an older Flowork"
        yield Finding("old-database", "warning", text, "the next `flowork up` brings it up to date")
        return
    with closing(open_store(data)) as store:
        settings = store.settings.load()
        if settings.update_auto != "off":
            yield from of_update(*told(data))
        if not running and settings.clock == "wait":
            yield from of_clock(*Clock(lambda: 0.0).trusted())
        repair = store.repair()
        if repair is not None and repair.loss:
            mend = "check flows, users and tokens, then acknowledge it in the panel"
            yield Finding("repaired", "critical", repair.message, mend)
        for problem in Secrets(store.values.secrets, data).open_all().problems:
            yield Finding("secret", "critical", problem, "set it anew: `flowork secret set NAME`")
        verified = AuditLog(store.audit, data).verify()
        if not verified.ok:
            yield Finding("audit", "critical", verified.reason, "see docs/security.md, and `flowork audit verify`")
        yield from _flows(data, store, running)


def _flows(data: Path, store: Store, running: bool) -> Iterator[Finding]:
    """Broken plug-ins, and what live flows need that is not on this machine (any more)."""
    registry = Registry().scan(data / "packages")
    if not running:
        yield from of_plugins({"broken": [{"kind": b.kind, "type": b.type, "error": b.error} for b in registry.broken]})
    live = store.flows.live()
    for flow, version in live:
        here = {other.id for other, _ in live if other.workspace == flow.workspace}
        for problem in validate(version.body, registry, Machine(here.__contains__, data)):
            text = f"flow {flow.id}, version {version.number}: {problem.path}: {problem.message}"
            yield Finding("flow", "warning", text, "mend the flow and deploy it again, or install it", flow.workspace)


def _kernel(status: Mapping[str, Any]) -> list[Finding]:
    return [*of_status(status), *of_agents(status.get("agents", ()), time.time())]


def _away(data: Path) -> Iterator[Finding]:
    rest = SafeMode(data).on()
    if rest is not None:
        yield of_safe_mode(rest)
    elif holder(data, "kernel") is None:
        yield Finding("stopped", "warning", "the engine is not running: nothing fires", "start it: `flowork up`")
    else:
        text = "the kernel does not answer: webhooks are accepted and kept, nothing runs"
        yield Finding("kernel-away", "critical", text, "it is started again by itself; if not, see its log")


def _gateway(data: Path, port: int) -> Iterator[Finding]:
    pid = holder(data, "gateway")
    if pid is None:
        if taken := _taken(port):
            yield Finding("port", "warning", taken, "or give the port to Flowork")
        return
    places = listening(pid)
    if not any(answers(host, where) for host, where in places):
        text = f"the gateway (pid {pid}) does not answer"
        yield Finding("gateway-away", "critical", text, "it is started again by itself; if not, see its log")


def _taken(port: int) -> str:
    """Why Flowork could not listen on its port; empty if it could."""
    try:
        bind(ANY[0], port).close()
    except ListenError as exc:
        return exc.message
    return ""
