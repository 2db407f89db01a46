"""One process's membership in the cluster: its number, its lease, who else lives, and the bus.

One thread renews the lease and does nothing else, another looks around once a second. How long the lease holds is
counted from *before* the renewal was asked for, on a clock of this machine that goes on while it sleeps, so that this
process thinks itself dead before anybody else does.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.contracts import ConfigError, FlowError
from appliance.security.files import keys_folder
from appliance.security.keys import ENGINE_FILE, derived_secret, read_engine
from appliance.security.sealing import Cipher
from appliance.sharing.members import COMMAND, LEASE, RENEW, VISITOR, Member, Members, reachable
from appliance.sharing.opening import open_service
from appliance.sharing.post import Handler, Post
from appliance.sharing.service import Service
from appliance.store.errors import LeaseLost, StoreAway, StoreError
from appliance.store.journal import Lease
from appliance.store.places import URL, database_url

logger = logging.getLogger(__name__)

QUEUE_URL, MACHINE = "FLOWORK_QUEUE_URL", "FLOWORK_MACHINE"
#: Seconds between two looks at who lives; before the lease's end at which its holder stops.
LOOK, MARGIN = 1.0, 2.0
_PURPOSE = "cluster"


def clock() -> float:
    """Seconds since the boot, those asleep too: a lease ends while a lid is closed."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def machine_name(environ: Mapping[str, str]) -> str:
    """What people call this machine: ``FLOWORK_MACHINE``, or its host name."""
    return environ.get(MACHINE, "").strip() or socket.gethostname()


def place_of(data: Path) -> str:
    """Tells this installation from all others, without saying anything about it."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    text = "\0".join((machine, socket.gethostname(), str(data.resolve())))
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _proof(key: bytes) -> str:
    return hmac.digest(key, b"proof", "sha256").hex()


def stranger() -> ConfigError:
    """What a machine is told that lacks the cluster's keys."""
    return ConfigError(
        f"this machine does not have the keys of the engine in {URL}: copy the folder keys/ from a machine that "
        "belongs to it into this data folder (docs/scale.md), or use another database"
    )


def refuse_strangers(data: Path, environ: Mapping[str, str] | None = None) -> None:
    """Raises ``ConfigError`` if the database belongs to an engine whose keys are not in the data folder."""
    members = Members(database_url(environ))
    try:
        known = members.known_proof()
    finally:
        members.close()
    has_keys = (keys_folder(data) / ENGINE_FILE).exists()
    if known and not (has_keys and _proof(derived_secret(data, _PURPOSE)) == known):
        raise stranger()


def wait_for_database(stop: threading.Event, environ: Mapping[str, str] | None = None) -> bool:
    """Wait until the cluster's database can be reached; False if ``stop`` was set first. At once without a cluster.

    A database that is away is no fault of this process: ending over it, again and again, would look like one.
    """
    if not (url := database_url(environ)):
        return not stop.is_set()
    told = False
    while not stop.is_set():
        try:
            reachable(url)
        except StoreAway as exc:
            if not told:
                logger.warning("waiting for the database: %s", exc.message)
                told = True
            stop.wait(LOOK)
        except StoreError:
            return True  # whoever opens it says what is wrong
        else:
            return True
    return False


