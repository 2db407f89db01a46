"""The shared service on real servers: each test faces Redis and Postgres."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from appliance.sharing.opening import open_service
from appliance.sharing.service import Service
from tests.queue.support import free_port, redis_server
from tests.support.servers import postgres_server


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """The URL of a real server, started when it is first asked for."""
    with ExitStack() as stack:
        urls: dict[str, str] = {}

        def url_of(kind: str) -> str:
            if kind not in urls:
                made = redis_server(tmp_path_factory.mktemp("redis"), free_port()) if kind == "redis" else None
                urls[kind] = stack.enter_context(made or postgres_server())
            return urls[kind]

        yield url_of


@pytest.fixture(params=["redis", "postgres"])
def open_shared(request: pytest.FixtureRequest, servers: Callable[[str], str]) -> Iterator[Callable[[], Service]]:
    """Opens one cluster's service, as several processes have it."""
    url, name = servers(request.param), uuid.uuid4().hex
    with ExitStack() as stack:

        def make() -> Service:
            service = open_service(url, name)
            stack.callback(service.close)
            return service

        yield make


@pytest.fixture
def service(open_shared: Callable[[], Service]) -> Service:
    return open_shared()
