"""``python -m appliance.ai.building FOLDER``: compile llama.cpp, keep the wheel in a folder, say where it is.

For scripts/test, whose tests need it in their own environment. A wheel that is there is taken.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance.ai.building.make import wheel_into
from appliance.ai.building.place import Setup
from appliance.contracts import FlowError


def _tell(state: Setup) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K  {state.percent} % {state.text}")
    elif state.done % 20 == 0:
        sys.stderr.write(f"  {state.text}\n")
    sys.stderr.flush()


def main(folder: Path) -> int:
    """The wheel's path on standard output; the exit code."""
    try:
        wheel = wheel_into(folder, _tell)
    except FlowError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return 1
    sys.stdout.write(f"{wheel}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
