"""Safe mode, backups and the machine's strain over the API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.safemode import SafeMode
from tests.gateway.engine import Home, wait_for


def test_safe_mode_is_switched_and_told(make_home: Callable[..., Home]) -> None:
    home = make_home()
    assert home.owner.get("/safe-mode")["on"] is False
    made = home.owner.do("PUT", "/safe-mode", {"on": True, "reason": "the pump is being repaired"})
    assert (made["on"], made["until"], made["reason"]) == (True, None, "the pump is being repaired")
    assert home.owner.get("/safe-mode")["since"] == made["since"]
    found = {finding["id"]: finding for finding in home.owner.get("/health")["findings"]}
    assert "kernel-away" not in found
    assert "the pump is being repaired" in found["safe-mode"]["text"]
    assert home.client().get("/api/v1/health").get_json() == {"status": "critical"}
    assert home.owner.do("PUT", "/safe-mode", {"on": False, "cancel_runs": True})["on"] is False
    assert SafeMode(home.data).take_cancel() is True
    assert "kernel-away" in {finding["id"] for finding in home.owner.get("/health")["findings"]}


def test_a_running_kernel_is_told_to_rest(home: Home) -> None:
    assert home.kernel is not None
    told = []
    home.kernel.on_rest = lambda: told.append(True)
    home.owner.do("PUT", "/safe-mode", {"on": True})
    assert told == [True]
    home.owner.do("PUT", "/safe-mode", {"on": False})


def test_who_may_not_control_the_engine_only_reads(home: Home) -> None:
    reader, _ = home.person("reader", "*")
    assert reader.get("/safe-mode")["on"] is False
    assert reader("PUT", "/safe-mode", {"on": True}).status_code == 403
    assert reader("GET", "/backups").status_code == 403


def test_a_backup_is_begun_and_listed(home: Home) -> None:
    assert home.owner("POST", "/backups").status_code == 204

    def done() -> Any:
        found = home.owner.get("/backups")
        return found if found["items"] and not found["running"] else None

    made = wait_for(done, "the backup")
    assert [item["name"] for item in made["items"]] == [made["last"]["name"]]
    assert made["encrypted"] is False
    assert made["last"]["error"] == ""


def test_a_place_that_is_not_there_is_the_answer(home: Home, tmp_path: Path) -> None:
    home.owner.do("PATCH", "/settings", {"values": {"backup_to": "rclone:nowhere:flowork"}})
    answer = home.owner("GET", "/backups")
    home.owner("DELETE", "/settings/backup_to")
    assert answer.status_code == 502
    assert "rclone" in answer.get_json()["detail"]


@pytest.mark.parametrize("part", ["strain", "kernel"])
def test_the_health_page_has_numbers(home: Home, part: str) -> None:
    found = home.owner.get("/health")[part]
    if part == "strain":
        assert found["read_only"] is False
    else:
        assert found["wear"]["thrifty"] is False
        assert found["lag"] == 0
