"""Values that flows use: variables, and the durable state of each flow; secrets are in ``sealed.py``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import ConfigError
from appliance.store.database import Database
from appliance.store.errors import NotFound
from appliance.store.journal import StateOp
from appliance.store.sealed import VALUES, SealedSecrets
from appliance.store.sql import EXCLUDED, JOIN
from appliance.store.tables import COUNTER, FLOW, STATE, VARIABLE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_STATE_VERSION = "state_version"
_ROWS = 400  # of one INSERT: SQLite before 3.32 allows 999 parameters, today's 32,766


class Variable(Struct, frozen=True):
    """A named JSON value that every flow of its workspace sees as ``vars.<name>``."""

    name: str
    value: Any
    updated: float


class Values:
    """``store.values``. Raises ``ConfigError`` for a bad name, ``NotFound`` for what is not there."""

    def __init__(
        self, db: Database, now: Callable[[], float], copied: Callable[[], int], *, settled: bool = False
    ) -> None:
        """``settled``: the journal writes the flows' state here by itself, in the transaction of the run."""
        self._db = db
        self._now = now
        self._settled = settled
        self.secrets = SealedSecrets(db, now)
        self._copied = copied  # the state version that the last good copy has

    def change_counter(self) -> int:
        """Grows with every change of a variable or secret, whichever process made it."""
        return self._db.counters().get(VALUES, 0)

    # --- variables ---

    def variables(self, workspace: str) -> list[Variable]:
        """The variables of a workspace by name."""
        rows = self._db.all(VARIABLE.select().where(VARIABLE.workspace == workspace).order_by(VARIABLE.name))
        return [Variable(row["name"], msgspec.json.decode(row["value"]), row["updated"]) for row in rows]

    def set_variable(self, workspace: str, name: str, value: Any) -> None:
        """Make or change a variable; ``value`` is JSON data."""
        try:
            text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise ConfigError(f"the value of {name!r} is not plain JSON: {exc}") from None
        row = {"workspace": workspace, "name": _checked(name), "value": text, "updated": self._now()}
        with self._db.write():
            self._db.run(
                VARIABLE.insert(row).on_conflict(conflict_target=["workspace", "name"], preserve=["value", "updated"])
            )
            self._db.bump(VALUES)

    def delete_variable(self, workspace: str, name: str) -> None:
        """Delete a variable."""
        with self._db.write():
            gone = self._db.run(VARIABLE.delete().where(VARIABLE.workspace == workspace, VARIABLE.name == name))
            if not gone:
                raise NotFound(f"there is no variable {name!r}")
            self._db.bump(VALUES)

    # --- the flows' state ---

    def load_state(self) -> list[StateOp]:
        """The durable values of all flows, as of the change number :meth:`state_version`.

        The journal holds the changes with higher numbers; the kernel applies them on top at its start.
        """
        query = STATE.select(STATE.ver, STATE.flow, STATE.key, STATE.value)
        # What is the engine's own has a negative number, and stays when a flow goes.
        query = query.join(FLOW, JOIN.LEFT_OUTER, on=(FLOW.num == STATE.flow))
        query = query.where((STATE.flow < 0) | (FLOW.num.is_null(False) & FLOW.deleted.is_null()))
        return [StateOp(row["ver"], row["flow"], row["key"], bytes(row["value"])) for row in self._db.all(query)]

    def state_version(self) -> int:
        """The number of the last change that :meth:`apply_state` has taken over."""
        return int(self._db.value(COUNTER.select(COUNTER.value).where(COUNTER.name == _STATE_VERSION), 0))

    def apply_state(self, changes: Iterable[StateOp], upto: int) -> None:
        """Take over changes from the journal, those up to the number ``upto``, in one transaction.

        Only the kernel calls this. What was applied before is left out, so repeating a batch does no harm.
        """
        if self._settled:
            return
        with self._db.write():
            done = self.state_version()
            if upto <= done:
                return
            # The last change of a key counts; the others need not be written at all.
            latest = {(op.flow, op.key): op for op in changes if done < op.ver <= upto}
            self._upsert_state([op for op in latest.values() if op.value is not None])
            for op in latest.values():
                if op.value is None:
                    self._db.run(STATE.delete().where(STATE.flow == op.flow, STATE.key == op.key))
            row = {"name": _STATE_VERSION, "value": upto}
            self._db.run(COUNTER.insert(row).on_conflict(conflict_target=["name"], preserve=["value"]))

    def _upsert_state(self, ops: Sequence[StateOp]) -> None:
        for start in range(0, len(ops), _ROWS):
            rows = [op._asdict() for op in ops[start : start + _ROWS]]
            self._db.run(
                STATE.insert(rows).on_conflict(
                    conflict_target=["flow", "key"],
                    update={STATE.value: EXCLUDED.value, STATE.ver: EXCLUDED.ver},
                )
            )

    def droppable(self) -> int:
        """Up to which number the journal may forget state changes: what the last good copy has.

        Beyond that, restoring the copy would lose them. A backup stops the copy from being renewed, and so
        finds in the shards every change that its own copy of the database lacks.
        """
        return min(self.state_version(), self._copied())


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name: {name!r} is not made of letters, digits and _ (64 at most, no digit in front)")
    return name
