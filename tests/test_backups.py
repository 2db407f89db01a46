"""Places for backups, by folder and by a real rclone on the loopback; how many are kept; when one is due."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from appliance.backups import Folder, PlaceError, Rclone, make_by_settings, place_of
from appliance.firststart import prepare
from appliance.security.keys import init_keys, read_engine
from appliance.store.backup import check_backup, restore_backup
from appliance.store.backup_log import TRY_AGAIN, State, due, read_state
from appliance.store.errors import StoreError
from appliance.store.seal import Keys, new_key
from appliance.store.settings import Settings
from tests.commands.box import Box
from tests.support.broker import eventually, free_port

DAY = 86400.0
#: Half past three in the morning, local time.
HALF_PAST_THREE = time.mktime((2026, 11, 21, 3, 30, 0, 0, 0, -1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "data"
    folder.mkdir(mode=0o700)
    prepare(folder)
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


#: How rclone serves a folder by each protocol, and how it is to know that server.
SERVERS = {
    "webdav": ([], "type = webdav\nurl = http://127.0.0.1:{port}\nvendor = other\n"),
    "sftp": (
        ["--user", "box", "--pass", "a word"],
        "type = sftp\nhost = 127.0.0.1\nport = {port}\nuser = box\npass = {obscured}\nshell_type = none\n",
    ),
}


@pytest.fixture(params=sorted(SERVERS))
def cloud(request: pytest.FixtureRequest, data: Path, tmp_path: Path) -> Iterator[Path]:
    """A server by rclone itself, known to the engine's rclone as ``cloud``; the folder that it serves."""
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    served = tmp_path / "served"
    served.mkdir()
    port = free_port()
    more, known = SERVERS[request.param]
    obscured = subprocess.run(["rclone", "obscure", "a word"], capture_output=True, text=True, check=True).stdout
    (data / "rclone.conf").write_text("[cloud]\n" + known.format(port=port, obscured=obscured.strip()))
    command = ["rclone", "--config", os.devnull, "serve", request.param, "--addr", f"127.0.0.1:{port}", *more]
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen([*command, str(served)], stderr=subprocess.DEVNULL, env=environ) as server:
        try:
            eventually(lambda: answers(port), "the server answers")
            yield served
        finally:
            server.terminate()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("flowork-"))


def test_as_many_are_kept_as_are_wanted_and_nothing_else_is_touched(data: Path, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "flowork-notes.txt").write_text("mine")
    settings = Settings(backup_to=str(stick), backup_keep=2)
    for number in range(4):
        name, manifest, gone = make_by_settings(data, settings, now=partial(float, HALF_PAST_THREE + number))
        check_backup(stick / name, tmp_path)
        assert len(gone) == (1 if number >= 2 else 0)
    assert names(stick) == [
        "flowork-20261121-033002.tar.gz",
        "flowork-20261121-033003.tar.gz",
        "flowork-notes.txt",
    ]
    assert names(data / "backups") == []
    assert read_state(data) == State(tried=HALF_PAST_THREE + 3, done=HALF_PAST_THREE + 3, name=name)
    assert (stick / name).stat().st_size > 0
    assert manifest.files


def test_a_stick_that_is_not_plugged_in_is_said_and_not_made(data: Path, tmp_path: Path) -> None:
    settings = Settings(backup_to=str(tmp_path / "stick"))
    with pytest.raises(PlaceError, match="is the disk plugged in and mounted"):
        make_by_settings(data, settings, now=lambda: HALF_PAST_THREE)
    assert not (tmp_path / "stick").exists()
    state = read_state(data)
    assert "is the disk plugged in" in state.error
    assert state.done == 0
    assert names(data / "backups") == []
    (tmp_path / "stick").mkdir()
    make_by_settings(data, settings)
    assert read_state(data).error == ""


def test_what_leaves_the_machine_is_encrypted(data: Path) -> None:
    with pytest.raises(StoreError, match="must be encrypted"):
        make_by_settings(data, Settings(backup_to="rclone:cloud:flowork"))


