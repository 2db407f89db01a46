"""``python -m appliance.ai.host``: the model host, made by exec so that it begins with a memory of its own."""

from __future__ import annotations

import sys

from appliance.ai.host.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
