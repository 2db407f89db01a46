"""The outbox: order, once, on disk when it must be, bounded, and what it costs the disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from edge_agent import outbox as outbox_module
from edge_agent.clocks import Clocks
from edge_agent.outbox import HELD, Outbox
from edge_agent.protocol.messages import WINDOW, Body, Row, decode_body
from tests.support.broker import eventually

PATIENCE = 20.0


class Clock:
    """Wall and boot clock that move when told."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.up = 1000.0
        self.boot = "boot1"

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.wall, lambda: self.up, self.boot)


class Box:
    """An outbox on a folder, with what tests do with it again and again."""

    def __init__(self, folder: Path, clock: Clock | None = None, **bounds: float) -> None:
        self.clock = clock or Clock()
        self.woken = threading.Condition()
        self.outbox = Outbox(folder / "outbox.db", self._wake, self.clock.clocks(), **bounds)  # type: ignore[arg-type]
        self.outbox.open()

    def _wake(self) -> None:
        with self.woken:
            self.woken.notify_all()

    def put(self, *values: object, watch: str = "w", priority: int = 0) -> None:
        for value in values:
            self.outbox.put((watch,), Body("s", "changed", value), self.clock.wall, priority)

    def take(self) -> list[Row]:
        return [row for _, rows in self.outbox.take() for row in rows]

    def values(self, rows: list[Row]) -> list[object]:
        return [decode_body(row.body).value for row in rows]

    def all(self, count: int) -> list[object]:
        """Take and acknowledge until so many have come."""
        found: list[object] = []

        def more() -> bool:
            while rows := self.take():
                found.extend(self.values(rows))
                self.outbox.ack({"w": rows[-1].seq})
            return len(found) >= count

        self.until(more)
        return found

    def until(self, wanted: Callable[[], bool]) -> None:
        with self.woken:
            while not wanted():
                assert self.woken.wait(PATIENCE), "nothing came"

    def stored(self) -> int:
        with sqlite3.connect(self.outbox.path) as db:
            count: int = db.execute("SELECT count(*) FROM event").fetchone()[0]
        db.close()
        return count


@contextmanager
def opened(folder: Path, clock: Clock | None = None, **bounds: float) -> Iterator[Box]:
    box = Box(folder, clock, **bounds)
    try:
        box.outbox.keep({"w": True})
        yield box
    finally:
        box.outbox.close()


def test_in_order_and_again_until_acknowledged(tmp_path: Path) -> None:
    with opened(tmp_path) as box:
        box.put(1, 2, 3)
        box.outbox.linked(True)
        rows = box.take()
        assert box.values(rows) == [1, 2, 3]
        assert box.take() == []
        box.outbox.ack({"w": rows[0].seq})
        box.outbox.linked(False)
        box.outbox.linked(True)
        assert box.values(box.take()) == [2, 3]


def test_a_window_bounds_what_is_under_way(tmp_path: Path) -> None:
    with opened(tmp_path) as box:
        box.outbox.linked(True)
        box.put(*range(WINDOW + 10))
        rows = box.take()
        assert len(rows) == WINDOW
        assert box.take() == []
        box.outbox.ack({"w": rows[4].seq})
        assert box.values(box.take()) == list(range(WINDOW, WINDOW + 5))


def test_what_was_not_acknowledged_survives_and_numbers_are_never_used_again(tmp_path: Path) -> None:
    with opened(tmp_path) as box:
        box.put("a", "b", "c")
        rows = box.take()
        box.outbox.ack({"w": rows[0].seq})
        highest, name = rows[-1].seq, box.outbox.name
    with opened(tmp_path) as box:
        assert box.outbox.name == name
        box.put("d")
        rows = box.take()
        assert box.values(rows) == ["b", "c", "d"]
        assert rows[-1].seq > highest


def test_numbers_are_not_used_again_after_a_power_cut(tmp_path: Path) -> None:
    """What was sent and not yet written is gone with the process; its number must not name something else."""
    box = Box(tmp_path, linger=3600.0)
    box.outbox.keep({"w": True})
    box.outbox.linked(True)
    box.put("sent, never written")
    sent = box.take()[0].seq
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in tmp_path.glob("outbox.db*"):  # as the card is at this moment
        (copy / part.name).write_bytes(part.read_bytes())
    with opened(copy) as after:
        after.put("another")
        assert after.take()[0].seq > sent
    box.outbox.close()


