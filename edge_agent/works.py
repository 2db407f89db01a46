"""All drivers of this machine that run: whom they run for, when one is tried again, and what they are told to do."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.blobs import BlobFolder
from edge_agent.memory import CommandMemory, Outcome
from edge_agent.outputs import Outputs
from edge_agent.protocol.messages import Command, DriverReport, Watch
from edge_agent.units import Claims, Machine, Put, Unit, key_of

logger = logging.getLogger(__name__)

OUTPUTS = "outputs.json"
#: Seconds between two looks at a driver that is about to end, and at the entities of those that were heard.
TICK, LOOK = 0.5, 5.0


class Works:
    """Used on the agent's loop. ``post`` brings a call there from any thread, ``changed`` is called there whenever
    something is to be reported, and ``answer`` with the ids of a command and what came of it.
    """

    def __init__(
        self,
        folder: Path,
        memory: CommandMemory,
        blobs: BlobFolder,
        put: Put,
        post: Callable[[Callable[[], None]], None],
        changed: Callable[[], None],
        answer: Callable[[list[int], Outcome], None],
    ) -> None:
        self._folder = folder
        self._memory = memory
        self._blobs = blobs
        self._put = put
        self._post = post
        self._changed = changed
        self._answer = answer
        self._claims = Claims()
        self._units: dict[str, Unit] = {}
        self._outputs = Outputs(folder / OUTPUTS)
        self._under_way: dict[str, list[int]] = {}
        self._look_at = 0.0

    # --- life -----------------------------------------------------------------------------------

    def make_safe_after_crash(self) -> None:
        """Outputs that an earlier process commanded and did not put away."""
        for output in self._outputs.left():
            unit = self._make(output.driver, output.config)
            unit.commanded = True
            self._outputs.remember(unit.key, output.driver, output.config)
            unit.retry()
            unit.make_safe()

    def apply(self, watches: list[Watch]) -> None:
        """Run what is wanted; what is wanted as before is not touched."""
        wanted: dict[str, list[Watch]] = {}
        for watch in watches:
            wanted.setdefault(key_of(watch.driver, watch.config), []).append(watch)
        for key, unit in self._units.items():
            if key not in wanted:
                unit.want(())
        for key, those in wanted.items():
            unit = self._units.get(key) or self._make(those[0].driver, those[0].config)
            unit.want(tuple(watch.id for watch in those))

    def _make(self, driver: str, config: dict[str, Any]) -> Unit:
        key = key_of(driver, config)
        host = Machine(self._folder / "state" / key, self._blobs.keep)
        unit = Unit(driver, config, host, self._claims, self._put, lambda: self._post(self._changed))
        self._units[key] = unit
        return unit

    def tick(self, now: float) -> list[float]:
        """Do what is due by time; the moments (monotonic) at which to come again."""
        waits: list[float] = []
        for unit in list(self._units.values()):
            if unit.retry_at and now >= unit.retry_at:
                unit.retry()
            elif unit.retry_at:
                waits.append(unit.retry_at)
            if unit.heard:
                if now >= self._look_at:
                    unit.look_again()
                else:
                    waits.append(self._look_at)
            if not unit.watches and not unit.commanded:
                if unit.idle:
                    del self._units[unit.key]
                else:
                    waits.append(now + TICK)
        if now >= self._look_at:
            self._look_at = now + LOOK
        return waits

    def close(self) -> None:
        """Safe state and end of all drivers; one that hangs is left behind, and its outputs are remembered."""
        for unit in self._units.values():
            unit.end()
        hung = [unit for unit in self._units.values() if not unit.join()]
        for unit in hung:
            logger.error("the driver %s does not stop; it is left behind", unit.type)
        if not hung:
            self._outputs.forget()

    def report(self, *, values: bool) -> list[DriverReport]:
        """How each stands."""
        return [unit.report(values=values) for unit in self._units.values()]

    def standing(self) -> dict[str, tuple[bool, str]]:
        """Of each driver that is wanted: whether it runs, and what about it."""
        return {key: (unit.ok, f"{unit.type}: {unit.text}") for key, unit in self._units.items() if unit.watches}

    # --- outputs --------------------------------------------------------------------------------

    @property
    def has_outputs(self) -> bool:
        """Whether a driver was commanded."""
        return bool(self._outputs)

    def make_safe(self) -> list[tuple[str, ...]]:
        """All outputs go to their safe state; who watches the drivers."""
        for unit in self._units.values():
            unit.make_safe()
        return [unit.watches for unit in self._units.values() if unit.watches]

    # --- commands -------------------------------------------------------------------------------

    def command(self, message: Command) -> None:
        """Carry out, once: what was done under the same key is answered as it was then."""
        key = message.key
        if key in self._under_way:  # asked again while it is being carried out
            self._under_way[key].append(message.id)
            return
        remembered = bool(key) and not message.repeatable
        if remembered:
            try:
                outcome = self._memory.begin(key)
            except sqlite3.Error as exc:
                outcome = Outcome(None, f"the agent's disk does not take it: {exc}")
            if outcome is not None:
                self._answer([message.id], outcome)
                return
        unit_key = key_of(message.driver, message.config)
        unit = self._units.get(unit_key) or self._make(message.driver, message.config)
        unit.commanded = True
        self._outputs.remember(unit.key, unit.type, unit.config)
        name = key or f"#{message.id}"
        self._under_way[name] = [message.id]

        def done(outcome: Outcome) -> None:
            if remembered:
                try:
                    self._memory.end(key, outcome)
                except sqlite3.Error as exc:
                    logger.error("what came of a command cannot be kept: %s", exc)
            self._post(lambda: self._answer(self._under_way.pop(name, []), outcome))

        unit.command(message.command, done)
