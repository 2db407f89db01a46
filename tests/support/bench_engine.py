"""An engine in this process over a real journal, without queue, gateway or triggers: for tests of its rules.

``Bench`` is turned by hand (``pump``), so a test decides when time passes and when the process "dies".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.contracts import Event, Node
from appliance.engine import trace
from appliance.engine.plan import plan_flow
from appliance.engine.states import RunState
from appliance.engine.trace import Record, records_of
from appliance.engine.validate import validate
from appliance.kernel.blobs import make_blobs
from appliance.kernel.context import Services
from appliance.kernel.peered_engine import PeeredEngine
from appliance.kernel.recovery import Recovery
from appliance.kernel.runs import FlowSlot, LiveRun
from appliance.kernel.submission import Submission
from appliance.registry import Registry
from appliance.store.history import RunFilter
from appliance.store.journal import RunRow
from appliance.store.places import database_url, make_history, make_journal
from appliance.store.tables import STATE


class AnyWorld:
    """A machine on which everything is installed."""

    def languages(self) -> dict[str, str]:
        return {"python": "/usr/bin/python3"}

    def has_program(self, name: str) -> bool:
        return True

    def has_module(self, name: str) -> bool:
        return True

    def flow_exists(self, flow: str) -> bool:
        return True

    def model_fault(self, name: str) -> str:
        return ""

    def model_places(self, names: Sequence[str], kind: str) -> Sequence[str]:
        return []

    def schema_fault(self, schema: Any, names: Sequence[str]) -> str:
        return ""

    def device_fault(self, agent: str, driver: str, config: Mapping[str, Any]) -> str:
        return ""


class Clock:
    """Wall time that moves when told."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


class Bench:
    """One engine over ``data``; make another on the same folder to recover. ``environ`` may name another database."""

    def __init__(
        self,
        data: Path,
        extra_nodes: dict[str, Node[Any]] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.data = data
        self.environ = environ
        self.registry = Registry().scan()
        self.registry._nodes.update(extra_nodes or {})
        self.flows: dict[int, dict[str, Any]] = {}
        self.clock = Clock()
        self.journal = make_journal(data, writer=0, sync=False, environ=environ)
        self.journal.open()
        self.services = Services()
        self.services.wall = self.clock
        self.services.blobs = make_blobs(data, environ=environ)
        self.engine = PeeredEngine(self.journal, self.services, self._plan, lambda: None, **options)

    def _plan(self, version: int) -> Any:
        return plan_flow(self.flows[version], self.registry)

    def deploy(self, num: int, flow: dict[str, Any], flow_id: str = "") -> None:
        """Make ``flow`` live as flow and version number ``num``."""
        flow = {"name": f"flow {num}", **flow}
        problems = validate(flow, self.registry, AnyWorld())
        assert not problems, problems
        self.flows[num] = flow
        self.engine.flows[num] = FlowSlot(num, flow_id or f"flow-{num}", flow["name"], "home", num)

    def submit(self, num: int = 1, payload: Any = None, **event: Any) -> list[LiveRun]:
        """Hand in an event; the list receives the run once it has ended and that is committed."""
        done: list[LiveRun] = []
        submission = Submission(num, "t1", "manual", Event(payload=payload, **event))
        submission.ended = done.append
        self.engine.submit([submission])
        return done

    def run(self, payload: Any = None, num: int = 1, **event: Any) -> LiveRun:
        """Run to the end and return the run."""
        done = self.submit(num, payload, **event)
        self.turn(lambda: bool(done))
        return done[0]

    def turn(self, until: Callable[[], bool], limit: float = 10.0) -> None:
        """Turn the engine until something is so."""
        deadline = time.monotonic() + limit
        self.engine.pump()
        while not until():
            assert time.monotonic() < deadline, "the engine did not get there"
            time.sleep(0.001)
            self.engine.pump()

    def pass_time(self, seconds: float) -> None:
        """Let wall-clock time pass at once."""
        self.clock.offset += seconds
        with self.engine.timers._changed:
            self.engine.timers._follow_clock()
        self.engine.pump()

    def rows(self) -> list[tuple[RunRow, list[Record]]]:
        """Everything in the journal, oldest first."""
        if database_url(self.environ):
            return self._rows_of_server()
        from appliance.store import shards

        found = []
        for day in sorted(shards.days(self.data)):
            reader = shards.open_reader(shards.shard_path(self.data, day))
            # A shard that is just being made (by the maintenance thread, say) has no table yet.
            made = reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
            for (number,) in reader.execute("SELECT id FROM run ORDER BY id").fetchall() if made else ():
                loaded = self.journal.load(number)
                assert loaded is not None
                row, chunks = loaded
                found.append((row, list(records_of([row.steps, *chunks]))))
            reader.close()
        return found

    def _rows_of_server(self) -> list[tuple[RunRow, list[Record]]]:
        found = []
        with closing(make_history(self.data, self.environ)) as history:
            heads = history.page(RunFilter(children=True), limit=100_000).items
        for head in reversed(heads):
            loaded = self.journal.load(head.id)
            assert loaded is not None
            found.append((loaded[0], list(records_of([loaded[0].steps, *loaded[1]]))))
        return found

    def states(self) -> list[str]:
        return [RunState(row.state).label for row, _ in self.rows()]

    def die(self) -> None:
        """End as a killed process does: nothing more is written."""
        self.engine.steps.io.stop()
        self.journal.close()
        self.services.blobs.close()

    def recover(self) -> int:
        """Take up what the journal has under way."""
        self.services.states.load(self._kept_values(), 0, self.journal.state_ops(0))
        taken = Recovery(self.engine).all()
        self.engine.pump()
        return taken

    def _kept_values(self) -> list[tuple[int, str, Any]]:
        """What the journal's commits have written to the store."""
        if not (url := database_url(self.environ)):
            return []
        from appliance.store.postgres.database import PostgresDatabase

        with closing(PostgresDatabase(url)) as database:
            return [(row["flow"], row["key"], trace.unpack(row["value"])) for row in database.all(STATE.select())]
