"""``flowork models``: the engine for them, and the files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _models_work as work
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.ai.library.advice import Advice
    from appliance.ai.library.cards import ModelView

command = noun("models", "Models on this machine: the engine that runs them, and their files.", default="list")

_report = click.option("--report", is_flag=True, help="For the kernel: say how it goes, a JSON document a line.")


@leaf("flowork models setup", "flowork models setup --portable --data /mnt/card", of=command)
@click.option("--portable", is_flag=True, help="For other machines of this kind too (images): slower.")
@click.option("--again", is_flag=True, help="Anew, though it is there.")
@_report
def setup(session: Session, portable: bool, again: bool, report: bool) -> int:
    """Make the model engine for this machine: compile llama.cpp, fetch the libraries. Goes on where it was cut off.

    Takes one to three minutes on a fast machine, perhaps half an hour on a small board.
    """
    if report:
        return work.report_setup(session, portable=portable, again=again)
    from appliance.ai.building.make import set_up
    from appliance.ai.building.place import engine_path

    if session.has_engine and not portable and session.store.settings.load().models_setup != "on":
        session.store.settings.set({"models_setup": "on"})
    with work.setup_progress(session) as tell:
        made = set_up(session.folder, tell, portable=portable, again=again)
    if session.has_engine:
        session.audit("models.setup", made.kind, {"version": made.version, "portable": made.portable})
    found = engine_path(session.folder)
    session.done(
        {"kind": made.kind, "version": made.version, "portable": made.portable, "folder": str(found or ""),
         "lacks": made.lacks},
        f"the model engine is ready: {made.kind} {made.version}{' (portable)' if made.portable else ''}".strip(),
    )  # fmt: skip
    if made.lacks:
        session.note(made.lacks)
    return 0


@leaf("flowork models status", of=command)
def status(session: Session) -> None:
    """Show the model engine, what is loaded, and what is on its way."""
    from appliance.ai.building import place
    from appliance.ai.library import host

    facts, state = place.engine_facts(session.folder), place.read_state(session.folder)
    stats, pulls = host.stats(session.folder), work.pulls(session)
    if session.as_json:
        out.emit({"engine": facts, "setup": state, "host": stats, "pulls": pulls})
        return
    none = "none yet" if state.state == "running" else "none; `flowork models setup` makes it"
    if facts is None and (own := work.own_engine()):
        none = f"{own}, of this Python; `flowork models setup` makes one for this very CPU"
    made = none if facts is None else f"{facts.kind} {facts.version}"
    loaded = [f"{each['model']} ({out.size(each['bytes'])})" for each in (stats or {}).get("models", [])]
    out.fields(
        [
            ("engine", made),
            ("lacks", facts.lacks if facts is not None else ""),
            ("setup", "" if facts is not None and state.state == "ready" else f"{state.state} {state.text}".strip()),
            ("progress", f"{state.percent} %" if state.state == "running" else ""),
            ("host", "runs" if stats is not None else "does not run (the first request starts it)"),
            ("loaded", ", ".join(loaded)),
        ]
    )
    for job in pulls:
        if job["state"] in ("waiting", "running", "failed"):
            out.say(f"pull {job['id']}: {job['order']['name']}, {work.how_far(job)}")


@leaf("flowork models list", "flowork models list --json", of=command, name="list")
def list_(session: Session) -> None:
    """List the models that are here."""
    from appliance.ai.library import cards

    found = cards.all_models(session.folder)
    if session.as_json:
        out.emit({"items": found})
    elif not found:
        out.say("no models yet: `flowork models recommend` says which fit this machine")
    else:
        head = ("name", "kind", "size", "quantization", "context", "tokens/s", "licence")
        out.table(head, [_row(view) for view in found])


@leaf("flowork models show qwen2.5-0.5b-q4_k_m", of=command)
@click.argument("name")
def show(session: Session, name: str) -> None:
    """Show all that is known of a model."""
    from appliance.ai.library import cards

    view = cards.view(cards.find(session.folder, name))
    if session.as_json:
        out.emit(view)
        return
    speed = view.speed
    out.fields(
        [
            ("name", view.name),
            ("title", view.title),
            ("kind", view.kind),
            ("size", out.size(view.bytes)),
            ("architecture", view.architecture),
            ("parameters", f"about {view.parameters / 1e6:,.3g} million" if view.parameters else ""),
            ("quantization", view.quantization),
            ("context", f"{view.context:,} tokens" if view.context else ""),
            ("pictures", "sees them" if view.images else ""),
            (
                "chat",
                "yes" if view.chat else "no chat template" if view.kind == "language" and not view.trouble else "",
            ),
            ("licence", " ".join(filter(None, (view.licence, view.licence_url)))),
            ("source", view.source),
            ("sha256", view.sha256 and f"{view.sha256} ({'known before' if view.checked else 'written down'})"),
            ("since", out.moment(view.added)),
            ("speed", speed and f"{speed.prompt} tokens/s read, {speed.generation} written, on {speed.machine}"),
            ("trouble", view.trouble),
        ]
    )


@leaf("flowork models catalogue", of=command)
def catalogue(session: Session) -> None:
    """List the small open models that can be pulled by name."""
    from appliance.ai.library.catalogue import UNVERIFIED, is_verified
    from appliance.ai.library.catalogue import catalogue as entries

    found = list(entries(session.folder).values())
    if session.as_json:
        out.emit({"items": found})
        return
    untried = 0
    for entry in found:
        kinds = ", ".join(f"{variant.quantization} {out.size(variant.bytes)}" for variant in entry.variants)
        out.say(f"{entry.name}", bold=True)
        out.say(f"  {out.plain(entry.title)}, {entry.kind}, {out.plain(entry.licence)}: {kinds}")
        out.say(f"  {out.plain(entry.about)}")
        if not all(is_verified(entry, variant) for variant in entry.variants):
            untried += 1
    if untried:
        out.say(f"\n{untried} of these {len(found)}: {UNVERIFIED}. The source is asked before anything is fetched.")


@leaf("flowork models recommend", "flowork models recommend --all", of=command)
@click.option("--all", "everything", is_flag=True, help="What does not fit too.")
def recommend(session: Session, everything: bool) -> None:
    """Say what this machine can run, in which quantization, and how fast it will be."""
    from appliance.ai.library import advice

    bound = session.store.settings.load().models_memory_mb * 1_000_000 if session.has_engine else 0
    machine = advice.look(session.folder, bound)
    rows = advice.recommend(session.folder, machine)
    if session.as_json:
        out.emit({"machine": machine, "items": rows})
        return
    out.say(f"{machine.cpu}, {out.size(machine.memory)} of memory, {out.size(machine.bound)} of it for models")
    engine = machine.engine or work.own_engine() or "none yet"
    out.say(f"memory gives {machine.bandwidth / 1e9:.1f} GB/s (just measured); engine: {engine}")
    shown = [row for row in rows if everything or row.fits or row.here]
    out.table(("model", "kind", "size", "memory", "tokens/s", ""), [_advised(row) for row in shown])
    if any(row.speed and not row.measured for row in shown):
        session.note(
            "~ is an estimate from the memory's bandwidth; `flowork models bench NAME` measures one that is here"
        )
    best = next((row for row in rows if row.best), None)
    if best is not None and not best.here:
        session.note(f"to begin with: flowork models pull {best.name}")


@leaf(
    "flowork models pull qwen2.5-0.5b",
    "flowork models pull qwen2.5-1.5b:Q4_0 --yes",
    "flowork models pull https://host/model.gguf --sha256 9f86d0…",
    "flowork models pull /media/usb/model.gguf",
    "flowork models pull /media/usb",
    "flowork models pull guard-lora.gguf --adapter-of smollm2-135m",
    of=command,
)
@click.argument("what")
@click.option("--name", default="", help="What it is called here.")
@click.option("--sha256", default="", help="The checksum that it must have.")
@click.option("--projector", default="", help="Address or file of what makes it see pictures (mmproj).")
@click.option("--adapter-of", default="", metavar="MODEL", help="The file is a LoRA adapter of this model.")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
@click.option("--background", is_flag=True, help="Have the running engine fetch it, also after a restart.")
@click.option("--link", is_flag=True, help="A file of this disk: by a hard link instead of a copy.")
@_report
def pull(
    session: Session,
    what: str,
    name: str,
    sha256: str,
    projector: str,
    adapter_of: str,
    yes: bool,
    background: bool,
    link: bool,
    report: bool,
) -> int:
    """Get a model: by its name in the catalogue, from an address, from a file, or from all of a folder.

    Size, licence, checksum and room on the disk are shown first. What was cut off goes on where it was.
    """
    if report:
        return work.report_pull(session)
    here = Path(what).expanduser()
    if adapter_of:
        return work.bring_adapter(session, here, adapter_of, name, yes=yes)
    if "://" not in what and (here.exists() or what.startswith(("/", "./", "~"))):
        return work.bring(session, here, name, projector, yes=yes, link=link)
    return work.pull(session, what, name, sha256, projector, yes=yes, background=background)


@leaf("flowork models cancel 5f0c2b7e11a9", of=command)
@click.argument("pull_id", metavar="PULL")
def cancel(session: Session, pull_id: str) -> None:
    """End a pull that runs in the background, and forget what has come."""
    session.call("model_pull_cancel", id=pull_id)
    session.audit("models.cancel", pull_id)
    session.done({"cancelled": pull_id}, f"cancelled {pull_id}")


@leaf("flowork models remove qwen2.5-0.5b-q4_k_m", of=command)
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
def remove(session: Session, name: str, yes: bool) -> None:
    """Delete a model from the disk, or what has come of one whose pull was cut off."""
    from appliance.ai.library import cards
    from appliance.ai.library.errors import NoSuchModel

    try:
        found = cards.find(session.folder, name)
    except NoSuchModel:
        if not work.forget(session, name, yes=yes):
            raise
        return
    work.agree(f"delete {name}, {out.size(found.size)}?", yes=yes, as_json=session.as_json)
    size = cards.remove(session.folder, name)
    if session.has_engine:
        session.audit("models.remove", name, {"bytes": size})
    session.done({"removed": name, "bytes": size}, f"removed {name}; {out.size(size)} are free again")


@leaf("flowork models default qwen2.5-0.5b-q4_k_m", of=command)
@click.argument("name")
def default(session: Session, name: str) -> None:
    """Take a model where a step names none: for texts, or for vectors if it makes these."""
    from appliance.ai.library import cards

    view = cards.view(cards.find(session.folder, name))
    values = cards.as_default(view)
    session.store.settings.set(values)
    for setting, value in values.items():
        session.audit("settings.set", setting, {"value": value})
    session.reload()
    what = "vectors" if "model_embed" in values else "texts"
    session.done({"set": values}, f"{name} is the model for {what} where a step names none")


@leaf("flowork models bench qwen2.5-0.5b-q4_k_m", of=command)
@click.argument("name")
def bench(session: Session, name: str) -> None:
    """Measure how fast a model is on this machine, and keep it. The engine has to run."""
    from appliance.ai.library.bench import bench as measure
    from appliance.commands._progress import progress

    with progress(session, f"measuring {name}", unit="rounds") as tell:
        speed = measure(session.folder, name, tell)
    text = f"{name}: reads {speed.prompt} tokens/s, writes {speed.generation} tokens/s"
    session.done({"name": name, "speed": speed}, text)


@leaf("flowork models check qwen2.5-0.5b-q4_k_m", of=command)
@click.argument("name")
def check(session: Session, name: str) -> int:
    """Read a model's file and compare it with the checksum that was kept. Exit code 1 if it is damaged."""
    from appliance.ai.library import cards

    right, actual = cards.verify(session.folder, name)
    session.done({"name": name, "right": right, "sha256": actual}, f"{name}: {'as it came' if right else 'DAMAGED'}")
    return 0 if right else 1


def _row(view: ModelView) -> tuple[Any, ...]:
    speed = f"{view.speed.generation:g}" if view.speed else ""
    last = view.licence if not view.trouble else out.one_line(view.trouble)
    return view.name, view.kind, out.size(view.bytes), view.quantization, view.context or "", speed, last


def _advised(row: Advice) -> tuple[Any, ...]:
    speed = f"{'' if row.measured else '~'}{row.speed:g}" if row.speed else ""
    note = "to begin with" if row.best else row.why or ("here" if row.here else "")
    return row.name, row.kind, out.size(row.bytes), out.size(row.needs), speed, note
