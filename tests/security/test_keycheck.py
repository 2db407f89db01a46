"""What the doctor says of a keys folder, which it never changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.security.keycheck import check_keys
from appliance.security.keyfile import key_file, owned_key
from appliance.security.keyring import add_key
from appliance.security.keys import init_keys
from appliance.security.owner import forget_owner_key, rotate_owner
from appliance.security.wallet import address_of, checksummed, new_private_key


@pytest.fixture
def data(tmp_path: Path) -> Path:
    init_keys(tmp_path)
    return tmp_path


def test_nothing_to_say(data: Path) -> None:
    assert check_keys(data) == []
    rotate_owner(data)
    assert check_keys(data) == []
    forget_owner_key(data)
    assert check_keys(data) == []


def test_before_the_first_start(tmp_path: Path) -> None:
    assert "flowork init" in check_keys(tmp_path)[0]


def _wrong_address(path: Path) -> None:
    """The file of a key whose address was changed by hand: whole, but wrong."""
    text = path.read_text()
    path.write_text(re.sub("0x[0-9a-fA-F]{40}", checksummed(address_of(new_private_key())), text, count=1))


def _another_key(path: Path) -> None:
    path.write_bytes(key_file(owned_key(new_private_key())))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("engine.key", Path.unlink, r"engine\.key"),
        ("engine.key", _wrong_address, "does not belong to its private key"),
        ("engine.key", _another_key, "does not belong to engine.json"),
        ("engine.json", Path.unlink, r"engine\.json is missing"),
        ("vault.key", Path.unlink, r"vault\.key is missing"),
        ("vault.key", lambda path: path.write_bytes(b""), "not a whole file"),
        ("vault.key", lambda path: add_key(path.parent.parent), "rotate again"),
        ("owner.json", Path.unlink, r"owner\.json is missing"),
        ("owner.key", _another_key, "different owners"),
        ("owner.key", _wrong_address, "does not belong to its private key"),
        ("owner.key", lambda path: path.chmod(0o640), "chmod go-rwx"),
    ],
)
def test_one_thing_wrong(data: Path, name: str, change: Callable[[Path], object], said: str) -> None:
    change(data / "keys" / name)
    before = {path: path.read_bytes() for path in (data / "keys").iterdir()}
    problems = check_keys(data)
    assert len(problems) == 1, problems
    assert re.search(said, problems[0])
    assert {path: path.read_bytes() for path in (data / "keys").iterdir()} == before
