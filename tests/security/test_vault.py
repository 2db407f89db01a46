"""Sealing, opening, rotating: what holds, and what every kind of damage says."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import ConfigError
from appliance.security import vault as vault_module
from appliance.security.files import KeysError
from appliance.security.keyring import add_key, decode_keyring, encode_keyring, new_keyring, read_keyring
from appliance.security.keys import init_keys
from appliance.security.secret import Secret
from appliance.security.vault import MAX_LENGTH, Secrets, Vault, VaultError, key_id_of
from tests.security.memory import MemorySecrets, SealedRow

VALUE = Secret("correct horse battery staple")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    init_keys(tmp_path)
    return tmp_path


@pytest.fixture
def repo() -> MemorySecrets:
    return MemorySecrets()


@pytest.fixture
def secrets(data: Path, repo: MemorySecrets) -> Secrets:
    return Secrets(repo, data)


class TestSealing:
    def test_there_and_back(self, data: Path) -> None:
        sealed = Vault(data).seal("default", "smtp", VALUE)
        assert Vault(data).open("default", "smtp", sealed) == VALUE
        assert b"horse" not in sealed
        assert key_id_of(sealed) == read_keyring(data).current

    def test_any_text(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        data = tmp_path_factory.mktemp("vault")
        init_keys(data)
        vault = Vault(data)

        @given(workspace=st.text(st.characters(codec="utf-8")), value=st.text(st.characters(codec="utf-8")))
        def check(workspace: str, value: str) -> None:
            assert vault.open(workspace, "x", vault.seal(workspace, "x", Secret(value))).reveal() == value

        check()

    def test_the_same_value_never_looks_the_same(self, data: Path) -> None:
        vault = Vault(data)
        assert len({vault.seal("default", "smtp", VALUE) for _ in range(20)}) == 20

    @pytest.mark.parametrize(
        ("workspace", "name"), [("other", "smtp"), ("default", "imap"), ("defaults", "mtp"), ("", "")]
    )
    def test_it_opens_under_its_own_name_only(self, data: Path, workspace: str, name: str) -> None:
        sealed = Vault(data).seal("default", "smtp", VALUE)
        with pytest.raises(VaultError, match="sealed under another name"):
            Vault(data).open(workspace, name, sealed)

    def test_no_byte_can_be_changed(self, data: Path) -> None:
        vault = Vault(data)
        sealed = vault.seal("default", "smtp", VALUE)
        for place in range(len(sealed)):
            changed = bytearray(sealed)
            changed[place] ^= 1
            with pytest.raises(VaultError):
                vault.open("default", "smtp", bytes(changed))

    def test_nor_cut_off(self, data: Path) -> None:
        vault = Vault(data)
        sealed = vault.seal("default", "smtp", VALUE)
        for length in range(len(sealed)):
            with pytest.raises(VaultError):
                vault.open("default", "smtp", sealed[:length])
        with pytest.raises(VaultError, match="damaged"):
            vault.open("default", "smtp", sealed + b"\0")

    def test_a_key_file_of_another_engine(self, data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        sealed = Vault(data).seal("default", "smtp", VALUE)
        other = tmp_path_factory.mktemp("other")
        init_keys(other)
        with pytest.raises(VaultError, match=f"sealed with the key {key_id_of(sealed)}, which is not in"):
            Vault(other).open("default", "smtp", sealed)

    def test_plain_text_in_the_database(self, data: Path) -> None:
        with pytest.raises(VaultError, match="not a sealed secret"):
            Vault(data).open("default", "smtp", b"correct horse battery staple")

    def test_no_key_file(self, data: Path) -> None:
        sealed = Vault(data).seal("default", "smtp", VALUE)
        (data / "keys" / "vault.key").unlink()
        with pytest.raises(KeysError, match=r"vault\.key is missing"):
            Vault(data).open("default", "smtp", sealed)

    def test_errors_do_not_show_the_value(self, data: Path) -> None:
        sealed = bytearray(Vault(data).seal("default", "smtp", VALUE))
        sealed[-1] ^= 1
        with pytest.raises(VaultError) as failure:
            Vault(data).open("default", "smtp", bytes(sealed))
        assert failure.value.__suppress_context__
        assert "horse" not in f"{failure.value!r} {failure.value.detail}"


class TestSecrets:
    def test_put_use_replace_delete(self, secrets: Secrets) -> None:
        secrets.put("default", "smtp", VALUE)
        secrets.put("default", "imap", Secret("other value"))
        secrets.put("garden", "smtp", Secret("garden value"))
        assert secrets.use("default", "smtp") == VALUE
        assert secrets.use("garden", "smtp").reveal() == "garden value"
        assert secrets.names("default") == ["imap", "smtp"]
        secrets.put("default", "smtp", Secret("new value"))
        assert secrets.use("default", "smtp").reveal() == "new value"
        assert secrets.delete("default", "smtp")
        assert not secrets.delete("default", "smtp")
        with pytest.raises(ConfigError, match="there is no secret 'smtp' in workspace 'default'"):
            secrets.use("default", "smtp")

    @pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "a.b", "ä", "x" * 65, "a\n", "__import__()"])
    def test_names(self, secrets: Secrets, name: str) -> None:
        with pytest.raises(ConfigError, match="name"):
            secrets.put("default", name, VALUE)

    @pytest.mark.parametrize("value", ["", "abc", "  abc \n", "x" * (MAX_LENGTH + 1), "half \ud800 pair"])
    def test_values(self, secrets: Secrets, repo: MemorySecrets, value: str) -> None:
        with pytest.raises(ConfigError, match="value"):
            secrets.put("default", "smtp", Secret(value))
        assert not repo.rows

    def test_a_damaged_one_stops_no_other(self, secrets: Secrets, repo: MemorySecrets) -> None:
        secrets.put("default", "good", VALUE)
        secrets.put("default", "bad", VALUE)
        repo.put("default", "bad", repo.rows["default", "bad"].sealed[:-1])
        opened = secrets.open_all()
        assert opened.values == {"default": {"good": VALUE}}
        assert len(opened.problems) == 1
        assert "'bad'" in opened.problems[0]
        assert "horse" not in str(opened)


class TestRotation:
    def test_everything_is_sealed_again(self, data: Path, secrets: Secrets, repo: MemorySecrets) -> None:
        for number in range(5):
            secrets.put("default", f"s{number}", Secret(f"value {number}"))
        before = read_keyring(data)
        reader = Secrets(repo, data)
        assert reader.use("default", "s0").reveal() == "value 0"
        assert secrets.rotate() == (5, ())
        after = read_keyring(data)
        assert after.current != before.current
        assert list(after.keys) == [after.current], "the old key is gone"
        assert {key_id_of(row.sealed) for row in repo.all()} == {after.current}
        for number in range(5):
            assert reader.use("default", f"s{number}").reveal() == f"value {number}"

    def test_a_stale_process_seals_with_the_new_key(self, data: Path, secrets: Secrets, repo: MemorySecrets) -> None:
        stale = Secrets(repo, data)
        stale.put("default", "a", VALUE)
        secrets.rotate()
        stale.put("default", "b", VALUE)
        assert key_id_of(repo.rows["default", "b"].sealed) == read_keyring(data).current

    @pytest.mark.parametrize("survived", range(4))
    def test_a_power_cut_in_the_middle(
        self, data: Path, repo: MemorySecrets, monkeypatch: pytest.MonkeyPatch, survived: int
    ) -> None:
        secrets = Secrets(repo, data)
        for number in range(3):
            secrets.put("default", f"s{number}", Secret(f"value {number}"))
        replace, count = repo.replace, 0

        def failing(workspace: str, name: str, old: bytes, new: bytes) -> bool:
            nonlocal count
            if count == survived:
                raise KeyboardInterrupt
            count += 1
            return replace(workspace, name, old, new)

        def cut(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(repo, "replace", failing)
        monkeypatch.setattr(vault_module, "drop_keys", cut)
        with pytest.raises(KeyboardInterrupt):
            secrets.rotate()
        monkeypatch.undo()
        again = Secrets(repo, data)
        for number in range(3):
            assert again.use("default", f"s{number}").reveal() == f"value {number}"
        assert again.rotate() == (3, ())
        assert len(read_keyring(data).keys) == 1
        for number in range(3):
            assert again.use("default", f"s{number}").reveal() == f"value {number}"

    def test_a_change_in_the_middle_wins(
        self, data: Path, secrets: Secrets, repo: MemorySecrets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secrets.put("default", "smtp", VALUE)
        listed = list(repo.all())

        def outdated() -> Iterator[SealedRow]:
            monkeypatch.undo()
            Secrets(repo, data).put("default", "smtp", Secret("newer value"))
            return iter(listed)

        monkeypatch.setattr(repo, "all", outdated)
        assert secrets.rotate() == (0, ())
        assert secrets.use("default", "smtp").reveal() == "newer value"

    def test_what_cannot_be_opened_keeps_its_key(self, data: Path, secrets: Secrets, repo: MemorySecrets) -> None:
        secrets.put("default", "good", VALUE)
        secrets.put("default", "bad", VALUE)
        old = read_keyring(data).current
        whole = repo.rows["default", "bad"].sealed
        repo.put("default", "bad", whole[:-1] + bytes((whole[-1] ^ 1,)))
        done, problems = secrets.rotate()
        assert done == 1
        assert "'bad'" in problems[0]
        assert old in read_keyring(data).keys
        repo.put("default", "bad", whole)
        assert secrets.use("default", "bad") == VALUE

    def test_writers_and_rotations_at_once_lose_nothing(self, data: Path, repo: MemorySecrets) -> None:
        gate = threading.Barrier(4)

        def write(name: str) -> None:
            writer = Secrets(repo, data)
            gate.wait(timeout=10)
            for number in range(10):
                writer.put("default", name, Secret(f"value {name}{number}"))

        def rotate() -> None:
            gate.wait(timeout=10)
            for _ in range(5):
                Secrets(repo, data).rotate()

        threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
        threads += [threading.Thread(target=rotate) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        for name in "ab":
            assert Secrets(repo, data).use("default", name).reveal() == f"value {name}9"


class TestKeyring:
    def test_there_and_back(self) -> None:
        ring = new_keyring()
        assert decode_keyring(encode_keyring(ring)) == ring
        assert ring.keys[ring.current].reveal() not in repr(ring)

    def test_a_key_under_a_wrong_id(self) -> None:
        first, second = new_keyring(), new_keyring()
        mixed = encode_keyring(first).replace(
            first.keys[first.current].reveal().encode(), second.keys[second.current].reveal().encode()
        )
        with pytest.raises(KeysError, match="does not match its id"):
            decode_keyring(mixed)

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"flowork_vault":1,"current":"x","keys":{"x":"zz"}}'])
    def test_rubbish(self, content: bytes) -> None:
        with pytest.raises(KeysError, match="not a whole file"):
            decode_keyring(content)

    def test_a_newer_file(self) -> None:
        newer = encode_keyring(new_keyring()).replace(b'"flowork_vault": 1', b'"flowork_vault": 9')
        with pytest.raises(KeysError, match="version 9"):
            decode_keyring(newer)

    def test_a_backup_of_both_opens_everything(self, data: Path, secrets: Secrets, repo: MemorySecrets) -> None:
        secrets.put("default", "smtp", VALUE)
        shutil.copytree(data / "keys", data / "backup" / "keys")
        add_key(data)
        assert Secrets(repo, data / "backup").use("default", "smtp") == VALUE
