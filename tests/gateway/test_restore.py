"""Backups and restoring over the API: sent in parts, checked, and staged for the next start."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance import restoring
from appliance.security.keys import read_engine
from appliance.store.backup import make_backup
from appliance.store.metadata import open_store
from appliance.store.seal import Lock, new_key
from tests.gateway.engine import Home
from tests.support.broker import eventually

PART = 1_500


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Home:
    return make_home()


@pytest.fixture
def other(tmp_path: Path, make_home: Callable[..., Home]) -> Home:
    """Another engine, with a variable."""
    made = make_home()
    made.owner.do("PUT", "/variables/from_backup", {"value": 1})
    return made


def send(home: Home, file: Path, start: int = 0) -> dict[str, Any]:
    """All parts of a file from a byte on; the last answer."""
    content, answer = file.read_bytes(), {}
    for offset in range(start, len(content), PART):
        part = {"offset": offset, "size": len(content), "data": encoded(content[offset : offset + PART])}
        answer = home.owner.do("PUT", "/restore/upload", part)
    return answer


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ended(home: Home) -> dict[str, Any]:
    """The restore once it is staged or has failed."""
    found: dict[str, Any] = eventually(
        lambda: (view := home.owner.get("/restore"))["stage"] in {"starting", "failed"} and view, "the restore's end"
    )
    return found


def test_a_backup_is_sent_in_parts_and_waits_for_the_next_start(home: Home, other: Home, tmp_path: Path) -> None:
    file = tmp_path / "b.tar.gz"
    make_backup(other.data, file)
    size = file.stat().st_size
    assert home.owner.get("/restore")["stage"] == "idle"
    first = {"offset": 0, "size": size, "data": encoded(file.read_bytes()[:PART])}
    assert home.owner.do("PUT", "/restore/upload", first)["received"] == PART
    # Not behind what is there, larger than it said, or before all of it came: said, and nothing is lost.
    assert home.owner("PUT", "/restore/upload", {**first, "offset": PART + 1}).status_code == 409
    assert home.owner("POST", "/restore", {}).status_code == 409
    assert home.owner("PUT", "/restore/upload", {**first, "offset": PART, "size": size + 5}).status_code == 409
    view = send(home, file, start=PART)
    assert view["received"] == view["size"] == size and view["sealed"] == "plain"
    home.owner.do("POST", "/restore", {})
    assert ended(home)["stage"] == "starting"
    home.gateway.restores.close()
    assert restoring.waits(home.data)
    home.close()
    restoring.swap(home.data)
    assert read_engine(home.data).id == read_engine(other.data).id
    with closing(open_store(home.data)) as store:
        assert [one.name for one in store.values.variables("default")] == ["from_backup"]


def test_an_encrypted_one_wants_its_key(home: Home, other: Home, tmp_path: Path) -> None:
    private, public = new_key()
    file = tmp_path / "b.tar.gz.age"
    make_backup(other.data, file, lock=Lock((public,)))
    assert send(home, file)["sealed"] == "key"
    home.owner.do("POST", "/restore", {})
    failed = ended(home)
    assert failed["stage"] == "failed" and failed["error_id"] == "wrong-key"
    assert not restoring.waits(home.data)
    home.owner.do("POST", "/restore", {"key": private, "as_another": True})
    assert ended(home)["stage"] == "starting"
    home.gateway.restores.close()
    assert restoring.waits(home.data)


def test_what_is_no_backup_fails_and_can_be_forgotten(home: Home, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no backup" * 100)
    send(home, tmp_path / "x")
    home.owner.do("POST", "/restore", {})
    assert ended(home)["stage"] == "failed"
    home.owner.do("DELETE", "/restore/upload")
    assert home.owner.get("/restore")["received"] == 0
    assert home.owner.get("/restore")["stage"] == "idle"


def test_one_that_cannot_fit_is_not_even_sent(home: Home) -> None:
    answer = home.owner("PUT", "/restore/upload", {"offset": 0, "size": 10**18, "data": encoded(b"x")})
    assert answer.status_code == 409
    assert "are free here" in answer.get_json()["detail"]


def test_a_kept_backup_is_checked_and_restored(home: Home, tmp_path: Path) -> None:
    name = "flowork-20261121-033000.tar.gz"
    (home.data / "backups").mkdir(exist_ok=True)
    make_backup(home.data, home.data / "backups" / name)
    assert home.owner.get("/backups")["items"][0]["name"] == name
    checked = home.owner.do("POST", f"/backups/{name}/check", {})
    assert checked["files"] > 1 and checked["created"] > 1.7e9
    assert home.owner("POST", "/backups/flowork-20201121-033000.tar.gz/check", {}).status_code == 404
    assert home.owner("POST", "/backups/..%2f..%2fetc/check", {}).status_code in {400, 404, 405}
    home.owner.do("POST", "/restore", {"name": name})
    assert ended(home)["stage"] == "starting"


def test_a_key_is_made_and_used_from_then_on(home: Home) -> None:
    made = home.owner.do("POST", "/backups/keys")
    assert made["private"].startswith("AGE-SECRET-KEY-")
    found = home.owner.get("/backups")
    assert found["encrypted"] and found["keys"] == [made["public"]]
    entries = home.owner.get("/audit")["items"]
    assert made["public"] in str(entries) and made["private"] not in str(entries)


def test_only_an_owner_may(home: Home) -> None:
    admin, _ = home.person("admin", "*")
    assert admin("GET", "/restore").status_code == 403
    assert admin("POST", "/restore", {}).status_code == 403
    assert admin("PUT", "/restore/upload", {"offset": 0, "size": 1, "data": encoded(b"x")}).status_code == 403
