"""The files driver on real folders: the kernel's inotify, and polling."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.base import DriverError, Observation
from drivers.files import Files, FilesConfig
from drivers.support.trees import on_network
from tests.drivers.contract import Contract, observed
from tests.drivers.host import FakeHost, Heard

METHODS = ["inotify", "poll"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "watched"
    made.mkdir()
    return made


@pytest.fixture
def driver(folder: Path, host: FakeHost) -> Files:
    return Files(FilesConfig(folder=str(folder)), host)


class TestContract(Contract):
    pass


class Watching:
    def __init__(self, folder: Path, host: FakeHost, **config: Any) -> None:
        quick: dict[str, Any] = {"settle": 0.02, "poll": 0.05, "max_rate": 1000}
        self.driver = Files(FilesConfig(folder=str(folder), **(quick | config)), host)
        self.heard = Heard()

    def __enter__(self) -> Heard:
        self.driver.open()
        self._stop = self.driver.events(self.heard)
        self.heard.until(lambda each: each.kind in ("initial", "lost"))
        return self.heard

    def __exit__(self, *_: object) -> None:
        self._stop()
        self.driver.close()


def told(heard: Heard) -> list[tuple[str, str]]:
    return [(each.kind, each.value["name"]) for each in heard.all if isinstance(each.value, dict)]


@pytest.mark.parametrize("method", METHODS)
def test_a_files_life(method: str, folder: Path, host: FakeHost) -> None:
    with Watching(folder, host, method=method) as heard:
        assert heard.one("initial").value == 0
        assert heard.one("initial").attrs == {"method": method}
        file = folder / "a.txt"
        file.write_text("one")
        created = heard.one("created")
        file.write_text("longer")
        heard.one("changed")
        file.rename(folder / "b.txt")
        moved = heard.one("moved")
        (folder / "b.txt").unlink()
        heard.one("deleted")
        observed(heard, host)
    assert told(heard) == [("created", "a.txt"), ("changed", "a.txt"), ("moved", "b.txt"), ("deleted", "b.txt")]
    assert created.value["path"] == str(file)
    assert created.value["size"] == 3
    assert moved.attrs["before"] == str(file)


@pytest.mark.parametrize("method", METHODS)
def test_only_what_is_meant_is_told(method: str, folder: Path, host: FakeHost) -> None:
    (folder / "in").mkdir()
    config: dict[str, Any] = {"patterns": ("*.csv", "in/*.txt"), "ignore": ("x*",), "recursive": True}
    with Watching(folder, host, method=method, **config) as heard:
        for name in ("a.log", "x.csv", "in/x.txt", "b.txt", "in/a.txt"):
            (folder / name).write_text("")
        (folder / "last.csv").write_text("")
        heard.kind("created", 2)
    assert sorted(told(heard)) == [("created", "in/a.txt"), ("created", "last.csv")]


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_replaces_another_changes_it(method: str, folder: Path, host: FakeHost) -> None:
    (folder / "state.json").write_text("{}")
    with Watching(folder, host, method=method) as heard:
        (folder / ".state.json.tmp").write_text("[1]")
        (folder / ".state.json.tmp").replace(folder / "state.json")
        assert heard.one("changed").value["size"] == 3
    assert told(heard) == [("changed", "state.json")]


@pytest.mark.parametrize("method", METHODS)
def test_folders_within_come_move_and_go_with_their_files(method: str, folder: Path, host: FakeHost) -> None:
    with Watching(folder, host, method=method, recursive=True) as heard:
        (folder / "deep/er").mkdir(parents=True)
        (folder / "deep/er/a").write_text("a")
        heard.one("created")
        (folder / "deep").rename(folder / "down")
        assert heard.one("moved").attrs["before"].endswith("deep/er/a")
        (folder / "down").rename(folder.parent / "outside")
        heard.one("deleted")
        (folder.parent / "outside").rename(folder / "back")
        heard.kind("created", 2)
    assert told(heard) == [
        ("created", "deep/er/a"),
        ("moved", "down/er/a"),
        ("deleted", "down/er/a"),
        ("created", "back/er/a"),
    ]


def test_a_file_that_is_being_written_is_told_once_it_is_closed(folder: Path, host: FakeHost) -> None:
    with Watching(folder, host, settle=0.0) as heard:
        with (folder / "film").open("wb", buffering=0) as file:
            for _ in range(5):
                file.write(b"x" * 1000)
                (folder / "other").write_text(str(time.monotonic()))
                heard.until(lambda each: each.value and isinstance(each.value, dict) and each.value["name"] == "other")
            assert ("created", "film") not in told(heard)
        film = heard.until(lambda each: isinstance(each.value, dict) and each.value["name"] == "film")
    assert [(each.kind, each.value["size"]) for each in film] == [("created", 5000)]


def test_a_file_that_stays_open_is_told_when_it_comes_to_rest(folder: Path, host: FakeHost) -> None:
    with Watching(folder, host) as heard, (folder / "log").open("wb", buffering=0) as file:
        began = time.monotonic()
        file.write(b"line\n")
        heard.one("created")
        assert time.monotonic() - began >= 1.5


@pytest.mark.parametrize("method", METHODS)
def test_what_changed_while_nobody_watched_is_told(method: str, folder: Path, host: FakeHost) -> None:
    for name in ("stays", "grows", "goes", "moves"):
        (folder / name).write_text(name)
    with Watching(folder, host, method=method) as heard:
        assert heard.one("initial").value == 4
    assert told(heard) == []
    (folder / "grows").write_text("grown")
    (folder / "goes").unlink()
    (folder / "moves").rename(folder / "moved")
    (folder / "new").write_text("new")
    with Watching(folder, host, method=method) as heard:
        heard.until(lambda each: isinstance(each.value, dict), 4)
    assert sorted(told(heard)) == [("changed", "grows"), ("created", "new"), ("deleted", "goes"), ("moved", "moved")]
    assert all(each.attrs["missed"] for each in heard.all if isinstance(each.value, dict))
    with Watching(folder, host, method=method) as heard:
        (folder / "end").write_text("")
        heard.one("created")
    assert told(heard) == [("created", "end")]


def test_the_files_that_are_there_are_told_if_that_is_wanted(folder: Path, host: FakeHost) -> None:
    (folder / "a").write_text("")
    with Watching(folder, host, existing=True) as heard:
        heard.one("created")
    with Watching(folder, host, existing=True) as heard:
        (folder / "b").write_text("")
        heard.one("created")
    assert told(heard) == [("created", "b")]


def test_what_comes_into_a_folder_together_with_it_is_told(tmp_path: Path, host: FakeHost) -> None:
    folder = tmp_path / "made later"
    watching = Watching(folder, host)
    with pytest.raises(DriverError, match="cannot be read"):
        watching.driver.open()
    folder.mkdir()
    (folder / "a").write_text("")
    with Watching(folder, host) as heard:
        heard.one("created")
    with Watching(folder, host) as heard:
        (folder / "b").write_text("")
        heard.one("created")
    assert told(heard) == [("created", "b")]


def test_names_that_are_no_text_are_told_with_a_mark(folder: Path, host: FakeHost) -> None:
    with Watching(folder, host) as heard:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9")).write_text("")
        assert heard.one("created").value["name"] == "caf\ufffd"
        observed(heard, host)


def test_a_damaged_memory_is_begun_afresh(folder: Path, host: FakeHost) -> None:
    with Watching(folder, host):
        pass
    for file in host.folder.glob("files-*.db*"):
        file.write_bytes(b"garbage" * 1000)
    with Watching(folder, host) as heard:
        (folder / "a").write_text("")
        heard.one("created")


# --- the folder itself ---


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_that_vanishes_is_a_gap_and_no_deletion(
    method: str, folder: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.files._HEALTH", 0.05)
    monkeypatch.setattr("drivers.files._RETURN_PAUSE", 0.05)
    (folder / "a").write_text("a")
    with Watching(folder, host, method=method) as heard:
        folder.rename(folder.parent / "away")
        heard.one("lost")
        (folder.parent / "away/b").write_text("b")
        (folder.parent / "away").rename(folder)
        assert heard.one("gap").value > 0
        heard.one("created")
        (folder / "c").write_text("c")
        heard.kind("created", 2)
    assert told(heard) == [("created", "b"), ("created", "c")]
    assert [each.kind for each in heard.all if each.kind in ("lost", "gap")] == ["lost", "gap"]


def test_a_mount_point_with_nothing_mounted_is_no_deletion(folder: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own: a tmpfs is unmounted while the agent is down."""
    if os.geteuid():
        pytest.skip("needs root for a mount of its own")
    code = f"""
import subprocess
from pathlib import Path
from drivers.files import *
from tests.drivers.host import FakeHost, Heard
folder, state = Path({str(folder)!r}), Path({str(tmp_path)!r})
def watch():
    heard, driver = Heard(), Files(FilesConfig(folder=str(folder)), FakeHost(state))
    driver.open()
    stop = driver.events(heard)
    heard.until(lambda each: each.kind in ("initial", "lost"))
    stop()
    driver.close()
    print([(each.kind, each.value) for each in heard.all])
subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
(folder / "a").write_text("")
watch()
subprocess.run(["umount", folder], check=True)
watch()
"""
    done = subprocess.run(
        ["unshare", "--mount", "--", sys.executable, "-c", code], capture_output=True, text=True, timeout=50
    )
    first, second = done.stdout.splitlines()
    assert first == "[('initial', 1)]", done.stderr
    assert second.startswith("[('lost', 'it is empty and on another device")


