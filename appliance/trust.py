"""Whose certificates are taken: those of the machine's own list, to which a home adds its authority, or of a file."""

from __future__ import annotations

import ssl


def tls_context(cafile: str = "") -> ssl.SSLContext:
    """For a client. ``cafile``: the authority instead of the machine's list. Raises ``OSError`` for an unusable file.

    Python 3.13 began to refuse certificates that leave out what RFC 5280 asks for beside the signature. Those that
    people make for their home mostly do, and every other client takes them.
    """
    context = ssl.create_default_context(cafile=cafile or None)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
