"""A gateway's place in the cluster: joined when first needed, joined anew if it was thought dead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.contracts import FlowError
from appliance.sharing.cluster import Cluster, place_of
from appliance.sharing.members import KERNEL, Member
from appliance.sharing.peers import PeerStore
from appliance.sharing.service import Service
from appliance.store.journal import Lease

logger = logging.getLogger(__name__)

#: Seconds for which a flow's home is believed. Who is asked in vain says so, and it is looked up again; while a flow
#: is on its way from a dead kernel to the next, that often.
_HOMES_AGE, _HOMES_AGE_LEAST = 5.0, 0.1


class Joined:
    """Who lives, where flows are at home, and how to reach them. Safe from any thread; raises ``StoreError``."""

    def __init__(self, data: Path, role: str, environ: Mapping[str, str] | None = None) -> None:
        self._data = data
        self._environ = environ
        self._role = role
        self._place = place_of(data)
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._homes: tuple[float, dict[int, int]] = (-1e9, {})
        #: Takes each part of what comes into our box.
        self.on_part: Callable[[Any], None] = lambda part: None

    @property
    def cluster(self) -> Cluster:
        """Our membership."""
        with self._lock:
            if self._cluster is None:
                cluster = Cluster(self._data, self._role, self._environ)
                cluster.on_lost = self._lost
                try:
                    cluster.join()
                except BaseException:
                    cluster.leave()
                    raise
                cluster.open(lambda part: self.on_part(part))
                self._cluster = cluster
            return self._cluster

    def _lost(self) -> None:
        """This process was frozen or cut off for so long that its number was given away: it takes another."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.leave()

    @property
    def box(self) -> str:
        return self.cluster.box

    @property
    def lease(self) -> Lease:
        return self.cluster.lease

    @property
    def service(self) -> Service:
        return self.cluster.service

    def send(self, box: str, part: object, failed: Callable[[FlowError], None] | None = None) -> None:
        """Have a part of a message sent soon."""
        self.cluster.send(box, part, failed)

    def kernels(self) -> list[Member]:
        """The kernels that live, by number."""
        return [member for member in self.cluster.around() if member.role == KERNEL and member.works]

    def lives(self, member: Member) -> bool:
        """Whether this very life of a member goes on."""
        return any((one.writer, one.epoch) == (member.writer, member.epoch) for one in self.kernels())

    def is_here(self, member: Member) -> bool:
        """Whether it works on our own data folder, and so has its socket there."""
        return member.place == self._place

    def home(self, flow: int) -> Member | None:
        """The living kernel that a flow belongs to. One that nobody has claimed yet is for whoever is asked first."""
        kernels = self.kernels()
        for age in (_HOMES_AGE, _HOMES_AGE_LEAST):
            homes = self._read_homes(age)
            if found := next((one for one in kernels if one.writer == homes.get(flow)), None):
                return found
        if flow in homes:
            return None
        return next((one for one in kernels if self.is_here(one)), next(iter(kernels), None))

    def _read_homes(self, age: float) -> dict[int, int]:
        read, homes = self._homes
        if time.monotonic() - read > age:
            homes = self.cluster.members.homes()
            self._homes = (time.monotonic(), homes)
        return homes

    def linked(self) -> Lease | None:
        """The life of the kernel that has, or had last, the links to other engines."""
        return PeerStore(self.cluster.members).holder()

    def look_again(self) -> None:
        """What is known of homes has turned out to be old."""
        self._homes = (-1e9, self._homes[1])

    def close(self) -> None:
        """Leave. Twice is fine."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.leave()
