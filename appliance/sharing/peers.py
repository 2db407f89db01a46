"""What the kernels of a cluster share of their peers: which of them has the links, who is paired, events on their way.

It lies among the durable values (``flow_state``), under numbers that no flow has: the peers' own key, the pairings and
the name of the kernel with the links under :data:`PEERS`, sealed with the cluster's key where that matters. Why one
kernel has the links: ``docs/decisions/peers.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from appliance.sharing.members import Members
from appliance.store.journal import PEERS, Lease
from appliance.store.postgres.connecting import Connection

_HOLDER = "holder"
#: Keys of events that have no number yet sort between these (``FRESH`` of ``appliance/kernel/peering/outbox.py``).
_FRESH, _BEHIND_FRESH = "@new ", "@new!"
_AT_ONCE = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

_PUT = """INSERT INTO flow_state (flow, key, value, ver) VALUES (%s, %s, %s, 1)
    ON CONFLICT (flow, key) DO UPDATE SET value = EXCLUDED.value"""
_DROP = "DELETE FROM flow_state WHERE flow = %s AND key = ANY(%s)"
_GET = "SELECT value FROM flow_state WHERE flow = %s AND key = %s"


class Numbered(NamedTuple):
    """An event that has its number from now on; ``key`` is where it lies, ``value`` what was sent."""

    peer: str
    key: str
    value: dict[str, Any]


class PeerStore:
    """Safe from any thread, one at a time. Raises ``StoreError``, and ``LeaseLost`` where a lease is named."""

    def __init__(self, members: Members) -> None:
        self._members = members

    # --- who has the links -----------------------------------------------------------------------------

    def holder(self) -> Lease | None:
        """The life of a kernel that took the links last, whether or not it still goes on."""
        with self._members.reading() as session:
            return _holder(session)

    def take(self, lease: Lease) -> bool:
        """Become the kernel with the links, if none that lives has them."""
        with self._members.holding(lease) as session:
            mine = (PEERS, _HOLDER, _encode([0, 0]))
            session.execute("INSERT INTO flow_state VALUES (%s, %s, %s, 1) ON CONFLICT DO NOTHING", mine)
            session.execute(f"{_GET} FOR UPDATE", (PEERS, _HOLDER))
            held = _holder(session)
            alive = "SELECT 1 FROM kernel_lease WHERE writer = %s AND epoch = %s AND until > now() AND ended IS NULL"
            if held is not None and held != lease and session.execute(alive, held).fetchone() is not None:
                return False
            session.execute(_PUT, (PEERS, _HOLDER, _encode(list(lease))))
            return True

    def give_up(self, lease: Lease) -> None:
        """Have another kernel take the links."""
        with self._members.holding(lease) as session:
            if _holder(session) == lease:
                session.execute(_DROP, (PEERS, [_HOLDER]))

    # --- the pairings ----------------------------------------------------------------------------------

    def values(self) -> dict[str, bytes]:
        """Everything under :data:`PEERS` but the holder, as :meth:`put` was given it."""
        with self._members.reading() as session:
            rows = session.execute("SELECT key, value FROM flow_state WHERE flow = %s", (PEERS,)).fetchall()
            return {key: _decode(value) for key, value in rows if key != _HOLDER}

    def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        with self._members.reading() as session:
            session.execute(_PUT, (PEERS, key, _encode(value)))

    def put_first(self, key: str, values: dict[str, bytes]) -> bool:
        """Keep these values, of which ``key`` is one, unless that one is there already; whether they were kept."""
        with self._members.reading() as session:
            first = "INSERT INTO flow_state VALUES (%s, %s, %s, 1) ON CONFLICT DO NOTHING"
            if session.execute(first, (PEERS, key, _encode(values[key]))).rowcount != 1:
                return False
            for name, value in values.items():
                session.execute(_PUT, (PEERS, name, _encode(value)))
            return True

    def drop(self, key: str) -> None:
        """Forget a value; one that is not there is fine."""
        with self._members.reading() as session:
            session.execute(_DROP, (PEERS, [key]))

    # --- events on their way to peers ------------------------------------------------------------------

    def events(self, outbox: int) -> dict[str, Any]:
        """Everything under the number of the outbox."""
        with self._members.reading() as session:
            rows = session.execute("SELECT key, value FROM flow_state WHERE flow = %s", (outbox,)).fetchall()
            return {key: _decode(value) for key, value in rows}

    def number(self, lease: Lease, outbox: int, name: str) -> tuple[dict[str, Any], list[Numbered]]:
        """Give the events that have none their numbers, in one transaction; what the outbox's ``@`` values are then.

        Only the kernel with the links may; another one gets nothing. ``name`` becomes the outbox's if it has none yet.
        """
        with self._members.holding(lease) as session:
            if _holder(session, "FOR SHARE") != lease:
                return {}, []
            sql = "SELECT key, value FROM flow_state WHERE flow = %s AND key >= %s AND key < %s ORDER BY key LIMIT %s"
            rows = session.execute(sql, (outbox, _FRESH, _BEHIND_FRESH, _AT_ONCE)).fetchall()
            if not rows:
                return {}, []
            heads = {"@name": _value(session, outbox, "@name") or name}
            number = int(_value(session, outbox, "@seq") or 0)
            made: list[Numbered] = []
            for _, value in rows:
                number += 1
                event = _decode(value)
                peer = event.pop("peer")
                made.append(Numbered(peer, f"{peer} {number:015d}", event))
            heads["@seq"] = number
            put = [*heads.items(), *((one.key, one.value) for one in made)]
            _put_all(session, outbox, put)
            session.execute(_DROP, (outbox, [key for key, _ in rows]))
            return heads, made


def _put_all(session: Connection, flow: int, values: Iterable[tuple[str, Any]]) -> None:
    keys, packed = zip(*((key, _encode(value)) for key, value in values), strict=True)
    sql = """INSERT INTO flow_state (flow, key, value, ver)
        SELECT %s, key, value, 1 FROM unnest(%s::text[], %s::bytea[]) AS mine(key, value) ORDER BY key
        ON CONFLICT (flow, key) DO UPDATE SET value = EXCLUDED.value"""
    session.execute(sql, (flow, list(keys), list(packed)))


def _holder(session: Connection, how: str = "") -> Lease | None:
    row = session.execute(f"{_GET} {how}", (PEERS, _HOLDER)).fetchone()
    return None if row is None else Lease(*_decode(row[0]))


def _value(session: Connection, flow: int, key: str) -> Any:
    row = session.execute(_GET, (flow, key)).fetchone()
    return None if row is None else _decode(row[0])
