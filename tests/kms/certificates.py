"""Certificates for tests: a CA, and what it signs, right and wrong in every way that is told apart."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM text."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self._key_pem(serialization.NoEncryption())

    def encrypted_key_pem(self, passphrase: str = "secret") -> str:
        return self._key_pem(serialization.BestAvailableEncryption(passphrase.encode()))

    def _key_pem(self, encryption: serialization.KeySerializationEncryption) -> str:
        pem = self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        return pem.decode()


def make_ca(name: str = "Test CA") -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, key, name, -DAY, 365 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    usage = {name: name in ("key_cert_sign", "crl_sign", "digital_signature") for name in USAGES}
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Identity(builder.sign(key, hashes.SHA256()), key)


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def make_server(ca: Identity, host: str = "127.0.0.1", **times: timedelta) -> Identity:
    return _signed(ca, "kms server", ExtendedKeyUsageOID.SERVER_AUTH, host, **times)


def make_client(
    ca: Identity, name: str = "backupsite", usage: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    **times: timedelta,
) -> Identity:  # fmt: skip
    return _signed(ca, name, usage, None, **times)


def _signed(
    ca: Identity,
    name: str,
    usage: x509.ObjectIdentifier | None,
    host: str | None,
    since: timedelta = -DAY,
    until: timedelta = 30 * DAY,
) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, key, _name_of(ca), since, until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(authority, critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(host)]), critical=False)
    return Identity(builder.sign(ca.key, hashes.SHA256()), key)


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, since: timedelta, until: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .issuer_name(_named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since)
        .not_valid_after(now + until)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name_of(identity: Identity) -> str:
    return str(identity.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


@cache
def the_ca() -> Identity:
    """The CA of this run of tests."""
    return make_ca()


@cache
def another_ca() -> Identity:
    return make_ca("Another CA")


@cache
def the_client() -> Identity:
    return make_client(the_ca())
