"""Whose certificates a driver takes. It says what ``appliance/trust.py`` says: a driver needs no appliance."""

from __future__ import annotations

import ssl


def tls_context(cafile: str = "") -> ssl.SSLContext:
    """For a client. ``cafile``: an authority instead of the machine's list. Raises ``OSError`` for an unusable file.

    Certificates made at home lack what Python 3.13 began to ask for, and are taken all the same.
    """
    context = ssl.create_default_context(cafile=cafile or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
