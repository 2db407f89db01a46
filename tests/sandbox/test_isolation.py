"""What a script cannot see and cannot leave behind."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.contracts import Limits, NodeError
from tests.sandbox.conftest import LIMITS, PATIENCE, Bench, marked, marker, need_bubblewrap

ENVIRONMENT = {
    "python": "import os\nreturn dict(os.environ)",
    "javascript": "return process.env",
    "bash": 'env | sed \'s/\\(.*\\)=\\(.*\\)/"\\1": "\\2",/; 1s/^/{/; $s/,$/}/\'',
    "php": "return getenv();",
    "perl": "return \\%ENV;",
    "ruby": "ENV.to_h",
}
ALLOWED = {"PATH", "LANG", "HOME", "TMPDIR"}
#: What bubblewrap, Python's C locale handling and Bash set themselves.
HARMLESS = {"PWD", "LC_CTYPE", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize("language", sorted(ENVIRONMENT))
def test_no_variable_of_ours(bench: Bench, language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWORK_PLANTED", "secret")
    seen = bench.script(language, ENVIRONMENT[language]).output
    assert set(seen) >= ALLOWED
    assert set(seen) <= ALLOWED | HARMLESS


def test_a_command_gets_its_own_variables_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWORK_PLANTED", "secret")
    done = bench.command("env", env={"MINE": "a b", "LANG": "C"})
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert seen["MINE"] == "a b"
    assert seen["LANG"] == "C"
    assert set(seen) <= ALLOWED | HARMLESS | {"MINE"}


def test_the_same_interpreter_keeps_nothing(bench: Bench) -> None:
    mark = marker()
    code = f"""
        import builtins, os, subprocess, sys, json
        builtins.planted = sys.modules['planted'] = json.planted = 1
        json.dumps = None
        os.environ['PLANTED'] = '1'
        os.makedirs('deep/er'); open('deep/er/file', 'w').close(); os.chmod('deep', 0)
        open(os.environ['HOME'] + '/.hidden', 'w').close()
        os.symlink('/etc', 'link')
        for folder in ('/dev/shm', '/tmp'):
            try: open(folder + '/{mark}', 'w').close()
            except OSError: pass
        subprocess.Popen(['sleep', '{mark}'])
        subprocess.Popen(['setsid', 'sleep', '{mark}'])
        subprocess.Popen(['sh', '-c', 'trap "" TERM HUP; (setsid sleep {mark} &) &'])
        os.umask(0o777)
    """
    lines = "\n".join(line[8:] for line in code.splitlines())
    try:
        bench.script("python", lines)
    finally:
        Path("/tmp", mark).unlink(missing_ok=True)  # nosec: the guard has no /tmp of its own
    code = f"""
import builtins, json, os, sys
found = [name for name in ('planted',) if hasattr(builtins, name) or name in sys.modules or hasattr(json, name)]
found += [name for name in ('PLANTED',) if name in os.environ]
found += os.listdir('.') + os.listdir(os.environ['HOME'])
found += [name for name in os.listdir('/dev/shm') if name == '{mark}']
return [found, json.dumps([1]), os.umask(0)]
"""
    leftovers, dumped, mask = bench.script("python", code).output
    assert leftovers == ([mark] if not bench.confined and os.path.exists(f"/dev/shm/{mark}") else [])
    Path("/dev/shm", mark).unlink(missing_ok=True)
    assert dumped == "[1]"
    assert mask != 0o777
    assert marked(mark) == []
    assert bench.sandbox.starts["python"] == 1


def test_shared_memory_costs_the_interpreter_its_place(confined: Bench) -> None:
    make = "import ctypes\nreturn ctypes.CDLL(None).shmget(0x5eed, 4096, 0o1600) >= 0"
    assert confined.script("python", make).output is True
    find = "import ctypes\nreturn ctypes.CDLL(None).shmget(0x5eed, 4096, 0) >= 0"
    assert confined.script("python", find).output is False
    assert confined.sandbox.starts["python"] == 2


def test_homes_are_not_shown(confined: Bench) -> None:
    code = "import os\nreturn [os.listdir(folder) for folder in ('/root', '/home', '/run') if os.path.isdir(folder)]"
    seen = confined.script("python", code).output
    assert seen
    assert not any(seen)
    with pytest.raises(NodeError, match="Read-only file system"):
        confined.script("python", "open('/run/left', 'w')")


@pytest.mark.parametrize("language", ["javascript", "bash", "php", "perl", "ruby"])
def test_other_interpreters_serve_once(bench: Bench, language: str) -> None:
    pid = {
        "javascript": "return [process.pid, require('fs').readdirSync('.')]",
        "bash": "ls -A; ",
        "php": "return [getmypid(), array_diff(scandir('.'), ['.', '..'])];",
        "perl": "opendir my $d, '.'; return [$$, [grep { !/^[.]/ } readdir $d]];",
        "ruby": "[Process.pid, Dir.children('.')]",
    }[language]
    write = {
        "javascript": "require('fs').writeFileSync('left', ''); globalThis.left = 1",
        "bash": "touch left; left=1",
        "php": "touch('left'); $GLOBALS['left'] = 1;",
        "perl": "open my $f, '>', 'left'; our $left = 1;",
        "ruby": "File.write('left', ''); $left = 1",
    }[language]
    bench.script(language, write)
    seen = bench.script(language, pid).output
    assert not (seen[1] if seen else seen)


def test_a_script_that_ends_its_parent(bench: Bench) -> None:
    with pytest.raises(NodeError):
        bench.script("python", "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(1000)")
    assert bench.script("python", "return 1").output == 1


def test_a_script_cannot_reach_into_the_interpreter_that_forked_it(confined: Bench) -> None:
    code = """
