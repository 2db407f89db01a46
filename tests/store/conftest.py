from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.store.metadata import Store, open_store
from tests.store.stores import DAY, Clock, body, here, write_shard


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "FloworkData"


@pytest.fixture
def store(place: str, data: Path, clock: Clock) -> Iterator[Store]:
    opened = open_store(data, environ=here(), now=clock)
    yield opened
    opened.close()


@pytest.fixture
def engine(store: Store, data: Path) -> Path:
    """A data folder with a bit of everything."""
    store.flows.save("f", "default", body(), "a")
    store.flows.deploy("f", 1, "a")
    write_shard(data / "runs" / DAY)
    for name, content in {
        "keys/owner.key": b"secret",
        "blobs/ab/abcd": b"\x00blob" * 1000,
        "files/report ü.txt": b"hello",
        "files/deep/run.sh": b"#!/bin/sh\n",
        "files/empty": b"",
        "packages/nodes/mine.py": b"x = 1\n",
        "models/huge.gguf": b"not in a backup",
        "queue.db": b"not in a backup",
    }.items():
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (data / "files/deep/run.sh").chmod(0o755)
    return data
