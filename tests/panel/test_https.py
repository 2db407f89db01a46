"""HTTPS as a browser meets it: a Chromium that trusts the engine's root goes over by itself, another one is told how.

The callers count as other machines of the network, since a proxy on this machine says so of them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from appliance.security.https.certificates import root_der
from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.broker import eventually
from tests.support.panel import ARGUMENTS, CHROMIUM, SCREENS, Panel

expect.set_options(timeout=20_000)

NAME = socket.gethostname().lower().partition(".")[0] + ".local"
RULE = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"

pytestmark = pytest.mark.skipif(not shutil.which("certutil"), reason="no certutil (Debian: libnss3-tools)")


@contextmanager
def browser(home: Path) -> Iterator[Browser]:
    """A Chromium with a home, and so a list of authorities, of its own."""
    arguments = [*(one for one in ARGUMENTS if "host-resolver" not in one), RULE]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=arguments, env={**os.environ, "HOME": str(home)}
        )
        try:
            yield launched
        finally:
            launched.close()


def trust(home: Path, root: bytes) -> None:
    """Install the root as a person does in Chromium's settings."""
    store = home / ".pki" / "nssdb"
    store.mkdir(parents=True)
    (home / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(root))
    for words in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "flowork", "-i", str(home / "root.pem")]):
        subprocess.run(["certutil", "-d", f"sql:{store}", *words], check=True, timeout=60, capture_output=True)


def page_of(launched: Browser) -> Page:
    context = launched.new_context(extra_http_headers={"X-Forwarded-For": "192.168.1.50"}, locale="en-GB")
    context.set_default_timeout(20_000)
    return context.new_page()


@pytest.fixture(scope="module")
def root(appliance: Appliance, owner: Secret) -> bytes:
    """HTTPS, turned on by a person at the box."""
    command = [sys.executable, "-m", "appliance.cli", "https", "on", "--data", str(appliance.data)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    found = root_der(appliance.data)
    assert found is not None
    return found


def test_who_trusts_the_root_ends_up_on_the_page_that_was_wanted(
    appliance: Appliance, owner: Secret, root: bytes, tmp_path: Path
) -> None:
    trust(tmp_path, root)
    with browser(tmp_path) as launched:
        page = page_of(launched)
        page.goto(f"http://{NAME}:{appliance.port}/sign-in?next=/flows")
        page.wait_for_url(f"https://{NAME}:{appliance.port}/sign-in?next=/flows")
        assert page.evaluate("window.isSecureContext")
        assert page.evaluate("typeof crypto.subtle") == "object"
        page.get_by_role("textbox").first.fill(owner.reveal())
        page.get_by_role("button", name="Sign in").last.click()
        page.wait_for_url(re.compile(rf"https://{NAME}:{appliance.port}/(?!sign-in)"))
        (cookie,) = page.context.cookies()
        assert cookie["name"].startswith("__Host-")
        assert cookie["secure"]
        # Live events come over TLS too.
        page.goto(f"https://{NAME}:{appliance.port}/")
        opened = page.evaluate(
            """() => new Promise((done) => {
              const socket = new WebSocket(`wss://${location.host}/api/v1/live`)
              socket.onopen = () => { socket.close(); done('open') }
              socket.onerror = () => done('refused')
            })"""
        )
        assert opened == "open"


def test_who_does_not_is_told_how_to_install_it(appliance: Appliance, root: bytes, tmp_path: Path) -> None:
    with browser(tmp_path) as launched:
        page = page_of(launched)
        page.goto(f"http://{NAME}:{appliance.port}/flows")
        assert page.url.startswith(f"http://{NAME}:{appliance.port}/certificate?to=")
        expect(page.get_by_role("heading", name="This box’s certificate")).to_be_visible()
        expect(page.get_by_text("iPhone, iPad")).to_be_visible()
        with page.expect_download() as waiting:
            page.get_by_role("link", name="Download the certificate").click()
        assert Path(waiting.value.path()).read_bytes() == root
        link = page.get_by_role("link", name="Open the panel by https")
        expect(link).to_have_attribute("href", f"https://{NAME}:{appliance.port}/flows")
        # Nobody is led elsewhere.
        page.goto(f"http://{NAME}:{appliance.port}/certificate?to=//evil.example.org/x")
        expect(link).to_have_attribute("href", f"https://{NAME}:{appliance.port}/")
        SCREENS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENS / "certificate.png")


def test_the_panels_page_turns_it_on_and_shows_the_way(panel: Panel, root: bytes) -> None:
    page = panel.goto("/https")
    expect(page.get_by_role("heading", name="HTTPS is on")).to_be_visible()
    expect(page.get_by_text("You are here by plain http.")).to_be_visible()
    fingerprint = panel.api("GET", "/https")["authority"]["fingerprint"]
    expect(page.get_by_text(fingerprint)).to_be_visible()
    panel.shot("https")
    assert panel.accessibility("main") == []
    page.get_by_label("HTTPS", exact=True).select_option("off")
    expect(page.get_by_role("heading", name="HTTPS is off")).to_be_visible()
    page.get_by_label("HTTPS", exact=True).select_option("on")
    expect(page.get_by_role("heading", name="HTTPS is on")).to_be_visible()
    until = panel.api("GET", "/https")["certificate"]["until"]
    page.get_by_role("button", name="Renew the certificate").click()
    eventually(lambda: panel.api("GET", "/https")["certificate"]["until"] > until, "the new certificate")
