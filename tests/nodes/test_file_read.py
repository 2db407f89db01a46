"""Reading files: every format, what is missing or wrong, and that nothing can make it hang."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Effect, NodeError
from appliance.nodes.file_read import FileRead
from tests.support.context import FakeContext, run_node


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(root=tmp_path)


def read(ctx: FakeContext, content: bytes, **config: Any) -> Any:
    assert ctx.root is not None
    (ctx.root / "file.bin").write_bytes(content)
    return run_node(FileRead(), {"path": "file.bin", **config}, None, ctx)


def refused(ctx: FakeContext, content: bytes, **config: Any) -> NodeError:
    with pytest.raises(NodeError) as caught:
        read(ctx, content, **config)
    assert not caught.value.retryable
    return caught.value


@pytest.mark.parametrize(
    ("content", "kind", "value"),
    [
        (b"", "text", ""),
        ("\ufeffgrün\r\n".encode(), "text", "grün\r\n"),
        (b"", "lines", []),
        (b"a\r\nb\x0cc\n\nlast", "lines", ["a", "b\x0cc", "", "last"]),
        (b'{"a": [1, null]}', "json", {"a": [1, None]}),
        (b"", "csv", []),
        (b'a,b\r\n1,"x, y"\r\n\r\n2,"two\nlines"\r\n', "csv", [{"a": "1", "b": "x, y"}, {"a": "2", "b": "two\nlines"}]),
        (b"a,b\n1\n1,2,3,4\n", "csv", [{"a": "1", "b": ""}, {"a": "1", "b": "2", "column_3": "3", "column_4": "4"}]),
    ],
)
def test_formats(ctx: FakeContext, content: bytes, kind: str, value: Any) -> None:
    assert read(ctx, content, format=kind) == value


def test_csv_without_header_and_with_tabs(ctx: FakeContext) -> None:
    assert read(ctx, b"a\tb\n1\t2\n", format="csv", header=False, delimiter="tab") == [["a", "b"], ["1", "2"]]


def test_another_encoding(ctx: FakeContext) -> None:
    assert read(ctx, "grün".encode("latin-1"), encoding="latin-1") == "grün"


def test_bytes_become_a_blob(ctx: FakeContext, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    reference = run_node(FileRead(), {"path": "a.png", "format": "bytes"}, None, ctx)
    assert reference["type"] == "image/png"
    assert ctx.blobs.get(reference) == b"\x89PNG"


def test_a_missing_file_fails_without_retry_or_gives_null(ctx: FakeContext) -> None:
    with pytest.raises(NodeError, match="no file 'no/such'") as caught:
        run_node(FileRead(), {"path": "no/such"}, None, ctx)
    assert not caught.value.retryable
    assert run_node(FileRead(), {"path": "no/such", "missing": "null"}, None, ctx) is None


def test_what_is_not_of_the_format_is_refused(ctx: FakeContext) -> None:
    assert "not JSON" in refused(ctx, b"{", format="json").message
    assert "not JSON" in refused(ctx, b"[" * 100_000, format="json").message
    assert "not CSV" in refused(ctx, b'"open', format="csv").message
    assert "not utf-8" in refused(ctx, b"\xff\xfe").message


def test_the_size_is_bounded(ctx: FakeContext) -> None:
    assert read(ctx, b"12345", max_size=5) == "12345"
    assert "larger than 5 bytes" in refused(ctx, b"123456", max_size=5).message


def test_a_pipe_or_folder_is_refused_and_never_waited_for(ctx: FakeContext, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("pipe", "."):
        with pytest.raises(NodeError, match="not a file") as caught:
            run_node(FileRead(), {"path": path}, None, ctx)
        assert not caught.value.retryable
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_through_a_file_fails_without_retry(ctx: FakeContext, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with pytest.raises(NodeError, match="Not a directory") as caught:
        run_node(FileRead(), {"path": "plain/x"}, None, ctx)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"path": ""},
        {"path": "file.bin", "format": "xml"},
        {"path": "../outside"},
        {"path": "file.bin", "encoding": "klingon"},
        {"path": "file.bin", "max_size": 0},
    ],
)
def test_a_bad_config_is_refused(ctx: FakeContext, tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "file.bin").write_bytes(b"x")
    with pytest.raises(ConfigError):
        run_node(FileRead(), config, None, ctx)


def test_reading_is_pure() -> None:
    assert FileRead().effect_of({}) is Effect.PURE
