"""Home-made certificates count; those of strangers do not."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from appliance.trust import tls_context
from tests.support.broker import make_certificates


def shaken(folder: Path, context: ssl.SSLContext) -> str:
    """The protocol that the two sides of a connection agree on, if the client believes the server."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "server.pem", folder / "server.key")
    here, there = socket.socketpair()
    here.settimeout(20)
    there.settimeout(20)

    def serve() -> None:
        try:
            serving.wrap_socket(there, server_side=True).close()
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(here, server_hostname="127.0.0.1") as client:
            return str(client.version())
    finally:
        here.close()
        thread.join()


def test_an_authority_made_at_home_is_taken_as_it_is(tmp_path: Path) -> None:
    """Without the extensions that Python 3.13 began to ask for."""
    make_certificates(tmp_path)
    context = tls_context(str(tmp_path / "ca.pem"))
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert shaken(tmp_path, context) == "TLSv1.3"


def test_without_the_authority_nobody_is_believed(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(tmp_path, tls_context())


def test_a_file_that_holds_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(OSError, match=r".+"):
        tls_context(str(tmp_path / "ca.pem"))
