"""The schema of ``flowork.db``, as numbered steps. Never edit a step that was released: add the next one.

A step is a list of SQL statements that run in one transaction, in SQLite's words. ``postgres/dialect.py`` puts the
forms that are used here into Postgres' (AUTOINCREMENT, types, triggers that refuse); a step that needs more than these
brings its statements for Postgres along. Times are Unix seconds (UTC).
"""

from __future__ import annotations

from msgspec import Struct


class Migration(Struct, frozen=True):
    """One step of the schema; afterwards ``PRAGMA user_version`` is ``number``.

    ``postgres`` are its statements there, if they cannot be translated from SQLite's.
    """

    number: int
    title: str
    statements: tuple[str, ...]
    postgres: tuple[str, ...] = ()


_FLOWS = (
    """CREATE TABLE flow (
        num INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        workspace TEXT NOT NULL,
        name TEXT NOT NULL,
        folded TEXT NOT NULL,
        folder TEXT NOT NULL DEFAULT '',
        newest INTEGER NOT NULL,
        live INTEGER,
        enabled INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
        created REAL NOT NULL,
        updated REAL NOT NULL,
        deleted REAL,
        CHECK (deleted IS NULL OR live IS NULL),
        FOREIGN KEY (live, num) REFERENCES version (id, flow))""",
    # A deleted flow keeps its row, for its runs go on naming it; its id is free for another flow.
    "CREATE UNIQUE INDEX flow_id ON flow (id) WHERE deleted IS NULL",
    "CREATE INDEX flow_name ON flow (folded, num) WHERE deleted IS NULL",
    """CREATE TABLE flow_tag (
        flow INTEGER NOT NULL REFERENCES flow (num),
        tag TEXT NOT NULL,
        PRIMARY KEY (flow, tag))""",
    "CREATE INDEX flow_tag_tag ON flow_tag (tag)",
    """CREATE TABLE version (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        flow INTEGER NOT NULL REFERENCES flow (num),
        number INTEGER NOT NULL,
        body TEXT NOT NULL,
        hash TEXT NOT NULL,
        author TEXT NOT NULL,
        message TEXT NOT NULL,
        created REAL NOT NULL,
        UNIQUE (flow, number),
        UNIQUE (id, flow))""",
    """CREATE TRIGGER version_is_immutable BEFORE UPDATE ON version BEGIN
        SELECT RAISE(ABORT, 'a version is never changed; save a new one');
    END""",
    """CREATE TRIGGER version_is_kept BEFORE DELETE ON version
    WHEN (SELECT deleted FROM flow WHERE num = OLD.flow) IS NULL BEGIN
        SELECT RAISE(ABORT, 'a version stays as long as its flow');
    END""",
    """CREATE TABLE deployment (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        flow INTEGER NOT NULL REFERENCES flow (num),
        action TEXT NOT NULL,
        before INTEGER,
        after INTEGER,
        who TEXT NOT NULL,
        at REAL NOT NULL)""",
    "CREATE INDEX deployment_flow ON deployment (flow, id)",
)

_VALUES = (
    """CREATE TABLE variable (
        workspace TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        updated REAL NOT NULL,
        PRIMARY KEY (workspace, name))""",
    """CREATE TABLE secret (
        workspace TEXT NOT NULL,
        name TEXT NOT NULL,
        sealed BLOB NOT NULL,
        updated REAL NOT NULL,
        PRIMARY KEY (workspace, name))""",
    """CREATE TABLE flow_state (
        flow INTEGER NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        ver INTEGER NOT NULL,
        PRIMARY KEY (flow, key))""",
    "CREATE TABLE setting (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
    "CREATE TABLE counter (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL)",
    "CREATE TABLE note (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL)",
)

_PEOPLE = (
    """CREATE TABLE user_account (
        address TEXT PRIMARY KEY NOT NULL,
        name TEXT NOT NULL,
        created REAL NOT NULL)""",
    """CREATE TABLE role_grant (
        address TEXT NOT NULL REFERENCES user_account (address),
        workspace TEXT NOT NULL,
        role TEXT NOT NULL,
        PRIMARY KEY (address, workspace))""",
    """CREATE TABLE token (
        id TEXT PRIMARY KEY NOT NULL,
        hash TEXT NOT NULL,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        workspace TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        last_used REAL,
        revoked REAL)""",
    """CREATE TABLE session (
        hash TEXT PRIMARY KEY NOT NULL,
        address TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL NOT NULL)""",
    "CREATE TABLE nonce (nonce TEXT PRIMARY KEY NOT NULL, expires REAL NOT NULL)",
    "CREATE INDEX nonce_expires ON nonce (expires)",
)

_AUDIT = (
    """CREATE TABLE audit (
        seq INTEGER PRIMARY KEY NOT NULL,
        time INTEGER NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        workspace TEXT NOT NULL,
        detail TEXT NOT NULL,
        prev TEXT NOT NULL,
        hash TEXT NOT NULL)""",
    """CREATE TRIGGER audit_is_immutable BEFORE UPDATE ON audit BEGIN
        SELECT RAISE(ABORT, 'an audit entry is never changed');
    END""",
    """CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit BEGIN
        SELECT RAISE(ABORT, 'an audit entry is never deleted');
    END""",
)

MIGRATIONS: tuple[Migration, ...] = (Migration(1, "first schema", (*_FLOWS, *_VALUES, *_PEOPLE, *_AUDIT)),)
