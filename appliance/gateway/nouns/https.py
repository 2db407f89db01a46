"""HTTPS: the engine's own certificate authority, its certificate, and the way to install it on a phone."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from flask import request
from msgspec import Meta, Struct

from appliance.gateway.common import Body
from appliance.gateway.doorway import PAGE
from appliance.gateway.routing import Call, Nothing, Noun
from appliance.listener import network_addresses
from appliance.security.https.certificates import HttpsState, state_of

noun = Noun(
    "https",
    "HTTPS in a home, by a certificate authority of the engine's own that speaks for nothing outside of it. "
    "The setting `https` turns it on.",
)


class AuthorityView(Struct, frozen=True, kw_only=True):
    """The root's certificate: what it is called on a phone, its SHA-256, and when it ends (Unix seconds)."""

    title: str
    fingerprint: str
    until: float


class CertificateView(Struct, frozen=True, kw_only=True):
    """What this box shows to a browser. Times are Unix seconds; it is renewed by itself 60 days before its end."""

    names: list[str]
    addresses: list[str]
    since: float
    until: float


class HttpsView(Struct, frozen=True, kw_only=True):
    """How HTTPS is. ``authority`` and ``certificate`` are missing until it is turned on for the first time.

    ``here``: the request came by https. ``page`` is the address from which other devices install the authority, ``qr``
    the same as a picture (a data URI), and ``problem`` why a certificate could not be made anew.
    """

    mode: str
    here: bool
    page: str
    qr: str
    problem: str
    authority: AuthorityView | None = None
    certificate: CertificateView | None = None


class Renewal(Body, frozen=True):
    """What to make anew."""

    authority: Annotated[
        bool,
        Meta(description="The authority too: every device must be given the new one, and the old one counts no more"),
    ] = False


@noun.get("/https", permission="settings:read")
def show(call: Call[Nothing, Nothing]) -> HttpsView:
    """Whether HTTPS is on, what the certificate says, and how a phone gets it. ``here``: this request came by it."""
    return _view(call)


@noun.post("/https/renew", permission="settings:write", errors=(409, 500), audit="https.renew")
def renew(call: Call[Nothing, Renewal]) -> HttpsView:
    """Make the certificate anew now; connections go on. The first call makes the authority."""
    call.note("authority" if call.body.authority else "certificate")
    call.gateway.certificates.renew(authority=call.body.authority)
    return _view(call)


def _view(call: Call[Nothing, Nothing] | Call[Nothing, Renewal]) -> HttpsView:
    import segno

    gateway = call.gateway
    state = state_of(gateway.data)
    page = _page_for_others(call.request.get("host", ""))
    return HttpsView(
        mode=gateway.settings.https,
        here=request.is_secure,
        page=page,
        qr=segno.make(page, error="m").svg_data_uri(scale=4, border=2, dark="#000", light="#fff"),
        problem=gateway.certificates.problem,
        authority=None if state is None else _authority(state),
        certificate=None if state is None else _certificate(state),
    )


def _authority(state: HttpsState) -> AuthorityView:
    return AuthorityView(title=state.title, fingerprint=state.fingerprint, until=state.root_until)


def _certificate(state: HttpsState) -> CertificateView:
    return CertificateView(
        names=list(state.names), addresses=list(state.addresses), since=state.since, until=state.until
    )


def _page_for_others(host: str) -> str:
    """The address of the certificate's page as a phone reaches it: "localhost" would be the phone itself."""
    parts = urlsplit(f"//{host}")
    name, port = parts.hostname or "localhost", parts.port
    if _is_loopback(name):
        name = next(iter(network_addresses()), name)
    if ":" in name:
        name = f"[{name}]"
    return f"http://{name}{f':{port}' if port else ''}{PAGE}"


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
