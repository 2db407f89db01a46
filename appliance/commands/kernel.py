"""``flowork kernel``."""

from __future__ import annotations

from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork kernel", "flowork kernel --data /srv/flowork", name="kernel")
def command(session: Session) -> int:
    """Run the kernel alone until it is told to stop: triggers and runs.

    For systemd units, which run the gateway beside it; `flowork up` runs both. The data folder must be ready
    (`flowork init`). After repeated crashes it rests in safe mode: see `flowork safe-mode`.
    """
    from appliance.service import serve_kernel

    return serve_kernel(session.folder)
