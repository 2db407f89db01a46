"""What of earlier prompts and answers is kept, and where: in llama.cpp's memory, on the shelf, on the disk.

Used by the engine's thread alone. A job finds here what is known of its prompt; what nobody works with any more is put
away where that is worth it.
"""

from __future__ import annotations

from appliance.ai.host.llama.job import Job
from appliance.ai.host.llama.native import Context
from appliance.ai.host.llama.shelf import Kept, Shelf
from appliance.ai.host.llama.slots import Slot, Slots
from appliance.ai.host.llama.states import States

#: Fewer tokens are not worth keeping, and fewer than these not worth a file: they are read as quickly.
_SHORTEST_KEPT, _SHORTEST_SAVED = 16, 64


class Keeping:
    """Moves evaluated tokens between a context's ``slots``, a ``shelf`` and the files of ``states`` (None: none)."""

    def __init__(self, context: Context, slots: Slots, shelf: Shelf, states: States | None) -> None:
        self._context = context
        self._slots = slots
        self._shelf = shelf
        self._states = states

    def place(self, job: Job, promised: int) -> bool:
        """Find the job a slot with as much of its prompt as is known; False if it must wait for room.

        ``promised`` cells may still be needed by those at work.
        """
        self._from_disk(job)
        going_on, length = self._slots.match(job.tokens, job.adapter)
        if going_on is not None and (going_on.busy or length < len(going_on.tokens)):
            going_on = None
        for slot in list(self._slots.idle()):
            if slot is not going_on:
                self._put_away(slot)
        if going_on is None:
            return self._place_anew(job, promised)
        if not self._room(promised, job.cells(length)):
            return False
        self._take(job, going_on)
        return True

    def _place_anew(self, job: Job, promised: int) -> bool:
        """In an empty slot, with what a working slot or the shelf has of the prompt."""
        target = self._slots.empty()
        source, length = self._slots.match(job.tokens, job.adapter)
        kept, known = self._shelf.match(job.tokens, job.adapter)
        if target is None:
            return False
        if source is not None and length >= known:
            if not self._room(promised, job.cells(length)):
                return False
            self._context.copy(source.number, target.number, length)
            self._slots.share(source, target, length)
        elif kept is not None and self._room(promised, max(job.cells(0), len(kept.tokens))):
            self._bring_back(kept, target, known)
        elif not self._room(promised, job.cells(0)):
            return False
        self._take(job, target)
        return True

    def _take(self, job: Job, slot: Slot) -> None:
        slot.busy = True
        slot.adapter = job.adapter
        job.slot, job.cached = slot, len(slot.tokens)
        beginning = self._shelf.find(job.tokens[: job.shared], job.adapter)
        job.pins = beginning is None and job.shared >= _SHORTEST_KEPT
        if beginning is not None:
            self._shelf.touch(beginning)

    def _room(self, promised: int, cells: int) -> bool:
        """Whether so many more cells are free, with what is promised to those at work."""
        return self._slots.filled + promised + cells <= self._slots.capacity

    def _from_disk(self, job: Job) -> None:
        """Put the job's shared beginning on the shelf, if the disk has more of it than memory."""
        states, beginning = self._states, job.tokens[: job.shared]
        if states is None or job.shared < _SHORTEST_SAVED:
            return
        known = max(place.match(job.tokens, job.adapter)[1] for place in (self._slots, self._shelf))
        if known < min(job.shared, job.prompt - 1) and (state := states.load(beginning, job.adapter)) is not None:
            self._keep(Kept(beginning, job.adapter, state, pinned=True, saved=True))

    def pin(self, job: Job) -> None:
        """Keep the job's shared beginning, which its slot holds and nothing else."""
        assert job.slot is not None
        tokens = list(job.slot.tokens)
        saved = self._states is not None and self._states.has(tokens, job.adapter)
        self._keep(Kept(tokens, job.adapter, self._context.save(job.slot.number), pinned=True, saved=saved))
        job.pins = False

    def _put_away(self, slot: Slot) -> None:
        """From llama.cpp's memory to the shelf, unless that has it anyway: up to the first picture, which is looked at
        again from what was seen.
        """
        picture = next((place for place, token in enumerate(slot.tokens) if token < 0), None)
        if picture is not None:
            if not self._context.cut(slot.number, picture):
                self.forget(slot)
                return
            self._slots.cut(slot, picture)
        known = self._shelf.match([*slot.tokens, -1], slot.adapter)[1]
        if max(known, _SHORTEST_KEPT) < len(slot.tokens):
            self._keep(Kept(list(slot.tokens), slot.adapter, self._context.save(slot.number), pinned=False))
        self.forget(slot)

    def _bring_back(self, kept: Kept, slot: Slot, length: int) -> None:
        """From the shelf to an empty slot, the first ``length`` tokens of it."""
        self._shelf.touch(kept)
        if self._context.restore(slot.number, kept.state):
            self._slots.extend(slot, kept.tokens)
            if length == len(kept.tokens) or self._context.cut(slot.number, length):
                self._slots.cut(slot, length)
                return
        self.forget(slot)

    def _keep(self, kept: Kept) -> None:
        for gone in self._shelf.add(kept):
            if gone.pinned and not gone.saved and len(gone.tokens) >= _SHORTEST_SAVED:
                self.save(gone)

    def unsaved(self) -> Kept | None:
        """One that is to go to the disk and has not."""
        if self._states is None:
            return None
        fit = (kept for kept in self._shelf.pins() if not kept.saved and len(kept.tokens) >= _SHORTEST_SAVED)
        return next(fit, None)

    def save(self, kept: Kept) -> None:
        """Write it to the disk."""
        kept.saved = True  # or will never be: it is not tried again and again
        if self._states is not None:
            self._states.save(kept.tokens, kept.adapter, kept.state)

    def forget(self, slot: Slot) -> None:
        """Empty a slot."""
        self._context.cut(slot.number)
        self._slots.cut(slot)

    def forget_all(self) -> None:
        """Empty them all; the shelf stays."""
        for slot in self._slots.slots:
            self._slots.cut(slot)
        self._context.clear()
