"""Fine-tuning by LoRA (arXiv 2106.09685) on this machine's own hardware: bounded, watched, resumable.

Only the assistant's words are learnt. Before and after, and behind every epoch, the rows that were held out are asked:
their loss, and how many answers are right to the last token. Training ends by itself when that no longer gets better;
what is kept is the adapter that did best. Where nothing is held out it goes to its end, and the last one is kept. A
stop, a kill or a power cut loses at most what came behind the last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.ai.host.memory import available
from appliance.ai.training.dataset import load
from appliance.contracts import ConfigError

# Nothing is ever fetched: what is trained lies in a folder of this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import peft
import torch
import tqdm
import transformers

# Bars are drawn by the command line; a thread that watches them is nobody's.
transformers.utils.logging.disable_progress_bar()
tqdm.tqdm.monitor_interval = 0
# peft asks transformers for what the latter calls by another name now; neither is a fault of whoever trains.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
#: A label that is not learnt (torch's own).
_SKIP = -100
#: Bytes for each weight while it is trained on: itself and what is worked out from it.
_BYTES = 6
#: Seconds between two checkpoints.
_PAUSE = 300.0


class Plan(Struct, frozen=True, kw_only=True):
    """How to train. ``rate`` is the learning rate at its highest, ``longest`` tokens of a row, ``patience`` how many
    epochs without a better result end it.
    """

    epochs: int = 3
    rank: int = 8
    alpha: float = 16.0
    rate: float = 2e-4
    batch: int = 4
    longest: int = 1024
    patience: int = 2
    seed: int = 0
    threads: int = 0


class Seen(Struct, frozen=True):
    """What the held-out rows say: mean loss of a token, and the share of answers that are right as a whole."""

    loss: float
    right: float


class Told(Struct, frozen=True, kw_only=True):
    """Progress: steps done of all, the loss of the newest, tokens a second, seconds left."""

    step: int
    steps: int
    epoch: int
    loss: float
    speed: float
    left: float


class Outcome(Struct, frozen=True, kw_only=True):
    """How it ended: ``finished`` (all epochs), ``settled`` (no better any more), ``stopped`` (call again to go on).

    ``rows`` were trained on, ``held`` were asked before and after; ``long`` had too many tokens for either.
    """

    state: str
    before: Seen
    after: Seen
    step: int
    steps: int
    adapter: str
    rows: int
    held: int
    long: int


class Example(Struct, frozen=True):
    """A row as tokens; ``learnt`` is where the answer begins."""

    tokens: list[int]
    learnt: int


class Tuning:
    """One training, in a folder of its own: ``adapter`` (the best so far), ``checkpoint``, ``state.json``.

    ``stop`` is asked behind every step. A folder with a checkpoint of the same base, data and plan goes on there.
    """

    def __init__(
        self,
        base: Path,
        data: Path,
        target: Path,
        plan: Plan,
        tell: Callable[[Told], None] = lambda told: None,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base
        self._data = data
        self._target = target
        self._plan = plan
        self._tell = tell
        self._stop = stop
        self._clock = clock

    def run(self) -> Outcome:
        """Train to the end, or until it is stopped. Raises ``ConfigError`` for what cannot be trained here."""
        plan = self._plan
        torch.manual_seed(plan.seed)
        if plan.threads:
            torch.set_num_threads(plan.threads)
        self._open()
        self._long = 0
        train, held = self._examples("train"), self._examples("held")
        self._counts = len(train), len(held)
        each = math.ceil(len(train) / plan.batch)
        self._steps = each * plan.epochs
        self._optimizer = torch.optim.AdamW((p for p in self._model.parameters() if p.requires_grad), lr=plan.rate)
        state = self._resume()
        if state is None:
            before = self._ask(held)
            state = {"step": 0, "before": [before.loss, before.right], "best": None, "worse": 0, "settled": False}
            self._keep(state)
        self._train(train, held, state, each)
        return self._ended(state)

    # --- opening -----------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._check_memory()
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self._base, local_files_only=True)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                self._base, local_files_only=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as exc:
            raise ConfigError(f"{self._base} is no model that can be trained: {exc}") from None
        if not self._tokenizer.chat_template:
            self._tokenizer.chat_template = _CHATML
        names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        wanted = [name for name in _LINEAR if name in names]
        if not wanted:
            raise ConfigError(f"{self._base}: no layer of this model is known here ({', '.join(_LINEAR)})")
        settings = peft.LoraConfig(
            r=self._plan.rank,
            lora_alpha=self._plan.alpha,  # type: ignore[arg-type]
            target_modules=wanted,
            task_type="CAUSAL_LM",
            base_model_name_or_path=str(self._base),
        )
        self._model: Any = peft.get_peft_model(model, settings).to(self._device)

    def _check_memory(self) -> None:
        size = sum(file.stat().st_size for file in self._base.glob("*.safetensors"))
        if not size:
            there = "holds no safetensors" if self._base.is_dir() else "is no folder"
            raise ConfigError(f"{self._base} {there}")
        free = available()
        if self._device.type == "cpu" and size * _BYTES / 2 > free:
            raise ConfigError(
                f"training this model takes about {size * _BYTES / 2e9:.1f} GB of memory and {free / 1e9:.1f} are free"
            )

    def _examples(self, side: str) -> list[Example]:
        found = [example_of(self._tokenizer, row["messages"]) for row in load(self._data, side)]
        fitting = [one for one in found if len(one.tokens) <= self._plan.longest and one.learnt < len(one.tokens)]
        self._long += len(found) - len(fitting)
        if not fitting and side == "train":
            raise ConfigError(f"no row of {self._data} fits into {self._plan.longest} tokens")
        return fitting

    # --- training ----------------------------------------------------------------------------------------

    def _train(self, train: list[Example], held: list[Example], state: dict[str, Any], each: int) -> None:
        saved = began = self._clock()
        tokens, first = 0, state["step"]
        self._model.train()
        while state["step"] < self._steps and not state["settled"]:
            epoch, at = divmod(state["step"], each)
            for batch in self._batches(train, epoch)[at:]:
                loss = self._step(batch, state["step"])
                tokens += sum(len(one.tokens) for one in batch)
                state["step"] += 1
                took = max(self._clock() - began, 1e-9)
                self._tell(
                    Told(
                        step=state["step"],
                        steps=self._steps,
                        epoch=epoch + 1,
                        loss=loss,
                        speed=tokens / took,
                        left=took / (state["step"] - first) * (self._steps - state["step"]),
                    )
                )
                if self._stop():
                    self._keep(state)
                    return
                if self._clock() - saved > _PAUSE:
                    self._keep(state)
                    saved = self._clock()
            self._judge(held, state)

    def _batches(self, train: list[Example], epoch: int) -> list[list[Example]]:
        """In another order each epoch, but the same one when an epoch is taken up again."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self._plan.seed + epoch)).tolist()
        size = self._plan.batch
        return [[train[number] for number in order[at : at + size]] for at in range(0, len(order), size)]

    def _step(self, batch: list[Example], number: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.rate * _warmth(number, self._steps)
        loss: torch.Tensor = self._forward(batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _forward(self, batch: list[Example]) -> Any:
        width = max(len(one.tokens) for one in batch)
        tokens = torch.zeros((len(batch), width), dtype=torch.long)
        seen = torch.zeros((len(batch), width), dtype=torch.long)
        labels = torch.full((len(batch), width), _SKIP)
        for row, one in enumerate(batch):
            length = len(one.tokens)
            tokens[row, :length] = torch.tensor(one.tokens)
            seen[row, :length] = 1
            labels[row, one.learnt : length] = tokens[row, one.learnt : length]
        on = self._device
        return self._model(input_ids=tokens.to(on), attention_mask=seen.to(on), labels=labels.to(on))

    @torch.no_grad()
    def _ask(self, held: list[Example]) -> Seen:
        if not held:
            return Seen(0.0, 0.0)
        self._model.eval()
        loss, count, right = 0.0, 0, 0
        for one in held:
            said = self._forward([one])
            learnt = len(one.tokens) - one.learnt
            loss += float(said.loss) * learnt
            count += learnt
            guessed = said.logits[0, one.learnt - 1 : -1].argmax(-1).tolist()
            right += guessed == one.tokens[one.learnt :]
        self._model.train()
        return Seen(loss / count, right / len(held))

    def _judge(self, held: list[Example], state: dict[str, Any]) -> None:
        """Behind an epoch: is it better than before? The share of right answers counts first, then the loss."""
        now = self._ask(held)
        best = state["best"]
        better = best is None or not held or (now.right, -now.loss) > (best[1], -best[0])
        if better:
            state["best"], state["worse"] = [now.loss, now.right], 0
            self._save_adapter()
        else:
            state["worse"] += 1
        state["settled"] = state["worse"] >= self._plan.patience or (bool(held) and now.right == 1.0)
        self._keep(state)

    # --- keeping -----------------------------------------------------------------------------------------

    def _mark(self) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        plan = {name: getattr(self._plan, name) for name in self._plan.__struct_fields__ if name != "threads"}
        mark = hashlib.sha256()
        for side in ("train", "held"):  # a data set may have been made anew under its name
            mark.update((self._data / f"{side}.jsonl").read_bytes())
        return {"base": str(self._base.resolve()), "data": mark.hexdigest(), "plan": plan}

    def _resume(self) -> dict[str, Any] | None:
        place = self._target / "checkpoint"
        try:
            state: dict[str, Any] = json.loads((place / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if state.pop("mark") != self._mark():
            raise ConfigError(
                f"{self._target} holds a training of another base, data set or plan; choose another name or remove it"
            )
        weights = torch.load(place / "weights.pt", map_location=self._device, weights_only=True)
        peft.set_peft_model_state_dict(self._model, weights["adapter"])
        self._optimizer.load_state_dict(weights["optimizer"])
        return state

    def _keep(self, state: dict[str, Any]) -> None:
        """A checkpoint, whole or not at all."""
        place, unfinished = self._target / "checkpoint", self._target / "checkpoint.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        weights = {"adapter": peft.get_peft_model_state_dict(self._model), "optimizer": self._optimizer.state_dict()}
        torch.save(weights, unfinished / "weights.pt")
        (unfinished / "state.json").write_text(json.dumps({**state, "mark": self._mark()}), encoding="utf-8")
        _replace(unfinished, place)

    def _save_adapter(self) -> None:
        unfinished = self._target / "adapter.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._model.save_pretrained(unfinished)
        self._tokenizer.save_pretrained(unfinished)
        _replace(unfinished, self._target / "adapter")

    def _ended(self, state: dict[str, Any]) -> Outcome:
        before = Seen(*state["before"])
        after = Seen(*state["best"]) if state["best"] else before
        whole = state["step"] >= self._steps
        return Outcome(
            state="settled" if state["settled"] and not whole else "finished" if whole else "stopped",
            before=before,
            after=after,
            step=state["step"],
            steps=self._steps,
            adapter=str(self._target / "adapter") if state["best"] else "",
            rows=self._counts[0],
            held=self._counts[1],
            long=self._long,
        )


def _replace(unfinished: Path, place: Path) -> None:
    """Put a folder in the place of another; a cut in between leaves one of the two."""
    for file in unfinished.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    old = place.with_name(f"{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    unfinished.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _warmth(step: int, steps: int) -> float:
    """The learning rate's course: up over the first twentieth, then down along half a cosine to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def example_of(tokenizer: Any, messages: list[dict[str, str]]) -> Example:
    """A chat as tokens, with the place where its last answer begins."""
    asked = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    end = tokenizer.eos_token or ""
    answer = whole[len(asked) :] if whole.startswith(asked) else messages[-1]["content"] + end
    before = tokenizer(asked, add_special_tokens=False)["input_ids"]
    behind = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example([*before, *behind], len(before))


def merge(base: Path, adapter: Path, target: Path) -> None:
    """Write the model with the adapter worked into it, as a folder of safetensors. Raises ``ConfigError``."""
    if target.exists():
        raise ConfigError(f"{target} is there already")
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, local_files_only=True, dtype=torch.float32)
        merged: Any = peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(progressbar=False)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as exc:
        raise ConfigError(f"{adapter} does not fit {base}: {exc}") from None
    unfinished = target.with_name(f"{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    merged.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(target)
