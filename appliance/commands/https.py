"""``flowork https``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from appliance.commands import _output as out
from appliance.commands._base import leaf, noun
from appliance.commands._session import Session

if TYPE_CHECKING:
    from appliance.security.https.certificates import Certificates, HttpsState

command = noun(
    "https", "HTTPS in your own network, with a certificate authority of the engine's own.", default="status"
)


@leaf("flowork https", of=command)
def status(session: Session) -> None:
    """Whether it is on, what the certificate says, and how other devices get to trust it."""
    from appliance.security.https.certificates import state_of

    _tell(session, session.store.settings.load().https, state_of(session.need_engine()))


@leaf("flowork https on", "flowork https on --only", of=command)
@click.option("--only", is_flag=True, help="Refuse plain http, but for the page that gives the certificate.")
def on(session: Session, only: bool) -> None:
    """Answer https on the panel's port too. The first time makes the certificate authority.

    Browsers that come by http are led to https, by way of the page that installs the certificate; programs may go on
    with http, unless --only says otherwise. On this machine itself plain http is always answered.
    """
    state = _certificates(session).ensure()
    _set(session, "only" if only else "on")
    _tell(session, session.store.settings.load().https, state)


@leaf("flowork https off", of=command)
def off(session: Session) -> None:
    """Answer plain http only. The authority is kept, and with it what your devices trust."""
    _set(session, "off")
    session.done({"mode": "off"}, "the engine answers plain http only")


@leaf("flowork https renew", "flowork https renew --authority", of=command)
@click.option("--authority", is_flag=True, help="A new authority too: every device must be given the new one.")
def renew(session: Session, authority: bool) -> None:
    """Make the certificate anew now; it is renewed by itself in time, and when this machine's names change."""
    state = _certificates(session).renew(authority=authority)
    session.audit("https.renew", "authority" if authority else "certificate")
    _tell(session, session.store.settings.load().https, state)


@leaf("flowork https root root.pem", of=command)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def root(session: Session, file: Path) -> None:
    """Write the authority's certificate (PEM) into a file, for computers that you set up by hand."""
    import ssl

    from appliance.security.https.certificates import root_der
    from appliance.store.errors import NotFound

    found = root_der(session.need_engine())
    if found is None:
        raise NotFound("there is no certificate authority yet; `flowork https on` makes one")
    file.write_text(ssl.DER_cert_to_PEM_cert(found), encoding="ascii")
    session.done({"file": str(file)}, f"{file}: the certificate that your devices are to trust")


def _certificates(session: Session) -> Certificates:
    from appliance.gateway.secure import certificates_of
    from appliance.security.keys import read_engine

    data = session.need_engine()
    return certificates_of(data, read_engine(data).id)


def _set(session: Session, mode: str) -> None:
    session.store.settings.set({"https": mode})
    session.audit("settings.set", "https", {"values": {"https": mode}})
    session.reload()


def _page(session: Session) -> str:
    """Where the running gateway gives the certificate to other devices."""
    from appliance.doctor import PORT
    from appliance.listener import host_names
    from appliance.running import holder, listening

    pid = holder(session.folder, "gateway")
    tunnel = session.store.settings.load().tunnel_port
    ports = [port for _, port in listening(pid) if port != tunnel] if pid else []
    return f"http://{host_names()[0]}:{next(iter(ports), PORT)}/certificate"


def _tell(session: Session, mode: str, state: HttpsState | None) -> None:
    found: dict[str, Any] = {"mode": mode}
    lines = [{"off": "off", "on": "on", "only": "on, and plain http is refused"}[mode]]
    if state is not None:
        found |= {
            "names": list(state.names),
            "addresses": list(state.addresses),
            "until": state.until,
            "authority": {"title": state.title, "fingerprint": state.fingerprint, "until": state.root_until},
        }
        lines += [
            f"names: {', '.join((*state.names, *state.addresses))}",
            f"certificate until {out.moment(state.until)}, renewed by itself before",
            f"authority: {state.title}, until {out.moment(state.root_until)}",
            f"SHA-256 {state.fingerprint}",
        ]
        if mode != "off":
            found["page"] = _page(session)
            lines.append(f"other devices install it from {found['page']}")
    session.done(found, "\n".join(lines))
