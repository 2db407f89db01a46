"""Flows and their immutable versions: saving without losing anybody's edit, and which version is live."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from appliance.contracts import ConfigError
from appliance.store.database import Database, Row
from appliance.store.errors import Conflict
from appliance.store.flow_reader import FlowReader, no_flow
from appliance.store.names import checked_slug, folded, free_slug, slug
from appliance.store.records import Flow, Version
from appliance.store.tables import DEPLOYMENT, FLOW, FLOW_TAG, STATE, VERSION

DEPLOYMENTS = "deployments"


def content_hash(body: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a flow, the same for any order of its keys."""
    return hashlib.sha256(_encode(body, order="sorted")).hexdigest()


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """A version that was saved on another engine; ``created`` is Unix seconds."""

    text: str
    hash: str
    author: str
    message: str
    created: float


class Flows(FlowReader):
    """``store.flows``: the flows of all workspaces. Raises ``NotFound`` for what is not there (any more)."""

    def __init__(self, db: Database, now: Callable[[], float]) -> None:
        super().__init__(db)
        self._now = now

    # --- saving ---

    def save(
        self,
        flow_id: str | None,
        workspace: str,
        body: Mapping[str, Any],
        author: str,
        message: str = "",
        base: int | None = None,
    ) -> Version:
        """Keep a new version of a flow; with ``base=None`` a new flow.

        ``flow_id=None`` makes the id from the name; a new flow may also bring its own id (import). ``base``
        is the number of the version that was edited: if that is not the newest any more, this raises
        ``Conflict`` with both numbers. A body equal to the newest version's is that version: nothing new is
        kept, so a repeated request does no harm. Whether the body is a sound flow is checked by the engine
        before; here only its name is needed. Raises ``ConfigError``, ``Conflict``, ``NotFound``.
        """
        name, digest = _name_of(body), content_hash(body)
        with self._db.write():
            row = None if flow_id is None else self._row(flow_id)
            if row is None:
                num, number = self._create(flow_id, workspace, name, base), 1
            else:
                if row["workspace"] != workspace:
                    raise no_flow(flow_id)
                newest = self.numbered(row["id"])
                if newest.hash == digest:
                    return newest
                if base != newest.number:
                    raise Conflict(base, newest.number)
                num, number = row["num"], newest.number + 1
            version = self._add_version(num, number, body, digest, author, message)
            self._describe(num, name, number, body.get("tags"))
        return version

    def _create(self, flow_id: str | None, workspace: str, name: str, base: int | None) -> int:
        if base is not None:
            raise no_flow(flow_id)
        now = self._now()
        row = {
            "id": self._new_slug(name) if flow_id is None else checked_slug(flow_id),
            "workspace": workspace,
            "name": name,
            "folded": folded(name),
            "newest": 1,
            "created": now,
            "updated": now,
        }
        return self._db.run(FLOW.insert(row))

    def _new_slug(self, name: str) -> str:
        wanted = slug(name)
        alike = (FLOW.id == wanted) | FLOW.id.startswith(wanted + "-")
        taken = self._db.all(FLOW.select(FLOW.id).where(FLOW.deleted.is_null(), alike))
        return free_slug(wanted, {row["id"] for row in taken})

    def _add_version(
        self, num: int, number: int, body: Mapping[str, Any], digest: str, author: str, message: str
    ) -> Version:
        text, now = _encode(body).decode(), self._now()
        row = {
            "flow": num,
            "number": number,
            "body": text,
            "hash": digest,
            "author": author,
            "message": message,
            "created": now,
        }
        return Version(
            id=self._db.run(VERSION.insert(row)),
            flow=num,
            number=number,
            hash=digest,
            author=author,
            message=message,
            created=now,
            text=text,
        )

    def _describe(self, num: int, name: str, newest: int, tags: Any) -> None:
        values = {"name": name, "folded": folded(name), "newest": newest, "updated": self._now()}
        self._db.run(FLOW.update(**values).where(FLOW.num == num))
        self._db.run(FLOW_TAG.delete().where(FLOW_TAG.flow == num))
        wanted = {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()
        for tag in sorted(wanted):
            self._db.run(FLOW_TAG.insert({"flow": num, "tag": tag}))

    def bring(self, flow_id: str, workspace: str, versions: Sequence[Brought]) -> Flow:
        """Keep a flow of another engine with all its versions, as they were saved there; none becomes live.

        What has come before is known by its hashes: a flow of this id whose versions are the first of these gets the
        others. If the id is another flow's, a free one is taken. Raises ``ConfigError`` for a version that is not
        what its hash says.
        """
        bodies = [_read(version) for version in versions]
        with self._db.write():
            row = self._row(flow_id)
            known = self._hashes(row["num"]) if row is not None else []
            if row is None or row["workspace"] != workspace or known != [one.hash for one in versions][: len(known)]:
                flow_id, known = self._new_slug(flow_id), []
                num = self._create(flow_id, workspace, _name_of(bodies[-1]), None)
            else:
                num = row["num"]
            for number, one in enumerate(versions[len(known) :], len(known) + 1):
                self._db.run(
                    VERSION.insert(
                        {
                            "flow": num,
                            "number": number,
                            "body": one.text,
                            "hash": one.hash,
                            "author": one.author,
                            "message": one.message,
                            "created": one.created,
                        }
                    )
                )
            self._describe(num, _name_of(bodies[-1]), len(versions), bodies[-1].get("tags"))
            return self.get(flow_id)

    def _hashes(self, num: int) -> list[str]:
        query = VERSION.select(VERSION.hash).where(VERSION.flow == num).order_by(VERSION.number)
        return [row["hash"] for row in self._db.all(query)]

    def move(self, flow_id: str, folder: str) -> Flow:
        """Put a flow into another folder of the list (``garden/water``; empty: the top)."""
        with self._db.write():
            num = self._existing(flow_id)["num"]
            self._db.run(FLOW.update(folder=folder).where(FLOW.num == num))
            return self.get(flow_id)

    # --- deploying ---

    def deploy(self, flow_id: str, number: int, by: str) -> Flow:
        """Make a version live; rolling back is deploying an older one. No change if it is live already."""
        with self._db.write():
            row = self._existing(flow_id)
            return self._point(row, "deploy", self.numbered(flow_id, number).id, by)

    def undeploy(self, flow_id: str, by: str) -> Flow:
        """Make no version live: triggers are detached, runs under way finish."""
        with self._db.write():
            return self._point(self._existing(flow_id), "undeploy", None, by)

    def _point(self, row: Row, action: str, version: int | None, by: str) -> Flow:
        if row["live"] != version:
            self._db.run(FLOW.update(live=version).where(FLOW.num == row["num"]))
            self._record(row, action, version, by)
        return self.get(row["id"])

    def enable(self, flow_id: str, enabled: bool, by: str) -> Flow:
        """Switch a flow on or off; off, its live version stays deployed but its triggers start nothing."""
        with self._db.write():
            row = self._existing(flow_id)
            if bool(row["enabled"]) != enabled:
                self._db.run(FLOW.update(enabled=int(enabled)).where(FLOW.num == row["num"]))
                self._record(row, "enable" if enabled else "disable", row["live"], by)
            return self.get(flow_id)

    def delete(self, flow_id: str, by: str) -> None:
        """Delete a flow: its id is free, its state gone; its versions stay, for old runs name them."""
        with self._db.write():
            row = self._existing(flow_id)
            num = row["num"]
            self._db.run(FLOW.update(live=None, deleted=self._now()).where(FLOW.num == num))
            self._db.run(FLOW_TAG.delete().where(FLOW_TAG.flow == num))
            self._db.run(STATE.delete().where(STATE.flow == num))
            self._record(row, "delete", None, by)

    def _record(self, row: Row, action: str, after: int | None, by: str) -> None:
        entry = {
            "flow": row["num"],
            "action": action,
            "before": row["live"],
            "after": after,
            "who": by,
            "at": self._now(),
        }
        self._db.run(DEPLOYMENT.insert(entry))
        self._db.bump(DEPLOYMENTS)


def _read(version: Brought) -> dict[str, Any]:
    """The body of a version that came from elsewhere, if it is what it claims to be."""
    try:
        body = msgspec.json.decode(version.text)
    except msgspec.DecodeError as exc:
        raise ConfigError(f"a version is no JSON: {exc}") from None
    if not isinstance(body, dict) or content_hash(body) != version.hash:
        raise ConfigError("a version is not what its hash says")
    return body


def _encode(body: Mapping[str, Any], *, order: Any = None) -> bytes:
    try:
        return msgspec.json.encode(body, order=order)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ConfigError(f"the flow is not plain JSON: {exc}") from None


def _name_of(body: Mapping[str, Any]) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError("name: a flow needs a name")
    return name.strip()
