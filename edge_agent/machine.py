"""What an agent says of its machine, and how to see that one works on a folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

LOCK = "lock"


def is_running(folder: Path) -> bool:
    """Whether an agent works on a folder at this moment."""
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def machine_id() -> str:
    """What stays with the hardware when its SD card goes elsewhere: a serial number, or a network card's address."""
    for place in ("/sys/firmware/devicetree/base/serial-number", "/sys/class/dmi/id/product_uuid"):
        try:
            text = Path(place).read_text().strip(" \0\n")
        except OSError:
            continue
        if text.strip("0-"):
            return f"serial:{text}"
    cards = []
    for card in sorted(Path("/sys/class/net").glob("*")):
        try:
            if (card / "device").exists():
                cards.append((card / "address").read_text().strip())
        except OSError:
            continue
    return f"mac:{cards[0]}" if cards else ""
