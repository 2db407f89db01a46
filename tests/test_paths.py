"""The data folder and its locks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from appliance import paths
from appliance.paths import EngineLock, FolderError, FolderInUse, data_folder, find_folder

HOLD = """
import os, sys, time
from pathlib import Path
from appliance.paths import EngineLock
EngineLock(Path(sys.argv[1]), "kernel").acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_an_argument_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWORK_DATA", str(tmp_path / "env"))
    assert find_folder(tmp_path / "arg") == tmp_path / "arg"
    assert find_folder() == tmp_path / "env"


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert find_folder("~/box") == Path("/home/ada/box")


def test_a_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder("box") == tmp_path / "box"


def test_a_checkout_keeps_its_data_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWORK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_folder() == Path(paths.__file__).parent.parent / "FloworkData"


def test_an_installed_engine_uses_the_system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWORK_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "_CHECKOUT", tmp_path)
    monkeypatch.setattr(paths, "INSTALLED", tmp_path / "var")
    assert find_folder() == tmp_path / "FloworkData"
    (tmp_path / "var").mkdir()
    assert find_folder() == tmp_path / "var"


def test_a_new_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = data_folder(tmp_path / "a" / "b")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert data_folder(folder) == folder


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for given in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(FolderError, match="--data"):
            data_folder(given)


def test_a_folder_that_cannot_be_made_is_said_in_one_line() -> None:
    with pytest.raises(FolderError, match=r"^cannot write to /proc/flowork: [^\n]+--data$"):
        data_folder("/proc/flowork")


def test_a_folder_that_cannot_be_written_is_said_in_one_line() -> None:
    """Not even root can make a file in /proc."""
    with pytest.raises(FolderError, match=r"^cannot write to /proc: [^\n]+--data$"):
        EngineLock(data_folder("/proc"), "kernel").acquire()


def test_a_lock_is_held_once_and_given_back(tmp_path: Path) -> None:
    with EngineLock(tmp_path, "kernel") as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(FolderInUse, match=rf"another engine \(pid {os.getpid()}\) is running on {tmp_path}"):
            EngineLock(tmp_path, "kernel").acquire()
        with EngineLock(tmp_path, "gateway"):
            pass
    with EngineLock(tmp_path, "kernel") as lock:
        lock.release()
        lock.release()


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=rf"\(pid {holder.pid}\)"):
            EngineLock(tmp_path, "kernel").acquire()
        holder.kill()
        holder.wait()
        EngineLock(tmp_path, "kernel").__enter__().release()


def test_the_remains_of_a_killed_engine_are_waited_for(tmp_path: Path) -> None:
    """The lock lives on in a forked child; the pid in the file is of a process that is no more."""
    lock = EngineLock(tmp_path, "kernel")
    lock.acquire()
    lock.path.write_text("4194305\n")  # above the highest pid that Linux gives
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock._fd])
    lock.release()
    impatient = EngineLock(tmp_path, "kernel")
    impatient.patience = 0.0
    with heir, pytest.raises(FolderInUse):
        impatient.acquire()
    with EngineLock(tmp_path, "kernel"):
        pass


def test_an_unreadable_pid_is_not_a_crash(tmp_path: Path) -> None:
    with EngineLock(tmp_path, "kernel") as lock:
        lock.path.write_bytes(b"\xff\x00nonsense")
        impatient = EngineLock(tmp_path, "kernel")
        impatient.patience = 0.0
        with pytest.raises(FolderInUse, match=r"^another engine is running"):
            impatient.acquire()


def test_a_lock_in_a_folder_that_is_away_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no such file"):
        EngineLock(tmp_path / "away", "kernel").acquire()
