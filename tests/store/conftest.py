from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store.metadata import Store, open_store
from tests.store.stores import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "FloworkData"


@pytest.fixture
def store(data: Path, clock: Clock) -> Iterator[Store]:
    opened = open_store(data, environ={}, now=clock)
    yield opened
    opened.close()
