"""Where an engine's data is: chosen by the URL, and nothing of Postgres is loaded without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from appliance.contracts import ConfigError
from appliance.store.errors import StoreAway, StoreError, StoreTooNew
from appliance.store.metadata import open_store
from appliance.store.places import URL, copy_store, database_url, make_history, make_journal, make_retention
from appliance.store.postgres.connecting import address_of
from tests.store.stores import body
from tests.support.databases import sibling
from tests.support.servers import free_port

_WITHOUT = """
import sys
from pathlib import Path
import appliance.kernel.kernel, appliance.gateway.services, appliance.store.backup
from appliance.store.metadata import open_store
from appliance.store.places import make_history, make_journal
data = Path(sys.argv[1])
open_store(data).close()
journal = make_journal(data, writer=0)
journal.open()
make_history(data).close()
journal.close()
print([name for name in sys.modules if name.startswith(("psycopg", "appliance.store.postgres"))])
"""


def test_nothing_of_postgres_is_loaded_without_a_url(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != URL}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        env=environ,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_url_chooses() -> None:
    assert database_url({}) == database_url({URL: "  "}) == ""
    assert database_url({URL: " postgres://h/d "}) == "postgres://h/d"
    with pytest.raises(ConfigError, match="write postgresql://"):
        database_url({URL: "sqlite:///x"})
    environ, nowhere = {URL: "postgresql://h/d"}, Path("/nonexistent")
    journal = make_journal(nowhere, writer=0, environ=environ)
    made = (journal, make_history(nowhere, environ), make_retention(nowhere, journal, lambda *_: True, environ))
    assert {type(one).__module__.rpartition(".")[0] for one in made} == {"appliance.store.postgres"}


def test_what_is_shown_of_a_url_holds_no_password() -> None:
    shown = str(address_of("postgresql://ann:topsecret@db.example:5433/flows?sslmode=require"))
    assert shown == "the database 'flows' at db.example:5433"
    with pytest.raises(StoreError, match="cannot be read") as caught:
        address_of("postgresql://ann:topsecret@[bad")
    assert "topsecret" not in str(caught.value)


def opening(url: str, data: Path = Path("/nonexistent")) -> None:
    open_store(data, environ={URL: url}).close()


def test_what_is_wrong_with_a_server_is_said_in_one_line(database_url: str) -> None:
    cases = {
        database_url.replace(":secret@", ":topsecret@"): "refuses this user or password",
        sibling(database_url, "nothing_here"): "createdb nothing_here",
        f"{database_url.rpartition(':')[0]}:{free_port()}/x": "cannot be reached",
    }
    for url, text in cases.items():
        with pytest.raises(StoreError, match=text) as caught:
            opening(url)
        assert "topsecret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_cannot_be_reached_may_be_tried_again() -> None:
    with pytest.raises(StoreAway) as caught:
        opening(f"postgresql://a:b@127.0.0.1:{free_port()}/x")
    assert caught.value.retryable


def test_another_programs_schema_is_left_alone(bare_url: str) -> None:
    with psycopg.connect(bare_url) as connection:
        connection.execute("CREATE SCHEMA flowork")
    with pytest.raises(StoreError, match="of another program"):
        opening(bare_url)


def test_a_database_of_a_newer_flowork_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE flowork.schema_version SET version = 999 WHERE part = 'runs'")
    with pytest.raises(StoreTooNew, match="newer Flowork"):
        opening(database_url)


def test_an_encoding_that_loses_text_is_refused(postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(StoreError, match="as UTF8: createdb"):
        opening(sibling(postgres, "latin"))


def test_an_update_waits_for_nobody_who_is_still_there(database_url: str) -> None:
    store = open_store(Path("/nonexistent"), environ={URL: database_url})
    store.flows.list()
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE flowork.schema_version SET version = version - 1 WHERE part = 'runs'")
    with pytest.raises(StoreError, match="stop Flowork on every machine"):
        opening(database_url)
    store.close()


_OPEN = """
from pathlib import Path
from appliance.store.metadata import open_store
print(open_store(Path("/nonexistent")).report.state)
"""


def test_processes_that_start_together_make_the_schema_once(bare_url: str) -> None:
    environ = {**os.environ, URL: bare_url}
    command = [sys.executable, "-c", _OPEN]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) for _ in range(3)]
    assert sorted(process.communicate(timeout=50)[0].strip() for process in started) == ["created", "opened", "opened"]


def test_a_copy_of_the_flows_is_a_whole_flowork_db(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL, database_url)
    store = open_store(tmp_path)
    saved = store.flows.save(None, "home", body(), "ann")
    (tmp_path / "copy").mkdir()
    copy_store(tmp_path, tmp_path / "copy" / "flowork.db")
    store.close()
    copy = open_store(tmp_path / "copy", environ={})
    assert copy.flows.version(saved.id) == saved
    copy.close()
