"""The panel's frame: it opens, shows its menu, and is usable by everybody."""

from __future__ import annotations

import pytest

from tests.support.panel import OpenPanel


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("phone", [False, True])
def test_the_first_page_opens(open_panel: OpenPanel, phone: bool, dark: bool) -> None:
    panel = open_panel(phone=phone, dark=dark)
    panel.goto("/")
    panel.page.get_by_role("main").wait_for()
    panel.shot(f"home-{'phone' if phone else 'desktop'}-{'dark' if dark else 'light'}")
    assert panel.accessibility() == []
