"""A disk that refuses: flows go on, what can be kept is kept, and history comes back by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.engine.states import RunState
from appliance.kernel import keeper as keeping
from appliance.store import shards
from appliance.store.journal import Batch
from appliance.store.runids import day_of
from appliance.store.shards import StoreFailure
from tests.support.bench_engine import Bench
from tests.support.flows import compute, flow, node
from tests.support.shard_files import DAY, garbage_header, truncate, wreck_table


class Disk:
    """Lets a bench's journal fail as long as told."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.refuses = ""
        self.tries = 0
        self._commit, self._probe = bench.journal.commit, bench.journal.probe
        bench.journal.commit = self.commit  # type: ignore[method-assign]
        bench.journal.probe = self.probe  # type: ignore[method-assign]

    def commit(self, batch: Batch) -> None:
        self.tries += 1
        if self.refuses:
            raise StoreFailure(self.refuses)
        self._commit(batch)

    def probe(self) -> None:
        if self.refuses:
            raise StoreFailure(self.refuses)
        self._probe()

    def is_back(self) -> None:
        self.refuses = ""
        self.bench.engine.keeper._next_try = 0.0


@pytest.fixture(autouse=True)
def everywhere(place: str) -> None:
    """Each of these tests, but for those about files, is asked of both kinds of store."""


@pytest.fixture
def disk(bench: Bench) -> Disk:
    return Disk(bench)


def test_flows_go_on_without_history_and_history_comes_back(bench: Bench, disk: Disk) -> None:
    bench.deploy(1, flow(compute("a", "payload + 1"), node("o", "once")))
    disk.refuses = "disk full"
    for number in range(50):
        assert bench.run(number).output() == number + 1
    keeper = bench.engine.keeper
    assert (keeper.degraded, keeper.lost_history) == ("disk full", 50)
    assert disk.tries <= 4, "it asks the disk again and again"
    disk.is_back()
    assert bench.run(7).state is RunState.SUCCEEDED
    assert keeper.degraded == ""
    assert bench.states() == ["succeeded"]


def test_runs_under_way_are_kept_until_the_disk_is_back(
    bench: Bench, disk: Disk, make_bench: Callable[..., Bench]
) -> None:
    bench.deploy(1, flow(compute("a", "payload + 1"), node("d", "delay", {"for": "1h"}), node("o", "once")))
    bench.submit(1, 1)
    bench.engine.pump()
    disk.refuses = "disk full"
    bench.submit(1, 2)
    bench.engine.pump()
    assert bench.states() == ["waiting"]
    disk.is_back()
    bench.engine.watch()
    bench.pass_time(3700)
    bench.turn(lambda: bench.states() == ["succeeded"] * 2)
    bench.die()
    other = make_bench(extra=bench.registry.nodes)
    other.deploy(1, bench.flows[1])
    assert other.recover() == 0, "what had ended is done again"


def test_a_run_that_waits_when_the_disk_is_back_is_there_after_a_crash(
    bench: Bench, disk: Disk, make_bench: Callable[..., Bench]
) -> None:
    bench.deploy(1, flow(compute("a", "payload + 1"), node("d", "delay", {"for": "1h"}), compute("z", "payload ~ ''")))
    disk.refuses = "disk full"
    bench.submit(1, 1)
    bench.engine.pump()
    disk.is_back()
    bench.engine.watch()
    bench.engine.pump()
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    assert other.recover() == 1
    other.pass_time(3700)
    other.turn(lambda: other.states() == ["succeeded"])
    assert other.rows()[0][1][-1].value == "2"


def test_an_idle_engine_notices_that_the_disk_is_back(bench: Bench, disk: Disk) -> None:
    bench.deploy(1, flow(compute("a", "1")))
    bench.run(0)
    disk.refuses = "disk full"
    bench.run(1)
    bench.engine.watch()
    assert bench.engine.keeper.degraded
    disk.refuses = ""
    bench.engine.watch()
    assert not bench.engine.keeper.degraded


def test_what_is_held_is_bounded(bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_HELD", 20)
    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), settings={"max_runs": 1000}))
    known = bench.submit(1, "known")
    bench.engine.pump()
    disk.refuses = "disk full"
    for number in range(100):
        bench.submit(1, number, id=f"x{number}", unique=True)
        bench.engine.pump()
        bench.submit(1, None, id=f"x{number}", unique=True)
        bench.engine.pump()
    keeper = bench.engine.keeper
    assert len(keeper._touched) <= 21 and len(keeper._keys) <= 40 and keeper.lost_history == 80
    bench.pass_time(3700)
    bench.turn(lambda: not bench.engine.runs)
    disk.is_back()
    bench.engine.watch()
    bench.engine.pump()
    assert known and bench.states() == ["succeeded"]
    assert not keeper._touched and not keeper.degraded


