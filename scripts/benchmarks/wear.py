"""What a card has to bear: bytes written a day at one event a second, with a flow of five steps.

First one after the other, each acknowledged on disk before the next, so that each is a commit of its own as it would be
at one a second; enough of them that the journal's log is moved into its shard several times. Then with the write budget
spent, really at one a second, for what waits is written once a minute.
"""

from __future__ import annotations

import http.client
import time

from scripts.benchmarks.common import Engine, Row, engine
from scripts.benchmarks.webhook import FLOW, PATH

EVENTS = 3_000
DAY = 86_400
TARGET = 100e6


def run(quick: bool) -> list[Row]:
    """Each event written at once; and with the write budget spent, as it is on a card by default."""
    with engine(flows={"w2": FLOW}) as ours:
        at_once = _at_once(ours, EVENTS // 3 if quick else EVENTS) * DAY
        spent = _spent(ours, 2 if quick else 5) * DAY
    return [
        Row("wear", "1 event/s, five steps: each at once", at_once / 1e6, "MB/day"),
        Row("wear", "the same, write budget spent", spent / 1e6, "MB/day", "<= 100", spent <= TARGET),
    ]


def _spent(ours: Engine, minutes: int) -> float:
    """Bytes an event, at one a second, for some minutes with the budget spent."""
    ours.flowork("settings", "set", "write_budget_mb=0.1")
    log = ours.data.parent / "engine.log"
    deadline = time.monotonic() + 90
    while "the write budget is spent" not in log.read_text():
        assert time.monotonic() < deadline, "the kernel has not looked at its budget"
        _post(ours)
        time.sleep(1)
    before, began = ours.usage(), time.monotonic()
    for number in range(minutes * 60):
        _post(ours)
        time.sleep(max(0.0, began + number + 1 - time.monotonic()))
    return ours.usage().since(before).written / (minutes * 60)


def _at_once(ours: Engine, count: int) -> float:
    """Bytes an event, one after the other."""
    for _ in range(50):
        _post(ours)
    before = ours.usage()
    for _ in range(count):
        _post(ours)
    return ours.usage().since(before).written / count


def _post(ours: Engine) -> None:
    link = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=30)
    link.request("POST", PATH, b'{"n": 1}', {"Content-Type": "application/json"})
    assert link.getresponse().read()
    link.close()
