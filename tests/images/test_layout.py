"""Where the partitions of an image lie: nothing overlaps, all is aligned, and the same input gives the same disk."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layout", ROOT / "images/make/layout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["layout"] = module
    spec.loader.exec_module(module)
    return module


layout = _load()


@pytest.mark.parametrize("gpt", [True, False])
@pytest.mark.parametrize("data", [256, 5000])
def test_partitions_follow_each_other(gpt: bool, data: int) -> None:
    laid = layout.partitions(gpt, data)
    for one, following in pairwise(laid):
        assert one.start + one.size <= following.start
    assert laid[0].start >= 1
    assert laid[-1].name == "data", "what grows is the last one"
    assert laid[-1].start + laid[-1].size <= layout.disk_size(gpt, data)
    assert [part.number for part in laid if part.name != "bios"] == [1, 2, 3, 4]


@pytest.mark.skipif(shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin") is None, reason="sfdisk is not installed")
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_sfdisk_makes_what_was_meant(architecture: str, tmp_path: Path) -> None:
    gpt = architecture == "amd64"
    sfdisk = shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin") or ""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(layout.disk_size(gpt) * layout.MIB)
    subprocess.run(
        [sfdisk, "--quiet", str(disk)], input=layout.sfdisk_script(gpt, "s"), text=True, check=True, timeout=20
    )
    dumped = subprocess.run([sfdisk, "--json", str(disk)], capture_output=True, check=True, timeout=20)
    table = json.loads(dumped.stdout)["partitiontable"]
    assert table["label"] == ("gpt" if gpt else "dos")
    found = {int(re.sub(r".*?(\d+)$", r"\1", part["node"])): part for part in table["partitions"]}
    for part in layout.partitions(gpt):
        made = found[part.number]
        assert (made["start"], made["size"]) == (part.start * 2048, part.size * 2048)
        if gpt:
            assert made["uuid"].lower() == layout.partuuid(gpt, "s", part)


def test_identifiers_depend_on_what_is_built() -> None:
    assert layout.shell(True, "flowork 1 amd64") == layout.shell(True, "flowork 1 amd64")
    assert layout.shell(True, "flowork 1 amd64") != layout.shell(True, "flowork 2 amd64")
    assert re.fullmatch(r"[0-9A-F]{8}", layout.volume_id("x"))


def test_the_box_knows_the_same_numbers() -> None:
    from appliance.box.place import _NUMBERS

    named = {part.name: part.number for part in layout.partitions(True)}
    assert {"a": named["system-a"], "b": named["system-b"]} == _NUMBERS


@pytest.mark.parametrize(
    "arguments", [[], ["sfdisk", "sparc", "s", "256"], ["draw", "amd64", "s", "256"], ["shell", "amd64", "s", "x"]]
)
def test_a_wrong_call_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert layout.main(arguments) == 2
    assert "usage" in capsys.readouterr().err
