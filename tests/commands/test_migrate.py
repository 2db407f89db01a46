"""``flowork migrate`` and the command line over an engine whose data is in Postgres."""

from __future__ import annotations

import json
import signal

import psycopg
import pytest

from appliance.kernel.kernel import Kernel
from appliance.store.places import URL
from tests.commands.box import Box
from tests.support.flows import flow, node


def test_an_engine_moves_there_works_there_and_comes_back(
    box: Box, bare_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.run("var", "set", "limit", "30")
    box.run("secret", "set", "mail", stdin="correct horse")
    runs = box.json("runs")["items"]
    answer = box.json("migrate", "--to", bare_url)
    assert answer["rows"] > 5 and answer["left_out"] == []
    assert "secret" not in json.dumps(answer), "the password is in no answer"
    assert "has moved to the database" in box.fails("var", "list")

    monkeypatch.setenv(URL, bare_url)
    assert box.json("var", "list")["items"][0]["value"] == 30
    assert box.json("runs")["items"] == runs
    assert box.json("secret", "list")["items"] == ["mail"]
    assert box.json("audit", "verify")["ok"] is True
    box.deploy({**flow(node("a", "log", {"message": "hi"})), "name": "There"})
    assert box.json("run", box.write("trial.json", {**flow(node("a", "log", {"message": "hi"}))}))
    assert [found["id"] for found in box.json("doctor", code=1)["findings"]] == ["stopped"]
    runs = box.json("runs")["items"]
    box.run("migrate", "--to", "sqlite")

    monkeypatch.delenv(URL)
    assert box.json("runs")["items"] == runs
    assert box.json("audit", "list")["items"][0]["action"] == "engine.migrate"
    assert box.json("audit", "verify")["ok"] is True
    assert "has moved back" in box.fails("migrate", "--to", bare_url)


def test_what_cannot_be_moved_to_is_said_in_one_line(box: Box, bare_url: str) -> None:
    assert "postgresql://" in box.fails("migrate", "--to", "mysql://host/db")
    assert "names no database" in box.fails("migrate", "--to", "sqlite")
    wrong = box.fails("migrate", "--to", bare_url.replace(":secret@", ":wrong@"))
    assert "refuses this user or password" in wrong and "wrong@" not in wrong
    assert "does not exist" in box.fails("migrate", "--to", f"{bare_url}_not")


def test_an_engine_that_runs_is_not_moved(box: Box, kernel: Kernel, bare_url: str) -> None:
    assert "is running" in box.fails("migrate", "--to", bare_url, code=4)
    with psycopg.connect(bare_url) as connection:
        assert connection.execute("SELECT to_regnamespace('flowork')").fetchone() == (None,)


def test_kill_9_in_the_middle_and_once_more(box: Box, bare_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = box.json("flow", "list")["items"]
    for _ in range(2):
        with box.process("migrate", "--to", bare_url) as process:
            with psycopg.connect(bare_url, autocommit=True) as watcher:
                while process.poll() is None:
                    found = watcher.execute("SELECT to_regclass('flowork.moving')").fetchone()
                    if found != (None,):
                        break
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    if not (box.folder / "moved.json").exists():
        box.run("migrate", "--to", bare_url)
    assert "has moved to" in box.fails("flow", "list")
    monkeypatch.setenv(URL, bare_url)
    assert box.json("flow", "list")["items"] == before
