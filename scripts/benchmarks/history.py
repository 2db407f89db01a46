"""The first page of the runs of a history of a million, and a flow's, and the failed ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.engine import trace
from appliance.engine.states import RunState
from appliance.store.history import RunFilter
from appliance.store.journal import Batch, RunRow
from appliance.store.places import make_history, make_journal
from scripts.benchmarks.common import Row, percentile

RUNS, FLOWS, PER_DAY = 1_000_000, 50, 50_000


def run(quick: bool) -> list[Row]:
    """Build the history (outside the measurement), then ask for pages."""
    total = RUNS // 10 if quick else RUNS
    with TemporaryDirectory() as folder:
        data = Path(folder)
        _fill(data, total)
        return [
            _page(data, total, "first page of all", RunFilter()),
            _page(data, total, "first page of a flow", RunFilter(flows=[7])),
            _page(data, total, "first page of the failed", RunFilter(states=[RunState.FAILED])),
        ]


def _page(data: Path, total: int, name: str, wanted: RunFilter) -> Row:
    """The median of fresh readers, files in the page cache as on a running box."""

    def once() -> float:
        history = make_history(data)
        began = time.perf_counter()
        page = history.page(wanted, limit=100)
        took = time.perf_counter() - began
        history.close()
        if len(page.items) != 100:
            raise RuntimeError(f"{name}: {len(page.items)} rows")
        return took * 1000

    value = percentile(_repeat(once, 9), 0.5)
    return Row("history", f"{name}, of {total:,} runs", value, "ms", "<= 20", value <= 20)


def _repeat(work: Callable[[], float], times: int) -> list[float]:
    return [work() for _ in range(times)]


def _fill(data: Path, total: int) -> None:
    journal = make_journal(data, writer=0, sync=False)
    journal.open()
    event = trace.pack(["", {"type": "mqtt", "topic": "a/b"}, {"t": 31.5, "n": 1}, None])
    records = [trace.Record(trace.DONE, i, 1, 10 * i, 8, "out", {"n": i, "who": f"step {i}"}) for i in range(5)]
    steps = trace.join([trace.encode(record) for record in records])
    now = time.time()
    error = trace.pack({"id": "node-failed", "message": "told to fail"})
    for start in range(0, total, 1000):
        batch = Batch()
        moment = now - (total - start) / PER_DAY * 86_400
        for number in range(start, start + 1000):
            failed = number % 500 == 0
            state = RunState.FAILED if failed else RunState.SUCCEEDED
            run_id, at = journal.ids.next(moment), int(moment * 1e6)
            batch.runs.append(
                RunRow(
                    run_id,
                    number % FLOWS + 1,
                    1,
                    "",
                    state,
                    at,
                    at + 500,
                    "in",
                    event,
                    error if failed else None,
                    None,
                    None,
                    int(failed),
                    steps,
                )
            )
        journal.commit(batch)
    journal.close()
