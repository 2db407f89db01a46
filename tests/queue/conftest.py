"""Queues on each storage that a URL can name, every one against its real server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.queue.app import make_huey
from appliance.queue.storage import LeasedSqliteStorage
from appliance.queue.tasks import TaskQueue
from tests.queue.support import free_port, postgres_bin, postgres_server, redis_server

STORAGES = ("sqlite", "redis", "postgres")


class Clock:
    """Time that only a test moves, in seconds."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


OpenStorage = Callable[..., LeasedSqliteStorage]


@pytest.fixture
def open_storage(tmp_path: Path, clock: Clock) -> Iterator[OpenStorage]:
    """Makes storages over one file and one clock, like several processes have them."""
    with ExitStack() as stack:

        def make(**options: object) -> LeasedSqliteStorage:
            options = {"path": tmp_path / "queue.db", "clock": clock, "now": clock, **options}
            storage = LeasedSqliteStorage("flowork", **options)  # type: ignore[arg-type]
            stack.callback(storage.close)
            return storage

        yield make


@pytest.fixture
def storage(open_storage: OpenStorage) -> LeasedSqliteStorage:
    return open_storage()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str | None]]:
    """The URL for each kind of storage; a server is started when it is first asked for."""
    with ExitStack() as stack:
        urls: dict[str, str | None] = {"sqlite": None}

        def url_of(kind: str) -> str | None:
            if kind == "redis" and kind not in urls:
                folder = tmp_path_factory.mktemp("redis")
                urls[kind] = stack.enter_context(redis_server(folder, free_port()))
            elif kind == "postgres" and kind not in urls:
                binaries = postgres_bin()
                assert binaries is not None, "the queue's tests need Debian's packages redis-server and postgresql"
                urls[kind] = stack.enter_context(postgres_server(binaries))
            return urls[kind]

        yield url_of


@pytest.fixture(params=STORAGES)
def open_queue(
    request: pytest.FixtureRequest, servers: Callable[[str], str | None], tmp_path: Path
) -> Iterator[Callable[[], TaskQueue]]:
    """Makes queues over one storage, like several processes have them."""
    url = servers(request.param)
    # The servers are shared by the module's tests, the name keeps them apart.
    name = f"q{uuid.uuid4().hex}"
    with ExitStack() as stack:

        def make() -> TaskQueue:
            queue = make_huey(url, tmp_path, name)
            stack.callback(queue.close)
            if url is not None:
                queue.storage.read_timeout = 0.1  # Stopping waits for it: 1 s each is much for tests.
            return queue

        yield make


@pytest.fixture
def queue(open_queue: Callable[[], TaskQueue]) -> TaskQueue:
    return open_queue()
