"""Language models: the engine beside llama.cpp's llama-bench, its bare loop, and llama-cpp-python's ``Llama`` class.

The model has the shape of Qwen2.5-0.5B (Q4_0) and random weights: speed does not depend on what it says. All compared
figures come from the same run, in turns, with the same threads and as many tokens. All but the engine compute in
threads that end (:mod:`appliance.ai.host.llama.apart`), for on a box nobody computes beside it. Qwen's real vocabulary
lies in the source package of llama-cpp-python, which pip fetches once; without it a made-up one of the same size does.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from appliance.ai.host.llama import Options, load
from appliance.ai.host.llama.apart import apart
from appliance.ai.host.llama.native import Context, Model
from appliance.ai.host.llama.states import States
from appliance.ai.host.work import Answer, Ask, Language
from scripts.benchmarks import llama_bench
from scripts.benchmarks.common import Row
from tests.support.tinymodel import big_model

_OURS = "ours"
_VOCABULARY = "models/ggml-vocab-qwen2.gguf"
#: Tokens that are written one by one.
_WRITTEN = 24
#: How many prompts and answers are compared a round: on a rented machine single ones lie a tenth apart, those most that
#: wait for the machine's memory, which others load too.
_PROMPTS, _ANSWERS = 3, 6
_RECORDS = {
    "type": "array",
    "minItems": 50,
    "items": {
        "type": "object",
        "properties": {
            "place": {"type": "string", "maxLength": 60},
            "state": {"enum": ["on", "off", "unknown"]},
            "level": {"type": "integer", "minimum": 0, "maximum": 100},
            "note": {"type": "string", "maxLength": 120},
        },
        "required": ["place", "state", "level", "note"],
    },
}


def run(quick: bool) -> list[Row]:
    """Load the model once for each who is compared, and let them take turns."""
    rounds = 2 if quick else 7
    path = _model()
    options = Options(name="bench", context=4096)
    with tempfile.TemporaryDirectory() as folder:
        rows = _restoring(path, Path(folder), options, rounds)
    bare = _Bare(path, options)
    language = load(path, options)
    try:
        rows = [*_single(language, bare, path, options, rounds), *_turns(language, path, options, rounds), *rows]
        rows += [*_schema(language, rounds), *_parallel(language, rounds)]
    finally:
        language.close()
        bare.close()
    return rows


def _model() -> Path:
    """The model's file, made at the first run."""
    target = Path(tempfile.gettempdir()) / "flowork-bench-0.5b.gguf"
    if not target.exists():
        draft = target.with_suffix(".draft")
        source = llama_bench.source()
        big_model(draft, None if source is None else source / _VOCABULARY)
        draft.replace(target)
    return target


class _Bare:
    """What llama-bench does, in this process: evaluate tokens, wait until that is done, look at nothing."""

    def __init__(self, path: Path, options: Options) -> None:
        self._model = Model(path)
        self._context = Context(
            self._model,
            cells=2048,
            sequences=1,
            batch=512,
            threads=options.answer_threads(),
            prompt_threads=options.reading_threads(),
        )
        self._random = np.random.default_rng(0)

    def prompt(self, count: int) -> float:
        """Seconds for a prompt of so many tokens, 512 at most."""
        return apart(lambda: self._prompt(count))

    def _prompt(self, count: int) -> float:
        self._context.clear()
        return self._evaluate(0, count)

    def answer(self, count: int, behind: int) -> float:
        """Seconds for so many tokens one by one, behind a prompt."""

        def written() -> float:
            self._prompt(behind)
            return sum(self._evaluate(behind + number, 1) for number in range(count))

        return apart(written)

    def _evaluate(self, at: int, count: int) -> float:
        context = self._context
        context.tokens[:count] = self._random.integers(0, 150_000, count)
        context.positions[:count] = range(at, at + count)
        context.outputs[:count] = 0
        context.outputs[count - 1] = 1
        began = time.perf_counter()
        if context.decode(count):
            raise RuntimeError("llama.cpp could not evaluate the tokens")
        context.logits(count - 1)  # waits
        return time.perf_counter() - began

    def close(self) -> None:
        self._context.close()
        self._model.close()


def _ask(language: Language, *asks: Ask) -> tuple[list[Answer], float]:
    """All at once; their answers and the seconds until the last one's end."""
    answers: list[Answer | None] = [None] * len(asks)
    errors: list[Exception] = []
    left = threading.Semaphore(0)

    def ended(number: int) -> Callable[[Answer | None, Exception | None], None]:
        def end(answer: Answer | None, error: Exception | None) -> None:
            answers[number] = answer
            errors.extend([error] if error else [])
            left.release()

        return end

    began = time.perf_counter()
    for number, ask in enumerate(asks):
        language.submit(ask, lambda _: None, ended(number))
    for _ in asks:
        left.acquire()
    if errors:
        raise errors[0]
    return [answer for answer in answers if answer is not None], time.perf_counter() - began


def _text(language: Language, tokens: int, seed: int) -> str:
    """A text of about so many tokens that begins like no other."""
    words = f"{seed} reads the level of the tank and opens the valve when it is low, then waits a little longer. " * 100
    return words[: int(len(words) * tokens / language.count(words))]


def _per_token(answer: Answer) -> float:
    return (answer.seconds - answer.first) / max(1, answer.tokens_out - 1)


