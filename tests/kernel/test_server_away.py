"""A database server that goes away under a journal and comes back: no event is doubled, and none is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from appliance.contracts import Event
from appliance.kernel.submission import Submission
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow


class Server:
    """The test's database, which takes connections or does not."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = url.rpartition("/")[2]

    def goes(self) -> None:
        """Every session is cut, and no new one is let in."""
        self._do(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        self._do(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")

    def comes_back(self) -> None:
        """It lets sessions in again."""
        self._do(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def _do(self, sql: str) -> None:
        with psycopg.connect(f"{self._url.rpartition('/')[0]}/postgres", autocommit=True) as admin:
            admin.execute(sql.encode())


@pytest.fixture
def server(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FLOWORK_DATABASE_URL", database_url)
    made = Server(database_url)
    yield made
    made.comes_back()


def again(bench: Bench) -> None:
    """The keeper and the journal try once more now, and not in some seconds."""
    bench.engine.keeper._next_try = bench.journal._away_until = 0.0  # type: ignore[attr-defined]


def test_an_event_that_may_not_be_doubled_is_refused_while_nobody_can_say(
    server: Server, make_bench: Callable[..., Bench]
) -> None:
    """Whether it has its run already is known to the server alone: its sender tries again."""
    bench = make_bench()
    bench.deploy(1, flow(compute("a", "payload")))
    told: list[str] = []

    def send(number: int) -> None:
        submission = Submission(1, "t1", "test", Event(payload=number, id=f"e{number}", unique=True))
        submission.committed = lambda run: told.append(f"made {number}")
        submission.refused = lambda error: told.append(f"refused {number}: {error.id}")
        bench.engine.submit([submission])
        bench.engine.pump()

    send(1)
    server.goes()
    send(2)
    send(1)
    assert told[0] == "made 1" and [text.partition(":")[0] for text in told[1:]] == ["refused 2", "refused 1"]
    server.comes_back()
    again(bench)
    send(2)
    send(1)
    bench.turn(lambda: len(told) == 5)
    assert told[3:] == ["made 2", "made 1"]
    assert bench.states() == ["succeeded", "succeeded"]
