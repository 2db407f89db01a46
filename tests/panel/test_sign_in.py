"""Signing in: with the key in the page, on a page over plain http; the key goes nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Request, expect

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, sign_message
from tests.support.panel import OpenPanel, Panel

FORGET = "localStorage.getItem('flowork.key')"


@pytest.fixture
def stranger(open_panel: OpenPanel) -> Panel:
    """A window in which nobody is signed in, at the sign-in page."""
    panel = open_panel(key=None)
    panel.page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    panel.goto("/flows")
    panel.page.get_by_label("Private key").wait_for()
    return panel


def test_a_pasted_key_signs_in_and_is_never_sent(stranger: Panel, owner: Secret) -> None:
    digits = owner.reveal().removeprefix("0x")
    sent: list[str] = []

    def note(request: Request) -> None:
        sent.append(f"{request.url} {request.post_data or ''} {request.headers}")

    stranger.page.on("request", note)
    stranger.page.get_by_label("Private key").fill(owner.reveal())
    stranger.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(stranger.page.get_by_role("heading", name="Flows", level=1)).to_be_visible()
    assert stranger.page.url.endswith("/flows")  # where one wanted to go
    assert any("/api/v1/session" in one for one in sent)
    assert digits not in "".join(sent)
    assert stranger.page.evaluate(FORGET) is None
    assert stranger.page.evaluate("window.isSecureContext") is False


def test_a_key_file_signs_in(stranger: Panel, tmp_path: Path) -> None:
    file = tmp_path / "owner-key.json"
    stranger.appliance.flowork("key", "file", str(file))
    stranger.page.get_by_label("Key file").set_input_files(file)
    expect(stranger.page.get_by_role("heading", name="Flows", level=1)).to_be_visible()


def test_a_signature_made_elsewhere_signs_in(stranger: Panel, owner: Secret) -> None:
    page = stranger.page
    page.get_by_role("button", name="Sign elsewhere and paste").click()
    page.get_by_label("Address of the key").fill(str(address_of(owner)))
    page.get_by_role("button", name="Get the text").click()
    text = page.locator("pre.text").inner_text()
    page.get_by_label("Signature").fill(sign_message(owner, text))
    page.get_by_role("button", name="Sign in", exact=True).last.click()
    expect(page.get_by_role("heading", name="Flows", level=1)).to_be_visible()


def test_a_wallet_in_the_browser_signs_in(open_panel: OpenPanel, owner: Secret) -> None:
    panel = open_panel(key=None)
    panel.context.expose_function("flowork_sign", lambda given: sign_message(owner, bytes.fromhex(given[2:]).decode()))
    panel.page.add_init_script(
        "localStorage.setItem('flowork.welcomed', 'true'); window.ethereum = {request: async ({method, params}) => "
        f"method === 'eth_requestAccounts' ? ['{address_of(owner)}'] : await window.flowork_sign(params[0])}}"
    )
    panel.goto("/flows")
    panel.page.get_by_role("button", name="Sign in with your wallet").click()
    expect(panel.page.get_by_role("heading", name="Flows", level=1)).to_be_visible()


def test_a_key_that_is_kept_signs_in_again_until_it_is_forgotten(stranger: Panel, owner: Secret) -> None:
    page = stranger.page
    page.get_by_label("Keep the key in this browser").check()
    page.get_by_label("Private key").fill(owner.reveal())
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Flows", level=1)).to_be_visible()
    page.get_by_role("button", name="owner").click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_text("Key kept in this browser")).to_be_visible()
    page.get_by_role("button", name="Sign in", exact=True).first.click()
    page.get_by_role("button", name="owner").click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_text("Key kept in this browser")).to_have_count(0)
    assert page.evaluate(FORGET) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("hello", "64 digits"),
        ("0x" + "12" * 20, "This is an address"),
        ("ff" * 32, "no private key"),
        ('{"flowork_key": 1', "a part of it is missing"),
        (json.dumps({"crypto": {}, "version": 3}), "Sign in with the wallet itself"),
    ],
)
def test_what_is_no_key_is_told(stranger: Panel, given: str, told: str) -> None:
    stranger.page.get_by_label("Private key").fill(given)
    stranger.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(stranger.page.get_by_role("alert")).to_contain_text(told)


def test_an_unknown_key_is_refused(stranger: Panel) -> None:
    stranger.expected = ["401", "403"]
    stranger.page.get_by_label("Private key").fill("11" * 32)
    stranger.page.get_by_role("button", name="Sign in", exact=True).click()
    expect(stranger.page.get_by_role("alert")).not_to_be_empty()
    expect(stranger.page.get_by_label("Private key")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("phone", [False, True])
def test_it_is_usable_by_everybody(open_panel: OpenPanel, scheme: str, phone: bool) -> None:
    panel = open_panel(key=None, phone=phone)
    panel.theme(scheme)
    panel.goto("/sign-in")
    panel.page.get_by_role("button", name="Sign elsewhere and paste").click()
    panel.page.get_by_label("Address of the key").fill("0x" + "12" * 20)
    panel.page.get_by_role("button", name="Get the text").click()
    panel.page.locator("pre.text").wait_for()
    panel.shot(f"sign-in-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
    panel.goto("/engines")
    panel.page.get_by_role("heading", name="Add an engine").wait_for()
    panel.shot(f"engines-{'phone' if phone else 'desktop'}-{scheme}")
    assert panel.accessibility() == []
