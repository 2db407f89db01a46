"""An inference engine over llama.cpp's C API: what one loaded language model does, on a thread of its own.

    language = load(Path("qwen.gguf"), Options(state=data / "models" / "state"))
    ticket = language.submit(Ask(messages=[…]), on_text, on_end)
    language.close()

``load`` imports llama_cpp; this module alone does not.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from appliance.ai.host.llama import ggufs
from appliance.ai.host.work import Language

#: Beside a projector's file: what it computes with, and what was seen and is kept.
_PROJECTOR_BUFFERS = 208 << 20


def _cores() -> int:
    return len(os.sched_getaffinity(0))


class Options(Struct, frozen=True, kw_only=True):
    """How a model is loaded. Sizes in bytes, lengths in tokens; 0 chooses for this machine and model.

    ``context`` is the longest prompt and answer together, ``cells`` those of all that are under way, ``memory`` the
    bound for the model with all it needs (0: what the machine has free). ``threads`` work on an answer,
    ``prompt_threads`` on prompts. ``parallel`` generations run at once, in one batch from ``batch_from`` on; ``queue``
    more may wait. What was evaluated stays in memory up to ``kept_bytes``; shared beginnings outlive the process in the
    folder ``state``, ``state_bytes`` of them and ``state_age`` seconds behind their last use. ``adapters`` are LoRA
    files by the name asks use. With a ``projector`` it sees pictures.
    """

    name: str = ""
    context: int = 0
    cells: int = 0
    memory: int = 0
    threads: int = 0
    prompt_threads: int = 0
    parallel: int = 16
    batch_from: int = 4
    queue: int = 64
    kept_bytes: int = 0
    state: Path | None = None
    state_bytes: int = 512 << 20
    state_age: float = 30 * 86400.0
    adapters: dict[str, Path] = {}
    projector: Path | None = None

    def answer_threads(self) -> int:
        """Threads for answers. A second one wins a tenth on two free cores and loses half when one is busy."""
        return self.threads or max(1, _cores() // 2)

    def reading_threads(self) -> int:
        """Threads for prompts and batches: all cores, never more."""
        return self.prompt_threads or _cores()


def projector_need(path: Path | None) -> int:
    """Bytes of memory that a projector takes, if there is one. ``ConfigError`` for a file that is no good."""
    return 0 if path is None else ggufs.read(path).size + _PROJECTOR_BUFFERS


def load(path: Path, options: Options = Options()) -> Language:  # noqa: B008  it is frozen
    """Load a model file. ``ConfigError`` for a file that is no good, or that needs more than ``options.memory``."""
    from appliance.ai.host.llama.language import open_language

    return open_language(path, options)
