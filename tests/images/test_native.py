"""Programs of this machine's kind stand in for a system's own, and afterwards nothing of them is left."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "images/make/native"
KIND = "x86_64-linux-gnu"


def elf(machine: int, more: bytes) -> bytes:
    """The head of a program (ELF-64, 4.1): ``e_machine`` is 62 for amd64, 183 for arm64."""
    return b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + machine.to_bytes(2, "little") + more


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def native(*words: str) -> None:
    subprocess.run([str(NATIVE), *words], check=True, timeout=30)


def contents(tree: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(tree)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in tree.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    system, tools = tmp_path / "system", tmp_path / "tools"
    for name in ("bin/sed", "bin/dpkg", "bin/uname", "bin/nano", "sbin/chroot"):
        write(system / "usr" / name, elf(183, name.encode()))
    (system / "usr/bin/sh").symlink_to("sed")
    write(system / "usr/bin/which", b"#!/bin/sh\n")
    write(system / "usr/lib/python3.13/os.py", b"")
    write(system / "usr/lib/python3.13/lib-dynload/_x.cpython-313-aarch64-linux-gnu.so", elf(183, b"x"))
    for name in ("bin/sed", "bin/dpkg", "bin/uname", "bin/which", "bin/sh", "bin/more", "sbin/chroot"):
        write(tools / "usr" / name, elf(62, name.encode()))
    write(tools / "usr/lib64/ld-linux-x86-64.so.2", elf(62, b"loader"))
    write(tools / "usr/lib" / KIND / "libc.so.6", elf(62, b"libc"))
    write(tools / f"usr/lib/python3.13/lib-dynload/_x.cpython-313-{KIND}.so", elf(62, b"x"))
    return system, tools


def test_what_tells_of_the_machine_stays_its_own(trees: tuple[Path, Path]) -> None:
    system, tools = trees
    before = contents(system)
    native("put", str(system), str(tools))
    now = contents(system)
    stood_in = {name for name in before if now[name] != before[name]}
    assert stood_in == {"usr/bin/sed", "usr/sbin/chroot"}
    assert now["usr/bin/sed"] == elf(62, b"bin/sed")
    assert now["usr/bin/sed.own"] == before["usr/bin/sed"]
    assert "usr/bin/more" not in now
    assert now[f"usr/lib/{KIND}/libc.so.6"] == elf(62, b"libc")


def test_afterwards_it_is_as_before(trees: tuple[Path, Path]) -> None:
    system, tools = trees
    before = contents(system)
    native("put", str(system), str(tools))
    # A package that came meanwhile has a twin too; what was put in already stays.
    write(system / "usr/bin/more", elf(183, b"own more"))
    native("put", str(system), str(tools))
    assert contents(system)["usr/bin/more"] == elf(62, b"bin/more")
    write(system / f"usr/lib/python3.13/__pycache__/_sysconfigdata__linux_{KIND}.cpython-313.pyc", b"")
    native("take", str(system))
    assert contents(system) == before | {"usr/bin/more": elf(183, b"own more")}
    assert not (system / "usr/lib64").exists()
    assert not (system / "lib64").is_symlink()
