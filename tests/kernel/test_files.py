"""Which paths flows may touch, and every way out of them that must stay closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.kernel.files import FlowFiles


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "home" / "FloworkData"
    for name in ("files", "keys", "runs", "packages"):
        (data / name).mkdir(parents=True)
    (data / "flowork.db").touch()
    return data


def test_relative_paths_belong_to_the_files_folder(data: Path) -> None:
    files = FlowFiles(data)
    assert files.resolve("a/b.txt") == data / "files/a/b.txt"
    assert files.resolve("a/b.txt", write=True) == data / "files/a/b.txt"
    assert files.resolve(".") == data / "files"
    assert files.resolve(str(data / "files/x")) == data / "files/x"


def test_a_folder_of_the_owner_is_reached_by_its_absolute_path(data: Path, tmp_path: Path) -> None:
    files = FlowFiles(data, roots=[tmp_path / "share"])
    assert files.resolve(str(tmp_path / "share/x"), write=True) == tmp_path / "share/x"
    with pytest.raises(ConfigError, match="outside"):
        files.resolve(str(tmp_path / "share-of-others/x"))


def test_a_read_only_folder_cannot_be_written(data: Path, tmp_path: Path) -> None:
    files = FlowFiles(data, read_only=[tmp_path / "logs"])
    assert files.resolve(str(tmp_path / "logs/x")) == tmp_path / "logs/x"
    with pytest.raises(ConfigError, match="read but not write"):
        files.resolve(str(tmp_path / "logs/x"), write=True)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../flowork.db",
        "a/../../keys/owner",
        "a/../b",
        "..",
        "",
        "a\0b",
        "~/x",
        "~root/x",
        "\ud800",
        "/",
    ],
)
def test_what_leads_outside_or_nowhere_is_refused(data: Path, path: str) -> None:
    with pytest.raises(ConfigError):
        FlowFiles(data).resolve(path)


def test_links_out_are_refused_and_links_inside_are_followed(data: Path, tmp_path: Path) -> None:
    (data / "files/out").symlink_to(tmp_path)
    (data / "files/key").symlink_to(data / "keys/owner")
    (data / "files/inside").symlink_to(data / "files/a")
    (data / "files/loop").symlink_to(data / "files/loop")
    files = FlowFiles(data)
    for path in ("out/x", "key", "loop/x"):
        with pytest.raises(ConfigError):
            files.resolve(path)
    assert files.resolve("inside/x") == data / "files/a/x"


def test_the_files_folder_may_itself_be_a_link(data: Path, tmp_path: Path) -> None:
    (data / "files").rmdir()
    (tmp_path / "stick").mkdir()
    (data / "files").symlink_to(tmp_path / "stick")
    assert FlowFiles(data).resolve("x") == tmp_path / "stick/x"


@pytest.mark.parametrize("path", ["keys/owner", "flowork.db", "runs/2026-11-20.db", "packages/x.py", "blobs/ab/x", "."])
def test_the_engine_stays_closed_inside_a_folder_of_the_owner(data: Path, path: str) -> None:
    files = FlowFiles(data, roots=[data.parent], read_only=[Path("/")])
    with pytest.raises(ConfigError):
        files.resolve(str(data / path))
    assert files.resolve(str(data / "files/x"), write=True) == data / "files/x"
    assert files.resolve(str(data.parent / "notes")) == data.parent / "notes"
    assert files.resolve("/etc/hostname") == Path("/etc/hostname")