def test_counters_count_on_without_the_disk(bench: Bench, disk: Disk, make_bench: Callable[..., Bench]) -> None:
    bench.deploy(1, flow(node("n", "state", {"action": "increment", "key": "n"})))
    bench.run()
    disk.refuses = "disk full"
    for _ in range(100):
        bench.run()
    assert len(bench.engine.keeper._ops) == 1
    disk.is_back()
    bench.run()
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    other.recover()
    assert other.services.states.of(1)["n"] == 102


def test_a_stray_look_while_degraded_does_nothing_twice(bench: Bench, disk: Disk) -> None:
    from appliance.kernel.recovery import Recovery

    bench.deploy(1, flow(node("d", "delay", {"for": "1h"}), node("o", "once")))
    done = bench.submit(1, 1)
    bench.engine.pump()
    disk.refuses = "disk full"
    bench.pass_time(3700)
    bench.turn(lambda: bool(done))
    assert Recovery(bench.engine).strays() == 0
    disk.is_back()
    assert Recovery(bench.engine).strays() == 0
    assert len(bench.registry.nodes["once"].keys) == 1  # type: ignore[attr-defined]
    assert bench.states() == ["succeeded"]


def test_room_is_made_before_history_is_given_up(bench: Bench, disk: Disk) -> None:
    bench.engine.keeper.make_room = disk.is_back
    bench.deploy(1, flow(compute("a", "1")))
    disk.refuses = "disk full"
    bench.run()
    assert not bench.engine.keeper.degraded and bench.states() == ["succeeded"]


def full(bench: Bench) -> None:
    """No page may be added to today's shard any more."""
    shard = bench.journal._shard(shards.days(bench.data)[0])
    pages = shard.execute("PRAGMA page_count").fetchone()[0]
    shard.execute(f"PRAGMA max_page_count={pages}")


@pytest.mark.files_only
def test_a_shard_that_is_really_full(bench: Bench) -> None:
    bench.deploy(1, flow(compute("a", "payload * 1000"), node("d", "delay", {"for": "1h"})))
    bench.submit(1, "x")
    bench.engine.pump()
    full(bench)
    for _ in range(5):
        bench.submit(1, "y" * 50)
        bench.engine.pump()
    assert "full" in bench.engine.keeper.degraded
    bench.journal._shard(shards.days(bench.data)[0]).execute("PRAGMA max_page_count=1000000")
    bench.engine.keeper._next_try = 0.0
    bench.engine.watch()
    bench.engine.pump()
    assert bench.states() == ["waiting"] * 6 and not bench.engine.keeper.degraded


@pytest.mark.files_only
@pytest.mark.parametrize("harm", ["header", "flow_span", "chunk", "cut off"])
def test_a_shard_that_breaks_under_way(bench: Bench, make_bench: Callable[..., Bench], harm: str) -> None:
    """Also runs that wait in it go on, as far as they can be read; later ones are not hurt at all."""
    bench.deploy(1, flow(compute("a", "payload"), node("d", "delay", {"for": "1h"}), compute("z", "payload ~ ''")))
    waiting = bench.submit(1, "early")
    bench.engine.pump()
    path = shards.shard_path(bench.data, shards.days(bench.data)[0])
    bench.journal.checkpoint(path.stem)
    bench.journal.forget(path.stem)
    if harm == "header":
        garbage_header(path)
    elif harm == "cut off":
        truncate(path)
    else:
        wreck_table(path, harm)
    later = bench.submit(1, "late")
    bench.engine.pump()
    bench.pass_time(3700)
    bench.turn(lambda: bool(waiting and later))
    assert waiting[0].state is later[0].state is RunState.SUCCEEDED
    keeper = bench.engine.keeper
    assert not keeper.degraded
    if harm != "chunk":  # without its chunks nothing of a run is taken over
        assert bench.states().count("succeeded") >= 1
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    assert other.recover() == 0