def test_numbers_are_reserved_anew_before_they_run_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a healthy link leaves nothing to be written."""
    monkeypatch.setattr(outbox_module, "BLOCK", 10)
    with opened(tmp_path) as box:
        box.outbox.linked(True)
        for value in range(100):
            box.put(value)
            last = box.take()[-1].seq
            box.outbox.ack({"w": last})
    with opened(tmp_path) as box:
        box.put("next")
        assert box.take()[0].seq > last


def test_a_full_disk_at_the_start_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as box:
        box.put("kept")

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Outbox, "_reserve", full)
        with pytest.raises(sqlite3.OperationalError):
            Box(tmp_path)
    with opened(tmp_path) as box:
        assert box.values(box.take()) == ["kept"]


def test_a_healthy_link_costs_the_disk_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, linger=0.2) as box:
        box.outbox.linked(True)
        before = box.outbox.path.with_name("outbox.db-wal").stat().st_size
        for value in range(100):
            box.put(value)
            rows = box.take()
            box.outbox.ack({"w": rows[-1].seq})
    assert box.outbox.waiting == 0
    after = box.outbox.path.with_name("outbox.db-wal")
    assert not after.exists() or after.stat().st_size == before


def test_more_than_memory_holds_waits_on_disk_in_order(tmp_path: Path) -> None:
    count = HELD * 3 + 7
    with opened(tmp_path) as box:
        box.put(*range(count))
        assert box.all(count) == list(range(count))
        assert box.outbox.waiting == 0
        box.put("after")
        assert box.all(1) == ["after"]


def test_a_link_cut_of_an_hour_under_ten_events_a_second_loses_nothing(tmp_path: Path) -> None:
    clock, count = Clock(), 36_000
    with opened(tmp_path, clock) as box:
        for number in range(count):
            clock.wall += 0.1
            clock.up += 0.1
            box.put(number)
            if number % 6000 == 5999:  # an hour gives the disk its time
                eventually(lambda seen=number + 1: box.stored() == seen, "events on disk")
        box.outbox.linked(True)
        assert box.all(count) == list(range(count))
        assert box.outbox.dropped == 0


def test_more_comes_while_the_disk_is_read(tmp_path: Path) -> None:
    """Two threads: one sees things, the other sends them; nothing is lost or changes places."""
    count = HELD * 4
    with opened(tmp_path) as box:
        writer = threading.Thread(target=lambda: box.put(*range(count)))
        writer.start()
        found = box.all(count)
        writer.join()
    assert found == list(range(count))


def test_a_restart_reads_what_is_on_disk_only(tmp_path: Path) -> None:
    count = HELD * 2 + 3
    with opened(tmp_path) as box:
        box.put(*range(count))
    with opened(tmp_path) as box:
        box.put("new")
        assert box.all(count + 1) == [*range(count), "new"]


def test_when_full_the_lowest_priority_goes_first_and_it_is_told(tmp_path: Path) -> None:
    with opened(tmp_path, max_bytes=100_000) as box:
        box.put(*["x" * 1000] * 50, priority=5)
        box.put(*["y" * 1000] * 200, priority=0)
    with opened(tmp_path, max_bytes=100_000) as box:
        found = box.all(80)
        rest = box.take()
        found += box.values(rest)
    kept = [value for value in found if isinstance(value, str)]
    told = sum(value for value in found if isinstance(value, int))
    assert kept[:50] == ["x" * 1000] * 50
    assert all(value[0] == "y" for value in kept[50:])
    assert told == 250 - len(kept) > 0


def test_what_is_too_old_goes_and_is_told(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock, max_age=3600.0) as box:
        box.put("old")
    clock.wall += 4000
    clock.up += 4000
    with opened(tmp_path, clock, max_age=3600.0) as box:
        box.put("new")
        box.until(lambda: box.outbox.dropped == 1)
        rows = box.take()
        bodies = [decode_body(row.body) for row in rows]
        assert [(body.kind, body.value) for body in bodies if body.kind == "overflow"] == [("overflow", 1)]
        assert "new" in [body.value for body in bodies]


def test_a_watch_that_is_not_durable_keeps_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as box:
        box.outbox.keep({"w": True, "live": False})
        box.put("nobody hears", watch="live")
        box.outbox.linked(True)
        box.put("heard", watch="live")
        assert box.values(box.take()) == ["heard"]
        box.outbox.linked(False)
        box.outbox.linked(True)
        assert box.take() == []
        assert box.outbox.waiting == 0


def test_what_nobody_wants_any_more_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as box:
        box.put("a", "b")
        box.outbox.keep({"other": True})
        box.outbox.keep({"w": True})
        box.put("c")
        assert box.values(box.take()) == ["c"]
    with opened(tmp_path) as box:
        assert box.values(box.take()) == ["c"]


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"this is no database" * 1000)
    with opened(tmp_path) as box:
        box.put("a")
        assert box.values(box.take()) == ["a"]
    assert (tmp_path / "outbox.db.damaged").exists()


def test_a_disk_that_takes_nothing_loses_nothing_that_memory_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as box:
        failed = threading.Event()

        def broken(*_: object) -> None:
            failed.set()
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(box.outbox, "_commit", broken)
            box.put(*range(10))
            assert failed.wait(PATIENCE)
            box.outbox.linked(True)
            assert box.values(box.take()) == list(range(10))
    assert box.stored() == 10


@pytest.mark.parametrize(("seen", "lag"), [(0.0, 0.0), (5.0, 5.0), (-100.0, 0.0)])
def test_times_are_told_by_the_clock_that_nobody_sets(tmp_path: Path, seen: float, lag: float) -> None:
    """A Pi wakes up in 1970 and is set right later; what it saw before keeps its place in time."""
    clock = Clock()
    with opened(tmp_path, clock) as box:
        box.outbox.put(("w",), Body("s", "changed", 1), clock.wall - seen, 0)
        row = box.take()[0]
    assert row.at == clock.wall - seen
    assert row.up == clock.up - lag


def test_times_of_another_boot_are_marked(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock) as box:
        box.put(1)
    clock.boot = "boot2"
    with opened(tmp_path, clock) as box:
        assert box.take()[0].up == 0.0


def test_bodies_are_carried_as_they_are(tmp_path: Path) -> None:
    body = Body("gpiochip0/17", "changed", {"deep": [1, None, "ü"]}, {"edge": "rising"})
    with opened(tmp_path) as box:
        box.outbox.put(("w",), body, 1.0, 0)
    with opened(tmp_path) as box:
        assert msgspec.to_builtins(decode_body(box.take()[0].body)) == msgspec.to_builtins(body)
