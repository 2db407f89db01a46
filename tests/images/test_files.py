"""What is laid over Debian in an image: shell, units, lists and the script of GRUB are right and name what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
FILES = IMAGES / "files"
UNITS = sorted((FILES / "usr/local/lib/systemd/system").iterdir())
SHELL = [
    path
    for path in [ROOT / "scripts/image", ROOT / "scripts/test-image", *sorted(IMAGES.rglob("*"))]
    if path.is_file() and path.read_bytes()[:64].startswith((b"#!/bin/sh", b"#!/bin/bash", b"#!/usr/bin/env bash"))
]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_please_shellcheck() -> None:
    assert len(SHELL) >= 7
    done = subprocess.run(
        ["shellcheck", "-x", *map(str, SHELL)], capture_output=True, text=True, timeout=50, check=False, cwd=ROOT
    )
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_are_well_formed(tmp_path: Path) -> None:
    for unit in UNITS:
        # The programs are not on this machine; anything that can be run stands for them.
        text = re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name.replace("@.", "@wlan0.")).write_text(text)
    made = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *made], capture_output=True, text=True, timeout=50, check=False
    )
    said = [line for line in done.stderr.splitlines() if any(Path(path).name in line for path in made)]
    # Units of an image name each other; those of scripts/install are not here.
    assert [line for line in said if "not found" not in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_what_is_there(unit: Path) -> None:
    text = unit.read_text()
    assert text.startswith("# "), "it says what it is for"
    for program in re.findall(r"^Exec\w+=(\S+)", text, re.MULTILINE):
        if program.startswith("/usr/local/"):
            made = FILES / program[1:]
            assert made.stat().st_mode & 0o111, program
    for module in re.findall(r"python3 .*-m (\S+)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


@pytest.mark.parametrize("drop", sorted(FILES.glob("etc/systemd/system/flowork-*.d")), ids=lambda drop: drop.name)
def test_a_drop_in_is_for_a_unit_that_there_is(drop: Path) -> None:
    name = drop.name.removesuffix(".d")
    # The edge agent's unit is made from the agent's while the image is made.
    assert (ROOT / "systemd" / name).exists() or name == "flowork-edge.service"
    assert "ConditionPathExists=" in (drop / "60-image.conf").read_text()


def test_every_unit_of_the_installer_waits_for_the_settings() -> None:
    dropped = {drop.name.removesuffix(".d") for drop in FILES.glob("etc/systemd/system/flowork-*.d")}
    installed = {unit.name for unit in (ROOT / "systemd").iterdir() if unit.suffix in (".service", ".socket")}
    # The model host is started by the first question, the updater by a file that the gateway took in, a look for
    # one where there is a database, a tunnel by a file in /etc, which on a flashed box is not there, another try by a
    # first one that failed.
    later = ("models", "update", "tunnel", "again")
    assert {name for name in installed if not any(part in name for part in later)} <= dropped


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="GRUB is not installed")
def test_grub_can_read_its_script() -> None:
    done = subprocess.run(
        ["grub-script-check", str(IMAGES / "grub/grub.cfg.in")], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", sorted((IMAGES / "packages").iterdir()), ids=lambda path: path.name)
def test_a_list_names_each_package_once(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?", line) for line in lines)


def test_what_is_mounted_lies_on_the_data_partition() -> None:
    lines = [line.split() for line in (FILES / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    by_place = {fields[1]: fields for fields in lines}
    assert by_place["/data"][0] == "LABEL=flowork-data"
    assert "x-systemd.growfs" in by_place["/data"][3]
    assert by_place["/var/lib/flowork"][0] == "/data/flowork"
    assert by_place["/boot/flowork"][3].startswith("ro,")
    for fields in lines:
        assert len(fields) == 6
        if fields[0].startswith(("/", "LABEL")):
            assert "nofail" in fields[3], "a card that is broken must not stop the box from saying so"


def test_the_help_is_the_head_of_the_script() -> None:
    done = subprocess.run(
        [str(ROOT / "scripts/image"), "--help"], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0
    assert "--model" in done.stdout
    assert "set -euo" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sideways"], "unknown option --sideways"),
        (["--arch"], "--arch needs a value"),
        (["--arch", "sparc", "--out", "x"], "--arch takes amd64 or arm64"),
        ([], "say where the image is to go"),
        (["--out", "x", "--suite", "sid"], "--suite takes: trixie"),
        (["--out", "x", "--model", "setup.cfg"], "--model takes a file NAME.gguf"),
    ],
)
def test_what_is_written_wrongly_begins_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "scripts/image"), *arguments], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []
