"""``flowork up``."""

from __future__ import annotations

import click

from appliance.commands._base import leaf
from appliance.commands._session import Session
from appliance.listener import ANY


@leaf("flowork up", "flowork up --host 127.0.0.1 --port 8080 --data /srv/flowork --no-models", name="up")
@click.option("--host", default=ANY[0], show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=5000, show_default=True, help="0 takes a free one.")
@click.option(
    "--models/--no-models",
    default=None,
    help="Make the model engine in the background, unless the setting models_setup says otherwise; or never, from now "
    "on. [default: as the setting says]",
)
def command(session: Session, host: str, port: int, models: bool | None) -> int:
    """Run the whole engine until Ctrl-C: gateway and kernel under one supervisor.

    The first start makes the data folder, the owner's key (which it shows) and an example flow.
    """
    from appliance.startup import up

    return up(session.folder, host, port, models)
