"""TLS between machines that know each other's certificates, where the other side is gone at once."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from edge_agent.protocol import certificates


@pytest.mark.parametrize("server", [True, False])
def test_a_link_that_is_gone_before_tls_begins_leaves_no_socket(tmp_path: Path, server: bool) -> None:
    certificates.ensure(tmp_path, "gone")
    context = certificates.context(tmp_path, server=server, trusted=[])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    # Closed so, the other side does not say goodbye but breaks off (RST).
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    descriptor = ours.fileno()
    with pytest.raises(OSError):
        context.wrap_socket(ours, server_side=server)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
