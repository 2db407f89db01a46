"""Updates over the API: a release that is sent in parts, what a source and peers have, how far the watching is."""

from __future__ import annotations

import base64
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.gateway.release_upload import ReleaseUpload
from appliance.security import signatures
from appliance.store.schema import MIGRATIONS
from appliance.update import request, sources
from appliance.update.release import pack
from appliance.update.updater import INCOMING
from tests.gateway.engine import Home

KEY = signatures.new_key()
PART = 100_000


@pytest.fixture
def home(make_home: Callable[..., Home], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An engine that was installed, and trusts one key."""
    (tmp_path / "opt/releases/0.1.0-500").mkdir(parents=True)
    (tmp_path / "opt/current").symlink_to(tmp_path / "opt/releases/0.1.0-500")
    (tmp_path / "place").mkdir()
    (tmp_path / "place/trusted").write_text(signatures.public_of(KEY) + "\n")
    for module in (request, sources):
        monkeypatch.setattr(module, "OPT", tmp_path / "opt")
        monkeypatch.setattr(module, "PLACE", tmp_path / "place")
    monkeypatch.setattr(request, "_STICKS", (tmp_path / "media",))
    return make_home(now=lambda: 2e9)


def release(file: Path, key: str = KEY, **about: Any) -> Path:
    wheel = file.with_name("flowork.whl")
    wheel.write_bytes(b"w" * 300_000)
    here = {"machine": platform.machine(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    plain = {"kind": "wheels", "version": "99.1", "schema": MIGRATIONS[-1].number, "made": 1000, **here}
    pack({"flowork.whl": wheel}, file, key, **{**plain, **about})
    return file


def part(content: bytes, offset: int, size: int = 0) -> dict[str, Any]:
    piece = base64.b64encode(content[offset : offset + PART]).decode()
    return {"offset": offset, "size": size or len(content), "data": piece}


def test_a_release_is_sent_in_parts_and_handed_over_whole(home: Home, tmp_path: Path) -> None:
    content = release(tmp_path / "r.flowork").read_bytes()
    for offset in range(0, len(content) - PART, PART):
        answer = home.owner.do("PUT", "/update/upload", part(content, offset))
    assert (answer["received"], answer["found"]) == (offset + PART, None)
    assert home.owner.get("/update")["sent"]["size"] == len(content)
    assert home.owner("POST", "/update", {}).status_code == 409, "not all of it is here"
    assert home.owner("PUT", "/update/upload", part(content, offset)).status_code == 409, "that part was here already"
    answer = home.owner.do("PUT", "/update/upload", part(content, offset + PART))
    assert (answer["found"]["version"], answer["found"]["newer"]) == ("99.1", True)
    assert not (home.data / INCOMING).exists(), "nothing happens until somebody says so"
    view = home.owner.do("POST", "/update", {})
    assert view["waiting"] and view["sent"] is None
    assert (home.data / INCOMING).read_bytes() == content
    again = home.owner("PUT", "/update/upload", part(content, 0))
    assert again.status_code == 422 and "being looked at already" in again.get_json()["detail"]


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"key": signatures.new_key()}, "not signed by a key that is trusted"),
        ({"machine": "sparc"}, "it is for sparc"),
        ({"schema": 0}, "cannot read this engine's database"),
    ],
)
def test_what_cannot_be_used_here_is_refused_and_gone(
    home: Home, tmp_path: Path, about: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.gateway.release_upload._JUDGED", 50_000)
    content = release(tmp_path / "r.flowork", **about).read_bytes()
    answer = home.owner("PUT", "/update/upload", part(content, 0))
    assert answer.status_code == 422 and why in answer.get_json()["detail"], "long before all of it was sent"
    assert home.owner.get("/update")["sent"] is None
    assert list((home.data / "update").iterdir()) == []


def test_what_is_no_release_or_never_fits_is_not_taken(home: Home) -> None:
    answer = home.owner("PUT", "/update/upload", part(b"no release", 0))
    assert answer.status_code == 422 and "no release file" in answer.get_json()["detail"]
    answer = home.owner("PUT", "/update/upload", part(b"x", 0, size=10**12))
    assert answer.status_code == 422 and "five times its size" in answer.get_json()["detail"]
    assert list((home.data / "update").iterdir()) == []


def test_a_checkout_takes_none(home: Home, tmp_path: Path) -> None:
    (tmp_path / "opt/current").unlink()
    answer = home.owner("PUT", "/update/upload", part(b"x", 0))
    assert answer.status_code == 422 and "git pull" in answer.get_json()["detail"]


def test_one_that_breaks_off_is_deleted(home: Home, tmp_path: Path) -> None:
    content = release(tmp_path / "r.flowork").read_bytes()
    unfinished = home.data / "update/sent.part"
    home.owner.do("PUT", "/update/upload", part(content, 0))
    assert unfinished.exists()
    home.owner.do("DELETE", "/update/upload")
    assert not unfinished.exists()
    home.owner.do("PUT", "/update/upload", part(content, 0))
    ReleaseUpload(home.data)  # as a gateway that starts after a cut
    assert not unfinished.exists()
    now, gone = [0.0], threading.Event()
    upload = ReleaseUpload(home.data, idle=0.02, clock=lambda: now[0])
    forget = upload._upload.forget

    def forgotten() -> None:
        forget()
        gone.set()

    upload._upload.forget = forgotten  # type: ignore[method-assign]
    upload.receive(0, len(content), content[:PART])
    gone.clear()
    assert not gone.wait(0.1) and unfinished.exists(), "by its clock no time has passed"
    now[0] = 1.0
    assert gone.wait(10) and not unfinished.exists()
    assert upload.view() is None
    upload.close()
    upload.close()


def test_the_set_source_is_looked_at_and_that_is_remembered(home: Home, tmp_path: Path) -> None:
    assert home.owner("POST", "/update/look", {}).status_code == 502
    (tmp_path / "stick").mkdir()
    home.owner.do("PATCH", "/settings", {"values": {"update_from": str(tmp_path / "stick")}})
    answer = home.owner("POST", "/update/look", {})
    assert answer.status_code == 502 and "no release file" in answer.get_json()["detail"]
    assert "no release file" in home.owner.get("/update")["looked"]["error"]
    release(tmp_path / "stick/r.flowork")
    assert home.owner.do("POST", "/update/look", {})["version"] == "99.1"
    view = home.owner.get("/update")
    assert (view["looked"]["found"]["version"], view["source"]) == ("99.1", str(tmp_path / "stick"))
    assert view["looked"]["error"] == ""


def test_a_newer_release_is_told_on_the_health_page_and_is_no_fault(home: Home, tmp_path: Path) -> None:
    home.start_kernel()
    before = home.owner.get("/health")["status"]
    home.owner.do("PATCH", "/settings", {"values": {"update_from": str(release(tmp_path / "r.flowork"))}})
    home.owner.do("POST", "/update/look", {})
    assert "update" not in [one["id"] for one in home.owner.get("/health")["findings"]], "nobody wants to be told"
    home.owner.do("PATCH", "/settings", {"values": {"update_auto": "tell"}})
    health = home.owner.get("/health")
    (finding,) = [one for one in health["findings"] if one["id"] == "update"]
    assert (finding["level"], health["status"]) == ("notice", before)
    assert "99.1" in finding["text"]


def test_how_long_all_has_been_well_is_told(home: Home, tmp_path: Path) -> None:
    state = '{"phase": "watching", "version": "99.1", "at": %d, "well_since": %d}'
    (tmp_path / "place/state.json").write_text(state % (2e9 - 200, 2e9 - 80))
    view = home.owner.get("/update")
    assert (view["well_for"], view["steady"], view["left"]) == (80.0, 300.0, 700.0)
    (tmp_path / "place/state.json").write_text(state % (2e9 - 1000, 0))
    view = home.owner.get("/update")
    assert (view["well_for"], view["left"]) == (0.0, 0.0)


def test_without_peers_there_is_nothing_from_peers(home: Home) -> None:
    assert home.owner("GET", "/update/peers").status_code == 503, "the kernel is away"
    home.start_kernel()
    assert home.owner.get("/update/peers") == {"items": []}
    answer = home.owner("POST", "/update", {"source": "peer:nobody"})
    assert answer.status_code == 422 and "nobody" in answer.get_json()["detail"]


def test_who_may_only_read_changes_nothing(home: Home) -> None:
    reader, _ = home.person("reader", "*")
    for method, path, body in [
        ("PUT", "/update/upload", part(b"x", 0)),
        ("DELETE", "/update/upload", None),
        ("POST", "/update", {}),
        ("POST", "/update/back", {}),
    ]:
        assert reader(method, path, body).status_code == 403