@pytest.mark.parametrize(
    ("name", "says"), [("relative", "absolute path"), ("/no/such/folder", "cannot be read: No such file")]
)
def test_a_folder_that_cannot_be_watched_is_told(name: str, says: str, host: FakeHost) -> None:
    with pytest.raises(DriverError, match=says):
        Files(FilesConfig(folder=name), host).open()


def test_network_mounts_are_known(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "40 22 0:45 / /mnt/nas rw shared:1 - nfs4 nas:/x rw\n"
        "41 40 0:46 / /mnt/nas/local rw - tmpfs none rw\n"
        "42 22 0:47 / /mnt/my\\040share rw - cifs //x/y rw\n"
    )
    found = {path: on_network(path, mounts) for path in ("/mnt/nas/a/b", "/mnt/nas/local/c", "/mnt/my share", "/home")}
    assert list(found.values()) == [True, False, True, False]
    assert not on_network("/")


# --- a hundred thousand files ---


@pytest.fixture(scope="module")
def crowded() -> Iterator[Path]:
    """A hundred folders of a thousand files each; in memory, where that takes a second."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    for part in range(100):
        (folder / str(part)).mkdir()
        for number in range(1000):
            os.mknod(f"{folder}/{part}/{number}.txt")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(240)
def test_stopping_in_the_middle_of_a_look_forgets_nothing(crowded: Path, host: FakeHost) -> None:
    driver = Files(FilesConfig(folder=str(crowded), recursive=True, max_rate=5000), host)
    for _ in range(3):
        driver.open()
        driver.events(Heard())
        driver.close()
    with Watching(crowded, host, recursive=True) as heard:
        (crowded / "7/new.txt").write_text("")
        heard.one("created")
    assert told(heard) == [("created", "7/new.txt")]
    (crowded / "7/new.txt").unlink()


@pytest.mark.timeout(240)
def test_100_000_files_are_counted_and_watched_in_little_memory(crowded: Path, host: FakeHost) -> None:
    code = f"""
