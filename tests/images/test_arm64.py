"""The arm64 image: its partitions, boot files and units, and a start in QEMU's own ARM machine.

Runs only when FLOWORK_TEST_IMAGE_ARM64 names an image, its .slot beside it: scripts/test-image NAME-arm64.img. A
Raspberry Pi's own firmware, U-Boot and drivers are not tried: QEMU's machine starts the same GRUB by another UEFI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.images.machine import ARM_UEFI, BOOT_AT, machine

IMAGE = Path(os.environ.get("FLOWORK_TEST_IMAGE_ARM64", ""))

pytestmark = [
    pytest.mark.skipif(not IMAGE.is_file(), reason="FLOWORK_TEST_IMAGE_ARM64 names no image"),
    pytest.mark.timeout(3600),
]


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def test_the_partitions_are_what_a_pi_reads() -> None:
    table = json.loads(output("/usr/sbin/sfdisk", "--json", str(IMAGE)))["partitiontable"]
    assert table["label"] == "dos"
    assert [part["type"] for part in table["partitions"]] == ["c", "83", "83", "83"]
    assert table["partitions"][0]["start"] == BOOT_AT * 2048


def test_the_boot_partition_has_what_the_firmware_looks_for() -> None:
    listed = output("mdir", "-i", f"{IMAGE}@@{BOOT_AT << 20}", "-/", "-b", "::").replace("::/", "").splitlines()
    wanted = ["bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat", "config.txt", "u-boot.bin"]
    wanted += [f"bcm2837-rpi-{name}.dtb" for name in ("3-b", "3-b-plus", "zero-2-w")]
    wanted += ["bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "EFI/BOOT/BOOTAA64.EFI", "flowork.toml"]
    wanted += [f"flowork/{name}" for name in ("grub.cfg", "slots.env", "a/vmlinuz", "a/initrd.img", "a/image")]
    assert [name for name in wanted if name not in listed] == []


def test_the_system_has_its_units_and_drivers() -> None:
    listed = output("unsquashfs", "-ls", str(IMAGE.with_suffix(".slot")))
    for path in (
        "etc/systemd/system/multi-user.target.wants/flowork.target",
        "etc/systemd/system/multi-user.target.wants/flowork-onboard.service",
        "etc/systemd/system/sysinit.target.wants/flowork-slot-watch.service",
        "opt/flowork/current",
        "usr/lib/firmware/brcm/brcmfmac43430-sdio.bin",
    ):
        assert f"squashfs-root/{path}\n" in listed or f"squashfs-root/{path} " in listed, path
    assert "sdhci-iproc.ko" in listed
    # Nothing of the machine that it was made on has stayed in it (images/make/native).
    assert "x86_64-linux-gnu" not in listed
    assert ".own\n" not in listed


@pytest.mark.skipif(not shutil.which("qemu-system-aarch64") or not ARM_UEFI.exists(), reason="no QEMU for ARM")
def test_it_starts(tmp_path: Path) -> None:
    with machine(IMAGE, tmp_path, arm=True) as box:
        box.boot()
        assert box.run("uname -m") == "aarch64"
        assert box.run("systemctl --failed --no-legend") == ""
        assert box.slots()["running"] == "a"
        assert box.http("GET", "/api/v1/session")["roles"] == {"*": "owner"}