import os
found = []
for name in ('mem', 'environ', *(f'fd/{n}' for n in range(20))):
    try:
        found.append(open(f'/proc/{os.getppid()}/{name}', 'r+b' if name == 'mem' else 'rb'))
    except (PermissionError, FileNotFoundError):
        pass
return len(found)
"""
    assert confined.script("python", code).output == 0


def test_network_only_when_asked_for(confined: Bench) -> None:
    code = "import socket\nsocket.create_connection(('127.0.0.1', payload), 5).close()\nreturn 'reached'"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(NodeError, match=r"ConnectionRefused|unreachable"):
            confined.script("python", code, port)
        assert confined.script("python", code, port, Limits(network=True)).output == "reached"
        reach = ("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        assert confined.command(*reach, limits=LIMITS).code != 0
        assert confined.command(*reach, limits=Limits(network=True, timeout=PATIENCE)).code == 0


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder that no private /tmp hides."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


class TestFiles:
    """With a data folder outside /tmp, as an installed engine has it."""

    @pytest.fixture
    def confined(self, elsewhere: Path) -> Iterator[Bench]:
        need_bubblewrap()
        bench = Bench(elsewhere / "data", bubblewrap=True)
        for folder in ("files", "keys"):
            (bench.data / folder).mkdir(parents=True)
        (bench.data / "keys" / "owner").write_text("key")
        (bench.data / "files" / "note").write_text("note")
        bench.sandbox.open()
        yield bench
        bench.close()

    def test_a_script_sees_no_data_folder_and_writes_nowhere(self, confined: Bench, elsewhere: Path) -> None:
        (elsewhere / "other").write_text("other")
        for network in (False, True):
            code = "import os\nreturn [os.listdir(payload + '/data'), open(payload + '/other').read()]"
            limits = Limits(network=network)
            assert confined.script("python", code, str(elsewhere), limits).output == [[], "other"]
            for path in (elsewhere / "new", elsewhere / "data" / "new", "/etc/new", "/dev/new", "/usr/new"):
                with pytest.raises(NodeError, match="Read-only file system"):
                    confined.script("python", "open(payload, 'w')", str(path), limits)

    def test_a_command_sees_the_flows_files_only(self, confined: Bench, elsewhere: Path) -> None:
        files = confined.data / "files"
        script = "cat note; ls -A ..; echo new > made; cat ../keys/owner; echo x > ../../outside"
        done = confined.command("sh", "-c", script, cwd=files)
        assert done.stdout == "notefiles\n"
        assert "keys/owner" in done.stderr
        assert (files / "made").read_text() == "new\n"
        assert (elsewhere / "outside").read_text() == "x\n"

    def test_a_folder_above_the_data_does_not_show_it(self, confined: Bench, elsewhere: Path) -> None:
        done = confined.command("ls", "-A", "data", cwd=elsewhere)
        assert done.stdout == "files\n"


def test_the_temporary_folder_is_removed(bench: Bench) -> None:
    done = bench.command("sh", "-c", "mkdir a; touch a/b; touch $TMPDIR/c; pwd")
    assert done.code == 0
    scratch = bench.data / "tmp" / "sandbox"
    bench.settle(lambda: not list(scratch.iterdir()))
    (scratch / "left-by-a-killed-engine").mkdir()
    bench.sandbox.open()
    assert not scratch.exists()
