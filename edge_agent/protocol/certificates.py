"""Who is who between machines: each side has a key and a certificate that it signed itself, pinned by the other.

There is no authority: a TLS 1.3 handshake succeeds only if each side shows exactly the certificate that the other noted
in their pairing. The certificates never end, since a machine without a clock of its own must get in as well; what ends
an agent's access is its removal from the appliance.
"""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

KEY, CERTIFICATE = "link.key", "link.crt"


def make(name: str) -> tuple[bytes, bytes]:
    """A new private key (ECDSA P-256) and its certificate, in PEM."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1970, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))  # RFC 5280, 4.1.2.5: no well-defined end
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    form, encoding = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    return key.private_bytes(encoding, form, serialization.NoEncryption()), certificate.public_bytes(encoding)


def ensure(folder: Path, name: str) -> bytes:
    """The certificate in a folder; key and certificate are made on first use. Raises ``OSError``."""
    key_path, path = folder / KEY, folder / CERTIFICATE
    if not (path.exists() and key_path.exists()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key, certificate = make(name)
        _write(key_path, key)
        _write(path, certificate)  # last: a certificate always has its key
    return path.read_bytes()


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), hex."""
    return fingerprint_of(ssl.PEM_cert_to_DER_cert(certificate.decode()))


def fingerprint_of(der: bytes) -> str:
    """SHA-256 of a certificate (DER), hex."""
    return hashlib.sha256(der).hexdigest()


class _Socket(ssl.SSLSocket):
    """Closes itself where the other side was gone before TLS began: ``ssl`` leaves such a socket open and unreachable.

    It asks for the other side's address right behind taking over the connection (``SSLSocket._create``).
    """

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as exc:
            self.close()
            if exc.errno != errno.ENOTCONN:
                raise
            raise ConnectionResetError(errno.ECONNRESET, "the other side has gone") from None


def context(folder: Path, *, server: bool, trusted: Iterable[bytes]) -> ssl.SSLContext:
    """TLS that speaks to the holders of the ``trusted`` certificates (PEM) and to nobody else."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.sslsocket_class = _Socket
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # it is the certificate itself that is known, not a name in it
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    if pems := b"".join(trusted):
        made.load_verify_locations(cadata=pems.decode())
    return made


def _write(path: Path, data: bytes) -> None:
    import tempfile

    descriptor, beside = tempfile.mkstemp(dir=path.parent)  # mode 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(beside).replace(path)
