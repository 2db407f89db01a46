"""What the tests of all drivers share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drivers.host import FakeHost, Heard


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    folder = tmp_path / "state"
    folder.mkdir()
    return FakeHost(folder)


@pytest.fixture
def heard() -> Heard:
    return Heard()
