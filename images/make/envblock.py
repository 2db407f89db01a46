"""An environment block of GRUB from NAME=VALUE arguments, on standard output; appliance/box/slots.py reads it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from appliance.box.slots import encode  # run from a checkout, with nothing installed

if __name__ == "__main__":
    sys.stdout.buffer.write(encode(dict(argument.split("=", 1) for argument in sys.argv[1:])))
