"""Which hardware this is, without telling anybody a serial number: to tell a copied data folder from one that stays.

One mark alone would be wrong too often: a dock brings another network card, a system without rights does not see the
board's serial number, some radios change their address. So all that can be seen are told, and two sets that have one
mark in common are one machine. A disk that was put into another machine goes on as the same engine: it is no copy.
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
    """Whether two sets of marks may be of one machine; of nothing that can be."""
    return not one or not other or bool(set(one.split(",")) & set(other.split(",")))


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