import resource
from pathlib import Path
from drivers.files import *
from tests.drivers import host as patience
from tests.drivers.host import FakeHost, Heard
patience.PATIENCE = 150
def memory():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1048576
heard, host = Heard(), FakeHost(Path({str(host.folder)!r}))
driver = Files(FilesConfig(folder={str(crowded)!r}, recursive=True), host)
driver.open()
before = memory()
stop = driver.events(heard)
print(heard.one("initial").value)
(Path({str(crowded)!r}) / "50/new.txt").write_text("")
print(heard.one("created").value["name"])
print(memory() - before)
stop()
driver.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    count, created, growth = done.stdout.split()
    assert (count, created) == ("100000", "50/new.txt"), done.stderr
    assert int(growth) < 25


def test_a_burst_of_6000_files_is_told_whole_though_slowly(
    folder: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drivers.files._MOST_PENDING", 1000)
    monkeypatch.setattr("drivers.files._UPROAR", 2000)
    with Watching(folder, host, max_rate=5000) as heard:
        for number in range(6000):
            os.mknod(f"{folder}/{number}")

        def all_came(_: Observation) -> bool:
            return len(heard.all) > 6000

        heard.until(all_came)
    assert {name for kind, name in told(heard) if kind == "created"} == {str(number) for number in range(6000)}
    assert len(told(heard)) == 6000
