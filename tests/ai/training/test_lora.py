"""Training, stopping, going on, merging, and the adapter in llama.cpp: on a tiny model, for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("peft", reason="the train extra is not installed")
native: Any = pytest.importorskip("appliance.ai.host.llama.native")

from appliance.ai.host.llama import quantize as quantizing  # noqa: E402
from appliance.ai.training import convert as converting  # noqa: E402
from appliance.ai.training import dataset, lora, rows  # noqa: E402
from appliance.contracts import ConfigError  # noqa: E402
from tests.ai.training import tiny  # noqa: E402
from tests.ai.training.test_convert import said  # noqa: E402
from tests.support.modelhost import ModelHost  # noqa: E402
from tests.support.tinymodel import tiny_adapter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

ROOMS = ["kitchen", "hall", "cellar", "attic", "garage", "porch"]
PLAN = lora.Plan(epochs=3, rank=16, alpha=32.0, rate=1e-2, batch=4, longest=128, threads=1, patience=9)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands and what they mean; enough alike that what is learnt from some helps with the others."""
    made = [
        rows.pair(f"turn {state} the light in the {room}", json.dumps({"light": state}), f"home.csv:{n}")
        for n, (room, state) in enumerate((room, state) for room in ROOMS for state in ("on", "off"))
    ]
    target = tmp_path_factory.mktemp("data") / "home"
    report = dataset.make(made, target, share=0.25)
    assert report.train + report.held == 12 and report.held
    return target


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[lora.Outcome, list[lora.Told]]:
    told: list[lora.Told] = []
    target = tmp_path_factory.mktemp("run") / "home"
    return lora.Tuning(base, data, target, PLAN, told.append).run(), told


def test_training_makes_the_held_out_loss_smaller(trained: tuple[lora.Outcome, list[lora.Told]]) -> None:
    outcome, told = trained
    assert outcome.state in ("finished", "settled")
    assert outcome.after.loss < 0.5 * outcome.before.loss
    assert [one.step for one in told] == list(range(1, len(told) + 1))
    assert told[-1].left == 0 and all(one.speed > 0 for one in told)
    settings = json.loads((Path(outcome.adapter) / "adapter_config.json").read_text())
    assert settings["r"] == 16


def test_a_stopped_training_goes_on_where_it_was_and_ends_the_same(
    base: Path, data: Path, tmp_path: Path, trained: tuple[lora.Outcome, list[lora.Told]]
) -> None:
    whole, told = trained
    seen: list[lora.Told] = []
    first = lora.Tuning(base, data, tmp_path / "t", PLAN, seen.append, lambda: len(seen) == 2).run()
    assert (first.state, first.step) == ("stopped", 2)
    second = lora.Tuning(base, data, tmp_path / "t", PLAN, seen.append).run()
    assert [one.step for one in seen] == [one.step for one in told]
    assert second.before == whole.before
    assert seen[-1].loss == pytest.approx(told[-1].loss, rel=1e-3)
    assert second.after.loss == pytest.approx(whole.after.loss, rel=1e-3)


def test_where_nothing_is_held_out_it_goes_to_its_end_and_the_last_adapter_is_kept(base: Path, tmp_path: Path) -> None:
    made = [rows.pair(f"turn {state} the light", json.dumps({"light": state}), "home.csv:1") for state in ("on", "off")]
    assert dataset.make(made[:1], tmp_path / "one").held == 0
    plan = lora.Plan(epochs=12, rank=16, alpha=32.0, rate=1e-2, longest=128, threads=1, patience=2)
    outcome = lora.Tuning(base, tmp_path / "one", tmp_path / "t", plan).run()
    assert (outcome.state, outcome.step, outcome.rows, outcome.held) == ("finished", 12, 1, 0)
    example = lora.example_of(
        tiny.transformers.AutoTokenizer.from_pretrained(base, local_files_only=True), made[0]["messages"]
    )
    tokens = example.tokens[: example.learnt]
    learnt = int(np.argmax(tiny.logits(base, tokens, Path(outcome.adapter))))
    assert learnt == example.tokens[example.learnt], "that of the last epoch, not of the first"


def test_a_data_set_that_was_made_anew_is_not_gone_on_with(base: Path, tmp_path: Path) -> None:
    made = [rows.pair(f"turn {state} the light", json.dumps({"light": state}), "home.csv:1") for state in ("on", "off")]
    dataset.make(made, tmp_path / "home")
    lora.Tuning(base, tmp_path / "home", tmp_path / "t", PLAN, stop=lambda: True).run()
    shutil.rmtree(tmp_path / "home")
    dataset.make([*made, rows.pair("open the door", "no", "home.csv:3")], tmp_path / "home")
    with pytest.raises(ConfigError, match="another base, data set or plan"):
        lora.Tuning(base, tmp_path / "home", tmp_path / "t", PLAN).run()


