"""``flowork gateway``."""

from __future__ import annotations

import click

from appliance.commands._base import leaf
from appliance.commands._session import Session
from appliance.listener import ANY


@leaf("flowork gateway", "flowork gateway --host 127.0.0.1 --port 8080", name="gateway")
@click.option("--host", default=ANY[0], show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0 takes a free one.")
def command(session: Session, host: str, port: int) -> int:
    """Run the gateway alone until it is told to stop: panel, API, webhooks.

    For systemd units, which run the kernel beside it; `flowork up` runs both. A socket that systemd hands over goes
    before --host and --port. The data folder must be ready (`flowork init`).
    """
    from appliance.service import serve_gateway

    return serve_gateway(session.folder, host, port)
