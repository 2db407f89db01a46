"""What is told of devices, updates and the box's name, and that a notice is no fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.commands import agent as agent_commands
from appliance.findings import Finding, of_agents, of_name, of_triggers, of_update, overall
from appliance.update import request
from appliance.update.automatic import SEEN
from edge_agent import main

NOW = 2e9


def agent(name: str, online: bool, away: float = 0.0, **driver: Any) -> dict[str, Any]:
    drivers = [{"driver": "serial", "config": {}, **driver}] if driver else []
    return {"name": name, "online": online, "text": "no answer", "since": NOW - away, "drivers": drivers}


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (agent("", False, 9000), []),
        (agent("shed", False, 500), []),
        (agent("shed", False, 1200), ["the agent shed is away since 20 minutes: no answer"]),
        (agent("shed", True, 1200, ok=True, text="reads"), []),
        (agent("", True, ok=False, text="no such port"), ["the driver serial of this machine: no such port"]),
        (agent("shed", False, 1200, ok=False, text="?"), ["the agent shed is away since 20 minutes: no answer"]),
    ],
)
def test_agents_that_are_away_and_drivers_without_their_device(seen: dict[str, Any], found: list[str]) -> None:
    told = list(of_agents([seen], NOW))
    assert [one.text for one in told] == found
    assert all(one.mend and one.level == "warning" for one in told)


@pytest.mark.parametrize(
    ("listens_to", "wanted"),
    [
        ("shed", ["systemctl status flowork-agent", "flowork-agent find"]),
        ("", ["systemctl status flowork-agent", "flowork up"]),
        ("house", ["the trigger's settings"]),
        (None, ["the trigger's settings"]),
    ],
)
def test_a_trigger_whose_agent_is_away_says_what_to_do_about_the_agent(
    listens_to: str | None, wanted: list[str]
) -> None:
    seen = {"id": "t", "flow": "f", "ok": False, "status": "no", "workspace": "w", "agent": listens_to}
    agents = [agent("", False), agent("shed", False), agent("house", True)]
    (told,) = of_triggers({"triggers": [seen], "agents": agents})
    assert all(part in told.mend for part in wanted)
    assert ("settings" in told.mend) == (listens_to in ("house", None))


def test_the_commands_that_are_told_for_an_agent_are_there() -> None:
    (told,) = of_agents([agent("shed", False, 1200)], NOW)
    assert "`flowork agent revoke shed`" in told.mend and "revoke" in agent_commands.command.commands
    assert "`flowork-agent find`" in told.mend and main._parsed(["find"]).verb == "find"
    assert (Path(__file__).parent.parent / "systemd" / "flowork-agent.service").exists()


def test_a_name_that_nobody_answers_for_is_told_where_it_was_installed() -> None:
    assert [one.id for one in of_name(installed=True, avahi=False)] == ["mdns-name"]
    assert list(of_name(installed=True, avahi=True)) == list(of_name(installed=False, avahi=False)) == []


def test_a_notice_is_no_fault() -> None:
    (notice,) = of_update("99.1", False, "")
    assert (notice.level, overall([notice])) == ("notice", "ok")
    assert "99.1" in notice.text and "Updates" in notice.mend
    assert overall([notice, Finding("x", "warning", "", "")]) == "warning"
    assert [one.level for one in of_update("99.1", True, "")] == ["warning"]
    assert "no such folder" in next(of_update("", False, "no such folder")).text
    assert list(of_update("", False, "")) == []


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"version": "99.1", "made": 7, "newer": True}, ("99.1", False, "")),
        ({"version": "99.1", "made": 8, "newer": True}, ("99.1", True, "")),
        ({"version": "99.1", "made": 7, "newer": True, "why_not": "for sparc"}, ("", False, "away")),
        ({"version": "0.0.1", "made": 7, "newer": True}, ("", False, "away")),
        (None, ("", False, "away")),
    ],
)
def test_what_the_newest_look_has_found(tmp_path: Path, found: Any, told: tuple[str, bool, str]) -> None:
    (tmp_path / "update").mkdir()
    seen = {
        "at": 1.0,
        "found": None if found is None else {"source": "/s", **found},
        "error": "away",
        "tried": "99.1-8",
    }
    (tmp_path / SEEN).write_text(json.dumps(seen))
    assert request.told(tmp_path) == told
