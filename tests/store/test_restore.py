"""Restoring a backup, and every way an archive can be bad."""

from __future__ import annotations

import gzip
import hashlib
import io
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from appliance.contracts import FlowError
from appliance.store.archive import MANIFEST
from appliance.store.backup import make_backup, restore_backup
from appliance.store.errors import StoreError, StoreTooNew
from appliance.store.opening import DATABASE, RESTORING
from appliance.store.sqlite_file import check_database

pytestmark = pytest.mark.files_only


def test_a_restore_needs_an_empty_folder(engine: Path, tmp_path: Path) -> None:
    make_backup(engine, tmp_path / "b.tar.gz")
    target = tmp_path / "restored"
    target.mkdir()
    (target / "a").touch()
    with pytest.raises(StoreError, match="not empty"):
        restore_backup(tmp_path / "b.tar.gz", target)
    (target / "a").unlink()
    (target / RESTORING / "runs").mkdir(parents=True)  # a restore was cut off while it unpacked
    (target / RESTORING / DATABASE).touch()
    restore_backup(tmp_path / "b.tar.gz", target)
    assert check_database(target / DATABASE) is None


def rewrite(archive: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The archive again, with other members."""
    with tarfile.open(archive) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def escape(members: dict[str, bytes]) -> None:
    first = {"files/../../../escaped": b"x"}
    rest = dict(members)
    members.clear()
    members.update({**first, **rest})


def newer(members: dict[str, bytes]) -> None:
    manifest = msgspec.json.decode(members.pop(MANIFEST))
    members[MANIFEST] = msgspec.json.encode({**manifest, "format": 99})


BAD: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "changed": (lambda m: m.update({"keys/owner.key": b"other!"}), "keys/owner.key is not what"),
    "missing": (lambda m: (m.pop("keys/owner.key"), None)[1], "keys/owner.key is not what"),
    "no end": (lambda m: (m.pop(MANIFEST), None)[1], "end is missing"),
    "behind the end": (lambda m: m.update({"files/more": b"x"}), "must not hold 'files/more'"),
    "escape": (escape, "must not hold 'files/../../../escaped'"),
    "newer": (newer, "newer Flowork"),
    "bad manifest": (lambda m: m.update({MANIFEST: b"{"}), "not a whole"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_archive_that_was_changed_is_refused(engine: Path, tmp_path: Path, bad: str) -> None:
    archive, target = tmp_path / "b.tar.gz", tmp_path / "restored"
    make_backup(engine, archive)
    change, reason = BAD[bad]
    rewrite(archive, change)
    with pytest.raises(StoreError, match=reason):
        restore_backup(archive, target)
    assert list(target.iterdir()) == []
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize("kind", ["link", "device", "absolute"])
def test_members_that_are_no_plain_files_are_refused(tmp_path: Path, kind: str) -> None:
    info = tarfile.TarInfo("files/x" if kind != "absolute" else "/tmp/x")
    info.type = {"link": tarfile.SYMTYPE, "device": tarfile.CHRTYPE, "absolute": tarfile.REGTYPE}[kind]
    info.linkname = "/etc/passwd"
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.addfile(info)
    with pytest.raises(StoreError, match="must not hold"):
        restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")


@pytest.mark.parametrize("cut", [0, 10, 1000, -20])
def test_an_archive_that_was_cut_off_is_refused(engine: Path, tmp_path: Path, cut: int) -> None:
    archive = tmp_path / "b.tar.gz"
    make_backup(engine, archive)
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(StoreError, match="not a whole Flowork backup"):
        restore_backup(archive, tmp_path / "restored")


@pytest.mark.parametrize("text", [b"hello", gzip.compress(b"hello" * 1000, mtime=0)])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "b").write_bytes(text)
    with pytest.raises(StoreError, match="not a whole Flowork backup"):
        restore_backup(tmp_path / "b", tmp_path / "restored")
    with pytest.raises(FlowError, match="No such file"):
        restore_backup(tmp_path / "c", tmp_path / "restored")


def test_a_backup_of_a_newer_schema_is_refused(engine: Path, tmp_path: Path) -> None:
    make_backup(engine, tmp_path / "b.tar.gz")

    def newer_schema(members: dict[str, bytes]) -> None:
        path = tmp_path / "newer.db"
        path.write_bytes(members[DATABASE])
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version=999")
        manifest = msgspec.json.decode(members.pop(MANIFEST))
        members[DATABASE] = path.read_bytes()
        manifest["files"][DATABASE]["sha256"] = hashlib.sha256(members[DATABASE]).hexdigest()
        members[MANIFEST] = msgspec.json.encode(manifest)

    rewrite(tmp_path / "b.tar.gz", newer_schema)
    with pytest.raises(StoreTooNew):
        restore_backup(tmp_path / "b.tar.gz", tmp_path / "restored")
