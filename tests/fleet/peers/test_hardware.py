"""Telling one machine from another by what can be seen of it."""

from __future__ import annotations

from pathlib import Path

from appliance.fleet.peers.hardware import is_same, marks


def put(system: Path, **files: str) -> str:
    for name, text in files.items():
        path = system / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return marks(system)


def card(system: Path, name: str, address: str) -> str:
    (system / "class/net" / name / "device").mkdir(parents=True)
    return put(system, **{f"class__net__{name}__address": address})


def test_a_dock_or_a_missing_right_makes_no_other_machine(tmp_path: Path) -> None:
    alone = card(tmp_path, "wlan0", "a0:36:9f:00:00:01")
    docked = card(tmp_path, "enx00", "00:e0:4c:00:00:02")
    as_root = put(tmp_path, class__dmi__id__product_uuid="4c4c4544-0043")
    assert alone != docked != as_root
    assert is_same(alone, docked)
    assert is_same(docked, as_root)


def test_another_machine_is_another_one_and_a_moved_disk_goes_on(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    card(one, "eth0", "dc:a6:32:00:00:01")
    first = put(one, block__mmcblk0__device__cid="1b534d4544", firmware__devicetree__base__serial_number="x")
    second = card(other, "eth0", "dc:a6:32:00:00:02")
    assert not is_same(first, second)
    assert is_same(first, put(other, block__mmcblk0__device__cid="1b534d4544"))


def test_what_says_nothing_is_not_counted_and_no_number_is_told(tmp_path: Path) -> None:
    """Made-up addresses, loop devices, a serial number of zeros."""
    assert card(tmp_path, "wlan0", "02:36:9f:00:00:01") == ""
    assert put(tmp_path, block__loop0__serial="7", class__dmi__id__product_uuid="0000-0000") == ""
    (tmp_path / "class/net/veth0").mkdir()
    told = put(tmp_path, block__sda__device__wwid="naa.5000c500a1b2c3d4")
    assert "5000c500" not in told
    assert len(told) == 10
    assert is_same("", told)
    assert marks() == marks()


def test_a_release_that_marks_hardware_otherwise_does_not_end_pairings(tmp_path: Path) -> None:
    """What older engines remember is of the first scheme; one that sends both still shows whether it is a copy."""
    before = card(tmp_path, "eth0", "a0:36:9f:00:00:01")
    other = card(tmp_path / "other", "eth0", "a0:36:9f:00:00:02")
    assert is_same(before, "2:0123456789")
    assert is_same("2:0123456789", f"2:0123456789,3:{before}")
    assert is_same(f"{before},2:0123456789", before)
    assert not is_same(f"{other},2:0123456789", before)
    assert not is_same("2:0123456789", "2:9876543210")
    assert not is_same(f"{before},2:1", f"{other},2:2")
