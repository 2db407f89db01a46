"""``flowork run``: start a flow, or try a file that is not deployed anywhere."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from appliance.commands import _input as given
from appliance.commands import _output as out
from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf(
    "flowork run greenhouse --input '{\"t\": 31}' --follow",
    "flowork run first-steps --detach --json",
    "flowork run draft.json --input @payload.json --follow",
    name="run",
)
@click.argument("what", metavar="FLOW|FILE")
@click.option("--input", "-i", "payload", help="The payload: JSON, @file, or - for standard input.")
@click.option("--follow", "-f", is_flag=True, help="Show each step as it happens.")
@click.option("--trigger", default="", help="Start it as this trigger. [default: the manual one]")
@click.option("--version", "number", type=int, help="The version. [default: the live one, else the newest]")
@click.option("--detach", is_flag=True, help="Return once the run is on disk; its id is the answer.")
@click.option("--timeout", type=given.Length(), help="Stop waiting after this long, such as 30s.")
@given.workspace_option
def command(
    session: Session,
    what: str,
    payload: str | None,
    follow: bool,
    trigger: str,
    number: int | None,
    detach: bool,
    timeout: float | None,
    workspace: str,
) -> int:
    """Run a flow once and wait for its end; the exit code tells how it ended. Ctrl-C cancels the run.

    A FLOW runs in the running engine. If none runs it runs in this process, with no trigger attached; in a cluster
    (FLOWORK_DATABASE_URL) with --detach it is kept for the next kernel that comes up.

    A FILE runs by itself, whether an engine runs or not: in a scratch folder that is gone afterwards, with a copy of
    the engine's flows, variables, settings and secrets if there is one. What its steps do to the world they do.
    """
    value = given.json_argument(payload, "--input")
    if given.looks_like_a_file(what):
        if detach or number is not None:
            raise click.UsageError("--detach and --version belong to a flow's id.")
        return _run_file(session, what, value, trigger, follow=follow, timeout=timeout, workspace=workspace)
    return _run_flow(session, what, value, trigger, number, follow=follow, timeout=timeout, detach=detach)


def _run_flow(
    session: Session,
    flow_id: str,
    payload: Any,
    trigger: str,
    number: int | None,
    *,
    follow: bool,
    timeout: float | None,
    detach: bool,
) -> int:
    from appliance.commands import _starting as starting
    from appliance.commands._engine import kernel, kernel_runs
    from appliance.kernel.client import KernelAway
    from appliance.store.places import database_url

    flow, version = starting.version_for(session, flow_id, number)
    start = starting.by_hand(version.body, session.registry.triggers, trigger, payload)
    params = starting.submission(session, flow, version, start)
    if detach:
        run = _handed_in(session, params) if database_url() and not kernel_runs(session) else ""
        if not run and not kernel_runs(session):
            raise click.UsageError("--detach needs a running engine: `flowork up`.")
        run = run or session.call("submit", **params)["run"]
        session.done({"run": run}, run)
        return 0
    if database_url() and not kernel_runs(session):
        raise KernelAway(
            "no kernel lives that works on this database; start one (`flowork up`), or hand the run in for the next "
            f"one that comes up: `flowork run {flow_id} --detach`"
        )
    from appliance.commands._follow import see_through
    from appliance.commands._runs import reader

    with kernel(session) as client:

        def begin() -> str:
            return str(client.call("submit", **params)["run"])

        return see_through(session, client, reader(session), begin, follow=follow, timeout=timeout)


def _handed_in(session: Session, params: dict[str, Any]) -> str:
    """The id of a run that waits for a kernel of the cluster."""
    from appliance.kernel.handing_in import hand_in

    sync = session.store.settings.load().durability == "power"
    run = hand_in(session.folder, params, sync=sync)
    session.note("no kernel lives that works on this database: the run begins when one comes up (`flowork up`)")
    return run


def _run_file(
    session: Session,
    file: str,
    payload: Any,
    trigger: str,
    *,
    follow: bool,
    timeout: float | None,
    workspace: str,
) -> int:
    from appliance.commands import _engine as engine
    from appliance.commands import _starting as starting
    from appliance.commands._follow import see_through
    from appliance.commands._runs import Reader
    from appliance.flowbook import readable
    from appliance.kernel.client import KernelClient
    from appliance.store.metadata import open_store
    from appliance.store.places import make_history

    body, notes = readable(given.read_json_file(file))
    for note in notes:
        session.note(note)
    with engine.scratch(session) as folder, closing(open_store(folder)) as store:
        flow, version = starting.put_alone(session, store, body, workspace)
        start = starting.by_hand(body, session.registry.triggers, trigger, payload)
        params = starting.submission(session, flow, version, start)
        home = session.folder if session.has_engine else folder
        with (
            engine.running(folder, home, debug=session.debug),
            closing(KernelClient(folder)) as client,
            closing(make_history(folder)) as history,
        ):

            def begin() -> str:
                return str(client.call("submit", **params)["run"])

            told = Reader(folder, store, history, session.registry)
            hint = f"--data {out.plain(folder)}"
            return see_through(session, client, told, begin, follow=follow, timeout=timeout, hint=hint)