def _single(language: Language, bare: _Bare, path: Path, options: Options, rounds: int) -> list[Row]:
    reference = llama_bench.Reference()

    def reading(turn: int) -> dict[str, float | None]:
        (answer,), _ = _ask(language, Ask(prompt=_text(language, 500, turn), max_tokens=1))
        # As many tokens each: llama.cpp multiplies four rows at a time, and what is left over one by one.
        count = min(512, answer.tokens_in)
        return {
            _OURS: answer.tokens_in / (answer.first - answer.began),
            "the bare loop": count / bare.prompt(count),
            "llama-bench": reference.speed(path, prompt=count, threads=options.reading_threads()),
        }

    def writing(turn: int) -> dict[str, float | None]:
        (answer,), _ = _ask(language, Ask(prompt=f"{turn} is", max_tokens=_WRITTEN + 1))
        return {
            _OURS: 1 / _per_token(answer),
            "the bare loop": _WRITTEN / bare.answer(_WRITTEN, 8),
            "llama-bench": reference.speed(path, answer=_WRITTEN, threads=options.answer_threads()),
        }

    rows = _compared("prompt of 500 tokens", reading, rounds * _PROMPTS)
    rows += _compared("answer", writing, rounds * _ANSWERS)
    return rows if reference.program is not None else [Row("models", f"llama-bench: {reference.why}", 0, "runs"), *rows]


def _compared(what: str, speeds: Callable[[int], dict[str, float | None]], rounds: int) -> list[Row]:
    """Tokens a second of several in turns, and ours as part of each other's in the same turn; None is left out."""
    found = [speeds(turn) for turn in range(rounds + 1)][1:]  # the first warms up
    rows = [Row("models", what, statistics.median(speed[_OURS] or 0 for speed in found), "tokens/s")]
    for name in ("llama-bench", "the bare loop"):
        ratios = [(speed[_OURS] or 0) / other for speed in found if (other := speed[name])]
        if len(ratios) == rounds:
            ratio = statistics.median(ratios)
            rows.append(Row("models", f"{what}: against {name}", ratio, "x", ">= 0.97", ratio >= 0.97))
    return rows


def _turns(language: Language, path: Path, options: Options, rounds: int) -> list[Row]:
    """Two flows with long system prompts of their own ask in turns: seconds to the first token."""
    from llama_cpp import Llama

    theirs = Llama(
        str(path),
        n_ctx=2048,
        n_threads=options.answer_threads(),
        n_threads_batch=options.reading_threads(),
        verbose=False,
    )
    rules = [_text(language, 480, seed) for seed in (1001, 1002)]
    our_times, their_times = [], []
    for turn in range(rounds + 1):
        for system in rules:
            messages: Any = [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Number {turn} says that the tank is empty. What now?"},
            ]
            (answer,), _ = _ask(language, Ask(messages=messages, shared=1, max_tokens=1))
            began = time.perf_counter()
            apart(partial(theirs.create_chat_completion, messages, max_tokens=1, temperature=0.0))
            took = time.perf_counter() - began
            if turn:
                our_times.append(answer.first)
                their_times.append(took)
    theirs.close()
    ours, other = statistics.median(our_times), statistics.median(their_times)
    return [
        Row("models", "taking turns: to the first token", ours * 1000, "ms"),
        Row("models", "taking turns: the same of the Llama class", other * 1000, "ms"),
        Row("models", "taking turns: against the Llama class", ours / other, "x", "<= 0.1", ours / other <= 0.1),
    ]


def _restoring(path: Path, folder: Path, options: Options, rounds: int) -> list[Row]:
    """A shared beginning of 1,500 tokens from disk (from the page cache: a card adds its own time)."""
    model = Model(path)
    context = Context(
        model,
        cells=4096,
        sequences=2,
        batch=512,
        threads=options.answer_threads(),
        prompt_threads=options.reading_threads(),
    )
    states = States(folder, "0" * 16, bound=1 << 30, age=1e9)
    tokens = list(range(1000, 2500))
    for at in range(0, 1500, 500):
        context.tokens[:500] = tokens[at : at + 500]
        context.positions[:500] = range(at, at + 500)
        context.outputs[:500] = 0
        context.outputs[499] = 1
        if apart(lambda: context.decode(500)):
            raise RuntimeError("llama.cpp could not evaluate the tokens")
    state = context.save(0)
    states.save(tokens, "", state)
    times = []
    for _ in range(rounds):
        context.cut(1)
        began = time.perf_counter()
        found = states.load(tokens)
        if found is None or not context.restore(1, found):
            raise RuntimeError("the state could not be restored")
        times.append(time.perf_counter() - began)
    context.close()
    model.close()
    median = statistics.median(times) * 1000
    return [
        Row("models", "1,500 tokens from disk", median, "ms", "< 20", median < 20),
        Row("models", "1,500 tokens on disk", len(state) / 1e6, "MB"),
    ]


def _schema(language: Language, rounds: int) -> list[Row]:
    ratios = []
    for turn in range(rounds * 3 + 1):
        (free,), _ = _ask(language, Ask(prompt=f"{turn} is", max_tokens=64))
        (bound,), _ = _ask(language, Ask(prompt=f"{turn} is", max_tokens=64, schema=_RECORDS))
        if turn:
            ratios.append(_per_token(bound) / _per_token(free) - 1)
    slower = statistics.median(ratios) * 100
    return [Row("models", "answer by a schema: slower than a free one by", slower, "%", "<= 5", slower <= 5)]


def _parallel(language: Language, rounds: int) -> list[Row]:
    rows = []
    for count, wanted in ((4, 1.3), (16, 2.5)):
        ratios = []
        for turn in range(rounds):
            asks = [Ask(prompt=f"{turn} and {number} are", max_tokens=32) for number in range(count)]
            one_by_one = sum(_ask(language, ask)[1] for ask in asks)
            _, together = _ask(language, *asks)
            ratios.append(one_by_one / together)
        gain = statistics.median(ratios)
        rows.append(Row("models", f"{count} at once against one by one", gain, "x", f">= {wanted}", gain >= wanted))
    return rows
