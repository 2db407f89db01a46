"""Memory, CPU, output, files, processes and time have bounds that hold."""

from __future__ import annotations

import pytest

from appliance.contracts import Limits, NodeError, TimedOut
from tests.sandbox.conftest import PATIENCE, Bench

SMALL = Limits(memory_mb=48, timeout=PATIENCE)
GREEDY = {
    "python": "x = bytearray(400_000_000)\nreturn len(x)",
    "javascript": "const l = []; for (;;) l.push(new Array(1e5).fill({}))",
    "php": "$x = str_repeat('x', 400000000); return strlen($x);",
    "perl": "my $x = 'x' x 400_000_000; return length $x;",
    "ruby": "x = 'x' * 400_000_000\nx.size",
    "bash": "x=$(head -c 400000000 /dev/zero | tr '\\0' x)\necho ${#x}",
}


@pytest.mark.parametrize("language", sorted(GREEDY))
def test_memory(bench: Bench, language: str) -> None:
    with pytest.raises(NodeError) as caught:
        bench.script(language, GREEDY[language], limits=SMALL)
    said = caught.value.message + caught.value.detail["stderr"]
    assert "memory" in said.lower() or "allocate" in said


def test_memory_outside_the_heap_of_javascript(bench: Bench) -> None:
    with pytest.raises(NodeError, match="allocation failed"):
        bench.script("javascript", "return new ArrayBuffer(1e9).byteLength", limits=SMALL)


def test_memory_shared_with_children(bench: Bench) -> None:
    code = "import mmap\nreturn len(mmap.mmap(-1, 1_000_000_000))"
    with pytest.raises(NodeError, match="Cannot allocate memory"):
        bench.script("python", code, limits=SMALL)


@pytest.mark.parametrize(
    ("language", "code"),
    [("python", "while True: pass"), ("bash", "while :; do :; done"), ("javascript", "for (;;) {}")],
)
def test_cpu_time(bench: Bench, language: str, code: str) -> None:
    with pytest.raises(NodeError, match="more than 1 s of CPU time"):
        bench.script(language, code, limits=Limits(cpu=1, timeout=PATIENCE))


def test_a_command_has_bounds_too(bench: Bench) -> None:
    with pytest.raises(NodeError, match="CPU time"):
        bench.command("sh", "-c", "while :; do :; done", limits=Limits(cpu=1, timeout=PATIENCE))
    done = bench.command("perl", "-e", "my $x = 'x' x 400_000_000", limits=SMALL)
    assert done.code != 0
    assert "memory" in done.stderr
    with pytest.raises(TimedOut) as caught:
        bench.command("sh", "-c", "echo begun; sleep 1000", limits=Limits(timeout=0.5))
    assert caught.value.detail["stdout"] in ("begun\n", "")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "while True: print('x' * 1000)"),
        ("bash", "yes"),
        ("ruby", "loop { puts 'x' * 1000 }"),
    ],
)
def test_printing_without_end(bench: Bench, language: str, code: str) -> None:
    with pytest.raises(NodeError, match="more than 64 KiB to stdout") as caught:
        bench.script(language, code, limits=Limits(output_kb=64, timeout=PATIENCE))
    assert len(caught.value.detail["stdout"]) == 64 * 1024
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("language", "code"), [("python", "return 'x' * 100_000"), ("javascript", "return 'x'.repeat(1e5)")]
)
def test_a_result_that_is_too_large(bench: Bench, language: str, code: str) -> None:
    with pytest.raises(NodeError, match="more than 64 KiB to its result"):
        bench.script(language, code, limits=Limits(output_kb=64))


def test_of_stderr_the_end_is_kept(bench: Bench) -> None:
    code = "import sys\nfor n in range(40_000): print(n, 'x' * 20, file=sys.stderr)\nreturn 1"
    done = bench.script("python", code, limits=Limits(output_kb=64, timeout=PATIENCE))
    assert done.output == 1
    assert len(done.stderr) == 64 * 1024
    assert done.stderr.endswith("39999 " + "x" * 20 + "\n")


def test_files_and_processes(bench: Bench) -> None:
    code = "open('big', 'wb').truncate(1 << 30)"
    with pytest.raises(NodeError, match="File too large"):
        bench.script("python", code)
    code = "import resource as r\nreturn [r.getrlimit(k) for k in (r.RLIMIT_NOFILE, r.RLIMIT_CORE, r.RLIMIT_NPROC)]"
    files, core, tasks = bench.script("python", code).output
    assert files == [256, 256]
    assert core == [0, 0]
    assert 0 < tasks[0] < 100_000


def test_the_private_folder_is_bounded(confined: Bench) -> None:
    code = "for n in range(4): open(f'f{n}', 'wb').write(bytes(30 << 20))"
    with pytest.raises(NodeError, match="No space left"):
        confined.script("python", code)
    assert confined.script("python", "import os\nreturn os.listdir('.')").output == []


def test_no_bound_where_none_is_wanted(bench: Bench) -> None:
    code = "import resource as r\nreturn [r.getrlimit(k)[0] for k in (r.RLIMIT_CPU, r.RLIMIT_DATA)]"
    assert bench.script("python", code, limits=Limits(cpu=0, memory_mb=0)).output == [-1, -1]
