"""One generation under way: what was asked, how far it is, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from appliance.ai.host.llama.constraint import Constraint
from appliance.ai.host.llama.pictures import Picture
from appliance.ai.host.llama.sampling import Choice
from appliance.ai.host.llama.slots import Slot
from appliance.ai.host.llama.text import TextOut
from appliance.ai.host.work import Answer, Ask

logger = logging.getLogger(__name__)


class Job:
    """``tokens`` are the prompt's and then the answer's; those that its slot has are evaluated, the rest is not.

    ``limit`` is how many there may be in the end. ``pictures`` are those among them. Times are in seconds of the
    engine's clock.
    """

    def __init__(
        self,
        ask: Ask,
        tokens: list[int],
        *,
        shared: int,
        limit: int,
        stops: tuple[str, ...],
        constraint: Constraint | None,
        pictures: Sequence[Picture] = (),
        submitted: float,
        on_text: Callable[[str], None],
        on_end: Callable[[Answer | None, Exception | None], None],
    ) -> None:
        self.tokens = tokens
        self.prompt = len(tokens)
        self.shared = shared
        self.limit = limit
        self.constraint = constraint
        #: What is to be looked at, by the first of the tokens that stand for it, and where these are.
        self.looks = {mark: look for picture in pictures for mark, look in picture.looks.items()}
        self.places = [place for place, token in enumerate(tokens) if token in self.looks] if pictures else []
        self._pictures = pictures  # they hold what the looks point to
        self.adapter = ask.adapter
        self.priority = ask.priority
        self.submitted = submitted
        self.choice = Choice(
            temperature=ask.temperature,
            top_p=ask.top_p,
            top_k=ask.top_k,
            min_p=ask.min_p,
            repeat_penalty=ask.repeat_penalty,
            seed=ask.seed,
        )
        self.out = TextOut(stops)
        self.slot: Slot | None = None
        self.cached = 0
        #: Whether its shared beginning is to be kept once it has been read.
        self.pins = False
        self.began = submitted
        self.first: float | None = None
        self.cancelled = False
        self._on_text = on_text
        self._on_end = on_end

    @property
    def pending(self) -> int:
        """Tokens that must be evaluated before the next one can be chosen."""
        assert self.slot is not None
        return len(self.tokens) - len(self.slot.tokens)

    @property
    def rest(self) -> int:
        """Cells that it may still need."""
        return self.cells(len(self.slot.tokens) if self.slot is not None else 0)

    def cells(self, known: int) -> int:
        """Cells that it may need where so many of its first tokens are evaluated."""
        looks = (self.looks[self.tokens[place]] for place in self.places if place >= known)
        return self.limit - known + sum(look.cells - look.length for look in looks)

    def text_ahead(self) -> int:
        """Tokens that can be evaluated before the next picture has to be looked at."""
        assert self.slot is not None
        done = len(self.slot.tokens)
        return next((place for place in self.places if place >= done), len(self.tokens)) - done

    def say(self, text: str) -> None:
        """Hand on a piece of the answer."""
        if text:
            self._on_text(text)

    def free(self) -> None:
        """Give back what llama.cpp holds for it. Twice is fine."""
        if self.constraint is not None:
            self.constraint.close()

    def end(self, finish: str, now: float, error: Exception | None = None) -> None:
        """Tell how it ended; the rest of the text goes out first."""
        self.free()
        if error is None and finish != "cancelled":
            try:
                self.say(self.out.finish())
            except Exception as refused:  # whatever the caller's own code raises
                error = refused
        answer = None
        if error is None:
            answer = Answer(
                text=self.out.text,
                finish=finish,
                tokens_in=self.prompt + sum(look.cells - look.length for look in self.looks.values()),
                tokens_cached=self.cached,
                tokens_out=len(self.tokens) - self.prompt,
                began=self.began - self.submitted,
                first=(now if self.first is None else self.first) - self.submitted,
                seconds=now - self.submitted,
            )
        try:
            self._on_end(answer, error)
        except Exception:
            logger.exception("who asked for an answer could not be told of its end")
