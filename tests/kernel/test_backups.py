"""Backups by themselves in a running kernel: begun when due, one at a time, told of, ended with the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.contracts import Busy
from appliance.findings import of_status
from appliance.kernel.backups import Backups
from appliance.store.backup_log import State, read_state, write_state
from appliance.store.metadata import open_store
from appliance.store.settings import Settings
from tests.support.broker import eventually
from tests.support.kernels import KernelHouse


class Nothing(Backups):
    """Counts what it would begin."""

    begun = 0

    def begin(self) -> None:
        self.begun += 1


def test_it_begins_what_is_due(tmp_path: Path) -> None:
    settings = Settings(backup_days=1, backup_at="00:00")
    backups = Nothing(tmp_path, lambda: settings, lambda: 1.8e9)
    backups.look()
    assert backups.begun == 1
    write_state(tmp_path, State(tried=1.8e9, done=1.8e9))
    backups.look()
    assert backups.begun == 1


def test_a_kernel_makes_one_and_says_how_it_went(tmp_path: Path) -> None:
    house = KernelHouse(tmp_path / "data")
    try:
        open_store(house.data).close()
        house.start()
        house.client.call("backup")
        with pytest.raises(Exception, match="a backup is being made"):
            house.client.call("backup")
        eventually(lambda: not house.client.call("status")["backups"]["running"], "the backup is made")
        made = read_state(house.data)
        assert (house.data / "backups" / made.name).exists()
        house.settings(backup_to=str(tmp_path / "stick"))
        house.client.call("backup")
        eventually(lambda: read_state(house.data).error, "it fails")
        found = {finding.id: finding.text for finding in of_status(house.client.call("status"))}
        assert "is the disk plugged in" in found["backup"]
        house.stop()
    finally:
        house.close()


def test_nothing_begins_once_it_was_stopped(tmp_path: Path) -> None:
    backups = Backups(tmp_path, Settings, lambda: 1.8e9)
    backups.stop()
    backups.stop()
    with pytest.raises(Busy):
        backups.begin()
    assert not backups.running()
