"""The pages of KMS servers: certificates are taken and never given back, nothing is saved untried, use protects."""

from __future__ import annotations

import html

import pytest
from cryptography.hazmat.primitives import serialization
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from backupsite.models import AuditEvent
from keys.models import KmsServer
from keys.sealing import ensure_ring
from tests import cast
from tests.factories import make_kms_key, make_kms_server
from tests.kms.certificates import DAY, another_ca, make_client, make_server, the_ca, the_client

pytestmark = pytest.mark.django_db
SECRET_LINE = the_client().key_pem.splitlines()[1]


@pytest.fixture
def alice() -> Client:
    ensure_ring()
    return cast.alice()


def fields(real=None, **changed):
    return {
        "name": "vault",
        "host": real.host if real else "127.0.0.1",
        "port": real.port if real else 1,
        "ca": the_ca().pem,
        "certificate": the_client().pem,
        "private_key": the_client().key_pem,
        "key_bits": 3072,
        "outage": "cached",
        **changed,
    }


def text_of(response) -> str:
    return html.unescape(response.content.decode())


def test_an_empty_list_says_what_to_do(alice):
    page = text_of(alice.get("/keys/kms/"))
    assert "No KMS servers yet" in page and 'href="/keys/kms/new/"' in page
    assert 'href="/keys/kms/"' in text_of(alice.get("/keys/"))


def test_a_server_is_added_from_pasted_text(alice, kmip_server):
    form = alice.get("/keys/kms/new/")
    assert "no-store" in form["Cache-Control"]
    response = alice.post("/keys/kms/new/", fields(kmip_server), follow=True)
    server = KmsServer.objects.get()
    page = text_of(response)
    assert response.redirect_chain == [(f"/keys/kms/{server.uuid}/", 302)]
    assert "can be chosen in jobs now" in page and "RSA-OAEP with SHA-256" in page and "not post-quantum" in page
    assert "No keys here yet" in page and SECRET_LINE not in page
    event = AuditEvent.objects.get(action="KMS server added")
    assert (event.user_name, event.object_id, event.severity) == ("alice", str(server.uuid), "high")
    assert SECRET_LINE not in str(event.__dict__)


def test_a_server_is_added_from_files(alice, kmip_server):
    files = {
        "ca_file": SimpleUploadedFile("ca.crt", the_ca().pem.encode()),
        "certificate_file": SimpleUploadedFile("client.crt", the_client().pem.encode()),
        "private_key_file": SimpleUploadedFile("client.key", the_client().key_pem.encode()),
    }
    typed = fields(kmip_server, ca="", certificate="", private_key="")
    assert alice.post("/keys/kms/new/", {**typed, **files}).status_code == 302
    assert KmsServer.objects.get().certificate == the_client().pem