class Cluster:
    """See above. ``join`` and ``leave`` once each. A callback set behind ``join`` may miss the first seconds."""

    def __init__(self, data: Path, role: str, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self.url = database_url(environ)
        self.role = role
        self.machine = machine_name(environ)
        self.place = place_of(data) + (f".{os.getpid()}" if role == COMMAND else "")
        self.key = derived_secret(data, _PURPOSE)
        self.cipher = Cipher(self.key)
        self.members, self._holder = Members(self.url), Members(self.url)
        self.service: Service = open_service(environ.get(QUEUE_URL) or self.url, read_engine(data).id)
        self.lease = Lease(0, 0)
        self._visit = secrets.token_hex(8)
        self.holds_until = 0.0
        self._around: tuple[float, list[Member]] = (-1e9, [])
        self._post: Post | None = None
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        #: Called once a second with everybody, on the thread that looks around.
        self.on_look: Callable[[list[Member]], None] = lambda members: None
        #: Called when the lease was lost, on the thread that finds out, which ends then.
        self.on_lost: Callable[[], None] = lambda: None

    @property
    def box(self) -> str:
        """Where messages for this process go."""
        if self.role == VISITOR:
            return f"{VISITOR}.{self._visit}"
        return f"{self.role}.{self.lease.writer}.{self.lease.epoch}"

    def join(self) -> None:
        """Take a number, and renew the lease from now on.

        Raises ``StoreError``, ``Crowded``, ``ConfigError`` for keys that are not the cluster's.
        """
        proof = _proof(self.key)
        if self.members.proof(proof) != proof:
            raise stranger()
        if self.role == VISITOR:
            return
        began = clock()
        self.lease = self.members.join(self.role, self.machine, self.place)
        self.holds_until = began + LEASE - MARGIN
        # From here on, not when everything has come up: that may take longer than a lease.
        for work, name in ((self._renew, "lease"), (self._look, "cluster")):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def open(self, handler: Handler) -> None:
        """Take messages from now on until the cluster is left, and say so. Raises ``StoreError``, ``LeaseLost``."""
        self._post = Post(self.service, self.cipher, self.box, handler)
        self._post.start()
        if self.role != VISITOR:
            self.members.ready(self.lease)

    def send(self, box: str, part: object, failed: Callable[[FlowError], None] | None = None) -> None:
        """Have a part of a message sent soon (see :class:`appliance.sharing.post.Post`)."""
        assert self._post is not None
        self._post.send(box, part, failed)

    def left_within(self, seconds: float) -> bool:
        """Wait so long for this process to leave; whether it has."""
        return self._stopping.wait(seconds)

    @property
    def bus_away(self) -> str:
        """Why the bus cannot be used right now; empty if it can."""
        return self._post.away if self._post is not None else ""

    def holds(self) -> bool:
        """Whether nobody can have taken over yet."""
        return clock() < self.holds_until

    def around(self, age: float = LOOK * 2) -> list[Member]:
        """Everybody, at most so many seconds old. Raises ``StoreError``."""
        looked, members = self._around
        if clock() - looked > age:
            members = self.members.all()
            self._around = (clock(), members)
        return members

    def leave(self) -> None:
        """End the lease, so that others take over at once. Twice is fine."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(10.0)
        if self._post is not None:
            self._post.stop()
        if self.lease.epoch and self.holds():
            try:
                self.members.leave(self.lease)
            except FlowError as exc:
                logger.warning("the lease runs out by itself: %s", exc.message)
        self.members.close()
        self._holder.close()
        self.service.close()

    def _renew(self) -> None:
        """Nothing that takes long is done on this thread, or on its connection."""
        failing = ""
        while not self._stopping.wait(LOOK if failing else RENEW):
            try:
                began = clock()
                self._holder.renew(self.lease)
                self.holds_until = began + LEASE - MARGIN
                if failing:
                    logger.warning("the cluster's database answers again")
                failing = ""
            except LeaseLost as exc:
                logger.critical("%s", exc.message)
                self.on_lost()
                return
            except FlowError as exc:
                if not failing:
                    left = self.holds_until - clock()
                    logger.warning("the lease could not be renewed, it holds %.1f s more: %s", left, exc.message)
                failing = exc.message

    def _look(self) -> None:
        while not self._stopping.wait(LOOK):
            try:
                members = self.members.all()
                self._around = (clock(), members)
                self.on_look(members)
            except LeaseLost as exc:
                logger.critical("%s", exc.message)
                self.on_lost()
                return
            except FlowError as exc:
                logger.debug("the cluster cannot be looked at: %s", exc.message)  # the lease's thread says so
            except Exception:
                logger.exception("looking around in the cluster failed")
