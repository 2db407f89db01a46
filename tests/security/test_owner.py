"""The owner's key: shown, rotated, recovered, replaced by a wallet, taken off the box, cut off in between."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.security import owner
from appliance.security.files import KeysError
from appliance.security.keyfile import OwnedKey, key_file, owned_key, parse_key
from appliance.security.keys import init_keys
from appliance.security.owner import (
    OwnerAddress,
    forget_owner_key,
    recover_owner,
    replace_owner,
    rotate_owner,
    show_owner,
)
from appliance.security.secret import Secret
from appliance.security.wallet import BadAddress, address_of, checksummed, new_private_key

KEY = owned_key(Secret("0x" + "46" * 32), created=5.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    init_keys(tmp_path)
    return tmp_path


def test_rotation_replaces_the_owner(data: Path) -> None:
    address = OwnerAddress(data)
    before = address()
    key = rotate_owner(data, lambda: 7.0)
    assert address() == key.address != before
    assert show_owner(data) == key
    assert key.created == 7.0
    assert stat.S_IMODE((data / "keys" / "owner.key").stat().st_mode) == 0o600
    assert init_keys(data).owner_address == key.address


def test_recovery_keeps_what_is_there(data: Path) -> None:
    before = show_owner(data)
    assert recover_owner(data) == (before, False)
    assert show_owner(data) == before


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_recovery_makes_what_is_lost(data: Path, content: bytes | None) -> None:
    before = OwnerAddress(data)()
    path = data / "keys" / "owner.key"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(KeysError, match="flowork key recover"):
        show_owner(data)
    key, made = recover_owner(data)
    assert made
    assert OwnerAddress(data)() == key.address == show_owner(data).address != before


def test_a_wallet_becomes_the_owner(data: Path) -> None:
    wallet = checksummed(address_of(new_private_key()))
    assert replace_owner(data, wallet) == wallet.lower() == OwnerAddress(data)()
    assert not (data / "keys" / "owner.key").exists()
    result = init_keys(data)
    assert (result.owner_address, result.notes) == (wallet.lower(), ())
    with pytest.raises(BadAddress):
        replace_owner(data, wallet[:-1])


def test_the_private_key_leaves_the_box(data: Path) -> None:
    before = OwnerAddress(data)()
    forget_owner_key(data)
    assert not (data / "keys" / "owner.key").exists()
    assert OwnerAddress(data)() == before == init_keys(data).owner_address
    with pytest.raises(KeysError, match="not kept on this box"):
        show_owner(data)


def test_nobody_to_forget(data: Path) -> None:
    for name in ("owner.key", "owner.json"):
        (data / "keys" / name).unlink()
    with pytest.raises(KeysError, match="no owner"):
        forget_owner_key(data)


@pytest.mark.parametrize("change", [rotate_owner, lambda data: replace_owner(data, KEY.address)])
def test_a_power_cut_leaves_one_owner(
    data: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    """Cut between the two files: the next start settles on the one whose private key is on the box."""

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, "_write_address" if change is rotate_owner else "remove", cut)
    with pytest.raises(KeyboardInterrupt):
        change(data)
    monkeypatch.undo()
    result = init_keys(data)
    assert result.owner_address == show_owner(data).address == OwnerAddress(data)()
    assert init_keys(data).notes == ()


def test_the_watch_sees_every_change(data: Path) -> None:
    address = OwnerAddress(data)
    for _ in range(20):
        key = rotate_owner(data)
        assert address() == key.address
    (data / "keys" / "owner.json").write_bytes(b"rubbish")
    assert address() is None
    (data / "keys" / "owner.json").unlink()
    assert address() is None


@pytest.mark.parametrize("function", [rotate_owner, recover_owner, forget_owner_key])
def test_before_the_first_start(tmp_path: Path, function: Callable[[Path], object]) -> None:
    with pytest.raises(KeysError, match="flowork init"):
        function(tmp_path)
    assert OwnerAddress(tmp_path)() is None


class TestKeyText:
    def test_all_forms_of_one_key(self) -> None:
        digits = "46" * 32
        for text in (
            digits,
            "0x" + digits,
            digits.upper(),
            f"  0x{digits}\n",
            f"# Flowork owner key\n\n0x{digits}\n",
            f"0x{digits[:32]}\n{digits[32:]}",
            key_file(KEY),
            key_file(KEY).decode(),
            b"\xef\xbb\xbf" + key_file(KEY),
        ):
            key = parse_key(text)
            assert (key.address, key.private_key) == (KEY.address, KEY.private_key)
        assert parse_key(key_file(KEY)).created == 5.0

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "64 hex digits"),
            ("0x" + "4" * 63, "has 65 characters"),
            ("0x" + "4" * 65, "64 hex digits"),
            ("zz" * 32, "64 hex digits"),
            ("0" * 64, "out of range"),
            ("f" * 64, "out of range"),
            ("4" * 5000, "longer than"),
            (b"\xff\xfe\x00", "not text"),
            ("{}", "not a whole Flowork key file"),
            ('{"flowork_key": 1, "kind": "owner", "address": "0x", "private_key": 5}', "not a whole"),
            ("{" * 2000, "not a whole"),
        ],
    )
    def test_what_is_no_key(self, text: str | bytes, reason: str) -> None:
        with pytest.raises(KeysError, match=reason):
            parse_key(text)

    def test_errors_do_not_show_the_key(self) -> None:
        digits = "46" * 32
        for text in (f"0x{digits}g", f'{{"private_key": "{digits}", "flowork_key": "1"}}', f'{{"a": "{digits}'):
            with pytest.raises(KeysError) as failure:
                parse_key(text)
            assert "4646" not in str(failure.value)

    def test_a_file_of_another_version(self) -> None:
        with pytest.raises(KeysError, match="version 2"):
            parse_key(key_file(KEY).replace(b'"flowork_key": 1', b'"flowork_key": 2'))

    def test_an_address_that_does_not_belong(self) -> None:
        other = OwnedKey(address=address_of(new_private_key()), private_key=KEY.private_key)
        with pytest.raises(KeysError, match="does not belong"):
            parse_key(key_file(other))
