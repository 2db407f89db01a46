"""What ``flowork up`` says while it waits for its processes."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from appliance import herald, listener


def test_a_slow_start_is_explained_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herald, "_REMIND", 0.0)
    said: list[str] = []
    answers = iter([False, False, True])
    herald._wait("kernel", lambda: next(answers), said.append)
    assert said == ["still waiting for the kernel to answer"] * 2


def test_a_quick_start_needs_no_words() -> None:
    said: list[str] = []
    herald._wait("kernel", lambda: True, said.append)
    assert said == []


def test_a_folder_without_a_kernel_does_not_answer(tmp_path: Path) -> None:
    assert not herald._kernel_answers(tmp_path)


@pytest.mark.parametrize(
    ("answer", "well"),
    [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"HTTP/1.1 503 \r\n\r\n", True), (b"", False), (b"SSH", False)],
)
def test_any_http_answer_will_do(answer: bytes, well: bool) -> None:
    with listener.bind("127.0.0.1", 0) as sock:
        listener.listen(sock)
        server = threading.Thread(target=_answer_once, args=(sock, answer))
        server.start()
        try:
            assert herald._gateway_answers(sock) is well
        finally:
            server.join()


def _answer_once(sock: socket.socket, answer: bytes) -> None:
    with sock.accept()[0] as client:
        client.recv(1000)
        client.sendall(answer)
