"""An update's whole way, with a machine that does what the test says: done, refused, taken back, cut off anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.box import slots
from appliance.box.place import Box
from appliance.box.slots import Choice
from appliance.contracts import FlowError
from appliance.security import signatures
from appliance.update import main
from appliance.update.release import pack
from appliance.update.updater import LAST, LIMIT, STEADY, Updater, UpdateState, why_no_way_back

KEY = signatures.new_key()


class PowerCut(BaseException):
    """The machine is off in this moment."""


class Machine:
    """Implements the updater's ``Machine``; notes what was done, fails or dies where it is told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: set[str] = set()
        self.dies_at = ""
        self.health: Callable[[], bool] = lambda: True

    def _do(self, word: str) -> None:
        self.done.append(word)
        if word == self.dies_at:
            self.dies_at = ""
            raise PowerCut
        if word in self.fails:
            raise FlowError(f"{word} failed")

    def prepare(self, wheels: Path, release: Path) -> None:
        assert (wheels / "flowork.whl").read_bytes() == b"new"
        release.mkdir(parents=True)
        self._do("prepare")

    def rehearse(self, release: Path) -> None:
        assert (release / "complete").exists()
        self._do("rehearse")

    def restart(self) -> None:
        self._do("restart")

    def stop(self) -> None:
        self._do("stop")

    def step_back(self, release: Path) -> None:
        self._do("step_back")

    def well(self) -> bool:
        return self.health()