def test_a_folder_of_another_training_is_not_gone_on_with(base: Path, data: Path, tmp_path: Path) -> None:
    lora.Tuning(base, data, tmp_path / "t", PLAN, stop=lambda: True).run()
    other = lora.Plan(epochs=9)
    with pytest.raises(ConfigError, match="another base, data set or plan"):
        lora.Tuning(base, data, tmp_path / "t", other).run()


def test_a_cut_while_a_checkpoint_is_written_leaves_the_one_before(base: Path, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "t"
    lora.Tuning(base, data, target, PLAN, stop=lambda: True).run()
    (target / "checkpoint.part").mkdir()
    (target / "checkpoint.part" / "weights.pt").write_bytes(b"half")
    seen: list[lora.Told] = []
    lora.Tuning(base, data, target, PLAN, seen.append, stop=lambda: True).run()
    assert seen[0].step == 2


def test_the_adapter_says_in_llama_cpp_what_it_says_in_peft(
    base: Path, tmp_path: Path, trained: tuple[lora.Outcome, list[lora.Told]]
) -> None:
    adapter = Path(trained[0].adapter)
    converting.convert(base, tmp_path / "base.gguf", "f32")
    converting.convert_adapter(adapter, base, tmp_path / "adapter.gguf")
    tokens = [30, 41, 52, 63, 74]
    plain, tuned = tiny.logits(base, tokens), tiny.logits(base, tokens, adapter)
    found = said(tmp_path / "base.gguf", tokens, tmp_path / "adapter.gguf")
    scale = float(np.abs(tuned).max())
    assert float(np.abs(found - tuned).max()) < 0.02 * scale < float(np.abs(plain - tuned).max())


def test_the_merged_model_says_the_same_and_can_be_converted(
    base: Path, tmp_path: Path, trained: tuple[lora.Outcome, list[lora.Told]]
) -> None:
    adapter = Path(trained[0].adapter)
    lora.merge(base, adapter, tmp_path / "merged")
    tokens = [30, 41, 52, 63, 74]
    tuned = tiny.logits(base, tokens, adapter)
    assert np.allclose(tiny.logits(tmp_path / "merged", tokens), tuned, atol=1e-3 * float(np.abs(tuned).max()))
    converting.convert(tmp_path / "merged", tmp_path / "merged.gguf", "f32")
    found = said(tmp_path / "merged.gguf", tokens)
    assert float(np.abs(found - tuned).max()) < 0.02 * float(np.abs(tuned).max())
    with pytest.raises(ConfigError, match="is there already"):
        lora.merge(base, adapter, tmp_path / "merged")


def test_what_was_trained_merged_and_quantized_answers_in_the_model_host(
    base: Path, data: Path, tmp_path: Path
) -> None:
    longer = lora.Plan(epochs=25, rank=16, alpha=32.0, rate=1e-2, longest=128, threads=1, patience=25)
    outcome = lora.Tuning(base, data, tmp_path / "run", longer).run()
    assert outcome.after.right >= 0.5
    lora.merge(base, Path(outcome.adapter), tmp_path / "merged")
    converting.convert(tmp_path / "merged", tmp_path / "home.gguf", "f16")
    quantizing.quantize(tmp_path / "home.gguf", tmp_path / "home-q8.gguf", "q8_0", 1)
    with ModelHost(tmp_path / "data", models={"home": tmp_path / "home-q8.gguf"}) as host:
        answer = host.chat("home", "turn on the light in the kitchen", max_tokens=20, temperature=0)
    assert json.loads(answer["choices"][0]["message"]["content"]) in ({"light": "on"}, {"light": "off"})


def test_only_the_answer_is_learnt(base: Path) -> None:
    words = tiny.transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    chat = [{"role": "user", "content": "turn on"}, {"role": "assistant", "content": "done"}]
    example = lora.example_of(words, chat)
    assert words.decode(example.tokens[example.learnt :]) == "done<|im_end|>\n"
    assert words.decode(example.tokens[: example.learnt]).endswith("<|im_start|>assistant\n")


def test_what_cannot_be_trained_is_said(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no safetensors"):
        lora.Tuning(tmp_path, data, tmp_path / "t", PLAN).run()
    with pytest.raises(OSError, match="is a LoRA adapter, which stays as it is"):
        quantizing.quantize(tiny_adapter(tmp_path / "adapter.gguf"), tmp_path / "q.gguf", "q8_0", 1)
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(OSError, match="is no GGUF file"):
        quantizing.quantize(tmp_path / "text.gguf", tmp_path / "q.gguf", "q8_0", 1)
    with pytest.raises(ConfigError, match="no row"):
        lora.Tuning(base, data, tmp_path / "t", lora.Plan(longest=3)).run()
    with pytest.raises(ConfigError, match="no data set"):
        lora.Tuning(base, tmp_path / "nothing", tmp_path / "t", PLAN).run()
