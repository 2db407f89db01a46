"""A loaded model as the host's server sees it: checks what is asked, and hands it to the engine or the embedder."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.ai.grammar.schema import grammar_of
from appliance.ai.host.errors import too_long
from appliance.ai.host.llama import Options, ggufs, projector_need
from appliance.ai.host.llama.chat import Chat
from appliance.ai.host.llama.constraint import Alphabet, Constraint
from appliance.ai.host.llama.embedder import Embedder
from appliance.ai.host.llama.engine import Engine
from appliance.ai.host.llama.job import Job
from appliance.ai.host.llama.native import Context, Grammar, Model, version
from appliance.ai.host.llama.pictures import Picture
from appliance.ai.host.llama.shelf import Shelf
from appliance.ai.host.llama.slots import Slots
from appliance.ai.host.llama.states import States
from appliance.ai.host.llama.waiting import Waiting
from appliance.ai.host.memory import available
from appliance.ai.host.work import Answer, Ask, Language, Ticket
from appliance.contracts import ConfigError, NodeError

if TYPE_CHECKING:
    from appliance.ai.host.llama.sight import Sight

#: Tokens evaluated in one call of llama.cpp at most.
_BATCH = 512
_DEFAULT_CONTEXT = 4096
_FEW = 4
#: What a context needs besides its cells: buffers for a batch. Measured with Qwen2.5-0.5B to 7B, rounded up.
_BUFFERS = 128 << 20
#: A grammar is a program: one that is longer than this, or nested deeper, is none that a person means.
_LONGEST_GRAMMAR, _DEEPEST_GRAMMAR = 1 << 18, 64


def open_language(path: Path, options: Options) -> Language:
    """See ``load``."""
    facts = ggufs.read(path)
    if facts.is_adapter:
        raise ConfigError(
            f"{path.name} is a LoRA adapter: it lies in the folder MODEL.adapters, and is used as MODEL+NAME"
        )
    context = min(options.context or _DEFAULT_CONTEXT, facts.context or _DEFAULT_CONTEXT)
    cells = max(context, options.cells)
    kept = options.kept_bytes or max(facts.cell, 1) * context
    need = facts.size + facts.cell * cells + kept + _BUFFERS + projector_need(options.projector)
    bound = options.memory or available()
    if need > bound:
        raise ConfigError(
            f"model {path.name} needs {need / 1e6:,.0f} MB of memory with {cells} tokens of context, and "
            f"{bound / 1e6:,.0f} MB may be used. Choose a smaller model or quantization, or a shorter context"
        )
    model = Model(path)
    try:
        if model.encoder and model.decoder:
            raise ConfigError(f"{path.name} translates (encoder and decoder): such models cannot be run here")
        if facts.pooling or model.encoder or "bert" in facts.architecture:
            embedder = Embedder(model, options, pooling=facts.pooling or 1, context=facts.context or 512)
            return Embeddings(model, embedder, facts, options)
        return Generator(model, facts, options, context, cells, kept).start()
    except BaseException:
        model.close()
        raise


class _Loaded:
    """What both kinds have in common: nobody may look into a model that is closed."""

    def __init__(self, model: Model, facts: ggufs.Facts, options: Options) -> None:
        self._model = model
        self._facts = facts
        self._options = options
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """The model stays loaded meanwhile. ``NodeError`` if it is closed."""
        with self._lock:
            if self._closed:
                raise NodeError("the model is closed")
            yield


class Generator(_Loaded):
    """A model that writes text."""

    def __init__(self, model: Model, facts: ggufs.Facts, options: Options, context: int, cells: int, kept: int) -> None:
        super().__init__(model, facts, options)
        self._length = context
        self._cells = cells
        self._kept = kept

    def start(self) -> Language:
        """Make its context and begin to work."""
        model, options = self._model, self._options
        survey = model.survey()
        self._sight = self._open_sight()
        self._chat = Chat(model, survey, self._sight.prepare if self._sight is not None else None)
        self._alphabet = Alphabet(survey)
        adapters = {name: model.adapter(path) for name, path in options.adapters.items()}
        # Some memories are of a fixed size for each sequence, needed or not.
        parallel = min(options.parallel, _FEW) if model.whole else options.parallel
        self._context = Context(
            model,
            cells=self._cells,
            sequences=parallel,
            batch=_BATCH,
            threads=options.answer_threads(),
            prompt_threads=options.reading_threads(),
        )
        self._engine = Engine(
            self._context,
            Slots(parallel, self._cells, whole=model.whole),
            Shelf(self._kept, whole=model.whole),
            Waiting(options.queue),
            piece=model.piece,
            ends=model.ends,
            parallel=parallel,
            batch_from=options.batch_from,
            states=self._states(),
            adapters=adapters,
            sight=self._sight,
            name=f"model {options.name or self._facts.name}",
        )
        self._stop = self._engine.start()
        return self

    def _open_sight(self) -> Sight | None:
        if self._options.projector is None:
            return None
        from appliance.ai.host.llama.sight import Sight  # it needs a library that not every engine has

        threads = self._options.reading_threads()
        return Sight(self._model, self._options.projector, threads=threads, batch=_BATCH)

    def _states(self) -> States | None:
        options = self._options
        if options.state is None:
            return None
        # A state says nothing of the model, of llama.cpp and of the adapters that it was made with.
        mark = hashlib.blake2b(f"{self._facts.identity} {version()} {self._cells}".encode(), digest_size=8)
        for name, path in sorted(options.adapters.items()):
            mark.update(f"{name} {ggufs.read(path).identity}".encode())
        return States(options.state, mark.hexdigest(), bound=options.state_bytes, age=options.state_age)

    def submit(
        self, ask: Ask, on_text: Callable[[str], None], on_end: Callable[[Answer | None, Exception | None], None]
    ) -> Ticket:
        """See ``Language``."""
        with self._open():
            return self._submit(ask, on_text, on_end)

    def _submit(
        self, ask: Ask, on_text: Callable[[str], None], on_end: Callable[[Answer | None, Exception | None], None]
    ) -> Ticket:
        tokens, shared, pictures = self._prompt(ask)
        if not tokens:
            raise ConfigError("the prompt is empty")
        if tokens[-1] < 0:
            raise ConfigError("the prompt ends with a picture: the model's chat template leaves no room for an answer")
        # A picture may take more room than positions.
        more = sum(look.cells - look.length for picture in pictures for look in picture.looks.values())
        if len(tokens) + more >= self._length:
            raise too_long(len(tokens) + more, self._length - 1)
        _check(ask)
        if ask.adapter not in ("", *self._options.adapters):
            raise ConfigError(f"this model was loaded without an adapter named {ask.adapter!r}")
        job = Job(
            ask,
            tokens,
            shared=shared,
            limit=min(self._length - more, len(tokens) + ask.max_tokens),
            stops=(*ask.stop, *(self._chat.stops if ask.prompt is None else ())),
            constraint=self._constraint(ask),
            pictures=pictures,
            submitted=self._engine.now(),
            on_text=on_text,
            on_end=on_end,
        )
        try:
            self._engine.submit(job)
        except BaseException:
            job.free()
            raise
        return _Ticket(self._engine, job)

    def _prompt(self, ask: Ask) -> tuple[list[int], int, list[Picture]]:
        if ask.prompt is None:
            return self._chat.tokens(ask.messages, ask.shared) if ask.messages else ([], 0, [])
        if ask.messages:
            raise ConfigError("give messages or a prompt, not both")
        return self._model.tokenize(ask.prompt, begin=True, special=True) if ask.prompt else [], 0, []

    def _constraint(self, ask: Ask) -> Constraint | None:
        if ask.schema is not None and ask.grammar is not None:
            raise ConfigError("give a schema or a grammar, not both")
        text = ask.grammar if ask.schema is None else grammar_of(ask.schema)
        if text is None:
            return None
        if len(text) > _LONGEST_GRAMMAR:
            raise ConfigError(f"the grammar is too large: {len(text)} characters, {_LONGEST_GRAMMAR} at most")
        if ask.grammar is not None and _depth(text) > _DEEPEST_GRAMMAR:
            raise ConfigError(f"the grammar is too large: its brackets are more than {_DEEPEST_GRAMMAR} deep")
        return Constraint(Grammar(self._model, text), self._alphabet, self._model.piece)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See ``Language``: this one makes none."""
        raise NodeError("this model writes text and makes no vectors: choose an embedding model", retryable=False)

    def count(self, text: str) -> int:
        """See ``Language``."""
        with self._open():
            return len(self._model.tokenize(text, begin=False, special=True))

    def describe(self) -> dict[str, Any]:
        """See ``Language``."""
        return {
            **_facts(self._model, self._facts, self._options),
            "context": self._length,
            "images": self._sight is not None,
            "bytes": self._facts.size
            + self._facts.cell * self._cells
            + self._kept
            + projector_need(self._options.projector),
            **self._engine.facts(),
        }

    def close(self) -> None:
        """See ``Language``."""
        self._stop()  # nothing that it tells may wait for this lock
        with self._lock:
            self._closed = True
            self._context.close()
            if self._sight is not None:
                self._sight.close()
            self._model.close()


