"""A model that is baked in: the data partition holds it, for the box's own user, and is the same each time."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("mke2fs", "debugfs", "e2fsck")
PATH = "/usr/sbin:/sbin:/usr/bin:/bin"

pytestmark = pytest.mark.skipif(
    not all(shutil.which(tool, path=PATH) for tool in TOOLS), reason="no e2fsprogs (Debian: e2fsprogs)"
)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={"PATH": PATH}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def data_partition(folder: Path, model: Path | None) -> Path:
    """What scripts/image makes of it, by its own function."""
    folder.mkdir()
    script = f"""
        set -euo pipefail
        die() {{ echo "$1" >&2; exit 1; }}
        . {ROOT}/images/make/disk.sh
        export SOURCE_DATE_EPOCH=1763700000
        work={folder} model={model or ""} data_size=256 data_uuid=7f0c7d2e-0c3b-5b5e-9f5c-2d2b1f1f0a01
        make_data {folder}/data.img"""
    run("bash", "-c", script)
    return folder / "data.img"


def test_a_model_is_there_with_its_card_for_the_boxs_user_alone(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF" + bytes(range(256)) * 4000)
    (tmp_path / "tiny.json").write_text('{"name": "tiny"}')
    image = data_partition(tmp_path / "one", model)
    run("e2fsck", "-f", "-n", str(image))
    run("debugfs", "-R", f"dump /flowork/models/tiny.gguf {tmp_path}/back", str(image))
    assert (tmp_path / "back").read_bytes() == model.read_bytes()
    listed = run("debugfs", "-R", "ls -l /flowork/models", str(image))
    assert "tiny.json" in listed
    about = run("debugfs", "-R", "stat /flowork/models/tiny.gguf", str(image))
    assert "Mode:  0600" in about
    # images/files/etc/sysusers.d gives it this number; who builds without being root leaves that to the first boot.
    if subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout.strip() == "0":
        assert "User:   800" in about
    assert "Mode:  0700" in run("debugfs", "-R", "stat /flowork/models", str(image))


def test_the_same_model_makes_the_same_partition(tmp_path: Path) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(b"GGUF" * 5000)
    assert data_partition(tmp_path / "one", model).read_bytes() == data_partition(tmp_path / "two", model).read_bytes()


def test_without_one_it_is_empty(tmp_path: Path) -> None:
    image = data_partition(tmp_path / "one", None)
    assert "flowork" not in run("debugfs", "-R", "ls /", str(image))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("notes.txt", b"GGUF", "takes a file NAME.gguf"), ("fake.gguf", b"PK", "is not a GGUF file")],
)
def test_what_is_no_model_is_refused_before_anything_is_made(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [str(ROOT / "scripts/image"), "--out", str(tmp_path / "out"), "--model", str(tmp_path / name)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert not (tmp_path / "out").exists()
