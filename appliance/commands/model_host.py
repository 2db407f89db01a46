"""``flowork model-host``."""

from __future__ import annotations

from appliance.commands._base import leaf
from appliance.commands._session import Session


@leaf("flowork model-host", "flowork model-host --data /srv/flowork", name="model-host")
def command(session: Session) -> int:
    """Run the model host alone until it is told to stop, or nobody has used it for a while.

    For systemd, which starts it when somebody connects to `models.sock` in the data folder; `flowork up` does the same.
    The settings `models_memory_mb` and `models_idle_minutes` bound it.
    """
    from appliance.service import exec_models

    exec_models(session.folder)
