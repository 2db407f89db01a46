"""Postgres databases for tests: one server a session of pytest, one empty database a test, made from a template.

    def test_something(database_url: str) -> None: ...

A test that asks for ``database_url`` gets a database of its own, which is dropped behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support import leaks

_numbers = itertools.count()
_TEMPLATE = "flowork_template"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A server; the URL of its first database. Also made here: a database with an empty store in it, as a template."""
    from appliance.store.metadata import open_store
    from tests.support.servers import postgres_server

    before = {child.pid for child in psutil.Process().children()}
    with postgres_server() as url:
        server = {child.pid for child in psutil.Process().children()} - before
        leaks.kept.update(server)
        _admin(url, f"CREATE DATABASE {_TEMPLATE}")
        open_store(Path("/nonexistent"), environ={"FLOWORK_DATABASE_URL": sibling(url, _TEMPLATE)}).close()
        yield url
    leaks.kept.difference_update(server)


@pytest.fixture
def database_url(postgres: str) -> Iterator[str]:
    """A database with an empty store in it."""
    yield from _database(postgres, f"TEMPLATE {_TEMPLATE} STRATEGY file_copy")


@pytest.fixture
def bare_url(postgres: str) -> Iterator[str]:
    """A database that Flowork has never seen."""
    yield from _database(postgres, "")


@pytest.fixture(params=["files", "postgres"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the test's store is; child processes of the test use the same."""
    if request.param == "postgres":
        monkeypatch.setenv("FLOWORK_DATABASE_URL", request.getfixturevalue("database_url"))
    else:
        monkeypatch.delenv("FLOWORK_DATABASE_URL", raising=False)
    return str(request.param)


def leave_out_files_only(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``files_only`` where they would run on Postgres."""

    def unfit(item: pytest.Item) -> bool:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        return params.get("place") == "postgres" and item.get_closest_marker("files_only") is not None

    left_out = [item for item in items if unfit(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def sibling(url: str, name: str) -> str:
    """Another database on the same server."""
    return f"{url.rpartition('/')[0]}/{name}"


@contextmanager
def made_from_template(server: str) -> Iterator[str]:
    """A database with an empty store in it, for tests that need several."""
    yield from _database(server, f"TEMPLATE {_TEMPLATE} STRATEGY file_copy")


def emptied(url: str) -> None:
    """Take the runs and durable values out of a test's database."""
    tables = "run, chunk, blob_use, letter_note, event_key, flow_state, blob, blob_piece"
    _admin(url, f"SET search_path = flowork; TRUNCATE {tables}")


def _database(url: str, how: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _admin(url, f"CREATE DATABASE {name} {how}")
    yield sibling(url, name)
    _admin(url, f"DROP DATABASE {name} WITH (FORCE)")


def _admin(url: str, sql: str) -> None:
    import psycopg  # not at the top: most tests do without

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())
