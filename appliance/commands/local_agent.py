"""``flowork local-agent``."""

from __future__ import annotations

from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork local-agent", "flowork local-agent --data /srv/flowork", name="local-agent")
def command(session: Session) -> int:
    """Run the edge agent of this machine alone until it is told to stop: pins, ports, files, processes.

    For systemd units, which run kernel and gateway beside it; `flowork up` runs all of them. A machine without an
    appliance runs `flowork-agent` instead.
    """
    from appliance.service import serve_agent

    return serve_agent(session.folder)
