"""A browser and an engine per module; windows per test, which fail it for anything that went wrong in the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from appliance.security.secret import Secret
from tests.support.appliance import Appliance
from tests.support.broker import free_port
from tests.support.panel import OpenPanel, Panel, browser, opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser takes its time on a busy machine."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as launched:
        yield launched


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A fresh engine with its example flow."""
    environ = {
        "FLOWORK_SIGN_INS_PER_MINUTE": "1000",
        "FLOWORK_AGENT_PORT": str(free_port()),
        "FLOWORK_AGENT_DISCOVERY": "false",
    }
    with Appliance(tmp_path_factory.mktemp("panel") / "FloworkData", environ=environ) as made:
        yield made


@pytest.fixture(scope="module")
def owner(appliance: Appliance) -> Secret:
    """The owner's key."""
    return Secret(appliance.owner_key())


@pytest.fixture
def open_panel(chromium: Browser, appliance: Appliance, owner: Secret) -> Iterator[OpenPanel]:
    """Opens windows; all are looked at for faults and closed afterwards."""
    windows: list[Panel] = []

    def make(key: Secret | None = owner, *, phone: bool = False, dark: bool = False, **more: Any) -> Panel:
        windows.append(opened(chromium, appliance, key=key, phone=phone, dark=dark, **more))
        return windows[-1]

    yield make
    faults = [fault for window in windows for fault in window.unexpected()]
    for window in windows:
        window.close()
    assert not faults, "in the page: " + "; ".join(faults)


@pytest.fixture
def panel(open_panel: OpenPanel) -> Panel:
    """A window in which the owner is signed in."""
    return open_panel()
