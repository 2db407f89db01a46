"""The panel in a real browser: Debian's Chromium, at an address that is no secure context, as on a LAN.

Screenshots lie in ``build/screens`` afterwards, for looking at.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from appliance.security.secret import Secret
from appliance.security.wallet import address_of, sign_message
from tests.support.appliance import Appliance

ROOT = Path(__file__).parent.parent.parent
SCREENS = ROOT / "build" / "screens"
#: Plain http and not localhost: browsers then lack crypto.subtle, the clipboard and more.
HOST = "panel.local"
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
)
DESKTOP, PHONE = {"width": 1360, "height": 850}, {"width": 360, "height": 740}
_AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
#: What WCAG 2.2 AA asks for.
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of this test run's own."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield launched
        finally:
            launched.close()


class Panel:
    """One browser window at an engine. ``page`` is Playwright's; what fails in the page is in ``faults``."""

    def __init__(self, context: BrowserContext, appliance: Appliance) -> None:
        self.context = context
        self.appliance = appliance
        self.page: Page = context.new_page()
        self.faults: list[str] = []
        #: Lines of the console that a test expects, by a part of them.
        self.expected: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._said)

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.appliance.port}"

    def goto(self, path: str) -> Page:
        """Open one of the panel's pages."""
        self.page.goto(self.origin + path)
        return self.page

    def shot(self, name: str) -> None:
        """A picture of the whole window."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENS / f"{name}.png", animations="disabled")

    def in_both_themes(self, name: str) -> list[str]:
        """Pictures of the page as it stands, light and dark; what axe finds in either, and whether it is too wide."""
        self.theme("light")
        self.shot(f"{name}-light")
        faults = self.accessibility()
        self.theme("dark")
        self.shot(f"{name}-dark")
        # All other rules are about what does not change with the colours.
        faults += [f"dark: {fault}" for fault in self.accessibility(rules=["color-contrast"])]
        wide = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        return [*faults, *([f"{wide} px too wide"] if wide > 0 else [])]

    def accessibility(self, within: str = "body", rules: list[str] | None = None) -> list[str]:
        """What axe finds against WCAG 2.2 AA, or against these rules alone: rule, place and why."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_AXE.read_text())
        asked = {
            "runOnly": {"type": "rule", "values": rules} if rules else {"type": "tag", "values": _RULES},
            "resultTypes": ["violations"],
        }
        found = self.page.evaluate("([where, how]) => window.axe.run(where, how)", [within, asked])
        return [
            f"{fault['id']}: {node['target']}: {node['failureSummary']}"
            for fault in found["violations"]
            for node in fault["nodes"]
        ]

    def theme(self, scheme: str) -> None:
        """``light`` or ``dark``, as the system would say it."""
        self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The API with this window's session; ``path`` behind ``/api/v1``. Fails the test on an error."""
        # Not by the browser's own request context: that one looks names up itself.
        cookie = "; ".join(f"{one['name']}={one['value']}" for one in self.context.cookies(self.origin))
        host = urllib.parse.urlsplit(self.origin).netloc
        headers = {"Host": host, "Origin": self.origin, "Cookie": cookie}
        status, answer, _ = self.appliance.http(method, f"/api/v1{path}", body, headers)
        assert status < 300, f"{method} {path}: {status} {answer}"
        return answer

    def close(self) -> None:
        self.context.close()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.faults.append(f"console: {message.text}")

    def unexpected(self) -> list[str]:
        """What failed in the page that the test did not expect."""
        return [fault for fault in self.faults if not any(part in fault for part in self.expected)]


#: Opens another window: ``open_panel(phone=True, key=None)``; without a key nobody is signed in.
OpenPanel = Callable[..., Panel]


def opened(launched: Browser, appliance: Appliance, *, key: Secret | None, phone: bool, dark: bool) -> Panel:
    """A window; with a key signed in by it."""
    context = launched.new_context(
        viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        has_touch=phone,
        is_mobile=phone,
        reduced_motion="reduce",
        locale="en-GB",
    )
    context.set_default_timeout(15_000)
    panel = Panel(context, appliance)
    if key is not None:
        sign_in(panel, key)
    return panel


def sign_in(panel: Panel, key: Secret) -> None:
    """Over the API, as the sign-in page does it."""
    host = urllib.parse.urlsplit(panel.origin).netloc
    headers = {"Host": host, "Origin": panel.origin}
    _, challenge, _ = panel.appliance.http(
        "GET", f"/api/v1/session/challenge?address={address_of(key)}", headers=headers
    )
    signed = {"text": challenge["text"], "signature": sign_message(key, challenge["text"])}
    status, body, answer = panel.appliance.http("POST", "/api/v1/session", signed, headers)
    assert status == 200, body
    name, _, value = answer["set-cookie"].partition(";")[0].partition("=")
    panel.context.add_cookies([{"name": name, "value": value, "url": panel.origin}])
