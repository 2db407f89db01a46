"""Keys, secrets, variables, tokens, settings and the audit log, on the box itself."""

from __future__ import annotations

import json
import sqlite3
import stat

import pytest

from appliance.kernel.kernel import Kernel
from tests.commands.box import Box
from tests.support.broker import eventually
from tests.support.flows import flow, node


def actions(box: Box) -> list[str]:
    return [entry["action"] for entry in box.json("audit", "list")["items"]]


def test_the_owner_key_is_shown_replaced_and_written_to_a_file(box: Box) -> None:
    first = box.json("key", "show")
    assert first["private_key"] in box.run("key", "show")
    file = box.folder.parent / "owner.json"
    box.run("key", "file", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["private_key"] == first["private_key"]
    assert "exists already" in box.fails("key", "file", str(file))
    box.run("key", "rotate", code=2)
    second = box.json("key", "rotate", "--yes")
    assert second["private_key"] != first["private_key"]
    assert box.json("key", "recover") == second
    assert actions(box)[:1] == ["owner.rotate"]
    assert first["private_key"] not in box.run("audit", "list")


def test_the_key_may_leave_the_box_and_come_back(box: Box) -> None:
    wallet = "0x52908400098527886E0F7030069857D2E4169EE7"
    assert "address" in box.fails("key", "wallet", "0x12", "--yes")
    assert box.json("key", "wallet", wallet, "--yes")["address"] == wallet
    assert "not kept on this box" in box.fails("key", "show")
    made = box.json("key", "recover")
    assert made["address"] != wallet
    box.run("key", "forget", "--yes")
    assert "not kept on this box" in box.fails("key", "show")
    assert actions(box)[:3] == ["owner.forget", "owner.recover", "owner.wallet"]


def test_a_secret_goes_in_and_never_comes_out(box: Box, kernel: Kernel) -> None:
    box.run("secret", "set", "word", stdin="open sesame\n")
    assert box.json("secret", "list")["items"] == ["word"]
    box.deploy({**flow(node("l", "log", {"message": "I say {{ secrets.word }}"})), "name": "f"})
    answer = box.run("run", "f", "--json")
    assert "•••" in answer
    box.run("secret", "rotate")
    box.run("run", "f")
    for words in (["secret", "list"], ["audit", "list"], ["runs"], ["flow", "export", "f"], ["doctor"]):
        said = box.run(*words)
        assert "sesame" not in said + box.last.stderr
    assert "sesame" not in answer
    box.run("secret", "delete", "word", "--yes")
    assert "no secret 'word'" in box.fails("secret", "delete", "word", "--yes", code=3)
    assert "4 to 65536 characters" in box.fails("secret", "set", "short", stdin="x")
    assert "letters, digits" in box.fails("secret", "set", "bad name", stdin="long enough")


def test_variables_are_json_or_text(box: Box, kernel: Kernel) -> None:
    for name, value in (("n", "30"), ("list", '["a"]'), ("word", "hello"), ("pin", "0042")):
        box.run("var", "set", name, value, *(["--text"] if name == "pin" else []))
    found = {one["name"]: one["value"] for one in box.json("var", "list")["items"]}
    assert found == {"n": 30, "list": ["a"], "word": "hello", "pin": "0042"}
    box.deploy({**flow(node("t", "transform", {"expression": "vars.n + 1"})), "name": "f"})
    assert box.json("run", "f")["output"] == 31
    box.run("var", "set", "n", "40")
    assert box.json("run", "f")["output"] == 41
    box.run("var", "delete", "n")
    assert "no variable 'n'" in box.fails("var", "delete", "n", code=3)
    assert "name" in box.fails("var", "set", "not a name", "1")


def test_tokens_are_shown_once_and_end_when_told(box: Box) -> None:
    made = box.json("token", "create", "grafana", "--scope", "metrics:read", "--expires", "90d")
    assert made["secret"].startswith("flw_")
    assert "flw_" in box.run("token", "create", "x", "--scope", "flows:read")
    (row,) = [one for one in box.json("token", "list")["items"] if one["name"] == "grafana"]
    assert "hash" not in row
    assert made["secret"] not in box.run("token", "list", "--json")
    assert "until" in box.run("token", "list")
    box.run("token", "revoke", made["id"])
    assert "before" in box.run("token", "revoke", made["id"])
    assert "revoked" in box.run("token", "list")
    assert "no token 'x'" in box.fails("token", "revoke", "x", code=3)
    assert "unknown: nonsense" in box.fails("token", "create", "x", "--scope", "nonsense")
    assert actions(box)[:3] == ["token.revoke", "token.create", "token.create"]


def test_settings_are_all_or_none_and_the_environment_wins(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.run("settings", "set", "keep_days=14", "file_roots=/media/usb, /srv", "timezone=Europe/Berlin")
    assert box.json("settings", "show", "keep_days") == {
        "name": "keep_days", "value": 14.0, "default": 30.0, "source": "database",
    }  # fmt: skip
    found = {one["name"]: one["value"] for one in box.json("settings")["items"]}
    assert (found["file_roots"], found["timezone"]) == (["/media/usb", "/srv"], "Europe/Berlin")
    assert "keep_days" in box.fails("settings", "set", "rate_limit=9", "keep_days=-1")
    assert box.json("settings", "show", "rate_limit")["source"] == "default"
    assert "no setting 'nonsense'" in box.fails("settings", "set", "nonsense=1", code=3)
    assert "no setting 'nonsense'" in box.fails("settings", "show", "nonsense", code=3)
    box.run("settings", "set", "keep_days", code=2)
    monkeypatch.setenv("FLOWORK_KEEP_DAYS", "7")
    assert "overrules keep_days" in box.run("settings", "set", "keep_days=20") + box.last.stderr
    monkeypatch.delenv("FLOWORK_KEEP_DAYS")
    box.run("settings", "reset", "keep_days")
    assert box.json("settings", "show", "keep_days")["source"] == "default"


def test_the_audit_log_shows_who_and_whether_it_is_whole(box: Box) -> None:
    box.run("var", "set", "a", "1")
    box.run("var", "set", "b", "2")
    entries = box.json("audit", "list", "--action", "variable", "--limit", "1")
    assert (entries["items"][0]["target"], entries["items"][0]["actor"].partition(":")[0]) == ("b", "local")
    (older,) = box.json("audit", "list", "--action", "variable", "--before", str(entries["next"]))["items"]
    assert older["target"] == "a"
    verified = box.json("audit", "verify")
    assert verified["ok"]
    assert verified["head"] in box.run("audit", "verify")
    _forge(box)
    broken = box.json("audit", "verify", code=1)
    assert (broken["ok"], broken["broken"]) == (False, verified["count"])
    box.run("audit", "verify", code=1)
    assert "was changed after it was written" in box.last.stderr
    assert "was changed" in box.run("doctor", code=2)


def test_a_log_whose_end_was_lost_is_accepted_by_name(box: Box) -> None:
    (box.folder / "keys" / "audit.head").unlink()
    assert "was removed" in box.json("audit", "verify", code=1)["reason"]
    box.run("audit", "accept", "--reason", "restored", code=2)
    box.run("audit", "accept", "--reason", "restored", "--yes")
    assert box.json("audit", "verify")["ok"]
    assert actions(box)[0] == "audit.accept"


def _forge(box: Box) -> None:
    """Change the last entry as somebody with the file could."""
    connection = sqlite3.connect(box.folder / "flowork.db", isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("UPDATE audit SET target = 'c' WHERE seq = (SELECT max(seq) FROM audit)")
    connection.close()


def test_a_setting_holds_at_once_where_it_can(box: Box, kernel: Kernel) -> None:
    assert box.run("settings", "set", "keep_days=3") == "set keep_days\n"
    said = box.run("settings", "set", "keep_days=4", "max_snapshot_bytes=2048")
    assert said == "set keep_days, max_snapshot_bytes; from the engine's next start on: max_snapshot_bytes\n"


def test_running_values_reach_the_kernel(box: Box, kernel: Kernel) -> None:
    assert box.json("var", "set", "x", "1")["kernel"]
    eventually(lambda: kernel.services.variables.get("default", {}).get("x") == 1)
