"""The user's side of an update: a file or an address becomes what root's updater finds, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.contracts import ConfigError, NodeError
from appliance.update import request
from appliance.update.release import ALL
from appliance.update.updater import INCOMING
from tests.support.web import web_server


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that Flowork was installed on, with a data folder."""
    (tmp_path / "opt/old").mkdir(parents=True)
    (tmp_path / "opt/current").symlink_to(tmp_path / "opt/old")
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(request, "OPT", tmp_path / "opt")
    monkeypatch.setattr(request, "PLACE", tmp_path / "place")
    monkeypatch.setattr(request, "_STICKS", (tmp_path / "media",))
    return tmp_path / "data"


def test_a_file_is_handed_over_whole_and_one_at_a_time(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "r.flowork").write_bytes(b"release" * 1000)
    told: list[tuple[int, int]] = []
    request.hand_over(installed, str(tmp_path / "r.flowork"), lambda done, of: told.append((done, of)))
    assert (installed / INCOMING).read_bytes() == b"release" * 1000 and told == [(7000, 7000)]
    assert request.view(installed).waiting
    with pytest.raises(ConfigError, match="being looked at already"):
        request.hand_over(installed, str(tmp_path / "r.flowork"))


def test_an_address_is_fetched_and_one_that_fails_leaves_nothing(installed: Path) -> None:
    with web_server() as web:
        web.answer("/r.flowork", body=b"release")
        web.answer("/gone", status=404)
        with pytest.raises(NodeError, match="404"):
            request.hand_over(installed, web.url("/gone"))
        assert list((installed / "update").iterdir()) == []
        request.hand_over(installed, web.url("/r.flowork"))
    assert (installed / INCOMING).read_bytes() == b"release"


def test_what_cannot_be_read_or_does_not_fit_is_said(installed: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="cannot be read"):
        request.hand_over(installed, str(tmp_path / "missing"))
    with (tmp_path / "huge").open("wb") as out:
        out.truncate(ALL + 1)
    with pytest.raises(NodeError, match="MB are free"):
        request.hand_over(installed, str(tmp_path / "huge"))


def test_a_checkout_is_told_how_it_is_updated(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "opt/current").unlink()
    with pytest.raises(ConfigError, match="git pull"):
        request.hand_over(installed, str(tmp_path / "r"))
    assert not request.view(installed).possible


def test_releases_on_sticks_are_found(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "media/ann/stick").mkdir(parents=True)
    (tmp_path / "media/ann/stick/flowork-2.flowork").touch()
    seen = request.view(installed)
    assert [Path(path).name for path in seen.found] == ["flowork-2.flowork"]
    assert seen.possible and seen.state.phase == "none" and not seen.waiting
