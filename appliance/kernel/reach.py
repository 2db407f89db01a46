"""The way to the kernel: over the data folder's socket, or through the cluster that the engine belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.kernel.client import KernelClient
from appliance.store.places import database_url


def reach(
    data: Path, flow_of: Callable[[str], int], environ: Mapping[str, str] | None = None, *, visitor: bool = False
) -> KernelClient:
    """The client for a data folder. ``flow_of`` gives the number of a run's flow, by the run's id.

    ``visitor``: it is not a gateway, and makes no runs of its own (:meth:`KernelClient.cluster` has no number).

    Raises ``ConfigError`` for a wrong ``FLOWORK_DATABASE_URL``.
    """
    if not database_url(environ):
        return KernelClient(data)
    from appliance.kernel.cluster import ClusterKernel
    from appliance.kernel.joining import Joined
    from appliance.sharing.members import GATEWAY, VISITOR

    return ClusterKernel(data, Joined(data, VISITOR if visitor else GATEWAY, environ), flow_of)
