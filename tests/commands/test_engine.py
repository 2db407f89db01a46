"""Making an engine, backing it up, bringing it back, looking at its health, and errors of every kind."""

from __future__ import annotations

import json
import stat
import tarfile
from pathlib import Path

import pytest

from appliance import doctor, findings, firststart
from appliance.commands import _output as out
from appliance.kernel.kernel import Kernel
from appliance.listener import bind, listen
from appliance.paths import EngineLock
from appliance.running import holder, listening
from appliance.wording import counted
from tests.commands.box import Box
from tests.support.broker import eventually
from tests.support.flows import compute, flow, node

# --- init --------------------------------------------------------------------------------------------


def test_init_makes_an_engine_once_and_shows_the_key_once(empty: Box) -> None:
    first = empty.run("init")
    assert first.count("PRIVATE KEY") == 1
    assert "flowork run first-steps --follow" in first
    assert stat.S_IMODE(empty.folder.stat().st_mode) == 0o700
    second = empty.run("init")
    assert "PRIVATE KEY" not in second
    assert second.splitlines()[0] == first.splitlines()[0]
    assert [one["id"] for one in empty.json("flow", "list")["items"]] == ["first-steps"]
    assert empty.json("init")["private_key"] is None
    assert empty.json("audit", "verify")["ok"]


def test_init_answers_in_json(empty: Box) -> None:
    made = empty.json("init")
    assert made["private_key"] == empty.json("key", "show")["private_key"]
    assert (made["example"], made["data"]) == ("first-steps", str(empty.folder))


def test_the_example_does_not_come_back(empty: Box) -> None:
    empty.run("init")
    empty.run("flow", "delete", "first-steps", "--yes")
    assert empty.json("init")["example"] is None
    assert empty.json("flow", "list")["items"] == []


def test_an_init_that_was_cut_off_is_finished(empty: Box) -> None:
    empty.run("init")
    for path in empty.folder.glob("flowork.db*"):
        path.unlink()
    for path in (empty.folder / "backups").iterdir():
        path.unlink()
    (empty.folder / "keys" / "audit.head").unlink()
    assert empty.json("init")["example"] == "first-steps"


def test_the_example_runs_when_the_engine_comes_up(box: Box, kernel: Kernel) -> None:
    (run,) = eventually(lambda: box.json("runs", "--state", "succeeded")["items"])
    assert run["trigger"] == "up"
    story = box.json("show", run["id"])
    assert {step["node"]: step["state"] for step in story["steps"]}["welcome"] == "done"
    assert "first run of your engine" in box.run("show", run["id"])


def test_nothing_is_made_by_looking(empty: Box) -> None:
    for words in (
        ["flow", "list"],
        ["runs"],
        ["show", "0000000000000"],
        ["secret", "list"],
        ["key", "show"],
        ["backup"],
    ):
        assert "no engine in" in empty.fails(*words)
        assert empty.json(*words, code=1)["error"]["id"] == "no-engine"
    empty.run("doctor", code=2)
    assert not empty.folder.exists()


def test_the_same_lines_for_both_ways_to_begin(tmp_path: Path) -> None:
    made = firststart.prepare(tmp_path)
    lines = [*firststart.key_lines(made.keys), *firststart.example_lines(made.example)]
    assert sum("PRIVATE KEY" in line for line in lines) == 1
    assert firststart.is_prepared(tmp_path)


# --- backup and restore ------------------------------------------------------------------------------


def test_a_backup_brings_back_everything(box: Box, kernel: Kernel) -> None:
    box.run("secret", "set", "word", stdin="open sesame")
    run = box.json("run", "first-steps")["id"]
    file = box.folder.parent / "flowork.tar.gz"
    answer = box.json("backup", str(file))
    with tarfile.open(file) as archive:
        assert answer["files"] == len(archive.getnames()) - 1
    assert "exists already" in box.fails("backup", str(file))
    again = Box(box.folder.parent / "again")
    assert again.json("restore", str(file))["files"] == answer["files"]
    assert again.json("show", run)["state"] == "succeeded"
    assert again.json("secret", "list")["items"] == ["word"]
    assert again.json("key", "show") == box.json("key", "show")
    assert again.json("audit", "verify")["ok"]
    assert "is not empty" in again.fails("restore", str(file))
    box.run("backup")
    assert list((box.folder / "backups").glob("flowork-*.tar.gz"))


