"""Which hardware this is, without telling anybody a serial number: to tell a copied data folder from one that stays.

One mark alone would be wrong too often: a dock brings another network card, a system without rights does not see the
board's serial number, some radios change their address. So all that can be seen are told, and two sets that have one
mark in common are one machine. A disk that was put into another machine goes on as the same engine: it is no copy.

How marks are made is a *scheme*, with a number that stands before each of them (``2:…``; the first one has none). A
release that makes them otherwise takes the next number, so that what older engines remember, or send, is not compared
with it: engines that know no scheme in common cannot tell. It may go on sending those of the old scheme beside its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

#: Marks that are told, and hex digits of each.
_MOST, _DIGITS = 8, 10
#: Disks that are none.
_NO_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "nbd")


def marks(system: Path = Path("/sys")) -> str:
    """Short digests of what stays with this hardware, with commas; empty where nothing can be seen."""
    found = {hashlib.sha256(f"flowork hardware {each}".encode()).hexdigest()[:_DIGITS] for each in _seen(system)}
    return ",".join(sorted(found)[:_MOST])


def is_same(one: str, other: str) -> bool:
    """Whether two sets of marks may be of one machine: where nothing is known on both sides, they may."""
    mine, theirs = _by_scheme(one), _by_scheme(other)
    known = mine.keys() & theirs.keys()
    return not known or any(mine[scheme] & theirs[scheme] for scheme in known)


def _by_scheme(told: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in filter(None, told.split(",")):
        scheme, _, mark = each.rpartition(":")
        found.setdefault(scheme, set()).add(mark)
    return found


def _seen(system: Path) -> Iterator[str]:
    for place in ("firmware/devicetree/base/serial-number", "class/dmi/id/product_uuid"):
        if (text := _read(system / place)).strip("0-"):
            yield text
    for card in (system / "class/net").glob("*"):
        address = _read(card / "address")
        # RFC 7042, 2.1: an address of which the second bit is set was made up, and may be another tomorrow.
        if (card / "device").exists() and len(address) == 17 and not int(address[:2], 16) & 2:
            yield address
    for disk in (system / "block").glob("*"):
        if not disk.name.startswith(_NO_DISKS):
            names = ("wwid", "device/wwid", "device/cid", "device/serial", "serial")
            yield from [text for name in names if (text := _read(disk / name))][:1]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip(" \0\n")
    except OSError:
        return ""