@pytest.mark.files_only
def test_one_run_with_damaged_records_fails_and_the_others_go_on(
    bench: Bench, make_bench: Callable[..., Bench]
) -> None:
    bench.deploy(1, flow(compute("a", "payload"), node("d", "delay", {"for": "1h"}), settings={"max_runs": 100}))
    for number in range(6):
        bench.submit(1, number)
    bench.engine.pump()
    runs = list(bench.engine.runs)
    shard = bench.journal._shard(day_of(runs[0]))
    harm = {
        0: ("steps", b"\xc1\xc1"),
        1: ("event", b"\xc1"),
        2: ("steps", b"\x91\x98\x05\xcd\xff\xff\x01\x00\x00\xa0\xc0\xc0"),
        3: ("version", 99),
    }
    for number, (column, value) in harm.items():
        shard.execute(f"UPDATE run SET {column} = ? WHERE id = ?", (value, runs[number]))
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    other.recover()
    rows = other.journal._read(day_of(runs[0]), "SELECT state FROM run ORDER BY id")
    states = [RunState(row[0]).label for row in rows]
    assert states == ["failed"] * 4 + ["waiting"] * 2
    other.pass_time(3700)
    other.turn(lambda: not other.engine.runs)


def test_a_clock_that_jumps_between_and_during_runs(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    """Forward by days, back by hours: ids grow, every run ends, the delay counts on the clock of the wall."""
    bench.deploy(1, flow(compute("a", "payload"), node("d", "delay", {"for": "1h"}), compute("z", "payload ~ ''")))
    bench.submit(1, "first")
    bench.engine.pump()
    bench.pass_time(3 * DAY)
    bench.turn(lambda: bench.states() == ["succeeded"])
    bench.submit(1, "second")
    bench.engine.pump()
    bench.clock.offset -= 5 * DAY
    bench.pass_time(0)
    bench.submit(1, "third")
    bench.engine.pump()
    bench.die()
    other = make_bench()
    other.deploy(1, bench.flows[1])
    other.clock.offset = -9 * DAY
    other.pass_time(0)
    assert other.recover() == 2
    other.submit(1, "fourth")
    other.engine.pump()
    ids = [row.id for row, _ in other.rows()]
    assert ids == sorted(set(ids)) and len(ids) == 4
    other.pass_time(20 * DAY)
    other.turn(lambda: other.states() == ["succeeded"] * 4)
    assert [records[-1].value for _, records in other.rows()] == ["first", "second", "third", "fourth"]


def test_midnight_in_the_middle(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    now = bench.clock()
    bench.pass_time(DAY - now % DAY - 1800)
    bench.deploy(1, flow(compute("a", "payload"), node("d", "delay", {"for": "1h"}), compute("z", "payload ~ ''")))
    inner = [node("d", "delay", {"for": "1h"}), compute("x", "payload * 2")]
    body = {"nodes": inner, "edges": [{"from": "d", "to": "x"}]}
    bench.deploy(2, flow(node("f", "for_each", {"items": "payload", "concurrency": 1, "body": body})))
    bench.submit(1, "evening")
    family = bench.submit(2, [1, 2, 3])
    bench.engine.pump()
    bench.pass_time(3700)
    bench.submit(1, "morning")
    bench.engine.pump()
    assert len({day_of(row.id) for row, _ in bench.rows()}) == 2
    bench.die()
    other = make_bench()
    for num, shape in bench.flows.items():
        other.deploy(num, shape)
    other.clock.offset = bench.clock.offset
    other.pass_time(0)
    other.recover()
    for _ in range(4):
        other.pass_time(3700)
        other.turn(lambda: True)
    other.turn(lambda: not other.engine.runs)
    assert set(other.states()) == {"succeeded"} and not family
    assert [records[-1].value for row, records in other.rows() if row.flow == 2 and row.parent is None] == [[2, 4, 6]]
    assert len([row for row, _ in other.rows() if row.parent]) == 3


@pytest.mark.files_only
def test_a_full_file_system_for_real(tmp_path: Path, make_bench: Callable[..., Bench]) -> None:
    """Only where a small file system can be mounted."""
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        bench = make_bench(small)
        bench.deploy(1, flow(compute("a", "payload"), node("d", "delay", {"for": "1h"}), settings={"max_runs": 10_000}))
        bench.submit(1, "x" * 100)
        bench.engine.pump()
        filler = small / "filler"
        for number in range(400):
            bench.submit(1, "y" * 2000 + str(number))
            bench.engine.pump()
        assert bench.engine.keeper.degraded
        assert len(bench.engine.runs) == 401 and not filler.exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        bench.engine.keeper._next_try = 0.0
        bench.engine.watch()
        bench.engine.pump()
        assert not bench.engine.keeper.degraded
        assert bench.states() == ["waiting"] * 401
        bench.die()
    finally:
        subprocess.run(["umount", str(small)], check=True)
