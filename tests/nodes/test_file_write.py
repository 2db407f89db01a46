"""Writing files: whole or not at all, appending without gaps, and every way it can go wrong."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError
from appliance.nodes import file_write
from appliance.nodes.file_write import FileWrite
from tests.support.context import FakeContext, run_node

DEADLINE = 20.0


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(root=tmp_path)


def write(ctx: FakeContext, content: Any, path: str = "out", **config: Any) -> Any:
    return run_node(FileWrite(), {"path": path, "content": content, **config}, "the payload", ctx)


@pytest.mark.parametrize(
    ("content", "config", "written"),
    [
        ("grün", {}, "grün"),
        ("a", {"newline": True}, "a\n"),
        (5, {}, "5"),
        ({"a": [1, "ü"]}, {"format": "json"}, '{\n  "a": [\n    1,\n    "ü"\n  ]\n}\n'),
        (None, {"format": "json"}, "null\n"),
        ([{"a": 1, "b": "x,y"}, {"b": None, "c": [1]}], {"format": "csv"}, 'a,b,c\n1,"x,y",\n,,[1]\n'),
        ({"a": True}, {"format": "csv"}, "a\ntrue\n"),
        ([[1, 2], [3]], {"format": "csv", "delimiter": "tab"}, "1\t2\n3\n"),
        ([{"a": 1}], {"format": "csv", "header": False}, "1\n"),
        ([], {"format": "csv"}, ""),
    ],
)
def test_formats(ctx: FakeContext, tmp_path: Path, content: Any, config: dict[str, Any], written: str) -> None:
    result = write(ctx, content, "new/folder/out", **config)
    assert (tmp_path / "new/folder/out").read_text(encoding="utf-8") == written
    assert result == {"path": "new/folder/out", "size": len(written.encode())}


def test_without_content_the_payload_is_written(ctx: FakeContext, tmp_path: Path) -> None:
    run_node(FileWrite(), {"path": "out"}, "the payload", ctx)
    assert (tmp_path / "out").read_text() == "the payload"


def test_a_blob_is_written_as_it_is(ctx: FakeContext, tmp_path: Path) -> None:
    picture = ctx.blobs.put(b"\x00\xff")
    write(ctx, picture, format="blob")
    assert (tmp_path / "out").read_bytes() == b"\x00\xff"
    with pytest.raises(ConfigError, match="choose the format blob"):
        write(ctx, picture)


def test_another_encoding(ctx: FakeContext, tmp_path: Path) -> None:
    write(ctx, "grün", encoding="latin-1")
    assert (tmp_path / "out").read_bytes() == b"gr\xfcn"
    with pytest.raises(NodeError, match="latin-1") as caught:
        write(ctx, "€", encoding="latin-1")
    assert not caught.value.retryable


def test_overwriting_replaces_the_file_in_one_step_and_keeps_its_mode(ctx: FakeContext, tmp_path: Path) -> None:
    write(ctx, "old")
    (tmp_path / "out").chmod(0o600)
    with (tmp_path / "out").open() as reader:
        write(ctx, "new")
        assert reader.read() == "old"
    assert (tmp_path / "out").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("mode", ["overwrite", "append", "create"])
def test_content_is_on_disk_before_the_step_ends(
    ctx: FakeContext, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def record(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    write(ctx, "x", "folder/out", mode=mode)
    assert synced[0] == str(tmp_path)
    assert synced[1].startswith(str(tmp_path / "folder") + "/")
    assert synced[2] == str(tmp_path / "folder")


@pytest.mark.parametrize("mode", ["overwrite", "append", "create"])
def test_a_full_disk_leaves_what_was_there(
    ctx: FakeContext, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode != "create":
        write(ctx, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NodeError, match="No space left") as caught:
        write(ctx, "new", mode=mode)
    assert caught.value.retryable
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == ({} if mode == "create" else {"out": "old"})


def test_creating_never_overwrites(ctx: FakeContext, tmp_path: Path) -> None:
    write(ctx, "first", mode="create")
    with pytest.raises(NodeError, match="exists already") as caught:
        write(ctx, "second", mode="create")
    assert not caught.value.retryable
    assert (tmp_path / "out").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_creating_works_where_there_are_no_hard_links(
    ctx: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no links on FAT")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    write(ctx, "first", mode="create")
    assert (tmp_path / "out").read_text() == "first"
    assert os.listdir(tmp_path) == ["out"]


def test_appending_adds_lines(ctx: FakeContext, tmp_path: Path) -> None:
    assert write(ctx, "one", mode="append")["size"] == 4
    assert write(ctx, "two", mode="append")["size"] == 8
    write(ctx, "end", mode="append", newline=False)
    assert (tmp_path / "out").read_text() == "one\ntwo\nend"


def test_appending_json_gives_one_line_each(ctx: FakeContext, tmp_path: Path) -> None:
    for number in (1, 2):
        write(ctx, {"n": number}, mode="append", format="json")
    assert [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()] == [{"n": 1}, {"n": 2}]


def test_appending_csv_follows_the_header_that_is_there(ctx: FakeContext, tmp_path: Path) -> None:
    csv = {"mode": "append", "format": "csv"}
    write(ctx, {"a": 1, "b": 2}, **csv)
    write(ctx, [{"b": 4, "a": 3}, {"b": 5}], **csv)
    assert (tmp_path / "out").read_text() == "a,b\n1,2\n3,4\n,5\n"
    with pytest.raises(NodeError, match="no column c, d") as caught:
        write(ctx, {"d": 1, "c": 2}, **csv)
    assert not caught.value.retryable
    assert (tmp_path / "out").read_text() == "a,b\n1,2\n3,4\n,5\n"


def test_appenders_wait_for_each_other(ctx: FakeContext, tmp_path: Path) -> None:
    lines = 40
    threads = [
        threading.Thread(
            target=lambda letter=letter: [
                write(FakeContext(root=tmp_path), letter * 5000, mode="append") for _ in range(lines)
            ]
        )
        for letter in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    written = (tmp_path / "out").read_text().splitlines()
    assert len(written) == lines * 3
    assert {(len(line), len(set(line))) for line in written} == {(5000, 1)}


def test_a_file_that_stays_locked_fails_for_now(
    ctx: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_write, "LOCK_PATIENCE", 0.0)
    with (tmp_path / "out").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NodeError, match="locked") as caught:
            write(ctx, "x", mode="append")
    assert caught.value.retryable
    assert (tmp_path / "out").read_text() == ""


def test_waiting_for_the_lock_can_be_cancelled(
    ctx: FakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_write, "LOCK_PATIENCE", 1e9)
    monkeypatch.setattr(ctx, "on_cancel", lambda abort: abort())
    with (tmp_path / "out").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(NodeError, match="locked"):
            write(ctx, "x", mode="append")


def test_a_folder_in_the_way_fails_without_retry(ctx: FakeContext, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for mode in ("overwrite", "append", "create"):
        with pytest.raises(NodeError) as caught:
            write(ctx, "x", mode=mode)
        assert not caught.value.retryable
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ("x", {"path": ""}),
        ("x", {"path": "../outside"}),
        ("x", {"mode": "prepend"}),
        ("x", {"encoding": "klingon"}),
        ({"a": 1}, {"format": "text"}),
        (True, {"format": "text"}),
        (None, {"format": "text"}),
        ("a,b", {"format": "csv"}),
        ([{"a": 1}, [2]], {"format": "csv"}),
        ("x", {"format": "blob"}),
    ],
)
def test_a_bad_config_is_refused(ctx: FakeContext, tmp_path: Path, content: Any, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        run_node(FileWrite(), {"path": "out", "content": content, **config}, None, ctx)
    assert os.listdir(tmp_path) == []


def test_only_overwriting_can_be_repeated() -> None:
    effect = FileWrite().effect_of
    assert effect({}) is effect({"mode": "overwrite"}) is Effect.IDEMPOTENT
    assert effect({"mode": "append"}) is effect({"mode": "create"}) is effect({"mode": "{{ x }}"}) is Effect.ONCE
