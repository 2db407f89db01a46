"""scripts/install as far as it goes without changing this machine; scripts/test-install tries the rest for real."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "scripts" / "install"

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("systemctl")), reason="not Debian, or without systemd"
)


def install(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(INSTALL), *arguments], capture_output=True, text=True, timeout=50, check=False)


def test_the_plan_says_every_change_and_makes_none() -> None:
    had = {path: os.path.lexists(path) for path in ("/opt/flowork", "/usr/local/bin/flowork")}
    done = install("--dry-run", "--port", "5999", "--hostname", "flowork")
    assert done.returncode == 0, done.stderr
    plan = done.stdout
    for unit in ("flowork.target", "flowork-kernel.service", "flowork-gateway.service", "flowork-models.socket"):
        assert f"would: write /usr/local/lib/systemd/system/{unit}" in plan
    assert "flowork-gateway.socket.d/50-flowork-port.conf" in plan
    assert "would: call this machine flowork" in plan
    assert {path: os.path.lexists(path) for path in had} == had


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sideways"], "unknown option --sideways"),
        (["--port"], "--port needs a value"),
        (["--port", "0"], "--port takes a number from 1 to 65535"),
        (["--port", "99999"], "--port takes a number from 1 to 65535"),
        (["--hostname", "my box"], "--hostname takes lower-case letters"),
    ],
)
def test_what_is_written_wrongly_changes_nothing(arguments: list[str], said: str) -> None:
    done = install(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "would" not in done.stdout


def test_the_help_is_the_head_of_the_script() -> None:
    done = install("--help")
    assert done.returncode == 0
    assert "--uninstall" in done.stdout
    assert "set -euo" not in done.stdout


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_scripts_please_shellcheck() -> None:
    scripts = [str(INSTALL), str(ROOT / "scripts" / "test-install")]
    done = subprocess.run(
        ["shellcheck", "-x", *scripts], capture_output=True, text=True, timeout=50, check=False, cwd=ROOT
    )
    assert done.stdout == ""
