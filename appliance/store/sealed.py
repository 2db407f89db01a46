"""Secrets as the vault sealed them. What is inside is known to ``appliance.security.vault`` alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

from appliance.store.database import Database, Row
from appliance.store.sql import Expression
from appliance.store.tables import SECRET

#: The change counter of variables and secrets.
VALUES = "values"


class SealedRow(Struct, frozen=True, repr_omit_defaults=True):
    """A sealed secret; ``updated`` in Unix seconds."""

    workspace: str
    name: str
    sealed: bytes
    updated: float


class SealedSecrets:
    """``store.values.secrets``."""

    def __init__(self, db: Database, now: Callable[[], float]) -> None:
        self._db = db
        self._now = now

    def put(self, workspace: str, name: str, sealed: bytes) -> None:
        """Keep a sealed secret in place of what was there."""
        row = {"workspace": workspace, "name": name, "sealed": sealed, "updated": self._now()}
        with self._db.write():
            self._db.run(
                SECRET.insert(row).on_conflict(conflict_target=["workspace", "name"], preserve=["sealed", "updated"])
            )
            self._db.bump(VALUES)

    def get(self, workspace: str, name: str) -> SealedRow | None:
        """A secret, still sealed."""
        row = self._db.one(SECRET.select().where(_is(workspace, name)))
        return None if row is None else _sealed(row)

    def names(self, workspace: str) -> Sequence[str]:
        """What there is in a workspace."""
        query = SECRET.select(SECRET.name).where(SECRET.workspace == workspace)
        return [row["name"] for row in self._db.all(query.order_by(SECRET.name))]

    def all(self) -> Sequence[SealedRow]:
        """The secrets of all workspaces, sealed."""
        rows = self._db.all(SECRET.select().order_by(SECRET.workspace, SECRET.name))
        return [_sealed(row) for row in rows]

    def replace(self, workspace: str, name: str, old: bytes, new: bytes) -> bool:
        """Put ``new`` in the place of ``old``; False, and nothing done, if it is not ``old`` any more."""
        with self._db.write():
            same = _is(workspace, name) & (SECRET.sealed == old)
            return self._db.run(SECRET.update(sealed=new).where(same)) > 0

    def delete(self, workspace: str, name: str) -> bool:
        """Forget a secret; False if there was none."""
        with self._db.write():
            gone = self._db.run(SECRET.delete().where(_is(workspace, name)))
            self._db.bump(VALUES)
        return gone > 0


def _is(workspace: str, name: str) -> Expression:
    return (SECRET.workspace == workspace) & (SECRET.name == name)


def _sealed(row: Row) -> SealedRow:
    return SealedRow(**{**row, "sealed": bytes(row["sealed"])})
