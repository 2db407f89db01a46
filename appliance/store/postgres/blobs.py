"""Blobs in Postgres, where every machine finds them: in pieces, since the server handles a value as a whole."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from appliance.contracts import NodeError
from appliance.store.blobs import BlobInfo, BlobStore
from appliance.store.errors import StoreError
from appliance.store.postgres.connecting import IN_USE, Connection
from appliance.store.postgres.pool import Pool

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PIECE = 1 << 20


class PostgresBlobs(BlobStore):
    """Blobs of a database."""

    def __init__(self, url: str, *, sync: bool = True, name: str = IN_USE) -> None:
        self._pool = Pool(url, sync=sync, name=name)
        self.clean = lambda data: data

    def close(self) -> None:
        self._pool.close()

    def put(self, data: bytes, mime: str = "application/octet-stream") -> dict[str, Any]:
        data = self.clean(data)
        digest = hashlib.sha256(data).hexdigest()
        try:
            self._pool.run(lambda connection: _put(connection, digest, data))
        except StoreError as exc:
            raise NodeError(f"a blob of {len(data)} bytes could not be stored: {exc.message}") from exc
        return {"$blob": digest, "size": len(data), "type": mime}

    def get(self, reference: Mapping[str, Any]) -> bytes:
        digest = reference.get("$blob")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise NodeError("this is not a reference to a blob", retryable=False)
        try:
            pieces = self._pool.run(lambda connection: _pieces(connection, digest))
        except StoreError as exc:
            raise NodeError(f"blob {digest[:12]} could not be read: {exc.message}") from exc
        if pieces is None:
            raise NodeError(f"blob {digest[:12]} is gone", retryable=False, detail={"blob": digest})
        data = b"".join(pieces)
        if len(data) != reference.get("size", len(data)) or hashlib.sha256(data).hexdigest() != digest:
            message = f"blob {digest[:12]} is damaged in the database"
            raise NodeError(message, retryable=False, detail={"blob": digest, "size": len(data)})
        return data

    def keep(self, digest: str, size: int) -> bool:
        if not _DIGEST.fullmatch(digest):
            return False
        return self._pool.run(lambda connection: _renew(connection, bytes.fromhex(digest), size))

    def __iter__(self) -> Iterator[BlobInfo]:
        sql = "SELECT encode(digest, 'hex'), size, used FROM blob"
        yield from (BlobInfo(*row) for row in self._pool.run(lambda connection: connection.execute(sql).fetchall()))

    def delete(self, digest: str, *, unused_since: float = math.inf) -> bool:
        if not _DIGEST.fullmatch(digest):
            return False
        sql = "DELETE FROM blob WHERE digest = %s AND used < %s"
        values = (bytes.fromhex(digest), unused_since)
        return self._pool.run(lambda connection: connection.execute(sql, values).rowcount) > 0


def _put(connection: Connection, digest: str, data: bytes) -> None:
    """All of it or nothing; what is there already is not sent again, but its age begins anew."""
    key = bytes.fromhex(digest)
    if _renew(connection, key, len(data)):
        return
    with connection.transaction():
        connection.execute("DELETE FROM blob WHERE digest = %s AND size <> %s", (key, len(data)))
        made = connection.execute(
            "INSERT INTO blob VALUES (%s, %s, %s) ON CONFLICT (digest) DO UPDATE SET used = EXCLUDED.used "
            "RETURNING (xmax = 0)",
            (key, len(data), time.time()),
        ).fetchone()
        if made == (True,):
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO blob_piece VALUES (%s, %s, %s)",
                    [(key, n, data[at : at + _PIECE]) for n, at in enumerate(range(0, len(data), _PIECE))],
                )


def _renew(connection: Connection, key: bytes, size: int) -> bool:
    sql = "UPDATE blob SET used = %s WHERE digest = %s AND size = %s"
    return connection.execute(sql, (time.time(), key, size)).rowcount > 0


def _pieces(connection: Connection, digest: str) -> list[bytes] | None:
    sql = (
        "SELECT data FROM blob LEFT JOIN blob_piece ON blob_piece.digest = blob.digest "
        "WHERE blob.digest = %s ORDER BY number"
    )
    rows = connection.execute(sql, (bytes.fromhex(digest),), binary=True).fetchall()
    return [row[0] for row in rows if row[0] is not None] if rows else None
