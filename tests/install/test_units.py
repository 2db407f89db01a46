"""The systemd units: they are well-formed, locked down, and name what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from appliance.cli import Commands

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
#: `systemd-analyze security` rates from 0 (best) to 10; tenths.
THRESHOLD = 25

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_the_units_are_well_formed(tmp_path: Path) -> None:
    for unit in UNITS:
        # The programs are not on this machine; anything that can be run stands for them.
        text = re.sub(r"^(Exec\w+=)/opt/flowork/\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    done = analyze("verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS))
    said = [line for line in done.stderr.splitlines() if "flowork" in line]
    assert (done.returncode, said) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_each_service_is_rated_two_and_a_half_or_better(unit: Path) -> None:
    done = analyze("security", "--offline=true", f"--threshold={THRESHOLD}", "--no-pager", str(unit))
    assert done.returncode == 0, done.stdout[-300:]


def test_a_service_that_is_open_is_found(tmp_path: Path) -> None:
    (tmp_path / "open.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = analyze(
        "security", "--offline=true", f"--threshold={THRESHOLD}", "--no-pager", str(tmp_path / "open.service")
    )
    assert done.returncode != 0


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_names_is_there(unit: Path) -> None:
    text = unit.read_text()
    names = {
        name
        for line in re.findall(r"^(?:Wants|Requires|PartOf|OnFailure)=(.*)$", text, re.MULTILINE)
        for name in line.split()
    }
    assert {name for name in names if name.startswith("flowork")} <= {other.name for other in UNITS}
    commands = Commands().list_commands(None)  # type: ignore[arg-type]  # it asks nothing of the context
    for command in re.findall(r"/opt/flowork/current/bin/flowork (\S+)", text):
        assert command in commands


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_every_service_keeps_to_the_house_rules(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert lines[0].startswith("# "), "it says what it is for"
    assert {"UMask=0077", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= set(lines)
    own = {"User=flowork", "DynamicUser=yes"}
    assert own & set(lines) or any(line.startswith("# As root, for") for line in lines), "or says why not"
    if "Type=notify" in lines:
        assert any(line.startswith("WatchdogSec=") for line in lines)
        assert any(line.startswith("MemoryMax=") for line in lines)
        assert any(line.startswith("StartLimitBurst=") for line in lines)
