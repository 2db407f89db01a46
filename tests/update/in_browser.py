"""Updates an installed box through its panel, as a person does: signs in, sends a release file, follows what comes.

    python -m tests.update.in_browser ORIGIN KEY_FILE RELEASE refused|rolled-back|done

``scripts/test-install`` calls it. KEY_FILE holds the owner's private key, RELEASE is the file to send. It ends with 0
once the page has said that the update came to that end; else with the words of what it waited for in vain.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.support.panel import browser

#: What the page says at the end.
ENDINGS = {"done": "The last update went well", "rolled-back": "The last update was taken back"}
#: Milliseconds: what a busy machine may take for a page, to unpack a release, to judge it.
_PAGE, _UNPACKED, _JUDGED = 60_000, 600_000, 1_500_000


def bring(page: Page, origin: str, key: str, release: Path, ending: str) -> None:
    """Raises ``AssertionError`` if the page does not say what it should."""
    page.set_default_timeout(_PAGE)
    page.add_init_script("localStorage.setItem('flowork.welcomed', 'true')")
    page.goto(f"{origin}/updates")
    page.get_by_label("Private key").fill(key)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_label("Release file").set_input_files(release)
    if ending == "refused":
        expect(page.get_by_role("alert")).to_contain_text("It was not taken: no key is trusted yet", timeout=_PAGE)
        return
    row = page.locator("[data-test=release]").filter(has_text="from this computer")
    row.get_by_role("button", name="Bring it in").click(timeout=_UNPACKED)
    page.get_by_role("dialog").get_by_role("button", name="Bring it in").click()
    expect(page.get_by_role("heading", name="Bringing version")).to_be_visible(timeout=_UNPACKED)
    if ending == "done":
        # The page has stayed open while the engine behind it was started anew.
        expect(page.locator("[aria-current=step]")).to_contain_text("Watching", timeout=_UNPACKED)
        expect(page.get_by_text("All has been well for")).to_be_visible(timeout=_UNPACKED)
    expect(page.get_by_text(ENDINGS[ending])).to_be_visible(timeout=_JUDGED)


def main() -> None:
    """The command line."""
    origin, key_file, release, ending = sys.argv[1:]
    with browser() as launched:
        page = launched.new_context(locale="en-GB").new_page()
        try:
            bring(page, origin, Path(key_file).read_text(encoding="ascii").strip(), Path(release), ending)
        except BaseException:
            sys.stderr.write(page.locator("main").inner_text() + "\n")
            raise


if __name__ == "__main__":
    main()
