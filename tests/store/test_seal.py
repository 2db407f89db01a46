"""Encrypted backups: they open with what they were made for and with nothing else, and no plain byte is in them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.store import seal
from appliance.store.backup import check_backup, make_backup, restore_backup
from appliance.store.errors import StoreError
from appliance.store.metadata import Store
from appliance.store.seal import Keys, Lock, WrongKey, is_sealed, new_key

pytestmark = pytest.mark.files_only

pyrage = pytest.importorskip("pyrage")
PASSPHRASE = "correct horse battery"


def key_lock() -> tuple[Lock, Keys]:
    private, public = new_key()
    return Lock(recipients=(public,)), Keys(identities=(f"# a comment\n{private}\n",))


def passphrase_lock() -> tuple[Lock, Keys]:
    return Lock(passphrase=PASSPHRASE), Keys(passphrase=PASSPHRASE)


def ssh_lock() -> tuple[Lock, Keys]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption()).decode()
    return Lock(recipients=(public,)), Keys(identities=(private,))


@pytest.mark.parametrize(("make", "kind"), [(key_lock, "key"), (ssh_lock, "key"), (passphrase_lock, "passphrase")])
def test_it_comes_back_with_the_right_key(
    engine: Path, store: Store, tmp_path: Path, make: Callable[[], tuple[Lock, Keys]], kind: str
) -> None:
    lock, keys = make()
    target = tmp_path / "backup"
    manifest = make_backup(engine, target, lock=lock)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FloworkData", "backup"]
    assert not list((engine / "backups").glob(".flowork-backup-*"))
    assert is_sealed(target) == kind
    assert check_backup(target, tmp_path, keys) == manifest
    assert restore_backup(target, tmp_path / "restored", keys=keys) == manifest
    for name in ("keys/owner.key", "files/deep/run.sh"):
        assert (tmp_path / "restored" / name).read_bytes() == (engine / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FloworkData", "backup", "restored"]


@pytest.mark.parametrize("make", [key_lock, passphrase_lock])
@pytest.mark.parametrize(
    "wrong",
    [Keys(), Keys(passphrase="something else"), Keys(identities=(new_key()[0],)), Keys(identities=("nonsense",))],
)
def test_nothing_else_opens_it(
    engine: Path, store: Store, tmp_path: Path, make: Callable[[], tuple[Lock, Keys]], wrong: Keys
) -> None:
    target = tmp_path / "backup"
    make_backup(engine, target, lock=make()[0])
    with pytest.raises(WrongKey) as raised:
        restore_backup(target, tmp_path / "restored", keys=wrong)
    assert "nonsense" not in raised.value.message
    assert not list((tmp_path / "restored").iterdir())


@pytest.mark.parametrize("make", [key_lock, passphrase_lock])
def test_what_is_cut_off_or_changed_is_not_whole(
    engine: Path, store: Store, tmp_path: Path, make: Callable[[], tuple[Lock, Keys]]
) -> None:
    lock, keys = make()
    target = tmp_path / "backup"
    make_backup(engine, target, lock=lock)
    whole = target.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:700], whole[:2000] + b"\0" + whole[2001:]):
        target.write_bytes(damaged)
        with pytest.raises(StoreError):
            check_backup(target, tmp_path, keys)


def test_another_tool_opens_it(engine: Path, store: Store, tmp_path: Path) -> None:
    """As `tar xf FILE`, `age -d key.age`, `age -d -i key backup.tar.gz.age | tar tz` would."""
    target = tmp_path / "backup"
    make_backup(engine, target, lock=Lock(passphrase=PASSPHRASE))
    subprocess.run(["tar", "-xf", str(target), "-C", str(tmp_path)], check=True, timeout=30)
    key = pyrage.passphrase.decrypt((tmp_path / "key.age").read_bytes(), PASSPHRASE).decode()
    plain = pyrage.decrypt((tmp_path / "backup.tar.gz.age").read_bytes(), [pyrage.x25519.Identity.from_str(key)])
    listed = subprocess.run(["tar", "-tz"], input=plain, capture_output=True, check=True, timeout=30)
    assert listed.stdout.decode().splitlines()[-1] == "manifest.json"


def test_a_passphrase_of_a_much_faster_machine_is_not_called_wrong(
    engine: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup"
    make_backup(engine, target, lock=Lock(passphrase=PASSPHRASE))
    monkeypatch.setattr(seal, "_PAUSE", 0.001)
    # How many doublings of work the passphrase takes, in age's own header of the key.
    target.write_bytes(re.sub(rb"(-> scrypt \S+ )\d\d", rb"\g<1>30", target.read_bytes(), count=1))
    with pytest.raises(StoreError, match="a machine that is much faster") as caught:
        check_backup(target, tmp_path, Keys(passphrase=PASSPHRASE))
    assert not isinstance(caught.value, WrongKey)


def test_a_passphrase_is_tried_again_where_the_machine_was_busy(
    engine: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, right = tmp_path / "backup", pyrage.passphrase.decrypt
    make_backup(engine, target, lock=Lock(passphrase=PASSPHRASE))
    tries: list[int] = []

    def busy(data: bytes, passphrase: str) -> bytes:
        tries.append(len(data))
        if len(tries) < 3:
            raise pyrage.DecryptError("Excessive work parameter for passphrase.")
        return bytes(right(data, passphrase))

    monkeypatch.setattr(seal, "_PAUSE", 0.001)
    monkeypatch.setattr(pyrage.passphrase, "decrypt", busy)
    check_backup(target, tmp_path, Keys(passphrase=PASSPHRASE))
    assert len(tries) == 3


def test_a_wrong_public_key_is_said_before_anything_is_made(engine: Path, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="'age1nonsense' is no public key"):
        make_backup(engine, tmp_path / "backup", lock=Lock(recipients=("age1nonsense",)))
    assert not (tmp_path / "backup").exists()


def test_without_the_library_it_says_what_to_install(
    engine: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(StoreError, match=r"pip install 'flowork\[backup\]'"):
        make_backup(engine, tmp_path / "backup", lock=Lock(passphrase=PASSPHRASE))


def test_as_another_it_has_no_identity_until_its_first_start(engine: Path, store: Store, tmp_path: Path) -> None:
    make_backup(engine, tmp_path / "backup")
    (engine / "keys" / "engine.key").write_text("{}")
    restore_backup(tmp_path / "backup", tmp_path / "restored", as_another=True)
    kept = {path.name for path in (tmp_path / "restored" / "keys").iterdir()}
    assert "owner.key" in kept
    assert not kept & {"engine.json", "engine.key"}
