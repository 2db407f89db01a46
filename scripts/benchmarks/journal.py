"""What commits cost the journal, and reading back, on SQLite and on Postgres in one run; both wait for the disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.store.history import RunFilter
from appliance.store.journal import Batch, Journal, RunRow
from appliance.store.metadata import open_store
from appliance.store.places import URL, make_history, make_journal
from scripts.benchmarks.common import Row
from tests.support.servers import postgres_server

SIZES = (1, 8, 64)
COMMITS, FILL = 200, 50_000
#: About what five steps of W2 leave.
_OUTPUT, _CONFIG = {"n": 1, "who": "step 1"}, {"config": "x" * 60}
_STEPS = trace.join([trace.encode(trace.Record(trace.DONE, n, 1, 100, 50, "", _OUTPUT, _CONFIG)) for n in range(5)])


def run(quick: bool) -> list[Row]:
    """Both in turn, so that the machine's other work hits both."""
    fill = FILL // 10 if quick else FILL
    with tempfile.TemporaryDirectory(prefix="flowork-journal-") as folder, postgres_server(durable=True) as url:
        data = Path(folder)
        places = {"SQLite": {}, "Postgres": {URL: url}}
        open_store(data / "Postgres", environ=places["Postgres"]).close()
        rows = []
        with (
            closing(_opened(data, places, "SQLite")) as files,
            closing(_opened(data, places, "Postgres")) as server,
        ):
            journals = {"SQLite": files, "Postgres": server}
            for size in SIZES:
                took: dict[str, list[float]] = {name: [] for name in journals}
                for _ in range(COMMITS // (4 if quick else 1)):
                    for name, journal in journals.items():
                        batch = _batch(journal, size)
                        began = time.perf_counter()
                        journal.commit(batch)
                        took[name].append(time.perf_counter() - began)
                for name, found in took.items():
                    each = statistics.median(found) / size * 1e6
                    rows.append(Row("journal", f"{name}, commit of {size}: each run", each, "us"))
            for name, journal in journals.items():
                for _ in range(fill // 500):
                    journal.commit(_batch(journal, 500))
                rows += _reading(name, data / name, places[name], fill)
    return rows


def _opened(data: Path, places: dict[str, dict[str, str]], name: str) -> Journal:
    journal = make_journal(data / name, writer=0, environ=places[name])
    journal.open()
    return journal


def _batch(journal: Journal, size: int) -> Batch:
    now = time.time()
    at = int(now * 1e6)
    event = trace.pack_event(["", {"id": "", "trigger": "t1"}, {"n": 1}, None], "t1", at)
    batch = Batch()
    batch.runs = [
        RunRow(journal.ids.next(now), 1 + n % 50, 1, "", RunState.SUCCEEDED, at, at, "t1", event, None, None, None, 0,
               _STEPS)
        for n in range(size)
    ]  # fmt: skip
    return batch


def _reading(name: str, data: Path, environ: dict[str, str], count: int) -> list[Row]:
    with closing(make_history(data, environ)) as history:
        newest = history.page(RunFilter()).items[0]
        asked: dict[str, Callable[[], object]] = {
            f"newest 100 of {count} runs": lambda: history.page(RunFilter()),
            f"newest 100 of one flow of {count} runs": lambda: history.page(RunFilter(flows=[7])),
            "one run with its records": lambda: history.detail(newest.id),
        }
        rows = []
        for what, ask in asked.items():
            took = []
            for _ in range(20):
                began = time.perf_counter()
                ask()
                took.append(time.perf_counter() - began)
            rows.append(Row("journal", f"{name}, {what}", statistics.median(took) * 1e3, "ms"))
    return rows
