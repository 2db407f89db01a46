"""The two system slots of a box, and what the boot loader is told about them: rules only, no disk.

It imports nothing but Python's own library: scripts/image runs it on machines where nothing of ours is installed.

The boot loader and Linux share one small file, an environment block of GRUB: 1024 bytes, a first line that names it,
``name=value`` lines, filled up with ``#`` (GRUB manual, "Environment block"). Its three names:

* ``slot``: the slot that is known to be good, and starts when nothing is tried;
* ``try``: the slot that is to be tried, or nothing;
* ``left``: how often it may still be tried. The loader lowers it before it begins a try; at 0 it starts the good slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["a", "b"]

#: How often a new slot may fail before the old one is back for good.
TRIES = 3
BLOCK = 1024
_HEAD = b"# GRUB Environment Block\n"


class SlotError(Exception):
    """The slots cannot be changed like this, or the file is not one; the text says why."""


@dataclass(frozen=True)
class Choice:
    """What the boot loader has been told: ``trying`` with ``left`` tries, else ``good``."""

    good: Name = "a"
    trying: Name | None = None
    left: int = 0

    @property
    def failed(self) -> Name | None:
        """The slot that has used up its tries, so that the good one is back."""
        return self.trying if self.trying and self.left == 0 else None

    @property
    def next(self) -> Name:
        """The slot that the next boot starts."""
        return self.trying if self.trying and self.left else self.good


def other(name: Name) -> Name:
    """The other one."""
    return "b" if name == "a" else "a"


def slot_name(text: str) -> Name:
    """A slot's name. Raises ``SlotError``."""
    if text == "a":
        return "a"
    if text == "b":
        return "b"
    raise SlotError(f"there is no slot {text!r}, only a and b")


def encode(values: dict[str, str]) -> bytes:
    """An environment block. Raises ``SlotError`` if the values do not fit or hold what a line cannot."""
    for name, value in values.items():
        if "\n" in value or "\\" in value or "=" in name:
            raise SlotError(f"{name}={value!r} cannot be told to the boot loader")
    block = _HEAD + "".join(f"{name}={value}\n" for name, value in values.items()).encode()
    if len(block) > BLOCK:
        raise SlotError("too much for the boot loader's file")
    return block.ljust(BLOCK, b"#")


def decode(block: bytes) -> dict[str, str]:
    """The values of an environment block. Raises ``SlotError`` if it is none."""
    if len(block) != BLOCK or not block.startswith(_HEAD):
        raise SlotError("the boot loader's file is damaged: it is no environment block")
    lines = block[len(_HEAD) :].rstrip(b"#").decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def read(block: bytes) -> Choice:
    """What the loader has been told. A damaged block counts as slot A, as it does for the loader."""
    try:
        values = decode(block)
    except SlotError:
        return Choice()
    good: Name = "b" if values.get("slot") == "b" else "a"
    wanted, left = values.get("try", ""), values.get("left", "")
    if wanted not in ("a", "b"):
        return Choice(good)
    return Choice(good, slot_name(wanted), int(left) if left in ("1", "2", "3") else 0)


def write(choice: Choice) -> bytes:
    """The block that says ``choice``."""
    return encode({"slot": choice.good, "try": choice.trying or "", "left": str(choice.left) if choice.trying else ""})


def begin_trial(choice: Choice, running: Name, trial: bool) -> Choice:
    """The other slot is to be tried, three times at most. Raises ``SlotError`` while one is being tried."""
    if trial:
        raise SlotError(f"slot {running} is being tried itself; `flowork-slot good` or `back` first")
    return Choice(running, other(running), TRIES)


def writable(running: Name, trial: bool) -> Name:
    """The slot that may be written. Raises ``SlotError`` where it is the one to fall back on."""
    if trial:
        raise SlotError(
            f"slot {running} is being tried, and {other(running)} is what the box falls back on; "
            "`flowork-slot good` or `back` first"
        )
    return other(running)


def accept(choice: Choice, running: Name) -> Choice:
    """The running slot is good from now on."""
    return Choice(running)


def go_back(choice: Choice, running: Name, trial: bool, other_whole: bool) -> Choice:
    """The next boot is from the other slot: the good one while another is tried, else the one from before.

    Raises ``SlotError`` if the other slot holds no whole system.
    """
    if trial or choice.next != running:
        # What is tried, or is about to be, is given up.
        return Choice(choice.good)
    if not other_whole:
        raise SlotError(f"slot {other(running)} holds no whole system to go back to")
    return Choice(other(running))
