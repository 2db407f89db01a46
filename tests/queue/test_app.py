"""Which queue a URL gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from appliance.contracts import ConfigError
from appliance.queue.app import make_huey
from appliance.queue.errors import QueueError
from appliance.queue.serializer import MsgpackSerializer
from tests.queue.support import PATIENCE, free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        (None, "data/queue.db"),
        ("", "data/queue.db"),
        ("sqlite:///other.db", "data/other.db"),
        ("sqlite:////{tmp}/far/queue.db", "far/queue.db"),
    ],
)
def test_without_a_server_the_queue_is_a_file(url: str | None, file: str, tmp_path: Path) -> None:
    queue = make_huey(url and url.replace("/{tmp}", str(tmp_path)), tmp_path / "data")
    queue.storage.enqueue(b"task")
    queue.close()
    assert (tmp_path / file).is_file()
    assert not queue.immediate
    assert not queue.results
    assert isinstance(queue.serializer, MsgpackSerializer)


def test_nothing_is_opened_before_it_is_used(tmp_path: Path) -> None:
    make_huey(None, tmp_path / "data").close()
    assert not (tmp_path / "data").exists()


def test_the_sync_level_is_passed_on(tmp_path: Path) -> None:
    queue = make_huey(None, tmp_path, synchronous="FULL")
    assert queue.storage._db.query("pragma synchronous") == [(2,)]
    queue.close()


@pytest.mark.parametrize("kind", ["redis", "rediss"])
def test_redis_gives_the_storage_with_priorities_that_waits(kind: str, tmp_path: Path) -> None:
    queue = make_huey(f"{kind}://127.0.0.1:1/0", tmp_path)
    assert (queue.storage.priority, queue.storage.blocking) == (True, True)
    assert isinstance(queue.serializer, MsgpackSerializer)
    queue.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://user:hunter2@host", "scheme 'amqp' is not known; write redis://"),
        ("queue.db", "scheme '' is not known"),
        ("redis://:hunter2@host:port/0", "Redis URL cannot be used"),
        ("redis://[hunter2", "cannot be read"),
        ("sqlite://queue.db", "sqlite:///name"),
        ("sqlite:///", "sqlite:///name"),
        ("sqlite:///queue.db?hunter2=1", "sqlite:///name"),
    ],
)
def test_a_wrong_url_is_refused_without_telling_its_password(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_huey(url, tmp_path)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_postgres_that_is_away_is_said_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(QueueError, match=r"Postgres at 127\.0\.0\.1 cannot be used: .*refused") as caught:
        make_huey(f"postgresql://user:hunter2@127.0.0.1:{free_port()}/db", tmp_path)
    assert "hunter2" not in str(caught.value)


def python(code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("redis", "redis://127.0.0.1", "redis"), ("psycopg", "postgresql://127.0.0.1", "postgres")],
)
def test_a_missing_driver_names_the_extra(module: str, url: str, extra: str) -> None:
    code = """
import sys
from pathlib import Path
sys.modules[sys.argv[1]] = None
from appliance.contracts import ConfigError
from appliance.queue.app import make_huey
try:
    make_huey(sys.argv[2], Path("unused"))
except ConfigError as exc:
    print(exc)
"""
    assert f"install it with: pip install 'flowork[{extra}]'" in python(code, module, url)


def test_a_queue_in_a_file_loads_no_driver() -> None:
    code = """
import sys
from pathlib import Path
from appliance.queue.app import make_huey
from appliance.queue.consumer import start_consumer
make_huey(None, Path("unused"))
print([name for name in ("redis", "psycopg", "gevent", "pickletools") if name in sys.modules])
import psycopg, redis
print("still importable")
"""
    assert python(code) == "[]\nstill importable"
