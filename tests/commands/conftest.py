"""Engines for the command line: copied from one that was made once, since making keys takes a while."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.firststart import prepare
from appliance.kernel.kernel import Kernel
from appliance.paths import EngineLock
from tests.commands.box import Box
from tests.support.broker import eventually


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    prepare(folder)
    return folder


@pytest.fixture
def box(made: Path, tmp_path: Path) -> Box:
    """An engine that does not run, with the example flow."""
    shutil.copytree(made, tmp_path / "data")
    return Box(tmp_path / "data")


@pytest.fixture
def empty(tmp_path: Path) -> Box:
    """A folder that does not exist."""
    return Box(tmp_path / "data")


@pytest.fixture
def kernel(box: Box) -> Iterator[Kernel]:
    """A whole kernel that runs on the box's folder, with its triggers attached."""
    with EngineLock(box.folder, "kernel"):
        started = Kernel(box.folder)
        started.start()
        eventually(started.hosting.settled.is_set, "the triggers were not attached")
        yield started
        started.stop()
