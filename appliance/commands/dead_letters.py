"""``flowork dead-letters``: runs that have failed for good, and events that no run could be made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._progress import progress
from appliance.commands._session import Session
from appliance.wording import counted

if TYPE_CHECKING:
    from appliance.kernel.client import KernelClient

command = noun("dead-letters", "What has failed for good: look at it, replay it, discard it.", default="list")

#: Letters that `--all` takes at most in one go.
_MOST = 10_000
_all = click.option("--all", "everything", is_flag=True, help="All that are on the list (of --flow, if given).")
_flow = click.option("--flow", help="Only of this flow.")
_runs = click.argument("runs", metavar="RUN…", nargs=-1, type=given.RunId())


@leaf("flowork dead-letters list", "flowork dead-letters list --flow greenhouse --json", of=command, name="list")
@_flow
@click.option("--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="At most so many.")
def list_(session: Session, flow: str | None, limit: int) -> None:
    """List the dead letters, newest first."""
    from appliance.commands import runs
    from appliance.engine.states import Letter
    from appliance.store.history import RunFilter

    flows = [session.store.flows.get(flow).num] if flow else []
    wanted = RunFilter(flows=flows, letter=Letter.OPEN, children=True)
    runs.show(session, *runs.collect(session, wanted, None, limit))


@leaf("flowork dead-letters show 0S9V11PMM0000", of=command)
@click.argument("run", type=given.RunId())
def show(session: Session, run: int) -> None:
    """Show what happened, step by step; the same as `flowork show`."""
    from appliance.commands import _runs as told
    from appliance.commands import _story
    from appliance.commands.show import find

    story, reader = find(session, run), told.reader(session)
    if session.as_json:
        out.emit(reader.story_view(story))
    else:
        _story.show(session, reader, story)


@leaf(
    "flowork dead-letters replay 0S9V11PMM0000",
    "flowork dead-letters replay --all --flow greenhouse --live",
    of=command,
)
@_runs
@_all
@_flow
@click.option("--live", is_flag=True, help="With the live version instead of the one that ran.")
def replay(session: Session, runs: tuple[int, ...], everything: bool, flow: str | None, live: bool) -> int:
    """Run dead letters again, each as a new run. Exit code 1 if one of them could not be started.

    To begin at a step, or with another payload, use `flowork replay` for that one run.
    """
    from appliance.commands._engine import kernel, kernel_runs

    version: dict[str, Any] = {"version": "live"} if live else {}
    chosen = _chosen(session, runs, everything, flow)
    ours = not kernel_runs(session)
    with kernel(session) as client:

        def one(run: str) -> str:
            return str(client.call("replay", run=run, by=session.identity.label, **version)["run"])

        started, failed = _each(session, "replaying", chosen, one)
        if ours:
            _wait_for(session, client, started.values())
    if session.as_json:
        out.emit({"replayed": started, "failed": failed})
    else:
        for old, new in started.items():
            out.say(f"{old} → {new}")
        told = counted(len(started), "run was", "runs were")
        out.say(f"{told} started{' and ended' if ours else ''}")
    return 1 if failed else 0


@leaf("flowork dead-letters discard 0S9V11PMM0000 --reason 'sensor was unplugged'", of=command)
@_runs
@_all
@_flow
@click.option("--reason", default="", help="Why; it is kept.")
@given.yes_option
def discard(session: Session, runs: tuple[int, ...], everything: bool, flow: str | None, reason: str, yes: bool) -> int:
    """Take letters off the list. The runs stay in the history."""
    from appliance.commands._engine import kernel
    from appliance.engine.states import Letter

    chosen = _chosen(session, runs, everything, flow)
    if everything:
        given.confirmed(yes, f"Discard {len(chosen)} dead letters?")
    with kernel(session) as client:

        def one(run: str) -> str:
            letter = int(Letter.DISCARDED)
            client.call("letter", run=run, letter=letter, by=session.identity.label, reason=reason)
            return run

        gone, failed = _each(session, "discarding", chosen, one)
    if gone:
        session.audit("letter.discard", ",".join(list(gone)[:20]), {"count": len(gone), "reason": reason})
    session.done(
        {"discarded": list(gone), "failed": failed}, f"{counted(len(gone), 'letter was', 'letters were')} discarded"
    )
    return 1 if failed else 0


def _chosen(session: Session, runs: tuple[int, ...], everything: bool, flow: str | None) -> list[str]:
    """The runs that are meant. Raises ``click.UsageError``, ``NotFound``."""
    from appliance.commands.runs import collect
    from appliance.engine.states import Letter
    from appliance.store.errors import NotFound
    from appliance.store.history import RunFilter
    from appliance.store.runids import to_text

    if bool(runs) == everything or (flow and not everything):
        raise click.UsageError("Name runs, or say --all (and --flow, for those of one flow).")
    if everything:
        flows = [session.store.flows.get(flow).num] if flow else []
        heads, _ = collect(session, RunFilter(flows=flows, letter=Letter.OPEN, children=True), None, _MOST)
        return [to_text(head.id) for head in reversed(heads)]
    for run in runs:
        head = session.history.head(run)
        if head is None or head.letter != Letter.OPEN:
            raise NotFound(f"{to_text(run)} is not on the list; `flowork dead-letters` shows it")
    return [to_text(run) for run in runs]


def _each(
    session: Session, title: str, runs: list[str], work: Callable[[str], str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Do it to each; what came of it, and what went wrong (which stops no other)."""
    from appliance.kernel.client import Refused

    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    with progress(session, title, unit="runs") as tell:
        for number, run in enumerate(runs, 1):
            try:
                done[run] = work(run)
            except Refused as exc:
                failed[run] = exc.message
            tell(number, len(runs), run)
    for run, message in failed.items():
        session.note(f"{run}: {message}")
    return done, failed


def _wait_for(session: Session, client: KernelClient, runs: Iterable[str]) -> None:
    """Let the runs end before the kernel of this process is stopped."""
    from appliance.commands._follow import Follower
    from appliance.commands._runs import reader

    follower = Follower(client, reader(session), lambda story: None)
    with follower.listening() as items:
        for run in runs:
            follower.until_ended(run, items)
