"""What the endpoints work with: the store, the history, the kernel, who may do what; opened once per process.

Nothing here starts a thread or loads a large library before it is needed, so that an idle gateway stays small and
so that it can be made before a fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.contracts import Event, FlowError
from appliance.gateway.changes import Changes
from appliance.gateway.idempotency import Remembered
from appliance.gateway.identity import Callers
from appliance.gateway.kept import Kept
from appliance.gateway.naming import Names, head_of
from appliance.gateway.problems import BadRequest
from appliance.gateway.release_upload import ReleaseUpload
from appliance.gateway.restores import Restores
from appliance.gateway.run_teller import RunTeller
from appliance.gateway.secure import certificates_of
from appliance.gateway.told import Places
from appliance.gateway.traffic import Traffic
from appliance.kernel.blobs import make_blobs
from appliance.kernel.client import KernelAway
from appliance.kernel.reach import reach
from appliance.registry import Registry
from appliance.restoring import begin_anew
from appliance.security.access import Access
from appliance.security.audit import AuditLog
from appliance.security.https.certificates import Certificates
from appliance.security.keys import derived_secret, read_engine
from appliance.security.owner import OwnerAddress
from appliance.security.ratelimit import Rate, RateLimiter
from appliance.security.roles import Identity
from appliance.security.scrub import Scrubber, environment_secrets
from appliance.security.sessions import Sessions, cookie_name
from appliance.security.signed_request import RequestVerifier
from appliance.security.signin import SignIn
from appliance.security.tokens import Tokens
from appliance.security.users import Users
from appliance.security.vault import Secrets
from appliance.store.metadata import Store, open_store
from appliance.store.places import make_history
from appliance.store.settings import Settings
from appliance.strain import look as look_for_strain

if TYPE_CHECKING:
    from appliance.flowbook import FlowBook
    from appliance.kernel.standin import StandIn

logger = logging.getLogger(__name__)
HOUR = 3600.0
#: Seconds for which the kernel's word on itself, and counts over the history, are believed.
STATUS_AGE = 1.0
HISTORY_AGE = 10.0
STRAIN_AGE = 10.0


class Gateway:
    """One gateway's services on a data folder. ``close`` lets go of everything; twice is fine."""

    def __init__(
        self,
        data: Path,
        *,
        environ: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.data = data
        self.now = now
        self.began = monotonic()
        self.monotonic = monotonic
        self.store: Store = open_store(data, environ=environ, now=now)
        self.history = make_history(data, environ)
        self.kernel = reach(data, self._flow_of, environ)
        self.engine = read_engine(data)
        self.names = Names(self.store, monotonic)
        self.changes = Changes(self.store, monotonic)
        self.blobs = make_blobs(data, environ=environ)
        self.remembered = self._make_remembered()
        self.teller = RunTeller(self.store, self.history, self.names, self.blobs, lambda: self.registry)
        self.traffic = Traffic()
        self.places = Places()
        self.owner = OwnerAddress(data)
        self.users = Users(self.store.people.users, self.owner, now=now)
        self.tokens = Tokens(self.store.people.tokens, now=now)
        self.secrets = Secrets(self.store.values.secrets, data)
        self.cookie = cookie_name(self.engine.id)
        self.scrubber = Scrubber()
        self.audit = AuditLog(self.store.audit, data, scrubber=self.scrubber, now=now)
        #: Why an entry of the audit log could not be written, for the health page.
        self.audit_failure = ""
        #: Why the port for a tunnel could not be opened, for the health page.
        self.tunnel_failure = ""
        self._environ = os.environ if environ is None else environ
        self._opened: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        self._scrubs = -1
        self._settings: tuple[int, Settings] | None = None
        self._callers: tuple[int, Callers] | None = None
        self._standin: StandIn | None = None
        self._standing_in = False
        #: The kernel's word on itself; None while it is away.
        self.kernel_status = Kept(self._ask_kernel, STATUS_AGE, monotonic)
        #: What the machine suffers from.
        self.strain = Kept(lambda: look_for_strain(data), STRAIN_AGE, monotonic)
        #: Runs of the last day by state, open dead letters, bytes on disk.
        self.history_view = Kept(self._look_at_history, HISTORY_AGE, monotonic)
        #: How many panels watch live.
        self.sockets: Callable[[], int] = lambda: 0
        self._closers: list[Callable[[], object]] = []
        self.restores = Restores(data, lambda: begin_anew(data))
        self.on_close(self.restores.close)
        self.release_upload = ReleaseUpload(data)
        self.on_close(self.release_upload.close)

    def on_close(self, work: Callable[[], object]) -> None:
        """Have something let go of first when the gateway closes."""
        self._closers.append(work)

    def stop_live(self) -> None:
        """The process is about to end: let go of what would hold its threads."""
        while self._closers:
            self._closers.pop()()

    def close(self) -> None:
        """Close files and connections."""
        self.stop_live()
        self.kernel.close()
        self.history.close()
        self.blobs.close()
        if self._standin is not None:
            self._standin.close()
        self.store.close()

    # --- what follows from the settings -----------------------------------------------------------

    @property
    def settings(self) -> Settings:
        """The settings that hold now."""
        mark = self.changes["settings"]
        kept = self._settings
        if kept is None or kept[0] != mark:
            kept = self._settings = (mark, self.store.settings.load())
        return kept[1]

    @property
    def callers(self) -> Callers:
        """Who calls, how often."""
        mark = self.changes["settings"]
        kept = self._callers
        if kept is None or kept[0] != mark:
            with self._lock:
                kept = self._callers
                if kept is None or kept[0] != mark:
                    kept = self._callers = (mark, self._make_callers())
        return kept[1]

    def _make_callers(self) -> Callers:
        requests = RequestVerifier(self.engine.id, self.store.people.nonces, now=self.now)
        access = Access(self.users, self.sessions, self.tokens, requests)
        return Callers(access, self.cookie, self.settings, self._make_limiter)

    def _make_limiter(self, name: str, rate: Rate) -> RateLimiter:
        """Counts callers; in a cluster together with the other gateways."""
        if (cluster := self.kernel.cluster) is None:
            return RateLimiter(rate)
        from appliance.gateway.shared import SharedLimiter

        return SharedLimiter(name, rate, lambda: cluster().service)

    def _make_remembered(self) -> Remembered:
        """Answers to requests that may be sent again; in a cluster to any gateway."""
        if (cluster := self.kernel.cluster) is None:
            return Remembered(self.monotonic)
        from appliance.gateway.shared import SharedRemembered

        return SharedRemembered(self.monotonic, lambda: cluster().service, lambda: cluster().cipher)

    @property
    def sessions(self) -> Sessions:
        """Sessions of signed-in people, as long as the settings say."""
        idle = self.settings.session_hours * HOUR
        return Sessions(self.store.people.sessions, now=self.now, idle=idle, longest=max(idle, 30 * 24 * HOUR))

    @cached_property
    def sign_in(self) -> SignIn:
        """Issues and checks challenges."""
        return SignIn(derived_secret(self.data, "sign-in"), self.store.people.nonces, now=self.now)

    @cached_property
    def certificates(self) -> Certificates:
        """The engine's own authority, and the certificate for HTTPS."""
        return certificates_of(self.data, self.engine.id, now=self.now, monotonic=self.monotonic)

    # --- what flows are checked with ----------------------------------------------------------------

    @cached_property
    def registry(self) -> Registry:
        """The installed nodes and triggers; loaded when first asked for."""
        return Registry().scan(self.data / "packages")

    @cached_property
    def book(self) -> FlowBook:
        """Saves and deploys flows."""
        from appliance.flowbook import FlowBook

        self.know_secrets()
        return FlowBook(self.store, self.registry, self.audit, self.kernel)

    # --- the kernel -----------------------------------------------------------------------------------

    def call(self, method: str, timeout: float = 30.0, **params: Any) -> Any:
        """Call the kernel. Raises ``KernelAway``, ``Busy``, ``Refused``, ``Unsendable``."""
        answer = self.kernel.call(method, timeout, **params)
        if self._standing_in:
            self._standing_in = False
            self.standin.kernel_is_back()
        return answer

    def accept(self, flow: int, version: int, trigger: str, kind: str, event: Event) -> str:
        """Put a run down for a kernel that is away; its id, once it is on disk. Raises ``StoreFailure``, ``Busy``."""
        try:
            run = self.standin.accept(flow, version, trigger, kind, event)
        except (OverflowError, TypeError) as exc:
            raise BadRequest(f"a value cannot be kept: {exc}") from None
        self._standing_in = True
        return run

    def _flow_of(self, run: str) -> int:
        """The number of a run's flow. Raises ``NotFound``."""
        return head_of(self.history, run).flow

    def _ask_kernel(self) -> dict[str, Any] | None:
        try:
            status: dict[str, Any] = self.call("status", 5.0)
        except FlowError as exc:
            logger.debug("no word from the kernel: %s", exc.message)
            return None
        try:
            return {**status, "agents": self.call("agents", 5.0)}
        except FlowError:  # it has no devices: it is one of a cluster
            return {**status, "agents": []}

    def _look_at_history(self) -> dict[str, Any]:
        return {
            "last_day": self.history.counts(self.now() - 24 * HOUR),
            "open_letters": self.history.open_letters(),
            "bytes": self.history.size(),
        }

    @property
    def standin(self) -> StandIn:
        """Accepts events while there is no kernel."""
        from appliance.kernel.standin import StandIn

        with self._lock:
            if self._standin is None:
                self._standin = StandIn(self.data, sync=self.settings.durability == "power", kernel=self.kernel)
            return self._standin

    def reload(self) -> None:
        """Tell the kernel that flows, values or settings have changed. One that is away reads them at its start."""
        self.changes.forget()
        try:
            self.call("reload")
        except KernelAway:
            logger.info("the kernel is away; it will find the change when it starts")
        except FlowError as exc:  # what was changed is safe; the kernel says what is wrong with it
            logger.error("the kernel has not taken the change: %s", exc.message)

    # --- secrets and the audit log ------------------------------------------------------------------------

    def scrub(self, text: str) -> str:
        """A text without any secret of this engine or its environment. Never raises, for errors go through it."""
        try:
            self.know_secrets()
        except FlowError as exc:
            logger.error("the secrets cannot be read: %s", exc.message)
        return self.scrubber.scrub_text(text)

    def know_secrets(self) -> dict[str, dict[str, str]]:
        """The secrets by workspace and name, for web triggers; the scrubber knows them from then on."""
        mark = self.changes["values"]
        with self._lock:
            if mark != self._scrubs:
                opened = self.secrets.open_all() if self.store.values.secrets.all() else None
                values = opened.values if opened is not None else {}
                self._opened = {
                    workspace: {name: secret.reveal() for name, secret in named.items()}
                    for workspace, named in values.items()
                }
                known = [value for named in self._opened.values() for value in named.values()]
                self.scrubber.update([*known, *environment_secrets(self._environ)])
                self._scrubs = mark
            return self._opened

    def write_audit(self, identity: Identity, action: str, target: str, workspace: str, detail: dict[str, Any]) -> None:
        """Add to the audit log. A log that cannot be written undoes nothing: it is said on the health page."""
        self.know_secrets()
        try:
            self.audit.append(identity.label, action, target, detail, workspace=workspace)
            self.audit_failure = ""
        except FlowError as exc:
            self.audit_failure = exc.message
            logger.critical("%s of %s by %s is not in the audit log: %s", action, target, identity.label, exc.message)
