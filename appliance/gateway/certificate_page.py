"""``/certificate``: the root's certificate for phones and browsers, with how to install it; reachable by plain http.

What is given here is public. Who has the panel open where it can be trusted (on the box itself, or by https already)
sees the same fingerprint there, and can compare.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from html import escape

from flask import Flask, Response, request

from appliance.contracts import FlowError
from appliance.gateway import page
from appliance.gateway.doorway import PAGE
from appliance.gateway.identity import by_tunnel
from appliance.gateway.services import Gateway
from appliance.security.https.certificates import HttpsState, root_der
from appliance.store.errors import NotFound

#: Goes on to the page that was wanted as soon as https is believed; only ever on this host.
_SCRIPT = """
const base = 'https://' + location.host;
const wanted = new URLSearchParams(location.search).get('to') || '/';
const target = new URL(wanted, base).origin === base ? new URL(wanted, base).href : base + '/';
for (const link of document.querySelectorAll('a.on')) link.href = target;
function go() {
  if (location.protocol === 'https:') return;
  fetch(base + '/api/v1/health', { mode: 'no-cors', cache: 'no-store' }).then(() => location.replace(target), () => {});
}
go();
addEventListener('pageshow', go);
document.addEventListener('visibilitychange', () => { if (!document.hidden) go(); });
"""
_SCRIPT_HASH = f"sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}"
_POLICY = (
    f"default-src 'none'; style-src '{page.STYLE_HASH}'; script-src '{_SCRIPT_HASH}'; connect-src https:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: How it is installed, by system; HTML.
_STEPS = {
    "iPhone, iPad": """Open this page in Safari and tap the button; allow the download. Settings → “Profile
Downloaded” → Install. Then Settings → General → About → Certificate Trust Settings: switch it on. Without that
last step it counts for nothing.""",
    "Android": """Tap the button. Settings → Security → Encryption &amp; credentials → Install a certificate →
CA certificate → Install anyway, and choose the file. (The words differ a little from phone to phone; search the
settings for “CA certificate”.) Firefox there: Settings → About Firefox, tap its logo seven times, back, Secret
Settings → Use third party CA certificates.""",
    "Windows": """Open the file → Install Certificate → Current User → Place all certificates in the following
store → Trusted Root Certification Authorities. For Edge and Chrome; Firefox takes it from there too.""",
    "macOS": """Open the file: Keychain Access takes it into “login”. Find it there, open it → Trust → Always
Trust. For Safari and Chrome; Firefox takes it from there too.""",
    "Linux": """Firefox: Settings → Privacy &amp; Security → View Certificates → Authorities → Import, tick
“identify websites”. Chromium: chrome://certificate-manager → Custom → Import. For programs (Debian): the <a
href="/certificate/flowork.pem" download>.pem file</a> as
<code>/usr/local/share/ca-certificates/flowork.crt</code>, then <code>sudo update-ca-certificates</code>.""",
}


def init_app(app: Flask, gateway: Gateway) -> None:
    """Add the page and the two forms of the certificate."""

    @app.get(PAGE, endpoint="certificate_page")
    def show() -> Response:
        if not _is_given(gateway):
            return _html(page.framed("HTTPS is off", "<p>This engine answers plain http only.</p>"), 404)
        try:
            state = gateway.certificates.ensure()
        except FlowError as exc:
            return _html(page.framed("No certificate yet", f"<p>{escape(exc.message)}</p>"), 503)
        return _html(_page(state))

    @app.get(f"{PAGE}/flowork.crt", endpoint="certificate_der")
    def der() -> Response:
        return _file(_root(gateway), "flowork.crt")

    @app.get(f"{PAGE}/flowork.pem", endpoint="certificate_pem")
    def pem() -> Response:
        return _file(ssl.DER_cert_to_PEM_cert(_root(gateway)).encode(), "flowork.pem")


def _is_given(gateway: Gateway) -> bool:
    """To the network at home, as long as HTTPS is on; not through a tunnel, where nobody can use it."""
    return gateway.settings.https != "off" and not by_tunnel(request.environ)


def _root(gateway: Gateway) -> bytes:
    found = root_der(gateway.data) if _is_given(gateway) else None
    if found is None:
        raise NotFound("HTTPS is off, so there is no certificate")
    return found


def _file(data: bytes, name: str) -> Response:
    # By this type phones know what to do with it.
    response = Response(data, content_type="application/x-x509-ca-cert")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["Cache-Control"] = "no-store"
    return response


def _html(html: str, status: int = 200) -> Response:
    response = Response(html, status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(state: HttpsState) -> str:
    steps = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in _STEPS.items())
    # (Only ever this host: what a stranger writes into its name comes back to nobody else.)
    over = escape(f"https://{request.host}/")
    return page.framed(
        "This box’s certificate",
        f"""<p class="lead">Install it once on each phone and computer; then the panel opens by https without a warning,
and nobody in the network reads along.</p>
<section><p><a class="button" href="{PAGE}/flowork.crt" download>Download the certificate</a></p>
<p>It is called <b>{escape(state.title)}</b>. Its SHA-256 fingerprint, which the panel’s page “HTTPS” and
<code>flowork https</code> on the box show too:</p><pre class="whole"><code>{escape(state.fingerprint)}</code></pre>
<p>It can speak for boxes in a home’s network only, for nothing on the internet.</p></section>
<section><h2>How to install it</h2><dl>{steps}</dl></section>
<section><h2>Done?</h2><p><a class="on" href="{over}">Open the panel by https</a>. This page goes there by itself as
soon as your browser believes it.</p></section><script>{_SCRIPT}</script>""",
    )
