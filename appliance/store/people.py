"""People and machines with access: users and their roles, engine tokens, sessions, used nonces.

Only storage: what a role or a token may do, and when a session ends, is decided by ``appliance.security``, whose
repository protocols these classes meet. Addresses are 20 bytes as ``0x`` and 40 lower-case hex digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from appliance.contracts import Busy
from appliance.store.database import Database, Row
from appliance.store.errors import NotFound
from appliance.store.notes import Notes
from appliance.store.sql import fn
from appliance.store.tables import GRANT, NONCE, SESSION, TOKEN, USER

_PEOPLE = "people"
_FORGOTTEN = "nonces_forgotten"


class User(Struct, frozen=True):
    """A person: address, the name shown for it, when it was added (Unix seconds)."""

    address: str
    name: str
    created: float


class UserWithRoles(User, frozen=True):
    """A person and the role per workspace (``*``: all)."""

    roles: dict[str, str] = {}


class TokenRow(Struct, frozen=True, kw_only=True):
    """An engine token: ``hash`` is SHA-256 of its secret (hex), ``address`` who made it; Unix seconds."""

    id: str
    hash: str
    name: str
    address: str
    workspace: str
    scopes: tuple[str, ...]
    created: float
    expires: float | None
    last_used: float | None
    revoked: float | None


class SessionRow(Struct, frozen=True):
    """A session: ``hash`` is SHA-256 of the cookie's token (hex); Unix seconds."""

    hash: str
    address: str
    created: float
    expires: float


class Users:
    """``store.people.users``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, address: str) -> User | None:
        """A person by address."""
        row = self._db.one(USER.select().where(USER.address == address))
        return None if row is None else User(**row)

    def list(self) -> Sequence[UserWithRoles]:
        """Everybody, by name."""
        roles: dict[str, dict[str, str]] = {}
        for row in self._db.all(GRANT.select()):
            roles.setdefault(row["address"], {})[row["workspace"]] = row["role"]
        rows = self._db.all(USER.select().order_by(USER.name, USER.address))
        return [UserWithRoles(**row, roles=roles.get(row["address"], {})) for row in rows]

    def grants(self, address: str) -> dict[str, str]:
        """Workspace (or ``*``) → role."""
        rows = self._db.all(GRANT.select().where(GRANT.address == address))
        return {row["workspace"]: row["role"] for row in rows}

    def put(self, address: str, name: str, created: float) -> None:
        """Add a person, or give one another name (then ``created`` stays as it was)."""
        row = {"address": address, "name": name, "created": created}
        with self._db.write():
            self._db.run(USER.insert(row).on_conflict(conflict_target=["address"], preserve=["name"]))
            self._db.bump(_PEOPLE)

    def grant(self, address: str, workspace: str, role: str | None) -> None:
        """Set a person's role in a workspace; ``None`` takes it away. Raises ``NotFound``."""
        with self._db.write():
            if self.get(address) is None:
                raise NotFound(f"there is no user {address}")
            if role is None:
                self._db.run(GRANT.delete().where(GRANT.address == address, GRANT.workspace == workspace))
            else:
                row = {"address": address, "workspace": workspace, "role": role}
                insert = GRANT.insert(row)
                self._db.run(insert.on_conflict(conflict_target=["address", "workspace"], preserve=["role"]))
            self._db.bump(_PEOPLE)

    def remove(self, address: str) -> bool:
        """Remove a person with all roles; False if unknown."""
        with self._db.write():
            self._db.run(GRANT.delete().where(GRANT.address == address))
            gone = self._db.run(USER.delete().where(USER.address == address))
            self._db.bump(_PEOPLE)
        return gone > 0


