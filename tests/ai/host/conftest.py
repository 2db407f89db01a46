"""A model host with real models, for the tests that only ask it something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.modelhost import ModelHost
from tests.support.tinymodel import tiny_embedder, tiny_model

#: Layers of a model that takes seconds for an answer of some hundred tokens.
SLOW = 60


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHost]:
    """Serves ``tiny``, ``other`` (other weights), ``slow`` and ``vectors`` (an embedder)."""
    data = tmp_path_factory.mktemp("host") / "data"
    models = {
        "tiny": tiny_model(),
        "other": tiny_model(seed=1),
        "slow": tiny_model(layers=SLOW),
        "vectors": tiny_embedder(),
    }
    data.mkdir()
    with ModelHost(data, models=models) as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder
