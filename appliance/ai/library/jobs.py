"""Models that are to be fetched: a list on the disk, so that it goes on after a restart. One process writes it."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from appliance.ai.host import files
from appliance.ai.library import parts
from appliance.ai.library.errors import ModelIsThere, NoSuchModel
from appliance.ai.library.orders import Order, folder_of
from appliance.ai.library.room import room

logger = logging.getLogger(__name__)

#: Jobs that have ended are remembered up to this number.
KEPT = 20
_OPEN = ("waiting", "running")


class Job(Struct, kw_only=True):
    """One model on its way. ``done`` of ``total`` bytes (0: not known), ``text`` is what is done or why it ended so.

    Times in Unix seconds.
    """

    id: str
    order: Order
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    done: int = 0
    total: int = 0
    text: str = ""
    began: float = 0.0
    ended: float = 0.0

    @property
    def open(self) -> bool:
        return self.state in _OPEN


class Jobs:
    """The list of one data folder. All its methods are for one thread at a time."""

    def __init__(self, data: Path, now: Callable[[], float] = time.time) -> None:
        self._data = data
        self._now = now
        self._path = folder_of(data) / "jobs.json"
        self.all: list[Job] = []

    def load(self) -> None:
        """Read the list; what was running when it was written waits for its turn again."""
        try:
            self.all = msgspec.json.decode(self._path.read_bytes(), type=list[Job])
        except (OSError, msgspec.MsgspecError):
            self.all = []
        for job in self.all:
            if job.state == "running":
                job.state = "waiting"

    def add(self, order: Order) -> Job:
        """Put one on the list. Raises ``ModelIsThere`` for a name that is taken or on its way."""
        if files.find(self._data, order.name) is not None:
            raise ModelIsThere(f"there is a model {order.name!r} already")
        if any(job.open and job.order.name == order.name for job in self.all):
            raise ModelIsThere(f"{order.name!r} is on its way already")
        job = Job(id=secrets.token_hex(6), order=order, total=order.bytes, began=self._now())
        # What failed before is what is tried again: it goes on with what has come.
        others = [each for each in self.all if each.state != "failed" or each.order.name != order.name]
        with room(self._path.parent, "Nothing was begun"):
            self._write([*others, job])
        self.all = [*others, job]
        return job

    def next(self) -> Job | None:
        """The first that waits."""
        return next((job for job in self.all if job.state == "waiting"), None)

    def find(self, job_id: str) -> Job:
        """By its id. Raises ``NoSuchModel``."""
        found = next((job for job in self.all if job.id == job_id), None)
        if found is None:
            raise NoSuchModel(f"there is no pull {job_id!r}")
        return found

    def end(self, job: Job, state: Literal["done", "failed", "cancelled"], text: str) -> None:
        """It is over. Of one that was cancelled nothing stays on the disk but what a later one of that name fetches."""
        job.state, job.text, job.ended = state, text, self._now()
        later = any(each.open and each.order.name == job.order.name for each in self.all)
        if state == "cancelled" and not later:
            for number in range(len(job.order.parts)):
                parts.forget(folder_of(self._data) / f"{job.order.name}.{number}.part")
        ended = [each for each in self.all if not each.open]
        self.all = [each for each in self.all if each.open or each in ended[-KEPT:]]
        self.keep()

    def keep(self) -> None:
        """Write the list. Where the disk refuses it, it is written with the next change."""
        try:
            self._write(self.all)
        except OSError as exc:
            logger.warning("the list of models that are fetched could not be written: %s", exc)

    def _write(self, jobs: list[Job]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(f".jobs.{os.getpid()}")
        try:
            fresh.write_bytes(msgspec.json.encode(jobs))
            fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
