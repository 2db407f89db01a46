"""Moving an engine into Postgres and back: everything arrives, a cut anywhere is no loss, and nobody is overwritten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from appliance import restoring
from appliance.engine.states import RunState
from appliance.kernel.blobs import FileBlobs
from appliance.store.backup import make_backup, restore_backup
from appliance.store.errors import StoreError
from appliance.store.history import RunFilter
from appliance.store.journal import PEERS, Batch, StateOp
from appliance.store.metadata import Store, open_store
from appliance.store.opening import DATABASE
from appliance.store.places import URL, make_history, make_journal
from appliance.store.postgres import moving
from appliance.store.postgres.connecting import connect
from appliance.store.postgres.moving import move_to_folder, move_to_server
from appliance.store.seal import Keys
from tests.store.stores import Clock, body
from tests.support.shard_files import DAY, NOON, put


def silent(done: int, total: int, what: str) -> None:
    """Nobody looks."""


@pytest.fixture
def engine(tmp_path: Path, clock: Clock) -> Path:
    """A folder with something in every table that the store's own methods fill, and three days of runs."""
    data = tmp_path / "engine"
    store = open_store(data, environ={}, now=clock)
    flows = [store.flows.save(None, "home", body(f"Flow ü {n}", tags=["a", "b"]), "ann").flow for n in range(3)]
    store.flows.save("flow-u-0", "home", body("Flow ü 0", n=2), "ann", "better", 1)
    store.flows.deploy("flow-u-0", 2, "ann")
    store.flows.delete("flow-u-2", "bob")
    store.people.users.put("0x" + "a" * 40, "Ann", 1.5)
    store.people.users.grant("0x" + "a" * 40, "*", "admin")
    store.people.sessions.add("h" * 64, "0x" + "a" * 40, 1.0, 2.0)
    store.values.set_variable("home", "v", {"deep": [1, 2.5, None, "\x00"]})
    store.values.secrets.put("home", "s", b"\x00sealed\xff")
    store.values.apply_state([StateOp(1, flows[0], "old", b"1"), StateOp(2, flows[0], "gone", b"1")], 2)
    store.settings.set({"keep_days": 7})
    store.close()
    journal = make_journal(data, writer=0, environ={})
    journal.open()
    for n in range(3):
        runs = put(journal, NOON + n * DAY, 20, flow=flows[n % 2], steps=b"\x00\xff" * 50)
        (waiting,) = put(journal, NOON + n * DAY, state=RunState.WAITING, finished=None)
        (failed,) = put(journal, NOON + n * DAY, state=RunState.FAILED, error=b"\x81\xa2id\xa1x", letter=1)
        batch = Batch()
        batch.chunks = [(waiting, 0, b"one"), (waiting, 1, b"two")]
        batch.keys = [(f"{flows[0]}/t1/event-{n}", runs[0]), ("the same every day", runs[1])]
        batch.ops = [(runs[0], StateOp(3 + n, flows[0], f"k{n}", b"\x01"))]
        batch.blobs = [("ab" * 32, runs[0])]
        if n == 2:
            batch.ops.append((runs[0], StateOp(9, flows[0], "gone", None)))
        journal.commit(batch)
        journal.set_letter(failed, 1, "ann", "ü", 5)
    journal.close()
    blobs = FileBlobs(data)
    blobs.put(b"x" * 3_000_000)
    blobs.put(b"")
    return data


def contents(data: Path, environ: dict[str, str]) -> dict[str, Any]:
    """What an engine shows of itself."""
    store, history = open_store(data, environ=environ), make_history(data, environ)
    journal = make_journal(data, writer=0, environ=environ)
    journal.open()
    state = {(op.flow, op.key): op.value for op in store.values.load_state()}
    state |= {(op.flow, op.key): op.value for op in journal.state_ops(store.values.state_version())}
    heads = history.page(RunFilter(children=True), limit=1000).items
    found = {
        "flows": store.flows.list().items,
        "live": store.flows.live(),
        "deployments": store.flows.deployments("flow-u-0"),
        "gone": store.flows.by_num(3),
        "people": store.people.users.list(),
        "secrets": store.values.secrets.all(),
        "variables": store.values.variables("home"),
        "settings": store.settings.load(),
        "changes": {name: count for name, count in store.changes().items() if name != "state_version"},
        "state": {place: value for place, value in state.items() if value is not None},
        "runs": [(head, journal.load(head.id)) for head in heads],
        "noted": [history.detail(head.id) for head in heads if head.letter],
        "pages": {flow: [h.id for h in history.page(RunFilter(flows=[flow])).items] for flow in (1, 2)},
        "under way": list(journal.under_way()),
        "key": [journal.run_of_key("1/t1/event-2"), journal.run_of_key("the same every day")],
        "letters": history.open_letters(),
    }
    history.close()
    journal.close()
    store.close()
    return found


