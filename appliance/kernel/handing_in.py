"""Handing in a run where no kernel of the cluster lives: it is on disk, and the next kernel that comes up takes it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from appliance.contracts import Event
from appliance.kernel.cluster import ClusterKernel
from appliance.kernel.joining import Joined
from appliance.kernel.standin import StandIn
from appliance.sharing.members import COMMAND


def hand_in(data: Path, asked: dict[str, Any], *, sync: bool) -> str:
    """The id of a run for which ``submit`` would be ``asked``. Raises ``StoreError``, ``StoreFailure``, ``Crowded``."""
    event = Event(payload=asked["payload"], meta=asked["meta"])
    with (
        closing(ClusterKernel(data, Joined(data, COMMAND), lambda run: 0)) as cluster,
        closing(StandIn(data, sync=sync, kernel=cluster)) as standin,
    ):
        return standin.accept(asked["flow"], asked["version"], asked["trigger"], asked["kind"], event)
