"""Backups in the browser: made, checked, encrypted, and brought back, on the page and on a fresh engine's first one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.broker import eventually, free_port
from tests.support.panel import OpenPanel, Panel, opened

expect.set_options(timeout=20_000)

BOX = {"name": "Was in the backup", "triggers": [], "nodes": [{"id": "a", "type": "log", "config": {"message": "x"}}]}
#: What the browser says of an engine that starts anew, and of a key that does not open.
AWAY = ["Failed to load resource", "WebSocket connection"]


@pytest.fixture
def backups(panel: Panel) -> Panel:
    panel.goto("/backups")
    return panel


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Appliance]:
    """A second engine, as fresh as can be."""
    environ = {
        "FLOWORK_SIGN_INS_PER_MINUTE": "1000",
        "FLOWORK_AGENT_PORT": str(free_port()),
        "FLOWORK_AGENT_DISCOVERY": "false",
    }
    with Appliance(tmp_path / "FloworkData", environ=environ) as made:
        yield made


def make_one(panel: Panel) -> str:
    """Make a backup on the page; its name."""
    before = len(panel.api("GET", "/backups")["items"])
    panel.page.get_by_role("button", name="Make one now").first.click()
    items = eventually(lambda: len(found := panel.api("GET", "/backups")["items"]) > before and found, "the backup")
    name: str = items[0]["name"]
    expect(panel.page.get_by_role("row", name=re.compile(re.escape(name)))).to_be_visible()
    return name


def test_a_backup_is_made_and_checked(backups: Panel) -> None:
    page = backups.page
    expect(page.get_by_text("No backups yet")).to_be_visible()
    expect(page.get_by_text("On the same disk")).to_be_visible()
    backups.shot("backups-empty")
    name = make_one(backups)
    page.get_by_role("row", name=re.compile(re.escape(name))).get_by_role("button", name=f"More for {name}").click()
    page.get_by_role("menuitem", name="Check it").click()
    expect(page.get_by_text("It is whole:")).to_be_visible()
    backups.shot("backups-checked")
    assert backups.accessibility("dialog[open]") == []


def test_where_and_when_are_set(backups: Panel, tmp_path: Path) -> None:
    page = backups.page
    page.get_by_role("button", name="Change when backups are made").click()
    dialog = page.get_by_role("dialog", name="Where and when")
    dialog.get_by_label("Back up every").fill("1")
    backups.shot("backups-plan")
    assert backups.accessibility("dialog[open]") == []
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Every day, from")).to_be_visible()
    assert backups.api("GET", "/backups")["days"] == 1


def test_a_key_is_made_and_a_check_asks_for_it(backups: Panel) -> None:
    backups.expected = AWAY
    page = backups.page
    page.get_by_role("button", name="Make a key").click()
    page.get_by_role("dialog").get_by_role("button", name="Make a key").click()
    private = page.get_by_label("The private key").inner_text()
    assert private.startswith("AGE-SECRET-KEY-")
    expect(page.get_by_role("button", name="Done")).to_be_disabled()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save it as").click()
    assert private in Path(download.value.path()).read_text()
    backups.shot("backups-key")
    assert backups.accessibility("dialog[open]") == []
    page.get_by_role("button", name="Done").click()
    expect(page.get_by_text("Encrypted", exact=True)).to_be_visible()
    name = make_one(backups)
    assert name.endswith(".age")
    page.get_by_role("button", name=f"More for {name}").click()
    page.get_by_role("menuitem", name="Check it").click()
    page.get_by_label("Private key of the backup").fill("AGE-SECRET-KEY-1WRONG")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Private key of the backup").fill(private)
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_text("It is whole:")).to_be_visible()


def test_a_fresh_engine_takes_a_backup_on_its_first_page(
    panel: Panel, owner: Secret, another: Appliance, chromium: Browser, tmp_path: Path
) -> None:
    """Made here, sent from the browser there; then the owner of here signs in there."""
    panel.api("POST", "/flows", {"flow": BOX})
    panel.appliance.flowork("backup", str(tmp_path / "box.tar.gz"))
    window = opened(chromium, another, key=Secret(another.owner_key()), phone=False, dark=False)
    window.expected = AWAY
    try:
        page = window.goto("/welcome")
        page.get_by_role("button", name="Restore its backup").click()
        window.shot("restore-choose")
        assert window.accessibility("dialog[open]") == []
        page.get_by_label("Backup file").set_input_files(tmp_path / "box.tar.gz")
        expect(page.get_by_text("It comes back as")).to_be_visible()
        window.shot("restore-asks")
        assert window.accessibility("dialog[open]") == []
        page.get_by_label("another engine").check()
        page.get_by_role("button", name="Restore it", exact=True).click()
        expect(page.get_by_text("The engine of the backup runs now")).to_be_visible(timeout=60_000)
        window.shot("restore-sign-in")
        page.get_by_label("Private key").fill(owner.reveal())
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.wait_for_url(re.compile("/$"))
        page.goto(window.origin + "/flows")
        expect(page.get_by_text("Was in the backup")).to_be_visible()
        # Another engine beside the first one: it rests until somebody has looked.
        page.goto(window.origin + "/health")
        expect(page.get_by_text("restored as another engine").first).to_be_visible()
        assert (another.data / "replaced" / "flowork.db").exists()
    finally:
        window.close()


def test_a_file_that_is_no_backup_changes_nothing(another: Appliance, chromium: Browser) -> None:
    window = opened(chromium, another, key=Secret(another.owner_key()), phone=True, dark=True)
    window.expected = AWAY
    try:
        page = window.goto("/welcome")
        page.get_by_role("button", name="Restore its backup").click()
        page.get_by_label("Backup file").set_input_files(
            {"name": "holiday.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8" * 5000}
        )
        page.get_by_role("button", name="Restore it", exact=True).click()
        expect(page.get_by_text("Nothing was changed")).to_be_visible()
        window.shot("restore-failed-phone-dark")
        assert window.accessibility("dialog[open]") == []
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("button", name="Choose file")).to_be_visible()
    finally:
        window.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_backups_are_usable_by_everybody(open_panel: OpenPanel, scheme: str, phone: bool) -> None:
    panel = open_panel(phone=phone)
    panel.theme(scheme)
    page = panel.goto("/backups")
    expect(page.get_by_role("heading", name="Backups")).to_be_visible()
    page.get_by_text("Only when somebody asks").or_(page.get_by_text("Every day")).wait_for()
    panel.shot(f"backups-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