def test_there_and_back_again(engine: Path, bare_url: str, tmp_path: Path) -> None:
    before = contents(engine, {})
    told: list[tuple[int, int]] = []
    moved = move_to_server(engine, bare_url, "me", lambda done, total, what: told.append((done, total)))
    assert (moved.days, moved.blobs, moved.left_out) == (3, 2, [])
    assert told and all(done <= total for done, total in told) and told == sorted(told)
    there = contents(engine, {URL: bare_url})
    assert there == before
    with pytest.raises(StoreError, match="has moved to the database 'test_"):
        open_store(engine, environ={})
    # What is saved there gets numbers that nothing here has had.
    store = open_store(engine, environ={URL: bare_url})
    assert store.flows.save(None, "home", body("New"), "ann").flow == 4
    assert "secret" not in (engine / "moved.json").read_text()
    store.close()
    after = contents(engine, {URL: bare_url})

    back = move_to_folder(bare_url, engine, silent)
    assert (back.days, back.blobs) == (3, 2)
    assert contents(engine, {}) == after
    assert sorted(path.name for path in Path(back.set_aside).iterdir()) == ["flowork.db", "runs"]
    assert open_and_close(engine).report.state == "opened"
    with pytest.raises(StoreError, match="moved back into a data folder"):
        open_store(engine, environ={URL: bare_url})
    # To another folder, where no engine has been.
    with pytest.raises(StoreError, match="holds an engine's data already"):
        move_to_folder(bare_url, engine, silent)


def test_pairings_of_an_earlier_cluster_are_not_moved(engine: Path, bare_url: str) -> None:
    """They were brought back once; the data folder has newer ones."""
    store = open_store(engine, environ={})
    store.values.apply_state([StateOp(20, PEERS, "peer old", b"\xc4\x01x"), StateOp(21, 1, "kept", b"\x01")], 21)
    store.close()
    move_to_server(engine, bare_url, "me", silent)
    with closing(open_store(engine, environ={URL: bare_url})) as there:
        found = {(op.flow, op.key) for op in there.values.load_state()}
    assert (1, "kept") in found and not any(flow == PEERS for flow, _ in found)


def open_and_close(data: Path) -> Store:
    store = open_store(data, environ={})
    store.close()
    return store


class Cut(Exception):
    """The power went."""