def test_rclone_carries_it_there_and_back(data: Path, cloud: Path, tmp_path: Path) -> None:
    private, public = new_key()
    settings = Settings(backup_to="rclone:cloud:flowork/box", backup_keys=(public,), backup_keep=1)
    make_by_settings(data, settings, now=lambda: HALF_PAST_THREE)
    name, _, gone = make_by_settings(data, settings, now=lambda: HALF_PAST_THREE + 60)
    assert names(cloud / "flowork" / "box") == [name]
    assert len(gone) == 1
    assert names(data / "backups") == []
    place = place_of(settings.backup_to, data)
    assert [kept.name for kept in place.list()] == [name]
    assert place.list()[0].size == (cloud / "flowork" / "box" / name).stat().st_size
    place.get(name, tmp_path / "fetched")
    restore_backup(tmp_path / "fetched", tmp_path / "restored", keys=Keys(identities=(private,)))
    assert read_engine(tmp_path / "restored").id == read_engine(data).id


def test_a_place_that_does_not_answer_is_said_in_a_line(data: Path) -> None:
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    (data / "rclone.conf").write_text("[other]\ntype = local\n")
    with pytest.raises(PlaceError, match=r"rclone mkdir cloud:flowork: .*didn't find section"):
        Rclone("cloud:flowork", data).ready()


def test_it_says_when_rclone_is_missing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PlaceError, match="apt install rclone"):
        Rclone("cloud:flowork", data).list()


def test_a_folder_that_is_gone_has_no_backups(tmp_path: Path) -> None:
    assert Folder(tmp_path / "gone", own=False).list() == []


def test_when_one_is_due() -> None:
    daily = Settings(backup_days=1, backup_at="03:30")
    noon = HALF_PAST_THREE + 8.5 * 3600
    assert not due(Settings(), State(), noon)
    assert not due(daily, State(), HALF_PAST_THREE - 60)
    assert due(daily, State(), HALF_PAST_THREE)
    done = State(tried=HALF_PAST_THREE, done=HALF_PAST_THREE + 120)
    assert not due(daily, done, noon)
    assert due(daily, done, HALF_PAST_THREE + DAY), "at the same time each day, not two minutes later"
    assert not due(msgspec.structs.replace(daily, backup_days=7.0), done, HALF_PAST_THREE + 6 * DAY)
    assert due(daily, State(tried=noon + DAY, done=noon + DAY), noon), "the clock was wrong then"


def test_one_that_failed_is_tried_again_after_an_hour() -> None:
    daily = Settings(backup_days=1)
    failed = State(tried=HALF_PAST_THREE, error="no stick")
    assert not due(daily, failed, HALF_PAST_THREE + TRY_AGAIN - 1)
    assert due(daily, failed, HALF_PAST_THREE + TRY_AGAIN)


def test_the_command_line_does_all_of_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Box(data)
    key = tmp_path / "backup.key"
    public = box.json("backup-key", str(key))["public"]
    assert key.stat().st_mode & 0o777 == 0o600
    made = box.json("backup", "--by-settings")
    assert made["name"].endswith(".tar.gz.age")
    assert [kept["name"] for kept in box.json("backups")["backups"]] == [made["name"]]
    file = str(data / "backups" / made["name"])
    assert box.json("backup-check", file, "--key", str(key))["files"] == made["files"]
    assert "encrypted to a key" in box.fails("backup-check", file)
    other = Box(tmp_path / "other")
    other.json("restore", file, "--key", str(key), "--as-another")
    assert other.json("safe-mode")["on"] is True
    assert init_keys(other.folder).engine.id != read_engine(data).id
    assert public.startswith("age1")
    monkeypatch.setenv("FLOWORK_BACKUP_PASSPHRASE", "short")
    assert "12 characters" in box.fails("backup", "--passphrase")
    monkeypatch.setenv("FLOWORK_BACKUP_PASSPHRASE", "correct horse battery")
    sealed = box.json("backup", str(tmp_path / "p"), "--passphrase")["file"]
    Box(tmp_path / "third").json("restore", sealed)
    assert read_engine(tmp_path / "third").id == read_engine(data).id
