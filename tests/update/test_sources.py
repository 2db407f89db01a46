"""Where releases come from, what is seen of them without fetching, and looking by itself once a day."""

from __future__ import annotations

import platform
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, NodeError
from appliance.security import signatures
from appliance.store.schema import MIGRATIONS
from appliance.update import request, sources
from appliance.update.automatic import Automatic, Looked, is_due, looked
from appliance.update.release import BadRelease, pack
from appliance.update.sources import Available, look
from tests.support.web import web_server

KEY = signatures.new_key()
HERE = {
    "kind": "wheels",
    "version": "99.1",
    "machine": platform.machine(),
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    "schema": MIGRATIONS[-1].number,
    "made": 1000,
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that Flowork was installed on, which trusts one key."""
    (tmp_path / "opt/releases/0.1.0-500").mkdir(parents=True)
    (tmp_path / "opt/current").symlink_to(tmp_path / "opt/releases/0.1.0-500")
    (tmp_path / "place").mkdir()
    (tmp_path / "place/trusted").write_text(signatures.public_of(KEY) + "\n")
    (tmp_path / "data").mkdir()
    for module in (request, sources):
        monkeypatch.setattr(module, "OPT", tmp_path / "opt")
        monkeypatch.setattr(module, "PLACE", tmp_path / "place")
    monkeypatch.setattr(request, "_STICKS", (tmp_path / "media",))
    return tmp_path


def release(file: Path, key: str = KEY, **about: Any) -> Path:
    wheel = file.with_name("flowork.whl")
    wheel.write_bytes(b"w" * 300_000)
    pack({"flowork.whl": wheel}, file, key, **{**HERE, **about})
    wheel.unlink()
    return file


def test_a_file_and_an_address_are_looked_at_without_being_fetched(place: Path) -> None:
    file = release(place / "r.flowork")
    seen = look(str(file))
    assert (seen.version, seen.made, seen.newer, seen.why_not) == ("99.1", 1000, True, "")
    with web_server() as web:
        # Cut off behind the manifest: the rest is not asked for.
        web.answer("/r.flowork", body=file.read_bytes()[:20_000])
        assert look(web.url("/r.flowork")).version == "99.1"
        with pytest.raises(NodeError, match="404"):
            look(web.url("/gone.flowork"))


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"machine": "sparc"}, "it is for sparc"),
        ({"python": "2.7"}, "it is for Python 2.7"),
        ({"schema": 0}, "cannot read this engine's database"),
        ({"kind": "slot"}, "it is a whole system, for a box that was flashed; this box was not"),
    ],
)
def test_what_is_not_for_this_machine_is_said(place: Path, about: dict[str, Any], why: str) -> None:
    assert why in look(str(release(place / "r.flowork", **about))).why_not


def test_a_flashed_box_takes_whole_systems_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "IMAGE", place / "opt")
    assert look(str(release(place / "r.flowork", kind="slot"))).why_not == ""
    assert "takes whole systems" in look(str(release(place / "r.flowork"))).why_not


def test_of_a_folder_the_newest_that_fits_counts(place: Path) -> None:
    folder = place / "stick"
    folder.mkdir()
    with pytest.raises(NodeError, match="no release file"):
        look(str(folder))
    release(folder / "a.flowork", version="99.9.0")
    release(folder / "b.flowork", version="99.10.0")
    release(folder / "c.flowork", version="99.11", machine="sparc")
    release(folder / "d.flowork", key=signatures.new_key(), version="99.12")
    (folder / "e.flowork").write_bytes(b"no release")
    seen = look(str(folder))
    assert (Path(seen.source).name, seen.version) == ("b.flowork", "99.10.0")
    request.hand_over(place / "data", str(folder))
    assert (place / "data/update/incoming.flowork").read_bytes() == (folder / "b.flowork").read_bytes()


def test_the_same_version_is_newer_when_it_was_made_later(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "version", lambda name: "99.1")
    assert look(str(release(place / "r.flowork", made=501))).newer
    assert not look(str(release(place / "r.flowork", made=500))).newer
    assert not look(str(release(place / "r.flowork", version="98.7", made=900))).newer


def test_nothing_is_believed_without_a_signature(place: Path) -> None:
    with pytest.raises(BadRelease, match="not signed by a key"):
        look(str(release(place / "r.flowork", key=signatures.new_key())))
    (place / "place/trusted").unlink()
    with pytest.raises(BadRelease, match="flowork-updater trust"):
        look(str(place / "r.flowork"))
    (place / "media/ann/stick").mkdir(parents=True)
    release(place / "media/ann/stick/r.flowork")
    (one,) = request.view(place / "data").sticks
    assert "flowork-updater trust" in one.why_not


def test_how_far_a_fetch_is_can_be_seen(place: Path) -> None:
    file = release(place / "r.flowork")
    seen = []

    def tell(done: int, size: int) -> None:
        seen.append(request.view(place / "data").fetching)

    request.hand_over(place / "data", str(file), tell)
    size = file.stat().st_size
    assert seen[-1] is not None
    assert seen[-1].size == size
    assert request.view(place / "data").fetching is None


# --- by itself ---------------------------------------------------------------------------------------------


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        ("1970-01-02 00:00", "2026-11-21 03:59", False),
        ("1970-01-02 00:00", "2026-11-21 04:00", True),
        ("2026-11-20 04:01", "2026-11-21 03:59", False),
        ("2026-11-20 04:01", "2026-11-21 04:10", True),
        ("2026-11-21 04:00", "2026-11-21 23:59", False),
        # The clock was in the future when it looked last.
        ("2030-01-01 00:00", "2026-11-21 04:10", True),
    ],
)
def test_it_is_looked_once_a_day_behind_the_set_hour(last: str, now: str, due: bool) -> None:
    assert is_due(at(last), "04:00", at(now)) is due


class Street:
    """A source that a test fills, and what was handed over."""

    def __init__(self, data: Path) -> None:
        self.now = at("2026-11-21 05:00")
        self.has = Available(source="/stick/r.flowork", version="99.1", made=1000, newer=True)
        self.fails = ""
        self.looks = 0
        self.brought: list[str] = []
        self.automatic = Automatic(data, self.look, self.brought.append, now=lambda: self.now)

    def look(self, source: str) -> Available:
        self.looks += 1
        if self.fails:
            raise NodeError(self.fails)
        return self.has


def test_off_looks_at_nothing(place: Path) -> None:
    street = Street(place / "data")
    assert street.automatic.turn("off", "/stick", "04:00") == ""
    assert street.automatic.turn("install", "", "04:00") == ""
    assert street.looks == 0
    assert looked(place / "data") == Looked()


def test_tell_tells_and_install_brings_in_each_release_once(place: Path) -> None:
    street = Street(place / "data")
    assert "has version 99.1" in street.automatic.turn("tell", "/stick", "04:00")
    assert street.brought == []
    found = looked(place / "data").found
    assert found is not None
    assert found.version == "99.1"
    assert street.automatic.turn("install", "/stick", "04:00") == "", "it was looked today"
    street.now += 86_400
    assert "handed over" in street.automatic.turn("install", "/stick", "04:00")
    street.now += 86_400
    street.automatic.turn("install", "/stick", "04:00")
    assert street.brought == ["/stick/r.flowork"], "one that was taken back is not tried again"
    street.has = Available(source="/stick/s.flowork", version="99.1", made=2000, newer=True)
    street.now += 86_400
    street.automatic.turn("install", "/stick", "04:00")
    assert street.brought[1:] == ["/stick/s.flowork"]


def test_what_was_newer_is_not_any_more_once_it_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Street(place / "data").automatic.turn("tell", "/stick", "04:00")
    seen = request.view(place / "data").looked.found
    assert seen is not None
    assert seen.newer
    monkeypatch.setattr(sources, "version", lambda name: "99.1")
    (place / "opt/current").unlink()
    (place / "opt/current").symlink_to(place / "opt/releases/99.1-1000")
    seen = request.view(place / "data").looked.found
    assert seen is not None
    assert not seen.newer


def test_what_is_not_newer_or_cannot_be_read_is_noted_and_nothing_more(place: Path) -> None:
    street = Street(place / "data")
    street.has = Available(source="/stick", version="0.1", why_not="it is for sparc; this is x86_64", newer=True)
    assert "sparc" in street.automatic.turn("install", "/stick", "04:00")
    street.now += 86_400
    street.fails = "the stick is not there"
    assert "not there" in street.automatic.turn("install", "/stick", "04:00")
    assert looked(place / "data").error == "the stick is not there"
    assert street.brought == []


def test_going_back_is_asked_for_only_where_it_can_be_done(place: Path) -> None:
    with pytest.raises(ConfigError, match="no version before"):
        request.go_back(place / "data")
    old = place / "opt/releases/old"
    old.mkdir()
    (old / "complete").touch()
    state = '{"phase": "done", "before": "%s", "schema": 7, "schema_before": %d}'
    (place / "place/state.json").write_text(state % (old, 6))
    with pytest.raises(ConfigError, match="another form"):
        request.go_back(place / "data")
    (place / "place/state.json").write_text(state % (old, 7))
    assert request.view(place / "data").why_no_way_back == ""
    request.go_back(place / "data")
    assert (place / "data/update/go-back").exists()