class Bench:
    """A machine with a release in use, an updater, and a new release file."""

    def __init__(self, root: Path) -> None:
        self.opt, self.place = root / "opt", root / "place"
        self.old = self.opt / "releases/old"
        self.old.mkdir(parents=True)
        (self.opt / "current").symlink_to(self.old)
        self.place.mkdir()
        (self.place / "trusted").write_text(f"# keys\n{signatures.public_of(KEY)} the maker\n")
        (root / "flowork.whl").write_bytes(b"new")
        self.file = root / "r.flowork"
        self.source = {"flowork.whl": root / "flowork.whl"}
        self.pack()
        self.machine = Machine()
        self.seconds = 0.0

    def pack(self, **about: Any) -> None:
        plain = {"kind": "wheels", "version": "2", "machine": "x86_64", "python": "3.11", "schema": 5, "made": 7}
        pack(self.source, self.file, KEY, **{**plain, **about})

    @property
    def updater(self) -> Updater:
        """A new one each time, as after a start of the machine."""

        def sleep(seconds: float) -> None:
            self.seconds += seconds

        return Updater(
            self.opt,
            self.place,
            self.machine,
            about=("x86_64", "3.11"),
            newest_schema=5,
            now=lambda: 1e9,
            clock=lambda: self.seconds,
            sleep=sleep,
        )

    @property
    def current(self) -> str:
        return (self.opt / "current").readlink().name

    def releases(self) -> list[str]:
        return sorted(path.name for path in (self.opt / "releases").iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_good_release_stays(bench: Bench) -> None:
    state = bench.updater.apply(bench.file)
    assert (state.phase, state.version, bench.current) == ("done", "2", "2-7")
    assert bench.machine.done == ["prepare", "rehearse", "stop", "restart"]
    assert bench.seconds >= STEADY
    assert bench.releases() == ["2-7", "old"], "the one before stays, for who wants it back"
    assert bench.updater.state == state


def test_one_may_return_to_the_version_before_and_once_only(bench: Bench) -> None:
    (bench.old / "complete").touch()
    with pytest.raises(FlowError, match="no version before"):
        bench.updater.go_back()
    bench.updater.apply(bench.file)
    bench.machine.done.clear()
    state = bench.updater.go_back()
    assert (state.phase, bench.current, bench.releases()) == ("rolled-back", "old", ["old"])
    assert bench.machine.done == ["stop", "step_back", "restart"]
    with pytest.raises(FlowError, match="no version before"):
        bench.updater.go_back()


def test_there_is_no_way_back_over_a_change_of_the_databases_form(bench: Bench) -> None:
    (bench.old / "complete").touch()
    bench.pack(schema=6)
    bench.updater.apply(bench.file)
    with pytest.raises(FlowError, match="another form"):
        bench.updater.go_back()
    assert bench.current == "2-7"


def test_the_file_of_the_newest_release_that_did_well_is_kept_for_other_engines(bench: Bench) -> None:
    bench.updater.apply(bench.file)
    first = bench.file.read_bytes()
    kept = bench.place / LAST
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (first, 0o644)
    bench.pack(version="3")
    bench.machine.fails = {"rehearse"}
    assert bench.updater.apply(bench.file).phase == "refused"
    bench.machine.fails, bench.machine.health = set(), lambda: False
    assert bench.updater.apply(bench.file).phase == "rolled-back"
    assert kept.read_bytes() == first, "one that did not do well is nothing to give on"
    bench.machine.health = lambda: True
    assert bench.updater.apply(bench.file).phase == "done"
    assert kept.read_bytes() == bench.file.read_bytes()
    assert sorted(path.name for path in bench.place.iterdir()) == [LAST, "state.json", "trusted"]


def test_only_one_version_before_is_kept(bench: Bench) -> None:
    bench.updater.apply(bench.file)
    bench.pack(version="3")
    bench.updater.apply(bench.file)
    assert bench.releases() == ["2-7", "3-7"]


def test_a_cut_on_a_way_back_that_somebody_has_asked_for_goes_on_with_it(bench: Bench) -> None:
    (bench.old / "complete").touch()
    bench.updater.apply(bench.file)
    bench.machine.dies_at = "stop"
    with pytest.raises(PowerCut):
        bench.updater.go_back()
    assert bench.updater.resume().phase == "rolled-back"
    assert bench.current == "old"


@pytest.mark.parametrize("fails", ["prepare", "rehearse"])
def test_a_release_that_does_not_fit_is_refused_while_the_old_one_goes_on(bench: Bench, fails: str) -> None:
    bench.machine.fails = {fails}
    state = bench.updater.apply(bench.file)
    assert (state.phase, state.reason) == ("refused", f"{fails} failed")
    assert "stop" not in bench.machine.done
    assert (bench.current, bench.releases()) == ("old", ["old"])


def test_a_release_that_does_not_start_is_taken_back(bench: Bench) -> None:
    starts: list[int] = []

    def restart() -> None:
        starts.append(1)
        if len(starts) == 1:
            raise FlowError("no")

    bench.machine.restart = restart  # type: ignore[method-assign]
    state = bench.updater.apply(bench.file)
    assert (state.phase, state.reason) == ("rolled-back", "it does not start: no")
    assert len(starts) == 2 and "step_back" in bench.machine.done
    assert (bench.current, bench.releases()) == ("old", ["old"])


def test_a_release_that_is_not_well_is_taken_back(bench: Bench) -> None:
    bench.machine.health = lambda: False
    state = bench.updater.apply(bench.file)
    assert state.phase == "rolled-back" and f"{LIMIT:g} seconds" in state.reason
    assert bench.current == "old" and bench.machine.done[-3:] == ["stop", "step_back", "restart"]


def test_all_must_stay_well_for_minutes_without_a_break(bench: Bench) -> None:
    bench.machine.health = lambda: bench.seconds % 200 > 20
    assert bench.updater.apply(bench.file).phase == "rolled-back"
    bench.seconds = 0
    bench.machine.health = lambda: bench.seconds > 400
    assert bench.updater.apply(bench.file).phase == "done"
    assert bench.seconds >= 400 + STEADY


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"machine": "aarch64"}, "this release is for aarch64"),
        ({"python": "3.13"}, "this is x86_64 with Python 3.11"),
        ({"schema": 4}, "older and cannot read this engine's database"),
        ({"kind": "slot"}, "a whole system"),
    ],
)
def test_a_release_for_another_machine_or_an_older_one_is_refused(
    bench: Bench, about: dict[str, Any], reason: str
) -> None:
    bench.pack(**about)
    state = bench.updater.apply(bench.file)
    assert state.phase == "refused" and reason in state.reason
    assert bench.machine.done == [] and bench.current == "old"


