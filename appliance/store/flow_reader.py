"""Reading flows, their versions and their deployments."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.store.database import Database, Row
from appliance.store.errors import NotFound
from appliance.store.names import decode_cursor, encode_cursor, folded, page_size
from appliance.store.records import Deployment, Flow, Page, Version, VersionHead
from appliance.store.sql import ColumnBase, Expression, Node, Select
from appliance.store.tables import DEPLOYMENT, FLOW, FLOW_TAG, VERSION

_FLOW: tuple[ColumnBase, ...] = (
    FLOW.num,
    FLOW.id,
    FLOW.workspace,
    FLOW.name,
    FLOW.folded,
    FLOW.folder,
    FLOW.newest,
    FLOW.live,
    FLOW.enabled,
    FLOW.created,
    FLOW.updated,
    FLOW.deleted,
)
_HEAD: tuple[ColumnBase, ...] = (
    VERSION.id,
    VERSION.flow,
    VERSION.number,
    VERSION.hash,
    VERSION.author,
    VERSION.message,
    VERSION.created,
)
_LIVE: tuple[Node, ...] = (
    VERSION.number.alias("live_number"),
    VERSION.hash.alias("hash"),
    VERSION.author.alias("author"),
    VERSION.message.alias("message"),
    VERSION.created.alias("saved"),
    VERSION.body.alias("text"),
)


def no_flow(flow_id: str | None) -> NotFound:
    """The error for an id that names no flow."""
    return NotFound(f"there is no flow {flow_id!r}; `flowork flow list` names them all")


class FlowReader:
    """The reading half of ``store.flows``. Raises ``NotFound`` for what is not there (any more)."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- flows ---

    def get(self, flow_id: str) -> Flow:
        """A flow by its id."""
        return self._flows([self._existing(flow_id)])[0]

    def by_num(self, num: int) -> Flow:
        """A flow by the number that runs carry; also one that was deleted."""
        row = self._db.one(_select().where(FLOW.num == num))
        if row is None:
            raise NotFound(f"there is no flow number {num}")
        return self._flows([row])[0]

    def list(
        self,
        workspace: str | None = None,
        search: str = "",
        tag: str = "",
        after: str = "",
        limit: int = 50,
    ) -> Page[Flow]:
        """A page of flows in the order of their names; ``search`` is part of a name or id, in any case."""
        query = _select().where(FLOW.deleted.is_null())
        if workspace is not None:
            query = query.where(FLOW.workspace == workspace)
        if search:
            query = query.where(FLOW.folded.contains(folded(search)) | FLOW.id.contains(folded(search)))
        if tag:
            query = query.where(FLOW.num.in_(FLOW_TAG.select(FLOW_TAG.flow).where(FLOW_TAG.tag == tag)))
        if after:
            name, num = decode_cursor(after, str, int)
            query = query.where((FLOW.folded > name) | ((FLOW.folded == name) & (FLOW.num > num)))
        size = page_size(limit)
        rows = self._db.all(query.order_by(FLOW.folded, FLOW.num).limit(size + 1))
        more, rows = len(rows) > size, rows[:size]
        cursor = encode_cursor(rows[-1]["folded"], rows[-1]["num"]) if more else ""
        return Page(items=self._flows(rows), next=cursor)

    def tags(self, workspace: str | None = None) -> dict[str, int]:
        """The tags in use and how many flows have each."""
        query = FLOW_TAG.select(FLOW_TAG.tag).join(FLOW, on=(FLOW.num == FLOW_TAG.flow))
        if workspace is not None:
            query = query.where(FLOW.workspace == workspace)
        found: dict[str, int] = {}
        for row in self._db.all(query.order_by(FLOW_TAG.tag)):
            found[row["tag"]] = found.get(row["tag"], 0) + 1
        return found

    # --- versions ---

    def versions(self, flow_id: str, before: int | None = None, limit: int = 50) -> Sequence[VersionHead]:
        """A flow's versions, newest first, only those below the number ``before`` if it is given."""
        query = VERSION.select(*_HEAD).where(VERSION.flow == self._existing(flow_id)["num"])
        if before is not None:
            query = query.where(VERSION.number < before)
        rows = self._db.all(query.order_by(VERSION.number.desc()).limit(page_size(limit)))
        return [VersionHead(**row) for row in rows]

    def version(self, version_id: int) -> Version:
        """A version by the id that runs carry; also one of a deleted flow."""
        return self._version(f"there is no version with the id {version_id}", VERSION.id == version_id)

    def numbered(self, flow_id: str, number: int | None = None) -> Version:
        """A flow's version by its number; the newest without one."""
        row = self._existing(flow_id)
        wanted = row["newest"] if number is None else number
        missing = f"flow {flow_id!r} has no version {wanted}; its newest is {row['newest']}"
        return self._version(missing, VERSION.flow == row["num"], VERSION.number == wanted)

    # --- what is live ---

    def live(self) -> Sequence[tuple[Flow, Version]]:
        """Every deployed flow with its live version; a flow that is switched off has ``enabled`` False."""
        query = FLOW.select(*_FLOW, *_LIVE).join(VERSION, on=(FLOW.live == VERSION.id))
        rows = self._db.all(query.order_by(FLOW.num))
        versions = [_live_version(row) for row in rows]
        return list(zip(self._flows(rows), versions, strict=True))

    def deployments(self, flow_id: str, before: int | None = None, limit: int = 50) -> Sequence[Deployment]:
        """Who moved a flow's live pointer or its switch, latest first, below the id ``before`` if given."""
        query = DEPLOYMENT.select().where(DEPLOYMENT.flow == self._existing(flow_id)["num"])
        if before is not None:
            query = query.where(DEPLOYMENT.id < before)
        rows = self._db.all(query.order_by(DEPLOYMENT.id.desc()).limit(page_size(limit)))
        return [Deployment(**row) for row in rows]

    def change_counter(self) -> int:
        """Grows with every deployment, switch and deletion, whichever process made it."""
        return self._db.counters().get("deployments", 0)

    # --- rows ---

    def _row(self, flow_id: str) -> Row | None:
        return self._db.one(_select().where(FLOW.id == flow_id, FLOW.deleted.is_null()))

    def _existing(self, flow_id: str) -> Row:
        row = self._row(flow_id)
        if row is None:
            raise no_flow(flow_id)
        return row

    def _version(self, missing: str, *conditions: Expression) -> Version:
        row = self._db.one(VERSION.select(*_HEAD, VERSION.body.alias("text")).where(*conditions))
        if row is None:
            raise NotFound(missing)
        return Version(**row)

    def _flows(self, rows: Sequence[Row]) -> Sequence[Flow]:
        tags: dict[int, list[str]] = {}
        query = FLOW_TAG.select().where(FLOW_TAG.flow.in_([row["num"] for row in rows]))
        for found in self._db.all(query.order_by(FLOW_TAG.tag)):
            tags.setdefault(found["flow"], []).append(found["tag"])
        return [_flow(row, tags.get(row["num"], [])) for row in rows]


def _select() -> Select:
    query = FLOW.select(*_FLOW, VERSION.number.alias("live_number"))
    return query.left_outer_join(VERSION, on=(FLOW.live == VERSION.id))


def _flow(row: Row, tags: Sequence[str]) -> Flow:
    values = {name: row[name] for name in Flow.__struct_fields__ if name in row}
    return Flow(**{**values, "enabled": bool(row["enabled"]), "tags": tuple(tags)})


def _live_version(row: Row) -> Version:
    return Version(
        id=row["live"],
        flow=row["num"],
        number=row["live_number"],
        hash=row["hash"],
        author=row["author"],
        message=row["message"],
        created=row["saved"],
        text=row["text"],
    )
