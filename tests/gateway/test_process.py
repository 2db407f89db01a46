"""The gateway as a real process: what it serves, what it leaves, how it ends, what it costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from simple_websocket import ConnectionClosed

from tests.gateway.engine import API, Home, wait_for
from tests.gateway.served import ROOT, Served, watching
from tests.gateway.test_hooks import hooked
from tests.gateway.test_runs import named
from tests.support.flows import node


@pytest.fixture(scope="module")
def served(home: Home) -> Iterator[Served]:
    made = Served(home.data)
    yield made
    made.stop()


def test_health_answers_without_an_identity_and_a_small_process_serves_it(served: Served) -> None:
    assert served.get(f"{API}/health")[0] == 200
    # One process: no arbiter beside the worker.
    assert psutil.Process(served.process.pid).children() == []


def test_webhooks_over_a_real_connection(home: Home, served: Served) -> None:
    hooked(home, "Over TCP", "over-tcp-1", "payload.n + 1", reply="result")
    body = b'{"n": 41}'
    head = (
        f"POST /hooks/over-tcp-1 HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        for _ in range(3):  # one connection, kept alive
            client.sendall(head + body)
            answer = b""
            while not answer.endswith(b"\r\n\r\n42"):
                part = client.recv(4096)
                assert part, answer
                answer += part
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_chunked_body_is_read_and_bounded(home: Home, served: Served) -> None:
    hooked(home, "Chunked", "chunked-1", reply="result", max_bytes=100_000_000)
    head = (
        f"POST /hooks/chunked-1 HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode()
    status, found = served.raw(head + b'4\r\n"a b\r\n3\r\n c"\r\n0\r\n\r\n')
    assert (status, found) == (200, b'"a b c"')
    bound = home.gateway.settings.max_request_bytes
    piece = b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000)
    status, found = served.raw(head + piece * (bound // 100_000 + 1) + b"0\r\n\r\n")
    assert (status, json.loads(found)["status"]) == (413, 413)


@pytest.mark.parametrize("chunks", [b"zz\r\n", b"4\r\nabcdefgh\r\n0\r\n\r\n", b"-1\r\n\r\n"])
def test_chunks_that_are_none(home: Home, served: Served, chunks: bytes) -> None:
    head = (
        f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        f"Authorization: {home.owner.headers['Authorization']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    status, found = served.raw(head + chunks)
    assert (status, json.loads(found)["type"]) == (400, "/docs/errors#bad-request")


def test_accepted_connections_wait_neither_for_company_nor_for_ever() -> None:
    from appliance.gateway import server

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server._prepare(listening)
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                seconds, _ = struct.unpack("@ll", accepted.getsockopt(socket.SOL_SOCKET, option, 16))
                assert seconds == server.STALLED


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    head = (
        "POST /api/v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000000\r\n\r\n"
    )
    status, found = served.raw(head.encode())
    assert (status, json.loads(found)["type"]) == (413, "/docs/errors#too-large")


@pytest.mark.parametrize(
    "data",
    [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
     b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_answered_in_our_form(served: Served, data: bytes) -> None:
    status, found = served.raw(data)
    assert 400 <= status < 500
    assert json.loads(found)["status"] == status


def test_the_log_tells_no_requests_and_no_secrets(home: Home, served: Served) -> None:
    secret = "a-secret-for-the-log"
    home.owner.do("PUT", "/secrets/logged", {"value": secret})
    served.get(f"{API}/flows/{secret}", home.owner.headers)
    served.get(f"/{secret}")
    assert served.get(f"{API}/health", {"Authorization": f"Bearer {secret}"})[0] == 401
    text = served.log.read_text()
    assert secret not in text and "Traceback" not in text
    assert API not in text


def test_the_file_system_outside_the_data_folder_is_left_alone(home: Home, tmp_path: Path) -> None:
    served = Served(home.data, environ={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    try:
        assert served.get(f"{API}/health")[0] == 200
    finally:
        served.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_request_under_way_is_finished_and_panels_are_let_go(home: Home) -> None:
    served = Served(home.data)
    config = {"path": "ends-late-1", "reply": "result", "limit": "20s", "methods": ["GET"]}
    triggers = [{"id": "w", "type": "webhook", "config": config}]
    home.save(named("Ends late", node("a", "wait_event", {"name": "late"}), triggers=triggers))
    answers: list[tuple[int, bytes]] = []
    caller = threading.Thread(target=lambda: answers.append(served.get("/hooks/ends-late-1?x=1")))
    try:
        with watching(served, headers=home.owner.headers) as panel:
            panel.until(lambda event: event["type"] == "hello")
            caller.start()
            wait_for(lambda: home.owner.get("/runs?state=waiting")["items"], "the run")
            served.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                panel.until(lambda event: False)
            assert closed.value.reason == 1001
            home.owner.do("POST", "/events", {"name": "late", "payload": "done"})
            caller.join(10)
        assert answers == [(200, b'"done"')]
        assert served.process.wait(10) == 0
    finally:
        served.stop()


def test_it_dies_with_who_started_it(home: Home) -> None:
    """kill -9 of a supervisor leaves nothing behind (the supervisor arms this; here it is armed by hand)."""
    code = (
        "import ctypes, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from appliance.gateway import process\n"
        "parent = os.getpid()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
        "    sys.exit(process.main(Path(sys.argv[1]), '127.0.0.1', 0, None))\n"
        "print(pid, flush=True)\n"
        "os.waitpid(pid, 0)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(home.data)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: child.net_connections(), "the gateway to listen")
        parent.kill()
        parent.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end")


def test_a_taken_port_is_said_in_a_line(home: Home) -> None:
    from appliance.gateway import process
    from appliance.listener import ListenError

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match="in use"):
        process.main(home.data, "127.0.0.1", taken.getsockname()[1], None)


def test_importing_the_process_loads_nothing_large() -> None:
    code = (
        "import sys, appliance.gateway.process; print([n for n in ('flask', 'gunicorn', 'peewee') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_an_idle_gateway_has_loaded_nothing_large(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from appliance.gateway.app import create_app, gateway_of\n"
        "app = create_app(Path(sys.argv[1])); app.test_client().get('/api/v1/health')\n"
        "large = ('cryptography', 'prometheus_client', 'httpx', 'apprise', 'huey', 'appliance.sandbox.process')\n"
        "print([name for name in large if name in sys.modules]); gateway_of(app).close()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(home.data)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
