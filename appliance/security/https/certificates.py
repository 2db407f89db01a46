"""The engine's authority and the gateway's certificate, in ``keys/https/``: made when first needed, renewed by use.

Nothing watches a clock or the network: at each handshake it is looked whether the certificate still fits (its time, the
host's name, the address that the caller has used), which costs some comparisons, and a new one takes a millisecond.
Connections that are there go on with the one they began with.

==================  =====================================================================
``root.key``        the authority's private key; nobody else reads it
``root.crt``        its certificate: what phones and browsers are to trust
``leaf.pem``        the gateway's private key and certificate
``state.json``      what they say, so that it need not be read out of them; written last
==================  =====================================================================
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.contracts import FlowError
from appliance.security.files import explained, keys_folder, locked, write_atomic
from appliance.security.https.authority import DAY, EARLIEST, issue, make_root, may_address, may_name

logger = logging.getLogger(__name__)

ROOT_KEY, ROOT, LEAF, STATE = "root.key", "root.crt", "leaf.pem", "state.json"
#: Days before its end at which a certificate is made anew.
EARLY_DAYS = 60.0
#: Seconds after which making one is tried again where it could not be done.
_AGAIN = 60.0
#: Addresses that a certificate names at most; the ones unused for longest go.
_MOST = 24
_LOOPBACK = ("127.0.0.1", "::1")


class HttpsError(FlowError):
    """The engine's certificate authority cannot be used, or not be made now."""

    id = "https"
    retryable = False


class HostNames(Struct, frozen=True):
    """What this machine is called now: host names (the best one first), and IP addresses."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class HttpsState(Struct, frozen=True, kw_only=True):
    """What the authority and the certificate say. Times are Unix seconds; ``fingerprint`` is the root's SHA-256."""

    engine: str
    title: str
    hosts: tuple[str, ...]
    fingerprint: str
    root_until: float
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    since: float
    until: float


def state_of(data: Path) -> HttpsState | None:
    """What is there; None before an authority was made, or where its files cannot be read."""
    try:
        return msgspec.json.decode((keys_folder(data) / "https" / STATE).read_bytes(), type=HttpsState)
    except (OSError, msgspec.DecodeError):
        return None


