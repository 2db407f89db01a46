"""The audit chain: every change of the past is found, and secrets are not in it."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.security.audit import GENESIS, HEAD_FILE, AuditEntry, AuditError, AuditLog
from appliance.security.scrub import MASK, Scrubber
from appliance.security.secret import Secret
from tests.security.memory import Clock, MemoryAudit


class Desk:
    def __init__(self, data: Path) -> None:
        (data / "keys").mkdir()
        self.repo, self.clock = MemoryAudit(), Clock()
        self.head = data / "keys" / HEAD_FILE
        scrubber = Scrubber(["hunter2hunter2"])
        self.log = AuditLog(self.repo, data, scrubber=scrubber, now=self.clock)

    def fill(self, count: int = 5) -> None:
        for number in range(count):
            self.clock.time += 1
            self.log.append("user:0xa", "flow.deploy", f"flow-{number}", {"version": number}, workspace="default")

    def detail(self, **detail: object) -> object:
        return json.loads(self.log.append("user:0xa", "test", detail=detail).detail)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_chain(desk: Desk) -> None:
    desk.fill()
    assert [entry.seq for entry in desk.repo.rows] == [1, 2, 3, 4, 5]
    assert desk.repo.rows[0].prev == GENESIS
    result = desk.log.verify()
    assert (result.ok, result.count, result.broken, result.reason) == (True, 5, None, "")
    assert result.head == desk.repo.rows[-1].hash


def test_an_empty_log_is_whole(desk: Desk) -> None:
    assert desk.log.verify().ok


def test_the_hash_can_be_computed_by_anybody(desk: Desk) -> None:
    desk.fill(1)
    fields = msgspec.structs.asdict(desk.repo.rows[0])
    claimed = fields.pop("hash")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(text.encode()).hexdigest() == claimed


@pytest.mark.parametrize("name", AuditEntry.__struct_fields__)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_no_field_can_be_changed(desk: Desk, name: str, place: int) -> None:
    desk.fill()
    row = desk.repo.rows[place]
    value = getattr(row, name)
    changed = value + 1 if isinstance(value, int) else value[:-1] + ("0" if value[-1] != "0" else "1")
    desk.repo.rows[place] = msgspec.structs.replace(row, **{name: changed})
    result = desk.log.verify()
    assert not result.ok
    assert result.broken == place + 1
    assert result.count == place


def test_a_changed_entry_with_its_hash_made_right(desk: Desk) -> None:
    desk.fill()
    row = msgspec.structs.replace(desk.repo.rows[2], actor="user:0xb")
    fields = msgspec.structs.asdict(row)
    fields.pop("hash")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    desk.repo.rows[2] = msgspec.structs.replace(row, hash=hashlib.sha256(text.encode()).hexdigest())
    result = desk.log.verify()
    assert result.broken == 4
    assert "does not follow" in result.reason


def drop(rows: list[AuditEntry]) -> None:
    del rows[2]


def swap(rows: list[AuditEntry]) -> None:
    rows[2], rows[3] = rows[3], rows[2]


def double(rows: list[AuditEntry]) -> None:
    rows.insert(2, rows[1])


def behead(rows: list[AuditEntry]) -> None:
    del rows[0]


@pytest.mark.parametrize(("change", "broken"), [(drop, 3), (swap, 3), (double, 3), (behead, 1)])
def test_entries_stay_in_their_places(desk: Desk, change: Callable[[list[AuditEntry]], None], broken: int) -> None:
    desk.fill()
    change(desk.repo.rows)
    result = desk.log.verify()
    assert (result.ok, result.broken) == (False, broken)


class TestTheEnd:
    @pytest.mark.parametrize("left", [0, 1, 4])
    def test_cutting_it_off_is_seen(self, desk: Desk, left: int) -> None:
        desk.fill()
        del desk.repo.rows[left:]
        result = desk.log.verify()
        assert (result.ok, result.count, result.broken) == (False, left, left + 1)
        assert f"entries {left + 1} to 5 are gone" in result.reason

    def test_also_after_new_entries_were_added(self, desk: Desk) -> None:
        desk.fill()
        del desk.repo.rows[3:]
        desk.fill(1)
        assert "entries 5 to 5 are gone" in desk.log.verify().reason
        desk.fill(4)
        result = desk.log.verify()
        assert result.broken == 5
        assert "history was rewritten" in result.reason

    def test_a_whole_new_chain_is_seen(self, desk: Desk, tmp_path: Path) -> None:
        desk.fill()
        other = tmp_path / "other"
        other.mkdir()
        forger = Desk(other)
        forger.fill(4)
        forger.log.append("user:0xb", "flow.deploy")
        forger.fill(4)
        assert forger.log.verify().ok
        desk.repo.rows[:] = forger.repo.rows
        result = desk.log.verify()
        assert (result.ok, result.broken) == (False, 5)
        assert "history was rewritten" in result.reason

    def test_removing_the_head_file_is_seen_and_stays_seen(self, desk: Desk) -> None:
        desk.fill()
        desk.head.unlink()
        assert "was removed" in desk.log.verify().reason
        desk.fill()
        assert not desk.log.verify().ok

    def test_a_damaged_head_file_stops_no_work(self, desk: Desk) -> None:
        desk.fill()
        desk.head.write_bytes(b"rubbish")
        desk.fill(1)
        assert len(desk.repo.rows) == 6
        assert desk.head.read_bytes() == b"rubbish", "what was found is evidence"
        result = desk.log.verify()
        assert not result.ok
        assert "damaged" in result.reason

    def test_accepting_a_restored_database(self, desk: Desk) -> None:
        desk.fill()
        expected = desk.repo.rows[-1].hash
        del desk.repo.rows[2:]
        entry = desk.log.accept("local:pi", "restored the backup of Monday")
        assert desk.log.verify().ok
        assert json.loads(entry.detail) == {
            "reason": "restored the backup of Monday",
            "expected_seq": 5,
            "expected_hash": expected,
        }
        desk.head.write_bytes(b"rubbish")
        desk.log.accept("local:pi", "bad card")
        assert desk.log.verify().ok

    def test_a_power_cut_between_entry_and_head(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.fill()

        def cut(entry: AuditEntry) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(desk.log, "settle", cut)
        with pytest.raises(KeyboardInterrupt):
            desk.fill(1)
        monkeypatch.undo()
        assert desk.log.verify().ok
        desk.fill()
        assert desk.log.verify().ok
        assert desk.log.verify().count == 11

    def test_a_head_that_cannot_be_written(self, desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
        desk.fill()
        desk.head.unlink()
        desk.head.mkdir()
        desk.fill(1)
        assert len(desk.repo.rows) == 6
        assert "audit:" in caplog.text


def test_many_writers_make_one_chain(desk: Desk, tmp_path: Path) -> None:
    gate = threading.Barrier(4)
    logs = [AuditLog(desk.repo, tmp_path, now=desk.clock) for _ in range(4)]

    def write(log: AuditLog) -> None:
        gate.wait(timeout=10)
        for number in range(25):
            log.append("user:0xa", "test", str(number))

    threads = [threading.Thread(target=write, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    result = desk.log.verify()
    assert (result.ok, result.count) == (True, 100)
    assert json.loads(desk.head.read_bytes())["seq"] == 100


def test_an_entry_inside_a_transaction_that_is_undone(desk: Desk) -> None:
    desk.fill()
    desk.log.add("user:0xa", "flow.deploy")
    del desk.repo.rows[5:]
    assert desk.log.verify().ok
    entry = desk.log.add("user:0xa", "flow.deploy")
    desk.log.settle(entry)
    del desk.repo.rows[5:]
    assert not desk.log.verify().ok


def test_settling_late_and_out_of_order(desk: Desk) -> None:
    entries = [desk.log.add("user:0xa", "test", str(number)) for number in range(3)]
    for place, expected in ((1, 2), (0, 2), (2, 3)):
        desk.log.settle(entries[place])
        assert json.loads(desk.head.read_bytes())["seq"] == expected
    assert desk.log.verify().ok


def test_a_repo_that_never_takes_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.repo, "add", lambda entry: False)
    with pytest.raises(AuditError, match="try again"):
        desk.fill(1)


class TestDetail:
    def test_known_secrets_are_hidden(self, desk: Desk) -> None:
        entry = desk.log.append(
            "user:hunter2hunter2", "hunter2hunter2", "x hunter2hunter2", {"a": ["hunter2hunter2"]}, workspace="w"
        )
        assert "hunter2" not in str(entry)
        assert desk.log.verify().ok

    def test_fields_named_like_secrets(self, desk: Desk) -> None:
        detail = desk.detail(
            password="p", smtp_password="p", Token="t", token_id="kept", nested=[{"x-api-key": "k"}], secret=None
        )
        assert detail == {
            "password": MASK,
            "smtp_password": MASK,
            "Token": MASK,
            "token_id": "kept",
            "nested": [{"x-api-key": MASK}],
            "secret": None,
        }

    def test_what_json_has_no_form_for(self, desk: Desk) -> None:
        detail = desk.detail(
            path=Path("/a"), number=float("nan"), when=1.5, secret_value=Secret("hunter3hunter3"), t=(1, 2)
        )
        assert detail == {"path": "/a", "number": "nan", "when": 1.5, "secret_value": MASK, "t": [1, 2]}
        assert desk.log.verify().ok

    def test_what_databases_choke_on(self, desk: Desk) -> None:
        entry = desk.log.append("a\0b", "x\ud800", detail={"k\0": "v\ud800"})
        assert "\0" not in entry.actor + entry.detail
        entry.detail.encode()
        assert desk.log.verify().ok

    def test_what_is_too_long_is_cut(self, desk: Desk) -> None:
        entry = desk.log.append("a" * 10_000, "x", "t" * 10_000, {"k": "v" * 1_000_000})
        assert len(entry.actor) == len(entry.target) == 512
        assert len(entry.detail) < 5000
        assert set(json.loads(entry.detail)) == {"cut"}
        assert desk.log.verify().ok

    def test_deep_nesting(self, desk: Desk) -> None:
        value: object = 1
        for _ in range(10_000):
            value = [value]
        desk.detail(deep=value)
        assert desk.log.verify().ok
