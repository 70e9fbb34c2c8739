"""Whether what was given as CA, client certificate and private key can be used, before any server is asked.

Every way to be wrong has its own sentence, said of the field that it belongs to. Whether the server accepts them, and
whether the CA is the one that signed the server, is found by connecting.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

LONGEST_PEM_BYTES = 64 * 1024
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[^-]+-----END \1-----")
_CERTIFICATE_LABELS = ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
UsableKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

CA, CERTIFICATE, PRIVATE_KEY = "ca", "certificate", "private_key"


class BadCertificate(Exception):
    """`field` (ca, certificate or private_key) cannot be used; str() is a sentence that says why and what to do."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def check_ca(pem: str, now: datetime) -> str:
    """Return the certificates alone, as PEM. Raises BadCertificate."""
    certificates = _certificates(CA, pem)
    for certificate in certificates:
        _check_time(CA, certificate, now)
    return _pem(certificates)


def check_client(certificate_pem: str, private_key_pem: str, now: datetime) -> tuple[str, str]:
    """Return our certificate (with those that lead to its CA, if any are given) and its key. Raises BadCertificate."""
    certificates = _certificates(CERTIFICATE, certificate_pem)
    _check_chain(certificates)
    for certificate in certificates:
        _check_time(CERTIFICATE, certificate, now)
    _check_usage(certificates[0])
    key = _private_key(private_key_pem)
    if _public_bytes(key.public_key()) != _public_bytes(certificates[0].public_key()):
        raise BadCertificate(
            PRIVATE_KEY, f"This key does not belong to the certificate of “{_name(certificates[0])}”. Give its own."
        )
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return _pem(certificates), written.decode()


def ends_at(certificate_pem: str) -> datetime:
    """Return when a certificate that was checked expires."""
    return x509.load_pem_x509_certificate(certificate_pem.encode()).not_valid_after_utc


def name_of(certificate_pem: str) -> str:
    """Return the name in a certificate that was checked: what the server knows us by."""
    return _name(x509.load_pem_x509_certificate(certificate_pem.encode()))


def _certificates(field: str, pem: str) -> list[x509.Certificate]:
    labels = _labels(field, pem, "a certificate")
    if any("PRIVATE KEY" in label for label in labels):
        raise BadCertificate(field, "A private key is among this: take it out, it has no place in a certificate.")
    if any(label not in _CERTIFICATE_LABELS for label in labels):
        raise BadCertificate(field, f"This is no certificate but a “{labels[0].lower()}”.")
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise BadCertificate(field, "The certificate is damaged: give it again, whole.") from None


def _labels(field: str, pem: str, wanted: str) -> list[str]:
    """Return what the PEM blocks say they are; at least one."""
    if len(pem.encode()) > LONGEST_PEM_BYTES:
        raise BadCertificate(field, f"This is longer than {LONGEST_PEM_BYTES // 1024} KiB: give {wanted} alone.")
    labels: list[str] = _BLOCK.findall(pem)
    if not labels:
        raise BadCertificate(
            field,
            f"This is not {wanted} in PEM: text from “-----BEGIN …” to “-----END …”. "
            "A DER or PKCS#12 file has to be converted, for instance with openssl.",
        )
    return labels


def _check_chain(certificates: list[x509.Certificate]) -> None:
    for lower, upper in pairwise(certificates):
        if lower.issuer != upper.subject:
            raise BadCertificate(
                CERTIFICATE,
                f"These are {len(certificates)} certificates that do not belong together: “{_name(upper)}” did not "
                f"sign “{_name(lower)}”. Give the client's own first, then at most those that lead to its CA.",
            )


def _check_time(field: str, certificate: x509.Certificate, now: datetime) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > last:
        raise BadCertificate(
            field, f"The certificate of “{_name(certificate)}” expired on {_day(last)}. Get a new one."
        )
    if now < first:
        raise BadCertificate(
            field,
            f"The certificate of “{_name(certificate)}” is not valid before {_day(first)}. Check the clock of this "
            "machine, or wait.",
        )


def _check_usage(certificate: x509.Certificate) -> None:
    """Refuse what is made for other purposes only; without the extension it is for all."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    except ValueError:
        raise BadCertificate(CERTIFICATE, "The certificate's extensions are damaged. Get a new one.") from None
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usages):
        raise BadCertificate(
            CERTIFICATE,
            f"The certificate of “{_name(certificate)}” is not for clients: it lacks the usage “client "
            "authentication” (clientAuth). Get one that has it.",
        )


def _private_key(pem: str) -> UsableKey:
    labels = [label for label in _labels(PRIVATE_KEY, pem, "a private key") if label != "EC PARAMETERS"]
    if any("CERTIFICATE" in label for label in labels):
        raise BadCertificate(PRIVATE_KEY, "This is a certificate: give the private key that belongs to it.")
    if len(labels) != 1:
        raise BadCertificate(PRIVATE_KEY, f"These are {len(labels)} keys: give the one of the certificate.")
    if "ENCRYPTED" in pem:
        raise BadCertificate(
            PRIVATE_KEY,
            "This key is protected by a passphrase, which nobody types in a scheduled session. Give it without: "
            "openssl pkey -in KEY -out PLAIN. It is kept sealed here.",
        )
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise BadCertificate(PRIVATE_KEY, "The private key is damaged: give it again, whole.") from None
    except Exception:  # noqa: BLE001 - UnsupportedAlgorithm and the like; its text may hold a part of the key
        raise BadCertificate(PRIVATE_KEY, "This kind of private key is not known here.") from None
    if not isinstance(key, UsableKey):
        raise BadCertificate(PRIVATE_KEY, "A client's private key is RSA, EC or Ed25519; this one is not.")
    return key


def _public_bytes(key: object) -> bytes:
    written: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every kind has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return written


def _pem(certificates: list[x509.Certificate]) -> str:
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates)


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value)[:100] if names else certificate.subject.rfc4514_string()[:100] or "no name"


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"
