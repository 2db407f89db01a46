"""How many kept beginnings of prompts lie on the disk, and that they leave it to others when it gets full."""

from __future__ import annotations

import itertools
from pathlib import Path

from appliance.ai.host.llama.states import States

KEY = "0123456789abcdef"
ROOM = 200_000_000


class Disk:
    """A folder on a disk of ``size`` bytes beside those that always stay free."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        ticks = itertools.count(1_000.0)
        self.states = States(folder, KEY, bound=1 << 20, age=1e6, clock=lambda: next(ticks), free=self._free)

    def _free(self, folder: Path) -> int:
        return ROOM + self.size - sum(file.stat().st_size for file in folder.iterdir())

    def save(self, number: int, size: int = 1000) -> bool:
        return self.states.save([number], "", bytearray(size))

    def kept(self) -> list[int]:
        return [number for number in range(9) if self.states.has([number])]


def test_on_a_disk_that_is_nearly_full_the_least_used_ones_go(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "state", 3_500)
    assert all(disk.save(number) for number in range(5))
    assert disk.kept() == [2, 3, 4]
    disk.size = 2_400
    assert disk.save(5)
    assert disk.kept() == [4, 5]


def test_on_a_full_disk_nothing_is_kept_and_what_was_goes(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "state", 3_500)
    assert disk.save(0)
    disk.size = 500
    assert not disk.save(1)
    assert disk.kept() == []
    assert list(disk.folder.iterdir()) == []
