"""What the machine suffers from, told by files as a board has them, and what the findings make of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.findings import of_strain
from appliance.strain import Strain, look, view


@pytest.fixture
def board(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    write(root, "proc/meminfo", "MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n")
    write(
        root,
        "proc/pressure/memory",
        "some avg10=0.00 avg60=31.50 avg300=0.00 total=5\nfull avg10=0.00 avg60=4.00 avg300=0.00 total=3\n",
    )
    write(root, "sys/class/thermal/thermal_zone0/temp", "51200\n")
    write(root, "sys/class/thermal/thermal_zone1/temp", "82100\n")
    write(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    number = tmp_path.stat().st_dev
    write(root, f"sys/dev/block/{os.major(number)}:{os.minor(number)}/device/life_time", "0x0b 0x02\n")
    return root


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_board_in_trouble(board: Path, tmp_path: Path) -> None:
    strain = look(tmp_path, board)
    assert strain == Strain(
        memory_free=0.5, stalled=0.315, frozen=0.04, temperature=82.1, under_voltage=True, under_voltage_before=True,
        throttled=True, read_only=False, worn=11,
    )  # fmt: skip
    found = {finding.id: finding.level for finding in of_strain(strain)}
    assert found == {"memory": "warning", "temperature": "warning", "power": "critical", "wear": "critical"}


def test_a_board_that_was_in_trouble(board: Path, tmp_path: Path) -> None:
    write(board, "sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
    strain = look(tmp_path, board)
    assert (strain.under_voltage, strain.under_voltage_before, strain.throttled) == (False, True, False)
    assert "since the boot" in next(f.text for f in of_strain(strain) if f.id == "power")


def test_a_newer_kernel_tells_the_voltage_elsewhere(board: Path, tmp_path: Path) -> None:
    (board / "sys/devices/platform/soc/soc:firmware/get_throttled").unlink()
    write(board, "sys/class/hwmon/hwmon1/name", "rpi_volt\n")
    write(board, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
    assert look(tmp_path, board).under_voltage is True


def test_a_file_system_with_errors_and_a_usb_port_that_was_cut(board: Path, tmp_path: Path) -> None:
    number = tmp_path.stat().st_dev
    place = board / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    write(board, "sys/devices/sda/sda2/device/life_time", "0x01 0x01\n")
    (place / "device/life_time").unlink()
    (place / "device").rmdir()
    place.rmdir()
    place.symlink_to(board / "sys/devices/sda/sda2")
    write(board, "sys/fs/ext4/sda2/errors_count", "3\n")
    for hub, port, count in [("1-0:1.0", "usb1-port1", 0), ("1-0:1.0", "usb1-port2", 2), ("2-1:1.0", "2-1-port1", 1)]:
        write(board, f"sys/bus/usb/devices/{hub}/{port}/over_current_count", f"{count}\n")
    strain = look(tmp_path, board)
    assert (strain.disk_errors, strain.usb_cut) == (3, 3)
    found = {finding.id: finding for finding in of_strain(strain)}
    assert (found["disk-errors"].level, found["usb"].level) == ("critical", "warning")
    assert "3 times" in found["usb"].text and "hub" in found["usb"].mend
    write(board, "sys/fs/ext4/sda2/errors_count", "0\n")
    assert "disk-errors" not in {finding.id for finding in of_strain(look(tmp_path, board))}


def test_a_machine_that_tells_nothing_has_no_faults(tmp_path: Path) -> None:
    strain = look(tmp_path, tmp_path / "nothing")
    assert view(strain) == {"read_only": False}
    assert list(of_strain(strain)) == []


def test_everything_at_a_standstill_is_critical() -> None:
    assert [(f.id, f.level) for f in of_strain(Strain(stalled=0.5, frozen=0.2))] == [("memory", "critical")]
    assert [(f.id, f.level) for f in of_strain(Strain(memory_free=0.01))] == [("memory", "warning")]
    assert [(f.id, f.level) for f in of_strain(Strain(read_only=True))] == [("read-only", "critical")]
    assert [f.level for f in of_strain(Strain(temperature=95.0))] == ["critical"]


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    assert 0 < (look(tmp_path).memory_free or 0) < 1
