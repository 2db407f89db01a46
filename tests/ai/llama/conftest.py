"""A tiny real model, loaded once for all tests of the engine's parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.ai.host.llama.constraint import Alphabet
from appliance.ai.host.llama.native import Model
from tests.support.tinymodel import tiny_model


@pytest.fixture(scope="session")
def model() -> Iterator[Model]:
    loaded = Model(tiny_model())
    yield loaded
    loaded.close()


@pytest.fixture(scope="session")
def alphabet(model: Model) -> Alphabet:
    return Alphabet(model.survey())