class _Ticket:
    def __init__(self, engine: Engine, job: Job) -> None:
        self._engine = engine
        self._job = job

    def cancel(self) -> None:
        self._engine.cancel(self._job)


class Embeddings(_Loaded):
    """A model that makes vectors."""

    def __init__(self, model: Model, embedder: Embedder, facts: ggufs.Facts, options: Options) -> None:
        super().__init__(model, facts, options)
        self._embedder = embedder

    def submit(
        self, ask: Ask, on_text: Callable[[str], None], on_end: Callable[[Answer | None, Exception | None], None]
    ) -> Ticket:
        """See ``Language``: this one writes nothing."""
        raise ConfigError("this model makes vectors and writes no text: choose a language model")

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See ``Language``."""
        return self._embedder.embed(texts)

    def count(self, text: str) -> int:
        """See ``Language``."""
        with self._open():
            return len(self._model.tokenize(text, begin=True, special=False))

    def describe(self) -> dict[str, Any]:
        """See ``Language``."""
        return {
            **_facts(self._model, self._facts, self._options),
            "context": self._embedder.context,
            "dimensions": self._model.width,
            "bytes": self._facts.size,
        }

    def close(self) -> None:
        """See ``Language``."""
        self._embedder.close()
        with self._lock:
            self._closed = True
            self._model.close()


def _facts(model: Model, facts: ggufs.Facts, options: Options) -> dict[str, Any]:
    return {
        "name": options.name or facts.name,
        "kind": model.kind,
        "architecture": facts.architecture,
        "parameters": model.parameters,
        "threads": [options.answer_threads(), options.reading_threads()],
    }


def _check(ask: Ask) -> None:
    if ask.max_tokens < 1:
        raise ConfigError("max_tokens must be at least 1")
    if not 0.0 <= ask.temperature <= 100.0:  # nor NaN
        raise ConfigError("temperature must lie between 0 and 100")
    if not (0.0 < ask.top_p <= 1.0 and 0.0 <= ask.min_p <= 1.0 and ask.top_k >= 0):
        raise ConfigError("top_p must be above 0 and, like min_p, at most 1; top_k is at least 0, and 0 leaves it out")
    if not 0.0 < ask.repeat_penalty <= 100.0:
        raise ConfigError("repeat_penalty must be above 0; 1 leaves it out")


def _depth(grammar: str) -> int:
    deep = most = 0
    for character in grammar:
        deep += (character == "(") - (character == ")")
        most = max(most, deep)
    return most
