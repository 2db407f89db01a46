"""Small facts the store keeps about itself (a repair, the last good copy), as JSON under a name."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from appliance.store.database import Database
from appliance.store.tables import NOTE

T = TypeVar("T")


class Notes:
    """Read anywhere; written inside a transaction of the caller."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, name: str, kind: type[T]) -> T | None:
        """The note of that name, if there is one."""
        text = self._db.value(NOTE.select(NOTE.value).where(NOTE.name == name))
        return None if text is None else msgspec.json.decode(text, type=kind)

    def put(self, name: str, value: Any) -> None:
        """Write a note; needs ``db.write()``."""
        row = {"name": name, "value": msgspec.json.encode(value).decode()}
        self._db.run(NOTE.insert(row).on_conflict(conflict_target=["name"], preserve=["value"]))

    def drop(self, name: str) -> None:
        """Forget a note; needs ``db.write()``."""
        self._db.run(NOTE.delete().where(NOTE.name == name))
