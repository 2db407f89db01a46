"""A release that one engine gives to another: two whole kernels with a real link, and files of half a megabyte."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import FlowError, NodeError
from appliance.security import signatures
from appliance.store.schema import MIGRATIONS
from appliance.update import giving, request, sources
from appliance.update.peers import opener
from appliance.update.release import BadRelease, pack
from appliance.update.updater import INCOMING, LAST
from tests.support.boxes import box, join
from tests.support.kernels import LocalKernel

KEY = signatures.new_key()
SIZE = 3 * giving.PIECE + 12_345


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalKernel, LocalKernel]]:
    """The box asks, the laptop gives; neither lets the other do anything."""
    folder = tmp_path_factory.mktemp("engines")
    made = [box(folder, name) for name in ("pi", "laptop")]
    nothing: dict[str, Any] = {"rights": [], "workspaces": []}
    join(made[0], made[1], roles=nothing, back=nothing)
    yield made[0], made[1]
    for each in made:
        each.close()


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Flowork was installed on: ``pi`` with version 0, ``laptop`` with 99.1, which it got as a release file."""
    for name in ("pi", "laptop"):
        (tmp_path / name / "place").mkdir(parents=True)
        (tmp_path / name / "place/trusted").write_text(signatures.public_of(KEY) + "\n")
    (tmp_path / "pi/opt").mkdir()
    (tmp_path / "pi/opt/current").symlink_to(tmp_path / "pi")
    (tmp_path / "pi/data").mkdir()
    for module in (request, sources):
        monkeypatch.setattr(module, "OPT", tmp_path / "pi/opt")
        monkeypatch.setattr(module, "PLACE", tmp_path / "pi/place")
    monkeypatch.setattr(request, "_STICKS", (tmp_path / "media",))
    monkeypatch.setattr(giving, "PLACE", tmp_path / "laptop/place")
    monkeypatch.setattr(giving, "version", lambda name: "99.1")
    monkeypatch.setattr(giving, "made_here", lambda: 1000)
    keep(tmp_path)
    return tmp_path


def keep(root: Path, key: str = KEY, **about: Any) -> Path:
    """The laptop has this release."""
    (root / "flowork.whl").write_bytes(bytes(range(251)) * (SIZE // 251))
    here = {"machine": platform.machine(), "python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    plain = {"kind": "wheels", "version": "99.1", "schema": MIGRATIONS[-1].number, "made": 1000, **here}
    file = root / "laptop/place" / LAST
    pack({"flowork.whl": root / "flowork.whl"}, file, key, **{**plain, **about})
    return file


def test_a_paired_engine_gives_its_release_piece_by_piece(
    engines: tuple[LocalKernel, LocalKernel], machines: Path
) -> None:
    file = machines / "laptop/place" / LAST
    of_peer = opener(engines[0].client.call)
    seen = sources.look("peer:laptop", of_peer)
    assert (seen.source, seen.version, seen.newer, seen.why_not) == ("peer:laptop", "99.1", True, "")
    told: list[tuple[int, int]] = []
    request.hand_over(machines / "pi/data", "peer:laptop", lambda done, of: told.append((done, of)), of_peer)
    assert (machines / "pi/data" / INCOMING).read_bytes() == file.read_bytes()
    assert told[-1] == (file.stat().st_size, file.stat().st_size)
    (offer,) = engines[0].client.call("release_offers")
    assert (offer["peer"], offer["version"], offer["size"]) == ("laptop", "99.1", file.stat().st_size)


def test_what_it_gives_is_believed_only_with_a_signature(
    engines: tuple[LocalKernel, LocalKernel], machines: Path
) -> None:
    of_peer = opener(engines[0].client.call)
    (machines / "pi/place/trusted").write_text(signatures.public_of(signatures.new_key()) + "\n")
    with pytest.raises(BadRelease, match="not signed by a key that is trusted here"):
        sources.look("peer:laptop", of_peer)


def test_an_engine_that_has_none_or_runs_another_one_gives_nothing(
    engines: tuple[LocalKernel, LocalKernel], machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = engines[0].client.call
    monkeypatch.setattr(giving, "made_here", lambda: 999)
    with pytest.raises(NodeError, match="no release to give"):
        sources.look("peer:laptop", opener(call))
    monkeypatch.setattr(giving, "made_here", lambda: 1000)
    keep(machines, version="99.2")
    assert call("release_offers") == []
    (machines / "laptop/place" / LAST).unlink()
    assert call("release_offer", peer="laptop") is None
    with pytest.raises(FlowError, match="nobody"):
        sources.look("peer:nobody", opener(call))


def test_one_that_changes_while_it_is_read_or_breaks_off_leaves_nothing(
    engines: tuple[LocalKernel, LocalKernel], machines: Path
) -> None:
    of_peer = opener(engines[0].client.call)
    data = machines / "pi/data"

    stream, size = of_peer("peer:laptop")
    assert size == (machines / "laptop/place" / LAST).stat().st_size
    with stream:
        assert len(stream.read(giving.PIECE)) == giving.PIECE
        keep(machines)  # another file, if of the same bytes
        with pytest.raises(FlowError, match="another release now"):
            stream.read()
    (machines / "laptop/place" / LAST).unlink()
    with pytest.raises(FlowError):
        request.hand_over(data, "peer:laptop", of_peer=of_peer)
    assert list((data / "update").iterdir()) == []


def test_a_peer_that_lies_is_not_believed(machines: Path) -> None:
    def lies(method: str, **params: Any) -> Any:
        if method == "release_offer":
            return {"id": "x", "size": 100, "version": "1", "made": 1}
        return b"x" * (giving.PIECE + 1)

    with pytest.raises(NodeError, match="cannot be read"):
        sources.look("peer:liar", opener(lies))
    endless = {"release_offer": {"id": "x", "size": 10, "version": "1", "made": 1}, "release_piece": b"x" * 1000}
    with pytest.raises(NodeError, match="more comes than"):
        request.hand_over(machines / "pi/data", "peer:liar", of_peer=opener(lambda method, **params: endless[method]))
    assert list((machines / "pi/data/update").iterdir()) == []
