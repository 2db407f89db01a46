"""HTTPS by a real gateway: one port for both, clients that trust the root alone, what plain http is still given."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simple_websocket import Client

from appliance.findings import of_https
from appliance.security.https.authority import DAY
from appliance.security.https.certificates import root_der
from appliance.security.wallet import address_of, sign_message
from tests.gateway.engine import API, PATIENCE, Home, wait_for
from tests.gateway.served import Served
from tests.gateway.test_hooks import hooked

HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def served(home: Home) -> Iterator[Served]:
    made = Served(home.data, host="0.0.0.0")
    home.gateway.store.settings.set({"https": "on"})
    # The first handshake makes the authority.
    wait_for(lambda: made.get("/api/v1/health")[0] == 200, "the gateway")
    wait_for(lambda: root_der(home.data) is not None or not _greet(made), "the authority")
    yield made
    made.stop()


def _greet(served: Served) -> bool:
    """A handshake of somebody who asks for no name and believes nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as sock:
        try:
            with context.wrap_socket(sock, server_hostname="localhost"):
                return True
        except ssl.SSLError:
            return False
        except ConnectionError:
            return False


def trusting(home: Home) -> ssl.SSLContext:
    """A client that trusts the engine's root and nothing else."""
    root = root_der(home.data)
    assert root is not None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(root))
    return made


def over(home: Home, served: Served, host: str = "localhost") -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(host, served.port, timeout=PATIENCE, context=trusting(home))


def ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    data = None if body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, data, sent)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


#: As a proxy on this machine tells of a caller in the network.
FAR = {"X_Forwarded_For": "192.168.1.50"}


def test_the_same_port_answers_http_and_https(home: Home, served: Served) -> None:
    assert served.get(f"{API}/health")[0] == 200
    connection = over(home, served)
    for _ in range(3):  # one connection, kept alive
        assert ask(connection, "GET", f"{API}/health")[0] == 200
    connection.close()


def test_an_address_that_nobody_has_named_is_believed_at_its_first_connection(home: Home, served: Served) -> None:
    connection = over(home, served, "127.0.0.9")
    assert ask(connection, "GET", f"{API}/health")[0] == 200
    connection.close()


def test_who_does_not_know_the_root_is_told_and_the_gateway_goes_on(home: Home, served: Served) -> None:
    for _ in range(20):
        assert not _greet(served)
    connection = over(home, served)
    assert ask(connection, "GET", f"{API}/health")[0] == 200
    connection.close()


def test_signing_in_gives_a_cookie_that_only_https_carries(home: Home, served: Served) -> None:
    _, key = home.person("admin")
    connection = over(home, served)
    origin = f"https://localhost:{served.port}"
    _, _, data = ask(connection, "GET", f"{API}/session/challenge?address={address_of(key)}")
    challenge = json.loads(data)["text"]
    assert f"URI: {origin}/" in challenge
    signed = {"text": challenge, "signature": sign_message(key, challenge)}
    status, headers, _ = ask(connection, "POST", f"{API}/session", signed, Origin=origin)
    assert status == 200
    cookie = headers["set-cookie"]
    assert cookie.startswith("__Host-flowork_")
    assert "; Secure" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    pair = cookie.partition(";")[0]
    assert json.loads(ask(connection, "GET", f"{API}/session", Cookie=pair)[2])["signed_in"]
    connection.close()
    # Sent over http by who has stolen it, it opens nothing.
    assert not json.loads(served.get(f"{API}/session", {"Cookie": pair})[1])["signed_in"]


def test_a_webhook_with_a_large_body_over_tls(home: Home, served: Served) -> None:
    hooked(home, "Over TLS", "over-tls-1", "payload.n + 1", reply="result", max_bytes=1_000_000)
    connection = over(home, served)
    for number in range(3):
        body = {"n": number, "filling": "x" * 200_000}
        assert ask(connection, "POST", "/hooks/over-tls-1", body)[2] == str(number + 1).encode()
    connection.close()


