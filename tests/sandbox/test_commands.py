"""Commands: an argument list, bytes in, text out, any exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from appliance.contracts import ConfigError, Limits, NodeError
from tests.sandbox.conftest import Bench


def test_arguments_are_words(bench: Bench) -> None:
    done = bench.command("printf", "%s|", "a b", "$HOME", "; ls", "*", "", "ü")
    assert done.stdout == "a b|$HOME|; ls|*||ü|"
    assert (done.code, done.stderr, done.output) == (0, "", None)


def test_input_output_and_exit_code(bench: Bench) -> None:
    done = bench.command("sh", "-c", "tr a-z A-Z; echo oops >&2; exit 7", stdin=b"hello\n")
    assert (done.code, done.stdout, done.stderr) == (7, "HELLO\n", "oops\n")
    assert bench.command("sh", "-c", "kill -9 $$").code == 137
    assert bench.command("sh", "-c", "kill -TERM $$").code == 143


def test_much_input(bench: Bench) -> None:
    data = os.urandom(1 << 20).hex().encode()
    assert bench.command("cat", stdin=data, limits=Limits(output_kb=4096)).stdout.encode() == data
    assert bench.command("true", stdin=data).code == 0


def test_bytes_that_are_no_text(bench: Bench) -> None:
    assert bench.command("printf", "\\377a").stdout == "\ufffda"


def test_folders(bench: Bench) -> None:
    files = bench.data / "files"
    assert bench.command("pwd", cwd=files).stdout == f"{files}\n"
    assert bench.command("sh", "-c", "echo x > made", cwd=files).code == 0
    assert (files / "made").read_text() == "x\n"
    done = bench.command("sh", "-c", 'pwd; echo "$HOME"; echo "$TMPDIR"; touch new')
    assert len(set(done.stdout.split())) == 1
    assert done.code == 0


def test_a_program_beside_the_files(bench: Bench) -> None:
    program = bench.data / "files" / "tool"
    program.write_text("#!/bin/sh\necho tool $1\n")
    program.chmod(0o755)
    assert bench.command("./tool", "a", cwd=program.parent).stdout == "tool a\n"


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        ([], {}, "no program to run"),
        (["no-such-program"], {}, "no program 'no-such-program'"),
        (["/etc/passwd"], {}, "no program"),
        (["echo", "a\0b"], {}, "NUL"),
        (["echo"], {"env": {"A=B": "1"}}, "name of a variable"),
        (["echo"], {"env": {"A": "\0"}}, "NUL"),
        (["echo"], {"cwd": Path("/no/such/folder")}, "no folder"),
    ],
)
def test_what_cannot_be_started(bench: Bench, argv: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.command(*argv, **options)


def test_more_arguments_than_linux_passes_on(bench: Bench) -> None:
    with pytest.raises(NodeError, match="could not be started"):
        bench.command("echo", "x" * 200_000)
    assert bench.command("echo", "x").stdout == "x\n"
