"""``python -m appliance.update.making``: keys and release files; what ``scripts/release`` calls."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from appliance.security import signatures
from appliance.store.schema import MIGRATIONS
from appliance.update.release import pack

#: What Debian calls a machine, and what the machine calls itself.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def main(words: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="release")
    parts = parser.add_subparsers(dest="what", required=True)
    parts.add_parser("key").add_argument("file", type=Path)
    for name in ("wheels", "slot"):
        part = parts.add_parser(name)
        part.add_argument("source", type=Path)
        part.add_argument("--key", type=Path, required=True)
        part.add_argument("--out", type=Path, default=Path())
        part.add_argument("--made", type=int, default=int(time.time()))
    given = parser.parse_args(words)
    if given.what == "key":
        return _new_key(given.file)
    number, machine = version("flowork"), platform.machine()
    if given.what == "slot":
        # As scripts/image names it; a PC makes those of other machines too.
        machine = _MACHINES.get(given.source.stem.rpartition("-")[2], machine)
        sources = {given.source.name: given.source}
    else:
        sources = {path.name: path for path in (*given.source.glob("*.whl"), *given.source.glob("constraints.txt"))}
        (ours,) = [name for name in sources if name.startswith("flowork-")]
        number = ours.split("-")[1]
    target = given.out / f"flowork-{number}-{machine}{'-slot' * (given.what == 'slot')}.flowork"
    manifest = pack(
        sources,
        target,
        given.key.read_text(encoding="ascii"),
        kind=given.what,
        version=number,
        machine=machine,
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        schema=MIGRATIONS[-1].number,
        made=given.made,
    )
    size = target.stat().st_size / 1e6
    sys.stdout.write(f"{target}: version {manifest.version}, {len(manifest.files)} files, {size:.0f} MB\n")
    return 0


def _new_key(file: Path) -> int:
    private = signatures.new_key()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as out:
        out.write(private + "\n")
    sys.stdout.write(f"{file} signs releases: keep it where nothing else runs, with a copy on paper.\n")
    sys.stdout.write(f"Boxes trust its public half: sudo flowork-updater trust {signatures.public_of(private)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
