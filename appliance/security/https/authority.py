"""A certificate authority for one home: its root, and certificates for this box (X.509, RFC 5280).

The root may only speak for names and addresses that exist in a home and nowhere else (name constraints): who steals
its key can pose as a box there, and as nothing on the internet.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography import x509

#: Endings of host names that no stranger can register, or that only a home's own network answers.
ENDINGS = ("local", "localhost", "lan", "home", "home.arpa", "internal", "localdomain")
#: Addresses that are not routed in the internet: RFC 1918, 3927, 4193, 4291, and 6598 (private overlays use it).
NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)
#: No clock that is right shows less. A root begins here, so that a box that was a little behind when it made its own
#: is not refused by phones that are not.
EARLIEST = 1_767_225_600.0
DAY = 86_400.0
#: Days. Browsers refuse a certificate of more than 825 (398 under roots that come with them).
ROOT_DAYS, LEAF_DAYS = 15 * 365.0, 200.0
#: Days that a certificate counts before the moment it was made: clocks of a home differ.
_BACK = 2.0


def may_name(name: str, hosts: Sequence[str] = ()) -> bool:
    """Whether a root may speak for a host name: one of ``hosts`` (which it was made for), or a home's ending."""
    return name in hosts or any(name == ending or name.endswith(f".{ending}") for ending in ENDINGS)


def may_address(address: str) -> bool:
    """Whether a root may speak for an IP address."""
    found = ipaddress.ip_address(address)
    return any(found in network for network in NETWORKS)


def make_root(title: str, hosts: Sequence[str], now: float) -> tuple[bytes, bytes]:
    """A new private key (ECDSA P-256) and its certificate, PEM. ``hosts`` are bare host names it may speak for too."""
    from cryptography import x509

    key = _new_key()
    names = [x509.DNSName(name) for name in (*ENDINGS, *hosts)]
    networks = [x509.IPAddress(network) for network in NETWORKS]
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Flowork"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, title),
        ]
    )
    builder = (
        _begun(subject, subject, key, EARLIEST, now + ROOT_DAYS * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign=False, certificates=True), critical=True)
        .add_extension(x509.NameConstraints([*names, *networks], None), critical=True)
    )
    return _pem(key), _signed(builder, key)


def issue(
    root_key: bytes, root: bytes, names: Sequence[str], addresses: Sequence[str], since: float
) -> tuple[bytes, float, float]:
    """Key and certificate of this box (PEM, one behind the other), and from when until when it counts (Unix seconds).

    Raises ``ValueError`` for a root or a key that cannot be read.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = x509.load_pem_x509_certificate(root)
    signer: Any = serialization.load_pem_private_key(root_key, password=None)
    key = _new_key()
    known = [
        *(x509.DNSName(name) for name in names),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
    ]
    first, last = since - _BACK * DAY, since + LEAF_DAYS * DAY
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = (
        _begun(subject, authority.subject, key, first, last)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign=True, certificates=False), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName(known), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return _pem(key) + _signed(builder, signer), first, last


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _begun(subject: x509.Name, issuer: x509.Name, key: Any, first: float, last: float) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(first))
        .not_valid_after(_moment(last))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _usage(*, sign: bool, certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: Any) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    form = serialization.PrivateFormat.PKCS8
    made: bytes = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    return made
