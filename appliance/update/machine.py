"""What an update does to a machine with systemd: virtual environments, units, the user ``flowork``'s own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.box.place import Box
from appliance.box.slots import other
from appliance.box.watch import well
from appliance.contracts import FlowError

#: Units in the order in which they are started; stopped in the reverse one.
_UNITS = ("flowork-init.service", "flowork-gateway.socket", "flowork-gateway.service", "flowork-kernel.service")
_ALSO = ("flowork-agent.service", "flowork-models.socket", "flowork-models.service")
#: Seconds that making a virtual environment may take on a slow card, and starting everything.
_SLOW = 3600.0
#: Where an image has its tool for the slots.
SLOT_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


class Undone(FlowError):
    """A command of the update failed; the message ends with what it said."""

    id = "update-failed"
    retryable = False


class Systemd:
    """Implements :class:`appliance.update.updater.Machine`. ``user`` owns the data in ``data``."""

    def __init__(self, data: Path, user: str = "flowork") -> None:
        self._data = data
        self._user = user

    def prepare(self, wheels: Path, release: Path) -> None:
        python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
        _run([str(python), "-m", "venv", str(release)])
        pip = [str(release / "bin/python3"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
        _run([*pip, "--no-index", "--find-links", str(wheels), "flowork[edge,backup]"])
        if (wheels / "constraints.txt").exists():
            # For the libraries that `flowork models setup` adds.
            shutil.copy(wheels / "constraints.txt", release)
        _run(["chmod", "-R", "go=rX", str(release)])
        _run([str(release / "bin/flowork-updater"), "seal", str(release)])

    def rehearse(self, release: Path) -> None:
        self._as_user(release, "rehearse")

    def step_back(self, release: Path) -> None:
        self._as_user(release, "step-back")

    def _as_user(self, release: Path, word: str) -> None:
        command = str(release / "bin/flowork-updater")
        if not Path(command).exists():
            return  # a release from before there were updates: it knows one form only
        # Not by runuser: its session (PAM) wants more rights than the unit has.
        settings = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "FLOWORK_DATA": str(self._data)}
        _run([command, word], user=self._user, env=settings)

    def restart(self) -> None:
        _run(["systemctl", "daemon-reload"])
        _run(["systemctl", "start", *_UNITS])
        _run(["systemctl", "start", "flowork.target"])

    def stop(self) -> None:
        for unit in ("flowork.target", *_ALSO, *reversed(_UNITS)):
            subprocess.run(["systemctl", "stop", unit], check=False, capture_output=True)
        subprocess.run(["systemctl", "reset-failed", "flowork*"], check=False, capture_output=True)

    def well(self) -> bool:
        return well(Box())


def write_slot(file: Path) -> str:
    """Hand a whole system to the image's own tool; the machine starts from it next, and goes back by itself.

    Gives the slot's name.
    """
    tool = shutil.which("flowork-slot", path=SLOT_PATH)
    if tool is None:
        raise Undone("this release is a whole system, for a box that was flashed with an image; this one was not")
    # Outside of the updater's own confinement, which so needs no rights over disks and mounts.
    outside = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect"]
    _run([*outside, tool, "write", str(file)])
    _run([*outside, tool, "try"])
    return other(Box().running())


def _run(command: Sequence[str], user: str | None = None, env: Mapping[str, str] | None = None) -> None:
    """As ``user``, which only root can become. Raises ``Undone`` with the command's last words."""
    other: Any = {} if user is None or os.getuid() else {"user": user, "group": user, "extra_groups": []}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=_SLOW, env=env, cwd="/", **other
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Undone(f"{command[0]}: {exc}") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Undone(f"{Path(command[0]).name} failed: {words[-1] if words else f'exit code {done.returncode}'}")
