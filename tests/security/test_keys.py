"""First start, second start, and every kind of damage to the keys folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.security import files, keys, owner
from appliance.security.files import KeysError
from appliance.security.keyfile import parse_key
from appliance.security.keyring import read_keyring
from appliance.security.keys import InitResult, derived_secret, engine_key, init_keys, read_engine
from appliance.security.owner import show_owner
from appliance.security.wallet import address_of
from tests.security.memory import Clock

ALL = {"engine.json", "engine.key", "vault.key", "owner.key", "owner.json"}


def snapshot(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (data / "keys").iterdir() if not path.name.startswith(".")}


@pytest.fixture
def made(tmp_path: Path) -> InitResult:
    return init_keys(tmp_path, Clock())


class TestFirstStart:
    def test_everything_is_made_and_private(self, tmp_path: Path, made: InitResult) -> None:
        assert set(snapshot(tmp_path)) == ALL
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
        for path in (tmp_path / "keys").iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert made.fresh
        assert made.notes == ()
        assert made.engine.created == Clock().time

    def test_the_owner_key_is_shown_and_kept(self, tmp_path: Path, made: InitResult) -> None:
        assert made.owner_private_key is not None
        assert address_of(made.owner_private_key) == made.owner_address
        assert show_owner(tmp_path).private_key == made.owner_private_key
        assert parse_key((tmp_path / "keys" / "owner.key").read_bytes()).address == made.owner_address

    def test_the_keys_are_three_different_ones(self, tmp_path: Path, made: InitResult) -> None:
        ring = read_keyring(tmp_path)
        values = {show_owner(tmp_path).private_key.reveal()[2:], engine_key(tmp_path).private_key.reveal()[2:]}
        assert len(values | {ring.raw(ring.current).hex()}) == 3
        assert made.engine.address == engine_key(tmp_path).address

    def test_two_engines_differ(self, tmp_path: Path) -> None:
        first, second = init_keys(tmp_path / "a"), init_keys(tmp_path / "b")
        assert first.engine.id != second.engine.id
        assert first.owner_address != second.owner_address

    def test_the_result_hides_the_key(self, made: InitResult) -> None:
        assert made.owner_private_key is not None
        assert made.owner_private_key.reveal()[2:] not in f"{made} {made!r}"


class TestSecondStart:
    def test_nothing_changes_and_nothing_is_shown(self, tmp_path: Path, made: InitResult) -> None:
        before = snapshot(tmp_path)
        again = init_keys(tmp_path)
        assert snapshot(tmp_path) == before
        assert (again.engine, again.owner_address) == (made.engine, made.owner_address)
        assert again.owner_private_key is None
        assert not again.fresh
        assert read_engine(tmp_path) == made.engine

    def test_a_moved_folder_is_the_same_engine(self, tmp_path: Path) -> None:
        made = init_keys(tmp_path / "old")
        shutil.copytree(tmp_path / "old", tmp_path / "new")
        assert init_keys(tmp_path / "new").engine == made.engine

    def test_it_needs_no_write(self, tmp_path: Path, made: InitResult, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("wrote")

        monkeypatch.setattr(keys, "write_atomic", refuse)
        monkeypatch.setattr(keys, "locked", refuse)
        assert init_keys(tmp_path).engine == made.engine

    def test_it_loads_no_crypto_library(self, tmp_path: Path, made: InitResult) -> None:
        code = (
            "import sys; from pathlib import Path; from appliance.security.keys import init_keys; "
            "init_keys(Path(sys.argv[1])); print([m for m in ('coincurve', 'cryptography') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def test_many_at_once_make_one_engine(tmp_path: Path) -> None:
    results: list[InitResult] = []
    gate = threading.Barrier(6)

    def start() -> None:
        gate.wait(timeout=10)
        results.append(init_keys(tmp_path))

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert len({result.engine.id for result in results}) == 1
    assert len({result.owner_address for result in results}) == 1
    assert sum(result.fresh for result in results) == 1


class PowerCut(BaseException):
    """The end, wherever it comes."""


class TestPowerCut:
    """The first start is cut off before and after each of its writes, then simply started again."""

    @pytest.mark.parametrize("survived", range(6))
    @pytest.mark.parametrize("leftover", [False, True])
    def test_the_next_start_completes_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int, leftover: bool
    ) -> None:
        count = 0

        def failing(path: Path, data: bytes, mode: int = 0o600) -> None:
            nonlocal count
            if count == survived:
                if leftover:
                    (path.parent / f".{path.name}.abcd.tmp").write_bytes(data[: len(data) // 2])
                raise PowerCut
            count += 1
            files.write_atomic(path, data, mode)

        for module in (keys, owner):
            monkeypatch.setattr(module, "write_atomic", failing)
        if survived < len(ALL):
            with pytest.raises(PowerCut):
                init_keys(tmp_path)
        else:
            init_keys(tmp_path)
        before = snapshot(tmp_path)
        monkeypatch.undo()

        result = init_keys(tmp_path)
        assert set(snapshot(tmp_path)) == ALL
        assert snapshot(tmp_path).items() >= before.items(), "what was made is kept"
        assert result.fresh == (survived < len(ALL)), "the key is shown by the start that completes"
        if result.owner_private_key is not None:
            assert address_of(result.owner_private_key) == result.owner_address
        assert not list((tmp_path / "keys").glob(".*.tmp"))
        assert init_keys(tmp_path).engine == result.engine
        assert not init_keys(tmp_path).fresh


class TestDamage:
    @pytest.mark.parametrize("name", ["engine.key", "vault.key"])
    @pytest.mark.parametrize("content", [None, b"", b"\0" * 150, b"{}", b'{"flowork_key": 1'])
    def test_what_cannot_be_made_again_stops_the_start(
        self, tmp_path: Path, made: InitResult, name: str, content: bytes | None
    ) -> None:
        path = tmp_path / "keys" / name
        path.unlink() if content is None else path.write_bytes(content)
        before = snapshot(tmp_path)
        with pytest.raises(KeysError, match=f"{name} is (missing|damaged). Restore it from a backup") as failure:
            init_keys(tmp_path)
        assert snapshot(tmp_path) == before
        assert "engine.json" in failure.value.message

    @pytest.mark.parametrize("name", ["engine.key", "vault.key"])
    def test_and_its_advice_works(self, tmp_path: Path, made: InitResult, name: str) -> None:
        (tmp_path / "keys" / name).write_bytes(b"rubbish")
        (tmp_path / "keys" / "engine.json").unlink()
        result = init_keys(tmp_path, Clock(5.0))
        assert (tmp_path / "keys" / f"{name}.damaged-5").read_bytes() == b"rubbish"
        assert any("was moved to" in note for note in result.notes)
        assert result.owner_address == made.owner_address
        assert (result.engine.id == made.engine.id) == (name == "vault.key")
        assert init_keys(tmp_path).notes == ()

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"id": 3}'])
    def test_the_engine_file_is_rebuilt(self, tmp_path: Path, made: InitResult, content: bytes) -> None:
        (tmp_path / "keys" / "engine.json").write_bytes(content)
        result = init_keys(tmp_path)
        assert result.engine == made.engine
        assert not result.fresh
        assert "engine.json was damaged" in result.notes[0]

    def test_files_of_two_engines(self, tmp_path: Path) -> None:
        init_keys(tmp_path / "a")
        init_keys(tmp_path / "b")
        shutil.copy(tmp_path / "a" / "keys" / "engine.key", tmp_path / "b" / "keys" / "engine.key")
        with pytest.raises(KeysError, match="different engines"):
            init_keys(tmp_path / "b")

    @pytest.mark.parametrize("content", [None, b"", b"rubbish"])
    def test_the_owner_file_follows_the_key(self, tmp_path: Path, made: InitResult, content: bytes | None) -> None:
        path = tmp_path / "keys" / "owner.json"
        path.unlink() if content is None else path.write_bytes(content)
        result = init_keys(tmp_path)
        assert result.owner_address == made.owner_address
        assert result.owner_private_key is None
        assert "follow" in result.notes[0]
        assert init_keys(tmp_path).notes == ()

    def test_a_damaged_owner_key_takes_no_access_away(self, tmp_path: Path, made: InitResult) -> None:
        (tmp_path / "keys" / "owner.key").write_bytes(b"rubbish")
        for _ in range(2):
            result = init_keys(tmp_path)
            assert result.owner_address == made.owner_address
            assert "flowork key recover" in result.notes[0]

    def test_a_lost_owner_is_not_replaced_behind_anybodys_back(self, tmp_path: Path, made: InitResult) -> None:
        for name in ("owner.key", "owner.json"):
            (tmp_path / "keys" / name).unlink()
        result = init_keys(tmp_path)
        assert result.owner_address is None
        assert "flowork key recover" in result.notes[0]

    def test_open_permissions_are_tightened(self, tmp_path: Path, made: InitResult) -> None:
        (tmp_path / "keys").chmod(0o755)
        (tmp_path / "keys" / "vault.key").chmod(0o644)
        result = init_keys(tmp_path)
        assert len(result.notes) == 2
        assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "keys" / "vault.key").stat().st_mode) == 0o600
        assert init_keys(tmp_path).notes == ()


class TestUnusable:
    def test_a_file_where_the_folder_should_be(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("")
        with pytest.raises(KeysError, match="cannot use"):
            init_keys(tmp_path)

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(KeysError, match=r"No space left on device.*some room"):
            init_keys(tmp_path)
        monkeypatch.undo()
        assert snapshot(tmp_path) == {}, "no half-written file has taken its name"
        assert init_keys(tmp_path).fresh

    def test_not_initialised(self, tmp_path: Path) -> None:
        for read in (read_engine, engine_key, read_keyring):
            with pytest.raises(KeysError, match="flowork init"):
                read(tmp_path)


def test_derived_secrets(tmp_path: Path) -> None:
    init_keys(tmp_path / "a")
    init_keys(tmp_path / "b")
    first = derived_secret(tmp_path / "a", "sign-in")
    assert len(first) == 32
    assert first == derived_secret(tmp_path / "a", "sign-in")
    assert first != derived_secret(tmp_path / "a", "other")
    assert first != derived_secret(tmp_path / "b", "sign-in")
