"""Every way in which a CA, a client certificate or a key can be wrong has its sentence."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519

from keys.kms.certificates import BadCertificate, check_ca, check_client, ends_at, name_of
from tests.kms.certificates import DAY, make_client, make_server, the_ca, the_client

NOW = datetime.now(UTC)
EXPIRED = {"since": -30 * DAY, "until": -DAY}
EARLY = {"since": DAY, "until": 30 * DAY}


def test_what_is_right_comes_back_without_anything_around_it():
    ca, client = the_ca(), the_client()
    assert check_ca(f"Subject: CN = Test CA\n{ca.pem}\n", NOW) == ca.pem
    assert check_client(f" {client.pem}\n", f"{client.key_pem}\n", NOW) == (client.pem, client.key_pem)
    assert check_client(client.pem + ca.pem, client.key_pem, NOW)[0] == client.pem + ca.pem
    assert name_of(client.pem) == "backupsite"
    assert timedelta(days=29) < ends_at(client.pem) - NOW < timedelta(days=30, seconds=10)


def test_several_cas_may_be_trusted():
    assert check_ca(the_ca().pem + the_client().pem, NOW).count("BEGIN CERTIFICATE") == 2


def test_a_certificate_without_any_usage_is_for_all():
    client = make_client(the_ca(), usage=None)
    assert check_client(client.pem, client.key_pem, NOW)[0] == client.pem


@pytest.mark.parametrize(
    ("pem", "says"),
    [
        ("", "not a certificate in PEM"),
        ("MIIB", "not a certificate in PEM"),
        (the_ca().key_pem, "A private key is among this"),
        (the_ca().pem + the_ca().key_pem, "A private key is among this"),
        (the_ca().pem.replace("MII", "AAA", 1), "The certificate is damaged"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----", "“certificate request”"),
        ("x" * 70_000, "longer than 64 KiB"),
        (make_server(the_ca(), **EXPIRED).pem, "“kms server” expired on 20"),
        (make_server(the_ca(), **EARLY).pem, "“kms server” is not valid before 20"),
    ],
)
def test_a_wrong_ca(pem, says):
    with pytest.raises(BadCertificate, match=says) as caught:
        check_ca(pem, NOW)
    assert caught.value.field == "ca"


CLIENT = the_client()
X25519 = x25519.X25519PrivateKey.generate().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


@pytest.mark.parametrize(
    ("identity", "field", "says"),
    [
        ((make_client(the_ca(), **EXPIRED).pem, CLIENT.key_pem), "certificate", "“backupsite” expired on"),
        ((make_client(the_ca(), **EARLY).pem, CLIENT.key_pem), "certificate", "not valid before"),
        ((make_server(the_ca()).pem, CLIENT.key_pem), "certificate", "lacks the usage “client authentication”"),
        ((CLIENT.pem + make_client(the_ca()).pem, CLIENT.key_pem), "certificate", "These are 2 certificates"),
        ((CLIENT.pem + CLIENT.key_pem, CLIENT.key_pem), "certificate", "A private key is among this"),
        ((CLIENT.key_pem, CLIENT.key_pem), "certificate", "A private key is among this"),
        (("nonsense", CLIENT.key_pem), "certificate", "not a certificate in PEM"),
        ((CLIENT.pem, make_client(the_ca()).key_pem), "private_key", "does not belong to the certificate of"),
        ((CLIENT.pem, CLIENT.encrypted_key_pem()), "private_key", "protected by a passphrase"),
        ((CLIENT.pem, CLIENT.pem), "private_key", "This is a certificate"),
        ((CLIENT.pem, CLIENT.key_pem * 2), "private_key", "These are 2 keys"),
        ((CLIENT.pem, CLIENT.key_pem.replace("MIG", "AAA", 1)), "private_key", "The private key is damaged"),
        ((CLIENT.pem, X25519.decode()), "private_key", "RSA, EC or Ed25519"),
        ((CLIENT.pem, ""), "private_key", "not a private key in PEM"),
    ],
)
def test_a_wrong_client(identity, field, says):
    with pytest.raises(BadCertificate, match=says) as caught:
        check_client(*identity, NOW)
    assert caught.value.field == field
    assert CLIENT.key_pem.splitlines()[1] not in str(caught.value)