class Tokens:
    """``store.people.tokens``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, token: object) -> None:
        """Keep a new token: anything with the attributes of :class:`TokenRow`."""
        checked = msgspec.convert(token, TokenRow, from_attributes=True)
        row = {**msgspec.structs.asdict(checked), "scopes": msgspec.json.encode(checked.scopes).decode()}
        with self._db.write():
            self._db.run(TOKEN.insert(row))
            self._db.bump(_PEOPLE)

    def get(self, token_id: str) -> TokenRow | None:
        """A token by its id."""
        row = self._db.one(TOKEN.select().where(TOKEN.id == token_id))
        return None if row is None else _token(row)

    def of(self, address: str) -> Sequence[TokenRow]:
        """The tokens that an address made, oldest first."""
        rows = self._db.all(TOKEN.select().where(TOKEN.address == address).order_by(TOKEN.created, TOKEN.id))
        return [_token(row) for row in rows]

    def list(self, workspace: str | None = None) -> Sequence[TokenRow]:
        """The tokens of a workspace or of all, newest first; revoked ones too."""
        query = TOKEN.select().order_by(TOKEN.created.desc(), TOKEN.id)
        rows = self._db.all(query if workspace is None else query.where(TOKEN.workspace == workspace))
        return [_token(row) for row in rows]

    def revoke(self, token_id: str, when: float) -> bool:
        """End a token; False if there is none or it was revoked before."""
        with self._db.write():
            mine = (TOKEN.id == token_id) & TOKEN.revoked.is_null()
            ended = self._db.run(TOKEN.update(revoked=when).where(mine))
            self._db.bump(_PEOPLE)
        return ended > 0

    def used(self, token_id: str, when: float) -> None:
        """Note a token's last use."""
        with self._db.write():
            self._db.run(TOKEN.update(last_used=when).where(TOKEN.id == token_id))


class Sessions:
    """``store.people.sessions``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, digest: str, address: str, created: float, expires: float) -> None:
        """Keep a new session."""
        row = {"hash": digest, "address": address, "created": created, "expires": expires}
        with self._db.write():
            self._db.run(SESSION.insert(row))

    def get(self, digest: str) -> SessionRow | None:
        """A session by its hash, whether it has ended or not."""
        row = self._db.one(SESSION.select().where(SESSION.hash == digest))
        return None if row is None else SessionRow(**row)

    def extend(self, digest: str, expires: float) -> None:
        """Move a session's end."""
        with self._db.write():
            self._db.run(SESSION.update(expires=expires).where(SESSION.hash == digest))

    def delete(self, digest: str) -> bool:
        """End a session; False if there was none."""
        with self._db.write():
            return self._db.run(SESSION.delete().where(SESSION.hash == digest)) > 0

    def delete_of(self, address: str) -> int:
        """End all sessions of an address; how many there were."""
        with self._db.write():
            return self._db.run(SESSION.delete().where(SESSION.address == address))

    def delete_expired(self, now: float) -> int:
        """Forget the sessions that have ended; how many there were."""
        with self._db.write():
            return self._db.run(SESSION.delete().where(SESSION.expires <= now))


class Nonces:
    """``store.people.nonces``: numbers used once, shared by all processes, kept over restarts."""

    def __init__(self, db: Database, now: Callable[[], float], capacity: int = 10_000) -> None:
        self._db = db
        self._now = now
        self._capacity = capacity
        self._notes = Notes(db)

    def use(self, nonce: str, issued: float, expires: float) -> bool:
        """True for exactly one caller per nonce; False also for one that had expired by the last clean-up.

        Raises ``Busy`` rather than forget a nonce before it has expired.
        """
        with self._db.write():
            forgotten = self._forget(self._now())
            if expires <= forgotten or self._db.one(NONCE.select().where(NONCE.nonce == nonce)):
                return False
            if self._db.value(NONCE.select(fn.COUNT(NONCE.nonce))) >= self._capacity:
                raise Busy("too many signed messages at once", retry_after=60.0)
            self._db.run(NONCE.insert({"nonce": nonce, "expires": expires}))
        return True

    def _forget(self, now: float) -> float:
        """Drop what has expired; the latest end of all that was ever dropped, for a clock that is set back."""
        before = self._notes.get(_FORGOTTEN, float) or 0.0
        over = NONCE.expires <= now
        latest = self._db.value(NONCE.select(fn.MAX(NONCE.expires)).where(over))
        if latest is None:
            return before
        self._db.run(NONCE.delete().where(over))
        self._notes.put(_FORGOTTEN, max(before, latest))
        return max(before, float(latest))


class People:
    """``store.people``."""

    def __init__(self, db: Database, now: Callable[[], float]) -> None:
        self._db = db
        self.users = Users(db)
        self.tokens = Tokens(db)
        self.sessions = Sessions(db)
        self.nonces = Nonces(db, now)

    def change_counter(self) -> int:
        """Grows with every change of users, roles and tokens, whichever process made it."""
        return self._db.counters().get(_PEOPLE, 0)


def _token(row: Row) -> TokenRow:
    return TokenRow(**{**row, "scopes": tuple(msgspec.json.decode(row["scopes"]))})
