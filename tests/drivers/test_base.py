"""Drivers are found by their files, checked, explained, and their threads end when told."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import drivers
from drivers.base import DriverConfig, DriverError, Observation, all_types, decode, find, names
from drivers.support.rate import Bound
from drivers.support.worker import Watch, Worker
from scripts.docsgen.tables import tables
from tests.drivers.host import PATIENCE, Heard


def test_every_file_is_a_driver() -> None:
    assert sorted(all_types()) == names()
    assert {"gpio", "serial", "process", "files", "system", "i2c", "onewire", "camera", "http_poll", "sim"} <= set(
        names()
    )


@pytest.mark.parametrize("name", names())
def test_every_driver_explains_itself(name: str) -> None:
    kind = find(name)
    summary, _, rest = (sys.modules[kind.__module__].__doc__ or "").strip().partition("\n\n")
    assert summary.endswith(".")
    assert len(summary) < 120
    assert rest
    for table in tables(kind.Config):
        assert [row[0] for row in table.rows if not row[5]] == []


@pytest.mark.parametrize("name", names())
def test_every_driver_has_a_test_that_keeps_it_to_the_contract(name: str) -> None:
    tests = Path(__file__).parent.parent
    found = [*tests.glob(f"*/test_{name}*.py"), *tests.glob("hardware/test_*.py")]
    suites = [
        file.name
        for file in found
        if f"from drivers.{name} import" in (text := file.read_text()) and "Contract)" in text
    ]
    assert suites


def test_an_unknown_driver_is_told_with_those_there_are() -> None:
    with pytest.raises(DriverError, match=r"no driver 'gpoi'; there are .*gpio"):
        find("gpoi")


def test_a_broken_file_disables_itself_only(tmp_path: Path) -> None:
    folder = Path(drivers.__file__).parent
    code = f"""
import sys, pathlib, drivers, drivers.base
folder = pathlib.Path({str(tmp_path)!r})
(folder / "broken.py").write_text("import no_such_library")
(folder / "empty.py").write_text("")
drivers.__path__.append(str(folder))
drivers.base.__file__ = str(folder / "base.py")
(folder / "sim.py").symlink_to({str(folder / "sim.py")!r})
print(sorted(drivers.base.all_types()), drivers.base.names())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "['sim'] ['broken', 'empty', 'sim']\n", done.stderr
    assert "the driver 'broken' cannot be loaded: No module named 'no_such_library'" in done.stderr
    assert "drivers/empty.py must define exactly one Driver" in done.stderr


class _Limit(DriverConfig, frozen=True):
    seconds: float


class _Config(DriverConfig, frozen=True):
    seconds: float
    limits: tuple[_Limit, ...] = ()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "seconds: is required"),
        ({"seconds": "x"}, "seconds: expected `float`, got `str`"),
        ({"seconds": 1, "minutes": 2}, "minutes: no such field; there are seconds, limits"),
        ({"seconds": 1, "limits": [{"seconds": 1}, {"minutes": 2}]}, "limits[1].minutes: no such field"),
        ({"seconds": 1, "limits": [{}]}, "limits[0].seconds: is required"),
    ],
)
def test_a_wrong_config_names_its_field(raw: dict[str, object], said: str) -> None:
    with pytest.raises(DriverError) as caught:
        decode(_Config, raw)
    assert caught.value.message == said
    assert not caught.value.retryable


def test_a_worker_waits_in_the_kernel_and_ends_at_once() -> None:
    began = threading.Event()
    turns: list[bool] = []

    def work(worker: Worker) -> None:
        began.set()
        while worker.pause():
            turns.append(True)

    worker = Worker("test", work)
    worker.start()
    assert began.wait(PATIENCE)
    worker.stop()
    worker.stop()
    worker.ring()
    assert len(turns) <= 1


def test_a_watch_ends_from_within_its_own_emit() -> None:
    watch, heard, ended = Watch(), Heard(), threading.Event()

    def emit(observation: Observation) -> None:
        heard(observation)
        watch.end()

    def work(worker: Worker) -> None:
        while not worker.stopping:
            watch.tell(Observation("test", "tick", 1, 0.0))
        ended.set()

    watch.begin("test", emit, work)
    assert ended.wait(PATIENCE)
    assert len(heard.all) == 1
    watch.begin("test", emit)()


def test_a_bound_lets_bursts_through_and_counts_the_rest() -> None:
    now = [0.0]
    bound = Bound(10, lambda: now[0])
    assert sum(bound.take() for _ in range(25)) == 10
    assert (bound.pending, bound.due) == (True, False)
    now[0] = 1.0
    assert bound.due
    assert bound.report() == 15
    assert not bound.pending
    assert sum(bound.afford() for _ in range(25)) == 10
    assert not bound.pending