DER = the_ca().certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": ""}, "This field is required."),
        ({"name": "TAKEN"}, "Another KMS server has this name."),
        ({"host": "https://kms.example.org"}, "This is not a host name"),
        ({"host": "kms.example.org:5696"}, "This is not a host name"),
        ({"host": "kms example"}, "This is not a host name"),
        ({"port": "0"}, "greater than or equal to 1"),
        ({"port": "65536"}, "less than or equal to 65535"),
        ({"ca": ""}, "This is not a certificate in PEM"),
        ({"ca_file": SimpleUploadedFile("ca.der", DER)}, "This was pasted and uploaded: do one of both."),
        ({"ca": "", "ca_file": SimpleUploadedFile("ca.der", DER)}, "This is not a certificate in PEM"),
        ({"ca": "", "ca_file": SimpleUploadedFile("big", b"x" * 70_000)}, "This file is longer than 64 KiB."),
        ({"certificate": make_server(the_ca()).pem}, "lacks the usage “client authentication”"),
        ({"certificate": make_client(the_ca(), since=-9 * DAY, until=-DAY).pem}, "expired on"),
        ({"private_key": make_client(the_ca()).key_pem}, "This key does not belong to the certificate"),
        ({"private_key": the_client().encrypted_key_pem()}, "protected by a passphrase"),
        ({"key_bits": "1024"}, "Select a valid choice"),
        ({}, "Nothing listens where the KMS server “vault” (127.0.0.1:1) should be"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_saved(alice, change, sentence):
    make_kms_server(name="taken")
    response = alice.post("/keys/kms/new/", fields(**change))
    page = text_of(response)
    assert response.status_code == 200 and sentence in page
    assert "no-store" in response["Cache-Control"]
    assert SECRET_LINE not in page and "BEGIN PRIVATE KEY" not in page
    assert KmsServer.objects.count() == 1


@pytest.mark.parametrize(
    ("listener", "sentence"),
    [
        ("expired", "its certificate has expired"),
        ("early", "not valid yet"),
        ("wrong-host", "not for this address"),
        ("another-ca", "was not signed by the CA that is set here"),
    ],
)
def test_a_server_with_a_wrong_certificate_is_told(alice, kmip_server, listener, sentence):
    page = text_of(alice.post("/keys/kms/new/", fields(kmip_server, port=kmip_server.ports[listener])))
    assert sentence in page and not KmsServer.objects.exists()
    assert "BEGIN CERTIFICATE" in page  # what was typed is still there, but for the secret


def test_a_weak_server_says_so(alice, plain_kmip_server):
    page = text_of(alice.post("/keys/kms/new/", fields(plain_kmip_server), follow=True))
    assert "Private keys leave the server" in page
    assert "weak" in text_of(alice.get("/keys/kms/"))


def test_the_connection_is_tested_on_demand(alice, kmip_server):
    server = make_kms_server(kmip_server)
    address = f"/keys/kms/{server.uuid}/test/"
    assert "It works" in text_of(alice.post(address, follow=True))
    kmip_server.mode(reply="garbage")
    assert "cannot be understood" in text_of(alice.post(address, follow=True))
    results = AuditEvent.objects.filter(action="KMS server tested").order_by("pk")
    assert [event.after for event in results] == [{"result": "works"}, {"result": "kms-garbage"}]


def test_a_change_is_saved_and_audited(alice, kmip_server):
    server = make_kms_server(kmip_server)
    address = f"/keys/kms/{server.uuid}/edit/"
    assert server.name in text_of(alice.get(address))
    typed = {name: value for name, value in fields(kmip_server).items() if name not in ("certificate", "private_key")}
    response = alice.post(address, {**typed, "outage": "fail", "name": "renamed"}, follow=True)
    assert "Sessions fail." in text_of(response)
    event = AuditEvent.objects.get(action="KMS server changed")
    assert event.before == {"name": server.name, "outage": "cached"}
    assert event.after == {"name": "renamed", "outage": "fail"}
    page = text_of(alice.post(address, {**typed, "port": 1}))
    assert "Nothing listens" in page
    server.refresh_from_db()
    assert server.port == kmip_server.port


def test_the_certificate_is_replaced(alice, kmip_server):
    server = make_kms_server(kmip_server)
    address = f"/keys/kms/{server.uuid}/certificate/"
    assert "no-store" in alice.get(address)["Cache-Control"]
    again = make_client(the_ca())
    alice.post(address, {"certificate": again.pem, "private_key": again.key_pem})
    server.refresh_from_db()
    assert server.certificate == again.pem
    assert AuditEvent.objects.get(action="KMS certificate replaced").severity == "high"
    stranger = make_client(another_ca())
    page = text_of(alice.post(address, {"certificate": stranger.pem, "private_key": stranger.key_pem}))
    assert "certificate" in page and stranger.key_pem.splitlines()[1] not in page
    server.refresh_from_db()
    assert server.certificate == again.pem


def test_a_key_is_rotated_on_demand(alice, kmip_server):
    key = make_kms_key(make_kms_server(kmip_server), kmip_server)
    address = f"/keys/kms/keys/{key.uuid}/rotate/"
    assert "version 2" in text_of(alice.get(address))
    assert "Version 2 is used" in text_of(alice.post(address, follow=True))
    assert key.newest().number == 2
    event = AuditEvent.objects.get(action="KMS key rotated")
    assert (event.after["version"], event.severity) == (2, "high")
    kmip_server.mode(reply="cut")
    assert "Not rotated" in text_of(alice.post(address))
    assert key.newest().number == 2


def test_without_its_packages_nothing_is_offered_that_cannot_work(alice, monkeypatch):
    for place in ("keys.views_kms.is_installed", "keys.kms.connecting.is_installed"):
        monkeypatch.setattr(place, lambda: False)
    server = make_kms_key().server
    for address in (
        "/keys/kms/",
        "/keys/kms/new/",
        f"/keys/kms/{server.uuid}/",
        f"/keys/kms/{server.uuid}/certificate/",
    ):
        page = text_of(alice.get(address))
        assert "make kmip" in page, address
        for button in ("Add a server</a>", "Try it and save", "Test the connection", "Poll now", ">Rotate<"):
            assert button not in page, (address, button)
    assert "make kmip" in text_of(alice.post("/keys/kms/new/", fields()))
    assert "make kmip" in text_of(alice.post(f"/keys/kms/{server.uuid}/test/", follow=True))


def test_the_pages_ask_a_constant_number_of_queries(alice, django_assert_max_num_queries):
    for _ in range(3):
        make_kms_server()
    server = KmsServer.objects.first()
    for _ in range(3):
        make_kms_key(server)
    with django_assert_max_num_queries(5):
        alice.get("/keys/kms/")
    with django_assert_max_num_queries(8):
        alice.get(f"/keys/kms/{server.uuid}/")
