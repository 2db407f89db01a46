"""Engines for the gateway's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.engine import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An engine that the tests of a module share; each uses flows and names of its own."""
    made = Home(tmp_path_factory.mktemp("engine"))
    made.start_kernel()
    yield made
    made.close()


@pytest.fixture
def make_home(tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """Engines of a test's own, without a kernel until it starts one."""
    made: list[Home] = []

    def make(**options: Any) -> Home:
        made.append(Home(tmp_path / f"engine{len(made)}", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