def test_the_panel_watches_live_over_tls(home: Home, served: Served) -> None:
    flow = hooked(home, "Watched over TLS", "over-tls-2", "payload.n + 1")
    client = Client(
        f"wss://localhost:{served.port}{API}/live?flow={flow}",
        headers={"Authorization": home.owner.headers["Authorization"]},
        ssl_context=trusting(home),
    )
    seen = ""
    while '"hello"' not in seen:  # what happens before is not told
        seen += str(client.receive(timeout=PATIENCE))
    connection = over(home, served)
    for number in range(30):  # written by one thread while another reads
        client.send("nothing of interest" * 20)
        assert ask(connection, "POST", "/hooks/over-tls-2", {"n": number})[0] == 202
    connection.close()
    while seen.count('"succeeded"') < 30:
        message = client.receive(timeout=PATIENCE)
        assert message is not None, seen
        seen += str(message)
    client.close()
    client.thread.join(PATIENCE)
    wait_for(lambda: _sockets(home, served) == 0, "the gateway to let the socket go")


def _sockets(home: Home, served: Served) -> int:
    header = {"Authorization": home.owner.headers["Authorization"]}
    found: int = json.loads(served.get(f"{API}/health", header)[1])["gateway"]["sockets"]
    return found


def test_a_renewed_certificate_drops_nobody(home: Home, served: Served) -> None:
    connection = over(home, served)
    ask(connection, "GET", f"{API}/health")
    assert isinstance(connection.sock, ssl.SSLSocket)
    before = connection.sock.getpeercert(True)
    home.gateway.certificates.renew()
    assert ask(connection, "GET", f"{API}/health")[0] == 200
    assert connection.sock.getpeercert(True) == before, "the same connection"
    connection.close()
    second = over(home, served)
    assert ask(second, "GET", f"{API}/health")[0] == 200
    assert isinstance(second.sock, ssl.SSLSocket)
    assert second.sock.getpeercert(True) != before
    second.close()


def test_a_handshake_that_stops_in_the_middle_holds_up_nobody(home: Home, served: Served) -> None:
    stuck = [socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) for _ in range(20)]
    for sock in stuck:
        sock.sendall(b"\x16\x03\x01")
    connection = over(home, served)
    assert ask(connection, "GET", f"{API}/health")[0] == 200
    connection.close()
    for sock in stuck:
        sock.close()
    assert served.get(f"{API}/health")[0] == 200


def test_many_at_once(home: Home, served: Served) -> None:
    hooked(home, "Many over TLS", "over-tls-3", "payload.n + 1", reply="result")
    wrong: list[object] = []

    def work(first: int) -> None:
        connection = over(home, served)
        for number in range(first, first + 10):
            if (found := ask(connection, "POST", "/hooks/over-tls-3", {"n": number})[2]) != str(number + 1).encode():
                wrong.append(found)
        connection.close()

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- what plain http is given ------------------------------------------------------------------------------


def test_a_browser_of_the_network_is_led_to_the_certificate_and_programs_go_on(home: Home, served: Served) -> None:
    hooked(home, "Plain", "plain-http-1", "payload.n + 1", reply="result")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    status, headers, _ = ask(connection, "GET", "/flows/a%20b?tab=runs&x=1", **HTML, **FAR)
    assert (status, headers["location"]) == (302, "/certificate?to=/flows/a%2520b%3Ftab%3Druns%26x%3D1")
    assert ask(connection, "POST", "/hooks/plain-http-1", {"n": 1}, **FAR)[2] == b"2"
    assert ask(connection, "GET", f"{API}/flows", Authorization=home.owner.headers["Authorization"], **FAR)[0] == 200
    connection.close()
    # On the box itself nothing changes.
    assert served.get("/", HTML)[0] == 200


