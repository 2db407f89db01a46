"""What an update has others do: commands as another user, with their last words where they fail."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from appliance.update.machine import Systemd, Undone, _run, write_slot

ME = pwd.getpwuid(os.getuid()).pw_name


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(Undone, match="sh failed: no such luck"):
        _run(["sh", "-c", "echo first >&2; echo no such luck >&2; exit 3"])
    with pytest.raises(Undone, match="false failed: exit code 1"):
        _run(["false"])
    with pytest.raises(Undone, match="/nowhere/tool"):
        _run(["/nowhere/tool"])


def test_the_users_part_is_done_as_the_user_with_the_data_folder_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "x")
    tool = tmp_path / "release/bin/flowork-updater"
    tool.parent.mkdir(parents=True)
    tool.write_text(f'#!/bin/sh\n{{ id -un; echo "$1 $FLOWORK_DATA ${{A_SECRET-none}}"; }} >{tmp_path}/said\n')
    tool.chmod(0o755)
    Systemd(tmp_path / "data", ME).rehearse(tmp_path / "release")
    assert (tmp_path / "said").read_text().split() == [ME, "rehearse", f"{tmp_path}/data", "none"]


def test_a_release_from_before_there_were_updates_is_asked_nothing(tmp_path: Path) -> None:
    Systemd(tmp_path / "data", ME).step_back(tmp_path / "release")


def test_a_whole_system_is_written_by_the_images_own_tool_outside_of_the_updaters_confinement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    for name in ("systemd-run", "flowork-slot"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{said}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("appliance.update.machine.SLOT_PATH", str(tmp_path))
    monkeypatch.setattr("appliance.update.machine.Box.running", lambda box: "a")
    assert write_slot(tmp_path / "a.slot") == "b"
    first, second = said.read_text().splitlines()
    assert first.startswith("systemd-run ")
    assert first.endswith(f"{tmp_path}/flowork-slot write {tmp_path}/a.slot")
    assert second.endswith("flowork-slot try")
    monkeypatch.setattr("appliance.update.machine.SLOT_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(Undone, match="flashed with an image"):
        write_slot(tmp_path / "a.slot")
