"""scripts/run and what it shares with scripts/test, with a toy Python in the place of the real one.

The toy makes "virtual environments" and notes what pip is asked for, so that nothing is downloaded here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: ``-m venv`` copies the toy itself; ``-m pip`` installs a toy ``flowork`` that repeats its arguments.
TOY = r"""#!/bin/bash
here=$(dirname "$0")
case "$*" in
  --version) echo "Python 3.11.9" ;;
  "-c import ensurepip") [[ ! -e $TOY/no-ensurepip ]] ;;
  *"sys.argv[1:]"*) [[ ! -e $TOY/upgraded ]] ;;
  *"print("*) echo python3.11-venv ;;
  "-m venv"*)
    dir=${*: -1}
    echo "venv" >>"$TOY/calls"
    mkdir -p "$dir/bin" "$dir/lib/python3.11"
    cp "$0" "$dir/bin/python3"
    touch "$dir/pyvenv.cfg"
    [[ ! -e $TOY/no-ensurepip ]] || exit 1
    printf '#!%s/bin/python3\n' "$dir" >"$dir/bin/pip"
    chmod +x "$dir/bin/pip" ;;
  "-m pip"*)
    echo "pip ${*: -1}" >>"$TOY/calls"
    echo "Collecting everything"
    if [[ -e $TOY/no-network ]]; then echo "ERROR: no route to the index"; exit 1; fi
    printf '#!/bin/sh\necho "flowork $*; in $(pwd)"\n' >"$here/flowork"
    chmod +x "$here/flowork" ;;
esac
"""


class Checkout:
    """A copy of the scripts in a folder of its own, with the toy Python first on the path."""

    def __init__(self, base: Path) -> None:
        self.root = base / "check out"
        self.toy = base / "toy"
        self.toy.mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("setup.cfg", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for name in ("python3", "python3.11"):
            (self.toy / name).write_text(TOY)
            (self.toy / name).chmod(0o755)
        # No way to become root: neither apt-get nor sudo.
        for name in ("bash", "cat", "chmod", "cmp", "cp", "dirname", "env", "flock", "grep", "head", "mkdir",
                     "readlink", "rm", "sh", "sync", "tail", "tee", "touch"):  # fmt: skip
            (self.toy / name).symlink_to(shutil.which(name) or name)
        self.venv = self.root / ".venv"

    def run(self, *args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "scripts" / "run", *args],
            cwd=cwd or self.root,
            env={"PATH": str(self.toy), "TOY": str(self.toy)},
            text=True,
            capture_output=True,
            check=False,
        )

    def calls(self) -> list[str]:
        """What the toy was asked to do since this was last called."""
        log = self.toy / "calls"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def installed(checkout: Checkout) -> Checkout:
    assert checkout.run().returncode == 0
    assert checkout.calls() == ["venv", "pip ."]
    return checkout


def test_the_first_start_installs_and_says_so(checkout: Checkout) -> None:
    done = checkout.run("--port", "5001", "--data", "a b")
    assert done.stdout.splitlines()[0] == "flowork: making .venv with Python 3.11.9"
    assert "flowork: installed in" in done.stdout
    assert done.stdout.splitlines()[-1] == f"flowork up --models --port 5001 --data a b; in {checkout.root}"
    assert done.stderr == ""


def test_the_second_start_asks_neither_python_nor_pip(installed: Checkout, tmp_path: Path) -> None:
    done = installed.run("--host", "::", cwd=tmp_path)
    assert done.stdout == f"flowork up --models --host ::; in {tmp_path}\n"
    assert installed.calls() == []


def test_it_may_be_called_through_a_link(installed: Checkout, tmp_path: Path) -> None:
    (tmp_path / "start").symlink_to(installed.root / "scripts" / "run")
    env = {"PATH": str(installed.toy)}
    done = subprocess.run([tmp_path / "start"], cwd=tmp_path, env=env, text=True, capture_output=True, check=True)
    assert done.stdout.startswith("flowork up")


@pytest.mark.parametrize("name", ["setup.cfg", "constraints.txt"])
def test_new_dependencies_are_installed_into_what_is_there(installed: Checkout, name: str) -> None:
    with (installed.root / name).open("a") as file:
        file.write("# changed\n")
    assert installed.run().returncode == 0
    assert installed.calls() == ["pip ."]
    assert installed.run().returncode == 0
    assert installed.calls() == []


def test_an_installation_that_was_cut_off_is_made_again(installed: Checkout) -> None:
    (installed.venv / "unfinished").touch()
    done = installed.run()
    assert "starting afresh" in done.stdout
    assert installed.calls() == ["venv", "pip ."]
    assert not (installed.venv / "unfinished").exists()


def test_a_failed_installation_shows_why_and_is_repaired_by_the_next_start(checkout: Checkout) -> None:
    (checkout.toy / "no-network").touch()
    done = checkout.run()
    assert done.returncode == 1
    assert "ERROR: no route to the index" in done.stderr
    assert str(checkout.venv / "install.log") in done.stderr.splitlines()[-1]
    (checkout.toy / "no-network").unlink()
    assert checkout.run().returncode == 0


def test_a_moved_checkout_is_installed_anew(installed: Checkout) -> None:
    installed.root = installed.root.rename(installed.root.with_name("elsewhere"))
    installed.venv = installed.root / ".venv"
    assert installed.run().returncode == 0
    assert installed.calls() == ["venv", "pip ."]


def test_a_new_python_gets_a_new_environment(installed: Checkout) -> None:
    (installed.toy / "upgraded").touch()
    (installed.venv / "stamp-run").write_text("made with another Python\n")
    assert installed.run().returncode == 0
    assert installed.calls() == ["venv", "pip ."]


def test_an_environment_made_by_hand_is_kept(installed: Checkout) -> None:
    (installed.venv / "stamp-run").unlink()
    assert installed.run().returncode == 0
    assert installed.calls() == ["pip ."]


def test_a_missing_debian_package_is_named_once_and_clearly(checkout: Checkout) -> None:
    (checkout.toy / "no-ensurepip").touch()
    done = checkout.run()
    assert done.returncode == 1
    assert done.stderr.startswith("flowork: python3.11-venv is missing; install it")
    assert "sudo apt install python3.11-venv" in done.stderr
    assert not checkout.venv.exists()
    (checkout.toy / "no-ensurepip").unlink()
    assert "afresh" not in checkout.run().stdout


def test_an_old_python_is_said_in_one_line(checkout: Checkout) -> None:
    for name in ("python3", "python3.11"):
        (checkout.toy / name).write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.9.2 && exit\nexit 1\n")
    done = checkout.run()
    assert done.stderr == "flowork: Python 3.11 or newer is needed; this machine has Python 3.9.2\n"
    assert done.returncode == 1


def test_ci_runs_the_checks_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == ['exec "$(dirname "$0")/../scripts/test"']
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
