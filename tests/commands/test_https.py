"""``flowork https`` over a real data folder."""

from __future__ import annotations

from pathlib import Path

from tests.commands.box import Box


def test_on_makes_an_authority_that_off_keeps(box: Box, tmp_path: Path) -> None:
    assert box.json("https") == {"mode": "off"}
    assert "flowork https on" in box.fails("https", "root", str(tmp_path / "root.pem"), code=3)
    made = box.json("https", "on")
    assert made["mode"] == "on"
    assert "localhost" in made["names"]
    assert box.json("https", "off") == {"mode": "off"}
    assert box.json("https", "on", "--only")["authority"] == made["authority"]
    assert box.json("https")["mode"] == "only"
    assert box.json("settings", "show", "https")["value"] == "only"
    box.run("https", "root", str(tmp_path / "root.pem"))
    assert (tmp_path / "root.pem").read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert made["authority"]["fingerprint"] in box.run("https")
    assert "settings.set" in [entry["action"] for entry in box.json("audit", "list")["items"]]


def test_renew_keeps_the_authority_unless_told_otherwise(box: Box) -> None:
    first = box.json("https", "on")
    second = box.json("https", "renew")
    assert second["authority"] == first["authority"]
    assert second["until"] > first["until"]
    assert box.json("https", "renew", "--authority")["authority"] != first["authority"]
    actions = [(entry["action"], entry["target"]) for entry in box.json("audit", "list")["items"]]
    assert ("https.renew", "authority") in actions
