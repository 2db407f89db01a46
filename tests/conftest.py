"""What holds for every test: nothing leaves the machine, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support import leaks, offline
from tests.support.databases import bare_url, database_url, leave_out_files_only, place, postgres

__all__ = ["bare_url", "database_url", "place", "postgres"]


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported."""
    config.addinivalue_line("markers", "files_only: about files of the store, of which a database server has none")
    offline.install()
    leaks.adopt_orphans()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it starts in the background ignore Ctrl-C; what the tests start must hear it.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is about files (``files_only``) is not asked of Postgres."""
    leave_out_files_only(config, items)


@pytest.fixture(autouse=True)
def stays_on_this_machine() -> Iterator[None]:
    """A test that tried to reach another machine fails, even if the code under test swallowed the error."""
    offline.attempts.clear()
    yield
    assert not offline.attempts, f"tried to reach {', '.join(offline.attempts)}"


@pytest.fixture(autouse=True, scope="module")
def leaves_nothing_behind() -> Iterator[None]:
    """A module whose threads, processes or open files outlive it fails."""
    before = leaks.census()
    yield
    assert not (left := leaks.since(before)), "left behind: " + ", ".join(sorted(left))