def test_a_file_that_is_no_release_a_link_and_a_pipe_are_refused(bench: Bench, tmp_path: Path) -> None:
    import os

    (tmp_path / "link").symlink_to(bench.file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("hello")
    for name in ("link", "pipe", "text", "missing"):
        assert bench.updater.apply(tmp_path / name).phase == "refused"
    assert bench.machine.done == []


@pytest.mark.parametrize("where", ["prepare", "rehearse"])
def test_a_cut_before_the_switch_leaves_the_old_one(bench: Bench, where: str) -> None:
    bench.machine.dies_at = where
    with pytest.raises(PowerCut):
        bench.updater.apply(bench.file)
    state = bench.updater.resume()
    assert (state.phase, state.reason) == ("refused", "the machine was switched off")
    assert (bench.current, bench.releases()) == ("old", ["old"])
    assert bench.updater.apply(bench.file).phase == "done"


@pytest.mark.parametrize("where", ["stop", "restart"])
def test_a_cut_in_the_switch_goes_on_with_it(bench: Bench, where: str) -> None:
    bench.machine.dies_at = where
    with pytest.raises(PowerCut):
        bench.updater.apply(bench.file)
    assert bench.updater.resume().phase == "done"
    assert bench.current == "2-7"


def test_it_says_since_when_all_is_well(bench: Bench) -> None:
    seen: list[tuple[str, float]] = []

    def health() -> bool:
        now = bench.updater.state.phase, bench.updater.state.well_since
        if now not in seen[-1:]:
            seen.append(now)
        return not 100 < bench.seconds < 120

    bench.machine.health = health
    done = bench.updater.apply(bench.file)
    assert seen == [("watching", since) for since in (0.0, 1e9, 0.0, 1e9)]
    assert (done.phase, done.well_since) == ("done", 0.0)


def test_a_cut_while_it_is_watched_begins_the_minutes_anew(bench: Bench) -> None:
    cut: list[float] = []

    def health() -> bool:
        if bench.seconds > STEADY / 2 and not cut:
            cut.append(bench.seconds)
            raise PowerCut
        return True

    bench.machine.health = health
    with pytest.raises(PowerCut):
        bench.updater.apply(bench.file)
    assert bench.updater.state.phase == "watching"
    assert bench.updater.resume().phase == "done"
    assert bench.seconds >= cut[0] + STEADY


def test_a_cut_on_the_way_back_goes_on_with_it(bench: Bench) -> None:
    bench.machine.health = lambda: False
    bench.machine.dies_at = "step_back"
    with pytest.raises(PowerCut):
        bench.updater.apply(bench.file)
    assert bench.updater.state.phase == "returning"
    state = bench.updater.resume()
    assert state.phase == "rolled-back" and "was not well" in state.reason
    assert (bench.current, bench.releases()) == ("old", ["old"])


def test_what_is_at_rest_is_left_alone(bench: Bench) -> None:
    assert bench.updater.resume() == UpdateState()
    done = bench.updater.apply(bench.file)
    bench.machine.done.clear()
    assert bench.updater.resume() == done and bench.machine.done == []
    assert bench.updater.apply(bench.file).reason.startswith("version 2 is what runs already")


def test_a_release_that_nobody_trusts_is_refused_in_the_state_that_everybody_reads(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.place / "trusted").unlink()
    monkeypatch.setattr(main, "OPT", bench.opt)
    monkeypatch.setattr(main, "PLACE", bench.place)
    monkeypatch.setattr(main, "make_updater", lambda: bench.updater)
    assert main._bring(bench.file) == 1
    assert bench.updater.state.phase == "refused" and "no key is trusted" in bench.updater.state.reason
    assert main._trust([signatures.public_of(KEY), "the", "maker"]) == 0
    assert main._bring(bench.file) == 0 and bench.current == "2-7"
    with pytest.raises(ValueError, match="not a key"):
        main._trust(["bm9uZQ=="])


# --- whole systems -------------------------------------------------------------------------------------------


def never(slot: Path) -> str:
    raise AssertionError(f"{slot} was written")


def test_a_whole_system_is_written_and_tried_later(bench: Bench) -> None:
    bench.pack(kind="slot")
    seen: list[bytes] = []

    def write(slot: Path) -> str:
        seen.append(slot.read_bytes())
        return "b"

    state = bench.updater.bring_system(bench.file, write)
    assert state is not None
    assert state.release == "b"
    assert (state.phase, state.version, seen) == ("written", "2", [b"new"])
    assert bench.updater.state == state
    assert not (bench.place / "slot").exists()
    assert (bench.place / LAST).read_bytes() == bench.file.read_bytes()
    assert bench.updater.apply(bench.file).phase == "refused", "the program alone is another kind"


@pytest.mark.parametrize(
    ("about", "reason"), [({"machine": "aarch64"}, "for aarch64; this is x86_64"), ({"schema": 4}, "cannot read this")]
)
def test_a_whole_system_for_another_machine_or_an_older_one_is_refused(
    bench: Bench, about: dict[str, Any], reason: str
) -> None:
    bench.pack(**{"kind": "slot", "python": "3.13", **about})
    state = bench.updater.bring_system(bench.file, never)
    assert state is not None
    assert state.phase == "refused"
    assert reason in state.reason


def test_a_slot_that_cannot_be_written_is_told(bench: Bench) -> None:
    bench.pack(kind="slot")

    def write(slot: Path) -> str:
        raise FlowError("the card is failing")

    state = bench.updater.bring_system(bench.file, write)
    assert state is not None
    assert (state.phase, state.reason) == ("refused", "the card is failing")


def test_what_is_no_whole_system_or_not_signed_is_left_to_the_other_way(bench: Bench) -> None:
    assert bench.updater.bring_system(bench.file, never) is None
    bench.file.write_bytes(b"no release")
    assert bench.updater.bring_system(bench.file, never) is None
    assert bench.updater.state == UpdateState()


def test_a_flashed_box_says_why_it_takes_a_release_not(bench: Bench) -> None:
    state = bench.updater.bring_system(bench.file, never, alone=True)
    assert state is not None
    assert state.phase == "refused"
    assert "no release of a whole system" in state.reason
    bench.pack(kind="slot")
    (bench.place / "trusted").unlink()
    state = bench.updater.bring_system(bench.file, never, alone=True)
    assert state is not None
    assert state.phase == "refused"
    assert "trust" in state.reason


@pytest.mark.parametrize(
    ("started", "choice", "phase", "reason"),
    [
        ("a", Choice("a", "b", 3), "written", "tried at the next start"),
        ("b trial", Choice("a", "b", 2), "written", "stays once all has been well"),
        ("b trial", Choice("b"), "done", ""),
        ("b", Choice("b"), "done", ""),
        ("a", Choice("a", "b", 0), "rolled-back", "three starts"),
        ("a", Choice("a"), "rolled-back", "somebody went back"),
    ],
)
def test_how_a_written_system_has_done_is_told(
    bench: Bench, tmp_path: Path, started: str, choice: Choice, phase: str, reason: str
) -> None:
    bench.pack(kind="slot")
    bench.updater.bring_system(bench.file, lambda slot: "b")
    box = Box(tmp_path / "box")
    for folder in (box.root / "proc", box.boot / "flowork"):
        folder.mkdir(parents=True)
    slot, _, trial = started.partition(" ")
    (box.root / "proc/cmdline").write_text(f"quiet flowork.slot={slot}{' flowork.trial=1' if trial else ''}")
    (box.boot / "flowork/slots.env").write_bytes(slots.write(choice))
    state = bench.updater.settle_system(box)
    assert state.phase == phase
    assert reason in state.reason
    assert bench.updater.state == bench.updater.settle_system(box) == state
    assert (phase != "done") or "flowork-slot back" in why_no_way_back(state)


def test_a_slots_release_is_for_the_machine_that_its_name_says(tmp_path: Path) -> None:
    from appliance.update import making

    (tmp_path / "key").write_text(KEY)
    (tmp_path / "flowork-1-arm64.slot").write_bytes(b"system")
    words = ["slot", str(tmp_path / "flowork-1-arm64.slot"), "--key", str(tmp_path / "key"), "--out", str(tmp_path)]
    assert making.main(words) == 0
    (file,) = tmp_path.glob("*.flowork")
    assert file.name.endswith("-aarch64-slot.flowork")