def test_what_is_no_backup_is_refused_and_leaves_nothing(empty: Box) -> None:
    assert "no such file" in empty.fails("restore", "/no/such/file")
    file = empty.write("x.tar.gz", b"not a backup")
    empty.fails("restore", file)
    assert list(empty.folder.iterdir()) == []


# --- doctor ------------------------------------------------------------------------------------------


def ids(box: Box, code: int) -> set[str]:
    return {finding["id"] for finding in box.json("doctor", "--port", "0", code=code)["findings"]}


def test_an_engine_that_runs_is_well(box: Box, kernel: Kernel) -> None:
    assert box.run("doctor", "--port", "0") == "all is well\n"
    assert box.json("doctor", "--port", "0")["status"] == "ok"


def test_an_engine_that_does_not_run(box: Box) -> None:
    assert ids(box, 1) == {"stopped"}
    with EngineLock(box.folder, "kernel"):
        assert ids(box, 2) == {"kernel-away"}


def test_a_gateway_that_does_not_answer(box: Box, kernel: Kernel) -> None:
    with EngineLock(box.folder, "gateway"):
        assert ids(box, 2) == {"gateway-away"}


def test_a_port_that_somebody_else_has(box: Box, kernel: Kernel) -> None:
    with bind("127.0.0.1", 0) as taken:
        listen(taken)
        port = taken.getsockname()[1]
        assert f"port {port} is in use" in box.run("doctor", "--port", str(port), code=1)


def damaged_shard(box: Box) -> Path:
    (shard,) = (box.folder / "runs").glob("*.db")
    for file in (box.folder / "runs").glob("*.db-*"):
        file.unlink()
    shard.write_bytes(b"not a database" * 1000)
    return shard


def test_damage_is_found_and_nothing_is_changed(box: Box) -> None:
    box.run("run", "first-steps")
    shard = damaged_shard(box)
    (box.folder / "flowork.db").write_bytes(b"neither" * 1000)
    (box.folder / "keys" / "owner.key").chmod(0o644)
    assert {"damaged-day", "damaged-database", "keys", "stopped"} == ids(box, 2)
    assert shard.read_bytes().startswith(b"not a database")
    assert (box.folder / "flowork.db").read_bytes().startswith(b"neither")


def test_what_was_repaired_is_said(box: Box) -> None:
    (box.folder / "flowork.db").write_bytes(b"damaged" * 1000)
    box.run("flow", "list")
    assert "the copy of" in box.last.stderr
    assert {"repaired", "moved-aside"} <= ids(box, 2)


def test_flows_and_plug_ins_that_cannot_work_here(box: Box) -> None:
    nodes = box.folder / "packages" / "nodes"
    nodes.mkdir(parents=True)
    (nodes / "mine.py").write_text(
        '"""Mine."""\nfrom appliance.contracts import Node\n\n\nclass Mine(Node):\n    pass\n'
    )
    box.deploy({**flow(node("m", "mine")), "name": "f"})
    (nodes / "mine.py").write_text("import no_such_module\n")
    assert {"broken-plugin", "flow", "stopped"} == ids(box, 1)
    assert "no_such_module" in box.run("doctor", "--port", "0", code=1)


def test_the_kernels_word_becomes_findings() -> None:
    status = {
        "degraded": "disk full",
        "lost_history": 3,
        "damaged": ["2026-11-20.db"],
        "clock": {"ok": False, "text": "no network time"},
        "wear": {"thrifty": True},
        "integrity": {"text": "changed: appliance/herald.py"},
        "backups": {"error": "no stick"},
        "queue": 9,
        "queue_bound": 10,
        "broken": [{"kind": "node", "type": "x", "error": "no"}],
        "triggers": [{"id": "t", "flow": "f", "ok": False, "status": "no broker", "workspace": "w"}],
        "mqtt": [{"broker": "mqtt://b", "role": "publisher", "ok": False, "text": "refused"}],
    }
    found = findings.of_status(status)
    assert [one.id for one in found] == [
        "no-history", "lost-history", "damaged-day", "write-budget", "clock", "queue", "backup", "integrity",
        "broken-plugin", "trigger", "mqtt",
    ]  # fmt: skip
    assert findings.overall(found) == "critical"
    assert [one.workspace for one in found if one.id == "trigger"] == ["w"]
    assert findings.overall([]) == "ok"