def test_the_certificate_is_given_by_plain_http_with_its_fingerprint(home: Home, served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    status, headers, page = ask(connection, "GET", "/certificate", **HTML, **FAR)
    assert status == 200
    assert home.gateway.certificates.ensure().fingerprint in page.decode()
    assert f"https://127.0.0.1:{served.port}/" in page.decode()
    script = re.search(rb"<script>(.*)</script>", page, re.DOTALL)
    assert script is not None
    assert "script-src 'sha256-" in headers["content-security-policy"]
    status, headers, der = ask(connection, "GET", "/certificate/flowork.crt", **FAR)
    assert (status, headers["content-type"]) == (200, "application/x-x509-ca-cert")
    assert der == root_der(home.data)
    assert ask(connection, "GET", "/certificate/flowork.pem", **FAR)[2].startswith(b"-----BEGIN CERTIFICATE-----")
    connection.close()


def test_https_only_refuses_the_rest_and_off_is_as_before(home: Home, served: Served) -> None:
    settings = home.gateway.store.settings
    hooked(home, "Only", "https-only-1", "payload.n + 1", reply="result")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
    try:
        settings.set({"https": "only"})
        wait_for(
            lambda: ask(connection, "POST", "/hooks/https-only-1", {"n": 1}, **FAR)[0] == 403, "the setting to be read"
        )
        status, _, data = ask(
            connection, "GET", f"{API}/flows", Authorization=home.owner.headers["Authorization"], **FAR
        )
        assert status == 403
        assert f"https://127.0.0.1:{served.port}{API}/flows" in json.loads(data)["detail"]
        assert ask(connection, "GET", f"{API}/health", **FAR)[0] == 200, "a supervisor asks for it"
        assert ask(connection, "GET", "/certificate", **FAR)[0] == 200
        assert served.get(f"{API}/session")[0] == 200, "on the box itself"
        settings.set({"https": "off"})
        wait_for(
            lambda: ask(connection, "POST", "/hooks/https-only-1", {"n": 1}, **FAR)[0] == 200, "the setting to be read"
        )
        assert ask(connection, "GET", "/certificate/flowork.crt", **FAR)[0] == 404
        assert not _greet(served)
        assert served.get(f"{API}/health")[0] == 200
    finally:
        settings.set({"https": "on"})
        connection.close()
    wait_for(lambda: _greets(home, served), "HTTPS to be back")


def _greets(home: Home, served: Served) -> bool:
    connection = over(home, served)
    try:
        return ask(connection, "GET", f"{API}/health")[0] == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
def test_openssl_as_a_client(home: Home, served: Served, tmp_path: Path) -> None:
    root = root_der(home.data)
    assert root is not None
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(root))
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{served.port}", "-servername", "localhost", "-strict"]
    command += ["-CAfile", str(tmp_path / "root.pem"), "-verify_return_error", "-verify_hostname", "localhost"]
    found = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    assert "Verify return code: 0 (ok)" in found.stdout, found.stdout + found.stderr
    assert "TLSv1.3" in found.stdout


def test_the_panel_is_told_what_there_is_and_health_when_the_authority_ends(home: Home, served: Served) -> None:
    view = home.owner.get("/https")
    state = home.gateway.certificates.ensure()
    assert view["mode"] == "on"
    assert view["authority"]["fingerprint"] == state.fingerprint
    assert "localhost" in view["certificate"]["names"]
    assert view["page"].endswith("/certificate")
    assert view["qr"].startswith("data:image/svg+xml")
    renewed = home.owner.do("POST", "/https/renew", {})
    assert renewed["certificate"]["until"] > view["certificate"]["until"]
    assert renewed["authority"] == view["authority"]
    reader, _ = home.person("reader")
    assert reader("GET", "/https").status_code == 403
    assert [each.id for each in of_https(state.root_until, state.root_until - 100 * DAY, "")] == ["https-authority"]
    assert [each.id for each in of_https(state.root_until, state.since, "the disk is full")] == ["https"]
    assert not list(of_https(state.root_until, state.since, ""))
