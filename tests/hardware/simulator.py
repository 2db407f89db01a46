"""A GPIO chip of the kernel's simulator, made and moved through its files (Documentation/admin-guide/gpio/gpio-sim).

Needs a kernel with gpio-sim, configfs mounted, and root: ``scripts/test --gpio`` runs such a kernel.
"""

from __future__ import annotations

from pathlib import Path

CONFIG = Path("/sys/kernel/config/gpio-sim")
DEVICES = Path("/sys/devices/platform")


def present() -> bool:
    return CONFIG.is_dir()


class Chip:
    """A simulated chip; ``names`` are those of its first lines."""

    def __init__(self, name: str, lines: int = 8, names: tuple[str, ...] = (), label: str = "") -> None:
        self._folder = CONFIG / name
        self._bank = self._folder / "bank0"
        self._names = names
        self._bank.mkdir(parents=True)
        (self._bank / "num_lines").write_text(str(lines))
        if label:
            (self._bank / "label").write_text(label)
        for offset, line in enumerate(names):
            (self._bank / f"line{offset}").mkdir()
            (self._bank / f"line{offset}" / "name").write_text(line)
        self.plug()

    def plug(self) -> None:
        (self._folder / "live").write_text("1")
        self.name = (self._bank / "chip_name").read_text().strip()
        self._wires = DEVICES / (self._folder / "dev_name").read_text().strip() / self.name

    def unplug(self) -> None:
        (self._folder / "live").write_text("0")

    def pull(self, offset: int, level: bool) -> None:
        """What the world outside does to a pin."""
        (self._wires / f"sim_gpio{offset}" / "pull").write_text("pull-up" if level else "pull-down")

    def level(self, offset: int) -> int:
        """What a meter at the pin would show."""
        return int((self._wires / f"sim_gpio{offset}" / "value").read_text())

    def remove(self) -> None:
        self.unplug()
        for offset in range(len(self._names)):
            (self._bank / f"line{offset}").rmdir()
        self._bank.rmdir()
        self._folder.rmdir()
