"""The first start of an engine: its keys, its database, and an example flow that runs at once.

``flowork init`` and ``flowork up`` share it. It may be called again at any time: what is there is left alone.
"""

from __future__ import annotations

from contextlib import closing
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.flowbook import FlowBook
from appliance.kernel.client import KernelClient
from appliance.kernel.maintenance import make_room_to_start
from appliance.registry import Registry
from appliance.security.audit import AuditLog
from appliance.security.files import keys_folder
from appliance.security.keys import ENGINE_FILE, InitResult, init_keys
from appliance.security.roles import local_identity
from appliance.store.metadata import Store, open_store
from appliance.store.opening import DATABASE, OpenReport
from appliance.store.places import database_url

#: Who has saved the example.
_ACTOR = local_identity("flowork")


class Prepared(Struct, frozen=True):
    """What :func:`prepare` found or made; ``example`` is the id of the flow that this call has deployed."""

    keys: InitResult
    report: OpenReport
    example: str = ""


def is_prepared(data: Path) -> bool:
    """Whether there is an engine already; then only the keys need a look."""
    return has_engine(data)


def has_engine(data: Path) -> bool:
    """Whether the folder is an engine's: it holds the database, or the keys to one on a server."""
    if database_url():
        return (keys_folder(data) / ENGINE_FILE).exists()
    return (data / DATABASE).exists()


def prepare(data: Path) -> Prepared:
    """Make what an engine needs in ``data``, which exists. Raises ``KeysError``, ``StoreError``.

    Raises ``ConfigError`` where the database is an engine's whose keys are not in ``data``.
    """
    if database_url():
        from appliance.sharing.cluster import refuse_strangers

        open_store(data).close()
        refuse_strangers(data)
    make_room_to_start(data)
    keys = init_keys(data)
    with closing(open_store(data)) as store:
        example = _deploy_example(data, store) if _untouched(store) else ""
        return Prepared(keys, store.report, example)


def _untouched(store: Store) -> bool:
    """Nothing was ever done here: everything that is done leaves an audit entry (or, after damage, a repair)."""
    return store.audit.last() is None and store.repair() is None and not store.flows.list(limit=1).items


def _deploy_example(data: Path, store: Store) -> str:
    body = msgspec.json.decode(files("appliance").joinpath("examples", "first_flow.json").read_bytes())
    with closing(KernelClient(data)) as kernel:
        book = FlowBook(store, Registry().scan(), AuditLog(store.audit, data), kernel)
        return book.save(body, by=_ACTOR, message="the example of a new engine", deploy=True).flow.id


def key_lines(keys: InitResult) -> list[str]:
    """How to sign in, for the person at the terminal: the only place that ever says ``PRIVATE KEY``."""
    if keys.owner_private_key is None:
        return ["sign in with your owner key; `flowork key show` shows it again"]
    return [
        "sign in with your owner key; `flowork key show` shows it again, keep a copy elsewhere:",
        f"PRIVATE KEY {keys.owner_private_key.reveal()}",
    ]


def example_lines(example: str) -> list[str]:
    """How to look at the example flow."""
    return [
        f"the example flow {example!r} runs when the engine comes up: `flowork runs`, then `flowork show RUN`",
        f"start it yourself: `flowork run {example} --follow`",
    ]