def test_a_folder_that_cannot_be_read_is_one_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_options: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    (found,) = doctor.examine(tmp_path, None)
    assert (found.level, found.id) == ("critical", "unreadable")
    assert "read-only file system" in found.text


def test_who_runs_and_where_is_found_out_from_outside(tmp_path: Path) -> None:
    assert holder(tmp_path, "gateway") is None
    with EngineLock(tmp_path, "gateway"), bind("127.0.0.1", 0) as sock:
        listen(sock)
        pid = holder(tmp_path, "gateway")
        assert pid is not None
        assert sock.getsockname() in listening(pid)
    assert holder(tmp_path, "gateway") is None
    assert listening(2**22 + 1) == []


def test_one_of_a_thing_is_told_in_the_singular() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert [counted(number, "entry is", "entries are") for number in (1, 3)] == ["1 entry is", "3 entries are"]
    for number, told in ((1, "1 run since"), (2, "2 runs since")):
        status = {"degraded": "", "lost_history": number, "damaged": [], "wear": {"thrifty": False}}
        (found,) = findings._journal({**status, "clock": {"ok": True, "text": ""}})
        assert found.text.startswith(told)


# --- errors and output -------------------------------------------------------------------------------


def test_an_unexpected_error_is_one_line_and_debug_shows_where(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_words: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("appliance.store.flows.Flows.list", broken)
    assert "a fault in Flowork: RuntimeError: boom" in box.fails("flow", "list", code=70)
    assert box.json("flow", "list", code=70)["error"]["id"] == "internal"
    box.run("flow", "list", "--debug", code=70)
    assert "Traceback" in box.last.stderr


def test_debug_shows_where_a_refusal_comes_from(box: Box) -> None:
    box.run("flow", "show", "x", "--debug", code=3)
    assert "Traceback" in box.last.stderr
    assert box.last.stderr.splitlines()[-1] == "Error: there is no flow 'x'; `flowork flow list` names them all"


def test_a_damaged_day_hides_no_other(box: Box) -> None:
    box.run("run", "first-steps")
    damaged_shard(box)
    assert box.json("runs")["items"] == []


def test_text_from_outside_cannot_steer_the_terminal(box: Box) -> None:
    evil = "\x1b[31mred\x07\u202e"
    box.deploy({**flow(node("l", "log", {"message": "{{ payload }}"})), "name": "f", "description": evil})
    run = box.json("run", "f", "-i", json.dumps(evil))["id"]
    for words in (
        ["show", run],
        ["show", run, "--step", "l"],
        ["runs"],
        ["flow", "show", "f"],
        ["run", "f", "-f", "-i", json.dumps(evil)],
    ):
        said = box.run(*words)
        assert not {"\x1b", "\x07", "\u202e"} & set(said), words
    assert box.json("show", run)["payload"] == evil


def test_values_without_a_json_form_are_shown_all_the_same(box: Box) -> None:
    box.deploy({**flow(compute("a", "now()")), "name": "f"})
    assert box.json("run", "f")["output"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (0.0000005, "0.5 µs"),
        (0.0123, "12.3 ms"),
        (5, "5 s"),
        (600, "10 min"),
        (86400, "24 h"),
        (864000, "10 days"),
    ],
)
def test_lengths_of_time(seconds: float | None, said: str) -> None:
    assert out.lasted(seconds) == said


def test_sizes() -> None:
    assert [out.size(count) for count in (0, 999, 1500, 2.5e6, 7e9)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.5 MB",
        "7 GB",
    ]


def test_colours_only_where_they_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out.say("x", color="red")
    assert capsys.readouterr().out == "x\n"
