"""How much memory a model is given, and what of it is read before the library gets it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from appliance.ai import host
from appliance.ai.building import place
from appliance.ai.host import files
from appliance.ai.host.errors import ModelUnusable, NoEngine, Stopping
from appliance.ai.host.llama import ggufs
from appliance.ai.host.loaders import LanguageLoader, OnnxLoader
from tests.support.onnxmodels import adder
from tests.support.tinymodel import tiny_model

MIB = 1 << 20


def language(data: Path, context: int) -> files.Found:
    folder = data / "models"
    folder.mkdir(exist_ok=True)
    (folder / "tiny.gguf").write_bytes(tiny_model(context=context).read_bytes())
    found = files.find(data, "tiny")
    assert found is not None
    return found


@pytest.mark.parametrize("context", [8192, 4096, 2048])
def test_the_context_fits_the_memory(data: Path, context: int) -> None:
    """With just as much memory as leaves a fifth to others, and with a little less."""
    found = language(data, 32_768)
    facts = ggufs.read(found.path)
    need = facts.size + 2 * facts.cell * context + 128 * MIB
    assert LanguageLoader(data, int(need / 0.8) + 10).need(found) == need
    assert LanguageLoader(data, int(need / 0.8) - 10).need(found) < need or context == 2048


def test_a_model_is_loaded_with_that_context(data: Path) -> None:
    said: list[float] = []
    model = LanguageLoader(data, 4096 * MIB).load(language(data, 32_768), said.append)
    assert model.describe()["context"] == 8192
    assert said[-1] == 1.0
    model.close()


def test_a_model_with_a_short_context_has_that(data: Path) -> None:
    found = language(data, 300)
    model = LanguageLoader(data, 4096 * MIB).load(found, lambda share: None)
    assert model.describe()["context"] == 300
    model.close()


def test_whoever_is_told_how_far_it_is_may_end_it(tmp_path: Path) -> None:
    def stop(share: float) -> None:
        raise Stopping("enough")

    data = tmp_path / "data"
    adder(data / "models")
    found = files.find(data, "adder")
    assert found is not None
    with pytest.raises(Stopping):
        OnnxLoader(data).load(found, stop)


def test_a_file_that_vanished_is_said(data: Path) -> None:
    found = language(data, 300)
    found.path.unlink()
    with pytest.raises(ModelUnusable, match="tiny"):
        LanguageLoader(data, 4096 * MIB).need(found)


def test_a_library_that_is_missing_is_worth_another_try_while_the_engine_is_made(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.delitem(sys.modules, "appliance.ai.host.xllama", raising=False)
    monkeypatch.delattr(host, "xllama", raising=False)
    loader, found = LanguageLoader(data, 4096 * MIB), language(data, 300)
    with pytest.raises(NoEngine, match="models setup") as missing:
        loader.load(found, lambda share: None)
    assert not missing.value.retryable
    with place.turn(data):
        place.write_state(data, place.Setup(state="running", percent=46))
        with pytest.raises(NoEngine, match="46 %") as soon:
            loader.load(found, lambda share: None)
    assert soon.value.retryable
