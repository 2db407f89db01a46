"""What ``flowork models`` does that takes long: making the engine and fetching, in front of a person or as a child."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._engine import stopped_by_sigterm
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.contracts import ConfigError, FlowError

if TYPE_CHECKING:
    from appliance.ai.building.place import Setup
    from appliance.ai.library.cards import Card
    from appliance.ai.library.orders import Order

#: Percent between two lines where nobody watches a bar.
_STEP = 10
#: Bytes between two reports to the kernel.
_REPORT = 1_000_000
_STDIN = 0


# --- the engine --------------------------------------------------------------------------------------


@contextmanager
def setup_progress(session: Session) -> Iterator[Callable[[Setup], None]]:
    """A bar on a terminal, else a line now and then."""
    with progress(session, "making the model engine", unit="percent") as bar:
        before = [""]

        def tell(state: Setup) -> None:
            bar(state.percent, 100, state.text)
            mark = f"{state.phase} {state.percent // _STEP}"
            if mark != before[0] and not sys.stderr.isatty():
                session.note(f"{state.percent} %: {state.text}")
            before[0] = mark

        with stopped_by_sigterm():
            yield tell


def own_engine() -> str:
    """The engine that was installed with pip: it serves where none was made. Empty without one."""
    for name in ("llama_cpp_python", "xllamacpp"):
        with suppress(metadata.PackageNotFoundError):
            return f"{name.replace('_', '-')} {metadata.version(name)}"
    return ""


def report_setup(session: Session, *, portable: bool, again: bool) -> int:
    """As a child of the kernel: modest, and telling it everything. What went wrong is in the state that is kept."""
    from appliance.ai.building.make import set_up
    from appliance.ai.building.run import be_modest

    be_modest()
    _first_line()
    try:
        with stopped_by_sigterm():
            _end_with_parent()
            set_up(session.folder, out.emit_line, portable=portable, again=again)
    except (FlowError, KeyboardInterrupt):
        return 1
    return 0


# --- files -------------------------------------------------------------------------------------------


def pull(session: Session, what: str, name: str, sha256: str, projector: str, *, yes: bool, background: bool) -> int:
    """Fetch a model, here or in the background."""
    from appliance.ai.library import pull as pulling

    order = pulling.order_of(session.folder, what, name=name, sha256=sha256, projector=projector)
    _show(session, order)
    agree("fetch it?", yes=yes, as_json=session.as_json)
    if background:
        job = session.call("model_pull", order=msgspec.to_builtins(order))
        session.audit("models.pull", order.name, {"source": order.source})
        session.done(job, f"pull {job['id']} has begun; `flowork models status` shows how far it is")
        return 0
    with progress(session, order.name) as tell, stopped_by_sigterm():
        card = pulling.pull(session.folder, order, tell)
    _came(session, order.name, card)
    return 0


def forget(session: Session, name: str, *, yes: bool) -> bool:
    """Delete what has come of a model that is not here; whether there was anything."""
    from appliance.ai.library import pull as pulling

    size = pulling.came(session.folder, name)
    if not size:
        return False
    agree(f"delete the {out.size(size)} that have come of {name}?", yes=yes, as_json=session.as_json)
    pulling.forget(session.folder, name)
    session.done({"removed": name, "bytes": size}, f"removed what had come of {name}; {out.size(size)} are free again")
    return True


def bring(session: Session, path: Path, name: str, projector: str, *, yes: bool, link: bool) -> int:
    """Import what lies in a file or folder of this machine. Exit code 1 if something of it could not be used."""
    from appliance.ai.library import bring as importing

    found = importing.look_at(path, Path(projector).expanduser() if projector else None)
    if name and len(found) > 1:
        raise given.BadInput(f"{path} has {len(found)} models; --name is for one")
    if name:
        found = [msgspec.structs.replace(found[0], name=name)]
    if not session.as_json:
        out.table(("model", "size", "from"), [(each.name, out.size(each.bytes), str(each.path)) for each in found])
    agree(f"import {'it' if len(found) == 1 else 'these'}?", yes=yes, as_json=session.as_json)
    failed = 0
    for local in found:
        try:
            with progress(session, local.name) as tell, stopped_by_sigterm():
                card = importing.bring(session.folder, local, tell, link=link)
        except FlowError as exc:
            if len(found) == 1:
                raise
            session.fail(exc.id, f"{local.name}: {exc.message}")
            failed = 1
        else:
            _came(session, local.name, card)
    return failed


def bring_adapter(session: Session, path: Path, model: str, name: str, *, yes: bool) -> int:
    """Import a LoRA adapter of a model that is here."""
    from appliance.ai.library import bring as importing

    agree(f"put {path.name} beside {model}?", yes=yes, as_json=session.as_json)
    with progress(session, path.name) as tell, stopped_by_sigterm():
        whole, card = importing.bring_adapter(session.folder, path, model, name, tell)
    _came(session, whole, card)
    return 0


def report_pull(session: Session) -> int:
    """As a child of the kernel: the order comes on standard input."""
    from appliance.ai.building.run import be_modest
    from appliance.ai.library import pull as pulling
    from appliance.ai.library.orders import Order

    order = msgspec.json.decode(_first_line(), type=Order)
    be_modest()
    last = (-_REPORT, "")

    def tell(done: int, total: int, what: str) -> None:
        nonlocal last
        if abs(done - last[0]) >= _REPORT or what != last[1] or done == total:
            last = done, what
            out.emit_line({"done": done, "total": total, "text": what})

    try:
        with stopped_by_sigterm():
            _end_with_parent()
            pulling.pull(session.folder, order, tell)
    except FlowError as exc:
        out.emit_line({"failed": exc.message})
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _first_line() -> bytes:
    """What the kernel says at the beginning. Not by ``sys.stdin``: its lock would be held when the process ends."""
    line = b""
    while not line.endswith(b"\n") and (block := os.read(_STDIN, 65536)):
        line += block
    return line


def _end_with_parent() -> None:
    """The kernel holds the other end of standard input, until it ends, however that may be."""

    def watch() -> None:
        while os.read(_STDIN, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def pulls(session: Session) -> list[dict[str, Any]]:
    """What is on its way in the background; nothing where no kernel runs."""
    from appliance.kernel.client import KernelAway

    if not session.has_engine:
        return []
    try:
        found: list[dict[str, Any]] = session.client.call("model_jobs", 10.0)["pulls"]
    except KernelAway:
        return []
    return found


def how_far(job: dict[str, Any]) -> str:
    """In words."""
    if job["state"] == "failed":
        return f"failed: {out.one_line(job['text'], 300)}; `flowork models cancel {job['id']}` forgets it"
    if job["state"] != "running":
        return f"{job['state']} {job['text']}".strip()
    share = f"{100 * job['done'] // job['total']} % of {out.size(job['total'])}" if job["total"] else ""
    return f"{share or out.size(job['done'])}, {out.one_line(job['text'])}"


def agree(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask, unless that was answered beforehand. Raises ``ConfigError`` where nobody can be asked."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise ConfigError(f"{question} nobody can be asked here; say --yes to mean it")
    if not click.confirm(question, default=True, err=True):
        raise click.Abort


def _show(session: Session, order: Order) -> None:
    from appliance.ai.library.room import SPARE

    if session.as_json:
        return
    checksum = order.parts[0].sha256 if order.checksum_known else ""
    left = order.free - order.bytes
    room = f"{out.size(order.free)} are free"
    out.fields(
        [
            ("model", f"{order.title} {order.quantization}".strip()),
            ("as", order.name),
            ("size", out.size(order.bytes) if order.bytes else "not told by the source"),
            ("files", str(len(order.parts)) if len(order.parts) > 1 else ""),
            ("disk", f"{room}, {out.size(left)} of them afterwards" if left > SPARE else f"only {room}"),
            ("licence", " ".join(filter(None, (order.licence, order.licence_url))) or "not known; see the source"),
            ("source", order.source),
            ("note", order.note),
            ("checksum", checksum or "not known: it is written down at this first pull and checked from then on"),
        ]
    )


def _came(session: Session, name: str, card: Card) -> None:
    if session.has_engine:
        session.audit("models.pull", name, {"source": card.source, "sha256": card.sha256})
    session.done({"name": name, **msgspec.to_builtins(card)}, f"{name} is here, {out.size(card.size)}")
