"""Real database servers for tests: their own folder, a free port of 127.0.0.1, gone when the block ends.

    with postgres_server() as url: ...      # postgresql://flowork:secret@127.0.0.1:PORT/flowork
    with mysql_server() as url: ...         # mysql://flowork:secret@127.0.0.1:PORT/flowork

Needs Debian's ``postgresql`` and ``mariadb-server``. They refuse to run as root; then their own user runs them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pymysql

USER, PASSWORD, NAME = "flowork", "secret", "flowork"
#: Seconds until a server that does not come up fails the test.
PATIENCE = 60.0


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[str]:
    """A PostgreSQL, without durability unless that is asked for (it is quicker); yields its URL."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    with _folder("postgres") as folder:
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        data = folder / "data"
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", USER, f"--pwfile={secret}", "-A", "scram-sha-256"]
        _run("postgres", [*initdb, "-E", "UTF8", "--locale=C", "--no-sync"], folder)
        port = free_port()
        server = [str(programs / "postgres"), "-D", str(data), "-k", str(folder), "-p", str(port)]
        server += [] if durable else ["-F"]
        url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}"
        with _serving("postgres", server, folder, signal.SIGINT):
            _until(lambda: psycopg.connect(f"{url}/postgres").close(), psycopg.OperationalError)
            with psycopg.connect(f"{url}/postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {NAME}")
            yield f"{url}/{NAME}"


@contextlib.contextmanager
def mysql_server() -> Iterator[str]:
    """A MariaDB; yields its URL."""
    with _folder("mysql") as folder:
        data, start = folder / "data", folder / "start.sql"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", f"--tmpdir={folder}"]
        _run("mysql", [*install, "--auth-root-authentication-method=normal"], folder)
        start.write_text(
            # One statement a line, whatever the semicolons say.
            f"CREATE DATABASE {NAME};\n"
            f"CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO '{USER}'@'127.0.0.1';\n"
        )
        port = free_port()
        # In /usr/sbin, which is not in everybody's PATH.
        program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin") or "mariadbd"
        server = [program, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1"]
        files = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", f"--init-file={start}", f"--tmpdir={folder}"]
        light = ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin", "--skip-name-resolve"]
        with _serving("mysql", [*server, *files, *light], folder, signal.SIGTERM):
            _until(lambda: _mysql_answers(port), pymysql.err.OperationalError)
            yield f"mysql://{USER}:{PASSWORD}@127.0.0.1:{port}/{NAME}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _mysql_answers(port: int) -> None:
    pymysql.connect(host="127.0.0.1", port=port, user=USER, password=PASSWORD, database=NAME).close()


@contextlib.contextmanager
def _folder(user: str) -> Iterator[Path]:
    """A folder of the server's user, directly in /tmp: others than root must be able to walk there."""
    folder = Path(tempfile.mkdtemp(prefix=f"flowork-{user}-"))
    try:
        if _as(user):
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder)


def _as(user: str) -> str | None:
    return user if os.geteuid() == 0 else None


def _run(user: str, command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, user=_as(user), capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{command[0]} failed: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def _serving(user: str, command: Sequence[str], folder: Path, stop: signal.Signals) -> Iterator[None]:
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, user=_as(user), stdout=output, stderr=output)
    try:
        yield
    except BaseException as exc:
        exc.add_note((folder / "output").read_text()[-2000:])
        raise
    finally:
        process.send_signal(stop)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


def _until(attempt: Callable[[], None], waits_for: type[Exception]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except waits_for:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
