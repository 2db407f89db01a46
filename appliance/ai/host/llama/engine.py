"""The thread of a language model: it takes what waits, evaluates it together where that is faster, and tells.

One step is one call of llama.cpp. It evaluates either parts of prompts (with them rides every answer that waits for its
next token, for that costs next to nothing), or one token each of many answers, or one token of one answer: up to three
answers are quicker in turns than together. A part of a prompt is as long as takes a fraction of a second at the speed
measured so far, so that a long prompt keeps nobody waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from appliance.ai.host.llama.job import Job
from appliance.ai.host.llama.keeping import Keeping
from appliance.ai.host.llama.native import Context
from appliance.ai.host.llama.pictures import Sight
from appliance.ai.host.llama.shelf import Shelf
from appliance.ai.host.llama.slots import Slots
from appliance.ai.host.llama.states import States
from appliance.ai.host.llama.waiting import Waiting
from appliance.contracts import Busy, NodeError

logger = logging.getLogger(__name__)

#: Seconds that one step may take while others wait for their next token, and while nobody does.
_SHORT, _LONG = 0.15, 2.0
#: Tokens of a prompt in one step at least, while others wait for their next token and while nobody does. Measured with
#: Q4_0 in time of the processor, against 512 at once: 32 take twice as long each, 64 a tenth longer, 256 as long. So
#: these hold however slow the machine is.
_SMALLEST_PART, _SMALLEST_ALONE = 64, 256
#: Fewer tokens say nothing of the speed.
_TELLING = 32
#: llama.cpp multiplies four rows at a time, and each beyond a multiple of four as if it were alone: measured with Q4_0,
#: five answers together take longer than four and then one.
_ROWS = 4


class Speed:
    """Tokens per second, the last steps weighing most; 0 before the first."""

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """So many tokens took so long."""
        if seconds > 0:
            new = tokens / seconds
            self.value = new if not self.value else 0.8 * self.value + 0.2 * new


class Engine:
    """Runs jobs on one context. ``parallel`` at once, together from ``batch_from`` on; the others wait.

    ``adapters`` are LoRA adapters by name; the empty name is none.
    """

    def __init__(
        self,
        context: Context,
        slots: Slots,
        shelf: Shelf,
        waiting: Waiting[Job],
        *,
        piece: Callable[[int], bytes],
        ends: Callable[[int], bool],
        parallel: int,
        batch_from: int,
        states: States | None,
        adapters: dict[str, Any],
        sight: Sight | None = None,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._slots = slots
        self._shelf = shelf
        self._waiting = waiting
        self._piece = piece
        self._ends = ends
        self._parallel = parallel
        self._batch_from = batch_from
        self._keeping = Keeping(context, slots, shelf, states)
        self._adapters = adapters
        self._sight = sight
        self._clock = clock
        self._changed = threading.Condition()
        self._active: deque[Job] = deque()
        #: Jobs for which it is worth stopping llama.cpp at this moment.
        self._stopping: frozenset[Job] = frozenset()
        self._closing = False
        self.prompt_speed = Speed()
        self.answer_speed = Speed()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> Callable[[], None]:
        """Begin to work; returns what ends it: cancels everything, keeps what is to be kept, waits for the thread."""
        self._thread.start()
        return self._stop

    def _stop(self) -> None:
        with self._changed:
            self._closing = True
            self._context.abort()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, job: Job) -> None:
        """Queue a job. ``Busy`` past the bound."""
        with self._changed:
            if self._closing:
                raise NodeError("the model is being closed")
            if self._waiting.full:
                raise Busy(f"{len(self._waiting)} generations wait for this model already", self._retry_after())
            self._waiting.add(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """End a job soon, from any thread."""
        with self._changed:
            job.cancelled = True
            if job in self._stopping:
                self._context.abort()
            self._changed.notify_all()

    def now(self) -> float:
        """Seconds on the clock that jobs are timed with."""
        return self._clock()

    def facts(self) -> dict[str, Any]:
        """What is under way and what is kept."""
        with self._changed:
            return {
                "active": len(self._active),
                "queued": len(self._waiting),
                "cells": self._slots.capacity,
                "cells_used": self._slots.filled,
                "prefixes": [len(kept.tokens) for kept in self._shelf.pins()],
                "kept_bytes": self._shelf.bytes,
                "prompt_speed": round(self.prompt_speed.value, 1),
                "answer_speed": round(self.answer_speed.value, 1),
            }

    def _retry_after(self) -> float:
        return max(1.0, min(60.0, len(self._waiting) * 128 / (self.answer_speed.value or 10.0) / self._parallel))

    def _run(self) -> None:
        while True:
            with self._changed:
                if not (self._closing or self._active or len(self._waiting)):
                    unsaved = self._keeping.unsaved()
                    if unsaved is None:
                        self._changed.wait()
                        continue
                else:
                    unsaved = None
                closing = self._closing
            if unsaved is not None:
                self._keeping.save(unsaved)
            elif closing:
                break
            else:
                self._turn()
        for job in [*self._active, *self._waiting.everyone()]:
            self._end(job, "cancelled")
        while (unsaved := self._keeping.unsaved()) is not None:
            self._keeping.save(unsaved)
        self._shelf.clear()

    def _turn(self) -> None:
        """Drop what was cancelled, take in what waits, do one step. Jobs may fail here, the thread never."""
        for job in [*self._active, *self._waiting.everyone()]:
            if job.cancelled:
                self._end(job, "cancelled")
        try:
            self._admit()
            if self._active:
                self._step()
        except Exception as error:
            logger.exception("the model's thread failed; what it was doing is given up")
            for job in list(self._active):
                self._end(job, "", NodeError(f"the model failed: {error}"))
            self._keeping.forget_all()

    # Taking in

    def _admit(self) -> None:
        while len(self._active) < self._parallel:
            with self._changed:
                job = self._waiting.first(self._clock())
            if job is None:
                return
            try:
                promised = sum(other.rest for other in self._active)
                if not self._keeping.place(job, promised):
                    return
            except Exception as error:  # else it would be tried again for ever
                logger.exception("a generation could not begin")
                self._end(job, "", NodeError(f"the generation could not begin: {error}"))
                continue
            with self._changed:
                self._waiting.remove(job)
                self._active.append(job)
            job.began = self._clock()

    # Stepping

    def _step(self) -> None:
        adapter = self._active[0].adapter
        jobs = [job for job in self._active if job.adapter == adapter]
        if looking := next((job for job in jobs if job.places and not job.text_ahead()), None):
            self._look(looking)
            return
        reading = [job for job in jobs if job.pending > 1]
        ready = [job for job in jobs if job.pending == 1]
        if reading:
            parts = self._parts(reading, self._context.size - len(ready), bool(ready))
            parts += [(job, 1) for job in ready]
        else:
            together = len(ready) // _ROWS * _ROWS if len(ready) >= self._batch_from else 1
            parts = [(job, 1) for job in ready[: together or len(ready)]]
        served = {job for job, _ in parts}
        self._active = deque(sorted(self._active, key=served.__contains__))  # the others come first next time
        self._context.adapt(self._adapters[adapter] if adapter else None)
        count = self._fill(parts)
        with self._changed:
            if self._closing or any(job.cancelled for job in served):
                return
            self._stopping = frozenset(job for job, take in parts if take > 1 or len(parts) == 1)
            self._context.proceed()
        began = self._clock()
        result = self._context.decode(count)
        took = self._clock() - began
        with self._changed:
            self._stopping = frozenset()
        if result == 0:
            self._took(parts, took, bool(reading))
            self._evaluated(parts)
        else:
            self._undo(parts, result)

    def _look(self, job: Job) -> None:
        """Have a picture read that comes next in a job's prompt. The others wait; this cannot be taken apart."""
        assert job.slot is not None and self._sight is not None
        at = len(job.slot.tokens)
        look = job.looks[job.tokens[at]]
        self._active.remove(job)
        self._active.append(job)
        self._context.adapt(self._adapters[job.adapter] if job.adapter else None)
        with self._changed:
            if self._closing or job.cancelled:
                return
            self._stopping = frozenset({job})
            self._context.proceed()
        try:
            result = self._sight.look(self._context, look, at, job.slot.number)
        except NodeError as error:
            self._end(job, "", error)
            return
        finally:
            with self._changed:
                self._stopping = frozenset()
        if result == 0:
            self._slots.extend(job.slot, job.tokens[at : at + look.length], look.cells - look.length)
        else:
            self._undo([(job, look.length)], result)

    def _parts(self, reading: list[Job], room: int, others: bool) -> list[tuple[Job, int]]:
        """How much of which prompt is read in this step: equal shares, and what one leaves is the next one's."""
        speed = self.prompt_speed.value
        fitting = int(speed * (_SHORT if others else _LONG))
        room = min(room, max(_SMALLEST_PART if others or not speed else _SMALLEST_ALONE, fitting))
        if len(reading) == 1:  # in equal parts, for a short one at the end would be slow
            room = -(-reading[0].pending // -(-reading[0].pending // room))
        parts = []
        left = len(reading)
        for job in sorted(reading, key=lambda job: job.pending):
            assert job.slot is not None
            take = min(job.pending, max(1, room // left))
            if job.places:
                take = min(take, job.text_ahead())
            to_pin = job.shared - len(job.slot.tokens)
            if job.pins and 0 < to_pin < take:
                take = to_pin  # what is kept must end where the beginning does
            room -= take
            left -= 1
            parts.append((job, take))
        return parts

    def _fill(self, parts: list[tuple[Job, int]]) -> int:
        context, at = self._context, 0
        for job, take in parts:
            assert job.slot is not None
            done = len(job.slot.tokens)
            to = at + take
            context.tokens[at:to] = job.tokens[done : done + take]
            context.positions[at:to] = range(done, done + take)
            context.sequences[at:to] = job.slot.number
            context.outputs[at:to] = 0
            context.outputs[to - 1] = take == job.pending
            at = to
        return at

    def _took(self, parts: list[tuple[Job, int]], seconds: float, prompts: bool) -> None:
        count = sum(take for _, take in parts)
        if not prompts:
            self.answer_speed.add(count, seconds)
        elif count >= _TELLING:
            self.prompt_speed.add(count, seconds)

    def _evaluated(self, parts: list[tuple[Job, int]]) -> None:
        at = 0
        for job, take in parts:
            assert job.slot is not None
            at += take
            done = len(job.slot.tokens)
            ready = take == job.pending
            self._slots.extend(job.slot, job.tokens[done : done + take])
            if job.pins and len(job.slot.tokens) == job.shared:
                self._keeping.pin(job)
            if ready and not job.cancelled:
                try:
                    self._next(job, at - 1)
                except Exception as error:
                    self._end(job, "", error)
                    self._keeping.forget(job.slot)

    def _next(self, job: Job, index: int) -> None:
        """Choose the job's next token and hand on what it says."""
        scores = job.choice.scores(self._context.logits(index))
        token = job.choice.pick(scores) if job.constraint is None else job.constraint.choose(scores, job.choice)
        if job.first is None:
            job.first = self._clock()
        if self._ends(token):
            self._end(job, "stop")
            return
        job.tokens.append(token)
        job.choice.accept(token)
        if job.constraint is not None:
            job.constraint.accept(token)
        job.say(job.out.feed(self._piece(token)))
        if job.out.stopped or (job.constraint is not None and job.constraint.is_done()):
            self._end(job, "stop")
        elif len(job.tokens) >= job.limit:
            self._end(job, "length")

    def _undo(self, parts: list[tuple[Job, int]], result: int) -> None:
        """An evaluation was stopped or failed: back to where it began."""
        for job, _ in parts:
            assert job.slot is not None
            if not self._context.cut(job.slot.number, len(job.slot.tokens)):
                self._context.cut(job.slot.number)
                self._slots.cut(job.slot)  # it will be read again from its beginning
        if result == 2:
            return
        for job, _ in parts:
            self._end(job, "", NodeError(f"llama.cpp could not evaluate the text (code {result})"))
        self._keeping.forget_all()

    def _end(self, job: Job, finish: str, error: Exception | None = None) -> None:
        with self._changed:
            if job in self._active:
                self._active.remove(job)
            else:
                self._waiting.remove(job)
        if job.slot is not None:
            job.slot.busy = False
        job.end(finish, self._clock(), error)