def root_der(data: Path) -> bytes | None:
    """The root's certificate, as phones take it (DER); None without an authority."""
    try:
        return ssl.PEM_cert_to_DER_cert((keys_folder(data) / "https" / ROOT).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def plain_address(address: str) -> str:
    """An address of a socket as certificates write it: no zone, no IPv4 within IPv6. Empty for what is none."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)


class Certificates:
    """One engine's authority and certificate. Safe from any thread, and beside other processes on the same folder.

    ``names`` tells what the machine is called; ``clock_right`` whether ``now`` (Unix seconds) is known to be right;
    ``kind`` is what a connection is made of.
    """

    def __init__(
        self,
        data: Path,
        engine: str,
        names: Callable[[], HostNames],
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        clock_right: Callable[[], bool] = lambda: True,
        kind: type[ssl.SSLSocket] = ssl.SSLSocket,
    ) -> None:
        self._data = data
        self._folder = keys_folder(data) / "https"
        self._engine = engine
        self._names = names
        self._now = now
        self._monotonic = monotonic
        self._clock_right = clock_right
        self._kind = kind
        self._lock = threading.Lock()
        self._seen: tuple[int, HttpsState] | None = None
        self._context: ssl.SSLContext | None = None
        self._wait_until = float("-inf")
        #: Why the certificate could not be made anew; empty when all is well.
        self.problem = ""

    # --- for handshakes ----------------------------------------------------------------------------------

    def context(self, address: str = "") -> ssl.SSLContext:
        """What a connection to this machine's ``address`` is answered with. Raises ``HttpsError``, ``KeysError``."""
        with self._lock:
            return self._fitting(plain_address(address), "")

    def _fitting(self, address: str, name: str) -> ssl.SSLContext:
        state = self._look()
        if (why := self._why_anew(state, address, name)) and self._monotonic() >= self._wait_until:
            self._try(state, why, address, name)
        if self._context is None:
            raise HttpsError(self.problem or "there is no certificate; turn HTTPS off and on again")
        return self._context

    def _look(self) -> HttpsState | None:
        """The state on disk; what another process has made anew is taken up."""
        try:
            mark = (self._folder / STATE).stat().st_mtime_ns
        except OSError:
            return self._seen[1] if self._seen else None
        if self._seen is None or self._seen[0] != mark:
            state = state_of(self._data)
            if state is None:
                return None
            self._load()
            self._seen = mark, state
        return self._seen[1]

    def _load(self) -> None:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.sslsocket_class = self._kind
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.set_alpn_protocols(["http/1.1"])
        try:
            made.load_cert_chain(self._folder / LEAF)
        except (OSError, ssl.SSLError) as exc:
            logger.warning("%s cannot be used: %s", self._folder / LEAF, exc)
            self._context = None
            return
        # (The types ask for a function of SSLSocket alone, which this one is called with.)
        made.sni_callback = self._called
        self._context = made

    def _called(self, sock: Any, name: str | None, context: ssl.SSLContext) -> None:
        """A caller has said whom it wants: mDNS may have given this machine a number where its name was taken."""
        if not name or not self._is_other_self(name.lower()):
            return
        with self._lock:
            sock.context = self._fitting("", name.lower())

    def _is_other_self(self, name: str) -> bool:
        first = re.escape(self._names().hosts[0].partition(".")[0])
        return bool(re.fullmatch(rf"{first}-[0-9]{{1,2}}\.local", name))

    def _why_anew(self, state: HttpsState | None, address: str, name: str) -> str:
        """What does not fit any more; empty if everything does."""
        if state is None or self._context is None or state.engine != self._engine:
            return "there is none of this engine"
        now = self._now()
        if now > state.until - EARLY_DAYS * DAY:
            return "it ends soon"
        if now < state.since and self._clock_right():
            return "it was made by a clock that was wrong"
        if address and address not in state.addresses and may_address(address):
            return f"this machine is also {address}"
        wanted = [*self._names().hosts, *([name] if name else [])]
        if missing := [each for each in wanted if each not in state.names and may_name(each, state.hosts)]:
            return f"this machine is called {missing[0]}"
        return ""

    # --- making ------------------------------------------------------------------------------------------

    def ensure(self) -> HttpsState:
        """The authority and a certificate that fits; made where there is none. Raises ``HttpsError``, ``KeysError``."""
        with self._lock:
            state = self._look()
            if why := self._why_anew(state, "", ""):
                state = self._make(state, why, "", "")
            assert state is not None
            return state

    def renew(self, *, authority: bool = False) -> HttpsState:
        """A new certificate now; with ``authority`` a new root too, which every device must be given again.

        Raises ``HttpsError``, ``KeysError``.
        """
        with self._lock:
            old = None if authority else self._look()
            return self._make(old, "somebody asked for it", "", "", keep_root=not authority)

    def _try(self, state: HttpsState | None, why: str, address: str, name: str) -> None:
        """Make one; if that fails, the one that is there has to do for a while."""
        try:
            self._make(state, why, address, name)
        except FlowError as exc:
            self._wait_until = self._monotonic() + _AGAIN
            self.problem = exc.message
            logger.error("the certificate could not be made anew: %s", exc.message)

    def _make(self, old: HttpsState | None, why: str, address: str, name: str, *, keep_root: bool = True) -> HttpsState:
        now = self._now()
        if now < EARLIEST:
            raise HttpsError("the clock of this machine is not right yet; a certificate would count at the wrong time")
        names = self._names()
        with explained(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self._folder):
                root = self._root(old, names, now) if keep_root else self._new_root(names, now)
                state = self._new_leaf(root, names, old, now, address, name)
        logger.info("made a certificate for %s: %s", ", ".join((*state.names, *state.addresses)), why)
        self.problem, self._wait_until, self._seen = "", float("-inf"), None
        self._look()
        return state

    def _root(self, old: HttpsState | None, names: HostNames, now: float) -> HttpsState:
        """The state with a root that counts for this engine; a copy of another engine's is not used."""
        known = old or state_of(self._data)
        whole = (self._folder / ROOT_KEY).exists() and (self._folder / ROOT).exists()
        mine = known is not None and known.engine == self._engine
        if known is not None and whole and mine and now < known.root_until - EARLY_DAYS * DAY:
            return known
        return self._new_root(names, now)

    def _new_root(self, names: HostNames, now: float) -> HttpsState:
        bare = tuple(host for host in names.hosts if "." not in host)
        title = f"Flowork on {names.hosts[0].partition('.')[0]} ({self._engine[:6]})"
        key, certificate = make_root(title, bare, now)
        (self._folder / STATE).unlink(missing_ok=True)  # what it says is about to be wrong
        write_atomic(self._folder / ROOT_KEY, key)
        write_atomic(self._folder / ROOT, certificate)
        mark = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest().upper()
        return HttpsState(
            engine=self._engine,
            title=title,
            hosts=bare,
            fingerprint=":".join(mark[at : at + 2] for at in range(0, len(mark), 2)),
            root_until=_ends(certificate),
            names=(),
            addresses=(),
            since=0.0,
            until=0.0,
        )

    def _new_leaf(
        self, root: HttpsState, names: HostNames, old: HttpsState | None, now: float, address: str, name: str
    ) -> HttpsState:
        hosts = _known(("localhost", *names.hosts, *([name] if name else [])), lambda each: may_name(each, root.hosts))
        hosts = tuple(dict.fromkeys((*(each for each in names.hosts if each in hosts), *hosts)))
        before = old.addresses if old is not None else ()
        used = (*([address] if address else []), *map(plain_address, names.addresses), *before)
        addresses = _known((*_LOOPBACK, *used), may_address)[:_MOST]
        try:
            leaf, since, until = issue(
                (self._folder / ROOT_KEY).read_bytes(), (self._folder / ROOT).read_bytes(), hosts, addresses, now
            )
        except ValueError as exc:
            raise HttpsError(
                f"the authority in {self._folder} is damaged: {exc}; make a new one: `flowork https renew --authority`"
            ) from None
        write_atomic(self._folder / LEAF, leaf)
        state = msgspec.structs.replace(
            root, names=hosts, addresses=addresses, since=since, until=min(until, root.root_until)
        )
        write_atomic(self._folder / STATE, msgspec.json.format(msgspec.json.encode(state)) + b"\n")
        return state


def _known(found: Sequence[str], may: Callable[[str], bool]) -> tuple[str, ...]:
    """Those that the root may speak for, each once, in their order."""
    return tuple(dict.fromkeys(each for each in found if each and may(each)))


def _ends(pem: bytes) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()
