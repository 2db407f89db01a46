"""Safetensors to GGUF: llama.cpp says what the original says, and reads text as it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

pytest.importorskip("torch", reason="the train extra is not installed")
native: Any = pytest.importorskip("appliance.ai.host.llama.native")

from appliance.ai.training import convert as converting  # noqa: E402
from appliance.ai.training.vocabulary import cut_of  # noqa: E402
from appliance.contracts import ConfigError  # noqa: E402
from tests.ai.training import tiny  # noqa: E402

TEXT = "When the greenhouse is over 30 °C for 2 minutes, tell me — and don't wait!\n\n  Grüße."


def said(path: Path, tokens: list[int], adapter: Path | None = None) -> Any:
    """What llama.cpp says behind the last token."""
    model = native.Model(path)
    context = native.Context(model, cells=256, sequences=1, batch=256, threads=1, prompt_threads=1)
    try:
        if adapter is not None:
            context.adapt(model.adapter(adapter))
        count = len(tokens)
        context.tokens[:count] = tokens
        context.positions[:count] = np.arange(count)
        context.outputs[:count] = 0
        context.outputs[count - 1] = 1
        assert context.decode(count) == 0
        return context.logits(count - 1).copy()
    finally:
        context.close()
        model.close()


@pytest.fixture(scope="module", params=["llama", "qwen2", "llama3-positions", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp(request.param) / "model"
    if request.param == "llama3-positions":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
        return tiny.make(where, rope_parameters=rope)
    if request.param == "tied":
        return tiny.make(where, "qwen2", tie_word_embeddings=True)
    return tiny.make(where, request.param)


def test_the_converted_model_says_what_the_original_says(folder: Path, tmp_path: Path) -> None:
    words = tiny.transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokens = words(TEXT, add_special_tokens=False)["input_ids"]
    original = tiny.logits(folder, tokens)
    done: list[tuple[int, int]] = []
    # The cache of keys and values is kept in 16 bits: PEERS' figure for it is 2.6e-3, of scores some units high.
    for kind, most in (("f32", 0.02), ("f16", 0.03)):
        target = tmp_path / f"{kind}.gguf"
        done.clear()
        converting.convert(folder, target, kind, lambda at, of: done.append((at, of)))
        assert done[-1][0] == done[-1][1]
        found = said(target, tokens)
        assert float(np.abs(found - original).max()) < most * float(np.abs(original).max())
        assert int(found.argmax()) == int(original.argmax())
    assert not list(tmp_path.glob("*.part"))


def test_the_converted_tokenizer_reads_text_as_the_original(folder: Path, tmp_path: Path) -> None:
    converting.convert(folder, tmp_path / "m.gguf", "f16")
    # The file itself: for some families transformers puts a cut of its own in the place of the file's.
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = native.Model(tmp_path / "m.gguf")
    try:
        chat = f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
        for text in (TEXT, chat, "1234 + 56", "\t\tx = {'a': [1]}"):
            assert model.tokenize(text, begin=True, special=True) == words.encode(text).ids
        assert model.template() == tiny.TEMPLATE
        assert model.ends(words.token_to_id("<|im_end|>"))
    finally:
        model.close()


def test_quantized_files_load_and_are_smaller(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "model", hidden_size=256, intermediate_size=256)
    converting.convert(folder, tmp_path / "m.gguf", "f32")
    sizes = {"f32": (tmp_path / "m.gguf").stat().st_size}
    tokens = [10, 20, 30, 40]
    original = tiny.logits(folder, tokens)
    for kind, most in (("q8_0", 0.1), ("q4_k_m", 0.6)):
        target = tmp_path / f"{kind}.gguf"
        command = [sys.executable, "-m", "appliance.ai.host.llama.quantize", tmp_path / "m.gguf", target, kind, "1"]
        subprocess.run(command, check=True, capture_output=True, timeout=50)
        sizes[kind] = target.stat().st_size
        assert float(np.abs(said(target, tokens) - original).max()) < most * float(np.abs(original).max())
    assert sizes["q4_k_m"] < sizes["q8_0"] < sizes["f32"]


@pytest.mark.parametrize(
    ("kind", "message"), [("q9_z", "there is no type 'q9_z'"), ("q8_0", "versions 2 and 3 can be read")]
)
def test_quantizing_says_what_is_wrong(tmp_path: Path, kind: str, message: str) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF but not really")
    command = [sys.executable, "-m", "appliance.ai.host.llama.quantize", bad, tmp_path / "out.gguf", kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and message in done.stderr
    assert not (tmp_path / "out.gguf").exists()


def test_what_cannot_be_converted_faithfully_is_refused(tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["FalconForCausalLM"]}))
    with pytest.raises(ConfigError, match="FalconForCausalLM cannot be converted"):
        converting.convert(folder, tmp_path / "m.gguf")
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": yarn}))
    with pytest.raises(ConfigError, match="'yarn'"):
        converting.convert(folder, tmp_path / "m.gguf")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="cannot be read"):
        converting.convert(folder, tmp_path / "m.gguf")
    assert not list(tmp_path.glob("m.gguf*"))
    with pytest.raises(ConfigError, match=r"no config\.json"):
        converting.convert(tmp_path, tmp_path / "m.gguf")


def test_a_cut_without_a_name_is_refused_rather_than_guessed() -> None:
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated"}
    with pytest.raises(ConfigError, match=r"\[a-z\]\+"):
        cut_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {"type": "ByteLevel"}]}})
    digits = {"type": "Digits", "individual_digits": True}
    assert cut_of({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel"}]}}) == "smollm"