@pytest.mark.parametrize(
    ("step", "nth"),
    [("to_server", 3), ("_import_day", 1), ("to_server", 20), ("_import_day", 3), ("_import_blobs", 1),
     ("_compare_all", 1), ("note_moved", 1)],
)  # fmt: skip
def test_a_move_that_is_cut_off_anywhere_goes_on(
    engine: Path, bare_url: str, step: str, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(engine, {})
    with monkeypatch.context() as patch:
        cut_in(patch, step, nth)
        with pytest.raises(Cut):
            move_to_server(engine, bare_url, "me", silent)
    if step == "note_moved":
        with pytest.raises(StoreError, match="has moved to"):
            open_store(engine, environ={})
    else:
        assert contents(engine, {}) == before, "the engine may go on here"
    with pytest.raises(StoreError, match="cut off"):
        open_store(engine, environ={URL: bare_url})
    with pytest.raises(StoreError, match="another engine is being moved"):
        move_to_server(engine, bare_url, "another", silent)
    assert move_to_server(engine, bare_url, "me", silent).days == 3
    assert contents(engine, {URL: bare_url}) == before


def cut_in(patch: pytest.MonkeyPatch, step: str, nth: int) -> None:
    """The power goes behind the nth call of a step."""
    whole, calls = getattr(moving, step), 0

    def sometimes(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        found = whole(*arguments, **options)
        if calls == nth:
            raise Cut
        return found

    patch.setattr(moving, step, sometimes)


@pytest.mark.parametrize(
    ("step", "nth"), [("export_day", 2), ("replace_file", 2), ("export_blob", 1), ("export_store", 1)]
)
def test_a_move_back_that_is_cut_off_goes_on(
    engine: Path, bare_url: str, step: str, nth: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, target = contents(engine, {}), tmp_path / "other"
    move_to_server(engine, bare_url, "me", silent)
    with monkeypatch.context() as patch:
        cut_in(patch, step, nth)
        with pytest.raises(Cut):
            move_to_folder(bare_url, target, silent)
    with pytest.raises(StoreError, match="cut off"):
        open_store(target, environ={})
    assert contents(engine, {URL: bare_url}) == before, "the engine may go on there"
    assert move_to_folder(bare_url, target, silent).set_aside == ""
    assert contents(target, {}) == before


def test_a_target_that_is_not_empty_is_refused(engine: Path, database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute("INSERT INTO setting VALUES ('keep_days', '5')")
    with pytest.raises(StoreError, match=r"not empty \(there is something in setting\)"):
        move_to_server(engine, database_url, "me", silent)
    assert open_and_close(engine).report.state == "opened"


def test_a_target_in_use_is_refused(engine: Path, database_url: str) -> None:
    store = open_store(engine.parent / "other", environ={URL: database_url})
    store.flows.list()
    with pytest.raises(StoreError, match="in use: stop Flowork on every machine"):
        move_to_server(engine, database_url, "me", silent)
    store.close()


def test_what_arrived_wrong_is_noticed(engine: Path, bare_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = moving._import_blobs

    def harm(url: str, *arguments: Any) -> list[str]:
        with connect(url) as connection:
            connection.execute("UPDATE run SET steps = 'other' WHERE id = (SELECT min(id) FROM run)")
        return whole(url, *arguments)

    monkeypatch.setattr(moving, "_import_blobs", harm)
    with pytest.raises(StoreError, match="not what was sent: run of 2027-01-15"):
        move_to_server(engine, bare_url, "me", silent)
    assert open_and_close(engine).report.state == "opened", "the engine goes on here"


def test_a_text_that_postgres_cannot_keep_is_named(engine: Path, bare_url: str) -> None:
    store = open_store(engine, environ={})
    store.values.apply_state([StateOp(50, 1, "a\x00b", b"1")], 50)
    store.close()
    with pytest.raises(StoreError, match="flow_state cannot be moved"):
        move_to_server(engine, bare_url, "me", silent)


def test_a_damaged_blob_is_left_out_and_named(engine: Path, bare_url: str) -> None:
    (path,) = [path for path in (engine / "blobs").glob("*/*") if path.stat().st_size]
    path.write_bytes(b"something else")
    moved = move_to_server(engine, bare_url, "me", silent)
    assert moved.blobs == 1 and moved.left_out == [f"blobs/{path.parent.name}/{path.name}: damaged"]


def test_a_damaged_or_missing_database_is_not_moved(engine: Path, bare_url: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no flowork\.db"):
        move_to_server(tmp_path / "nothing", bare_url, "me", silent)
    (engine / DATABASE).write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="is damaged"):
        move_to_server(engine, bare_url, "me", silent)


def test_the_moved_folder_is_sound_for_sqlite(engine: Path, bare_url: str, tmp_path: Path) -> None:
    move_to_server(engine, bare_url, "me", silent)
    move_to_folder(bare_url, tmp_path / "other", silent)
    for path in [tmp_path / "other" / DATABASE, *(tmp_path / "other" / "runs").glob("*.db")]:
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert file.execute("PRAGMA foreign_key_check").fetchall() == []
    assert not list((tmp_path / "other").rglob("*.new"))


def test_a_backup_of_an_engine_in_postgres_restores_into_a_folder_and_from_there_anywhere(
    engine: Path, bare_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine / "keys").mkdir()
    (engine / "keys" / "engine.json").write_text("{}")
    move_to_server(engine, bare_url, "me", silent)
    monkeypatch.setenv(URL, bare_url)
    before = contents(engine, {URL: bare_url})
    told: list[tuple[int, int]] = []
    manifest = make_backup(engine, tmp_path / "b.tar.gz", lambda done, total, what: told.append((done, total)))
    assert manifest.left_out == [] and told == sorted(told)
    assert {name.split("/")[0] for name in manifest.files} == {"flowork.db", "runs", "blobs", "keys"}
    assert len([name for name in manifest.files if name.startswith("blobs/")]) == 2
    assert not list(tmp_path.glob(".flowork-backup-*"))
    monkeypatch.delenv(URL)
    restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
    assert contents(tmp_path / "restored", {}) == before
    assert FileBlobs(tmp_path / "restored").get(FileBlobs(engine).put(b"")) == b""


def test_an_engine_in_postgres_is_not_restored_over(database_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(URL, database_url)
    with pytest.raises(StoreError, match="flowork migrate"):
        restoring.stage(tmp_path, tmp_path / "b.tar.gz", Keys())


def test_an_empty_database_beside_a_full_folder_is_refused(engine: Path, bare_url: str) -> None:
    with pytest.raises(StoreError, match="flowork migrate --to"):
        open_store(engine, environ={URL: bare_url})
    with psycopg.connect(bare_url) as connection:
        assert connection.execute("SELECT to_regnamespace('flowork')").fetchone() == (None,)
