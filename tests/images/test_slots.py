"""The rules of the two slots, and that GRUB itself understands the file by which it is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.box import slots
from appliance.box.slots import BLOCK, TRIES, Choice, SlotError

NAMES = st.sampled_from(["a", "b"])


def loader(choice: Choice) -> tuple[str, Choice]:
    """What grub.cfg does at a boot: the slot that it starts, and what the file says then."""
    if choice.trying and choice.left:
        return choice.trying, Choice(choice.good, choice.trying, choice.left - 1)
    return choice.good, choice


@given(NAMES, st.none() | NAMES, st.integers(0, TRIES))
def test_what_is_written_is_read_again(good: slots.Name, trying: slots.Name | None, left: int) -> None:
    choice = Choice(good, trying, left if trying else 0)
    block = slots.write(choice)
    assert len(block) == BLOCK
    assert slots.read(block) == choice


@given(st.binary(max_size=2 * BLOCK))
def test_a_damaged_file_is_slot_a(block: bytes) -> None:
    if not block.startswith(b"# GRUB Environment Block\n"):
        assert slots.read(block) == Choice()


def test_three_failed_boots_and_the_old_slot_is_back() -> None:
    choice = slots.begin_trial(Choice("a"), "a", trial=False)
    started = []
    for _ in range(5):
        slot, choice = loader(choice)
        started.append(slot)
    assert started == ["b", "b", "b", "a", "a"]
    assert choice.failed == "b"


def test_a_good_slot_stays() -> None:
    slot, choice = loader(slots.begin_trial(Choice("a"), "a", trial=False))
    choice = slots.accept(choice, slots.slot_name(slot))
    assert [loader(choice)[0], choice.failed] == ["b", None]


def test_back_from_a_slot_that_was_called_good() -> None:
    choice = slots.go_back(Choice("b"), "b", trial=False, other_whole=True)
    assert loader(choice)[0] == "a"
    with pytest.raises(SlotError, match="no whole system"):
        slots.go_back(Choice("b"), "b", trial=False, other_whole=False)


def test_back_during_a_trial_needs_nothing_written() -> None:
    _, choice = loader(slots.begin_trial(Choice("a"), "a", trial=False))
    assert slots.go_back(choice, "b", trial=True, other_whole=False) == Choice("a")


def test_back_before_the_reboot_gives_the_trial_up() -> None:
    choice = slots.begin_trial(Choice("a"), "a", trial=False)
    assert slots.go_back(choice, "a", trial=False, other_whole=True) == Choice("a")


def test_what_the_box_falls_back_on_is_not_written() -> None:
    assert slots.writable("a", trial=False) == "b"
    with pytest.raises(SlotError, match="falls back on"):
        slots.writable("b", trial=True)
    with pytest.raises(SlotError, match="being tried"):
        slots.begin_trial(Choice("a", "b", 2), "b", trial=True)


@pytest.mark.skipif(shutil.which("grub-editenv") is None, reason="GRUB is not installed")
def test_grub_reads_what_is_written_and_the_other_way_round(tmp_path: Path) -> None:
    path = tmp_path / "slots.env"
    path.write_bytes(slots.write(Choice("a", "b", 3)))
    listed = subprocess.run(["grub-editenv", str(path), "list"], capture_output=True, text=True, check=True, timeout=20)
    assert listed.stdout.split() == ["slot=a", "try=b", "left=3"]
    subprocess.run(["grub-editenv", str(path), "set", "left=2"], check=True, timeout=20)
    assert slots.read(path.read_bytes()) == Choice("a", "b", 2)


@pytest.mark.parametrize("value", ["two\nlines", "back\\slash", "x" * BLOCK])
def test_what_does_not_fit_is_refused(value: str) -> None:
    with pytest.raises(SlotError):
        slots.encode({"slot": value})
