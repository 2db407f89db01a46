"""How fast a model is on this machine, measured the whole way through the model host, as a flow would have it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from appliance.ai.building import machine
from appliance.ai.library import cards, host
from appliance.ai.library.cards import Speed
from appliance.ai.library.errors import BadModel

#: Tokens of a prompt (about) and of an answer; of rounds the median counts.
PROMPT, ANSWER, ROUNDS = 400, 64, 3
#: Seconds for one round on a slow board.
_TIMEOUT = 900.0
_WORDS = ("water", "light", "stone", "river", "window", "morning", "engine", "garden", "paper", "signal", "market")
#: ``tell(rounds done, in all, what is measured)``.
Tell = Callable[[int, int, str], None]


def bench(
    data: Path,
    name: str,
    tell: Tell = lambda done, total, what: None,
    *,
    rounds: int = ROUNDS,
    now: Callable[[], float] = time.time,
) -> Speed:
    """Measure and keep it on the model's card. Raises ``NoSuchModel``, ``BadModel``, ``HostAway``, ``HostRefused``."""
    found = cards.find(data, name)
    if found.kind != "language" or cards.view(found).kind != "language":
        raise BadModel(f"{name!r} generates no text; only language models are measured")
    random = Random(now())  # every prompt is another one: what is kept evaluated would be no measure
    prompts, answers = [], []
    for number in range(rounds + 1):
        tell(number, rounds + 1, "loading" if number == 0 else "measuring")
        text = " ".join(random.choice(_WORDS) for _ in range(PROMPT if number else 8))
        body = {
            "model": name,
            "prompt": text,
            "max_tokens": ANSWER if number else 1,
            "temperature": 1.0,
            "seed": number,
        }
        answer = host.ask(data, "POST", "/v1/completions", body, _TIMEOUT)
        if number == 0:
            continue  # the first one loads the model
        times, usage = answer["flowork_seconds"], answer["usage"]
        fresh = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        prompts.append(fresh / max(1e-6, times["first"] - times["began"]))
        made = usage["completion_tokens"] - 1
        if made > 0:
            answers.append(made / max(1e-6, times["whole"] - times["first"]))
    if not answers:
        raise BadModel(f"{name!r} ends its answer at once, so that nothing can be measured")
    speed = Speed(
        prompt=round(statistics.median(prompts), 1),
        generation=round(statistics.median(answers), 1),
        at=now(),
        machine=machine.cpu_name(),
    )
    cards.keep_speed(data, name, speed)
    return speed
