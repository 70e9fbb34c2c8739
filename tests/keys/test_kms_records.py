"""A server is tried before it is saved, and what it can do is found, not believed."""

from dataclasses import replace

import pytest

from keys.crypto_rsa import Oaep
from keys.crypto_sealed import CannotOpenSealed
from keys.kms.interface import KmsAway, KmsGarbage, KmsRefused, KmsUntrusted, PairState
from keys.kms_records import (
    Settings,
    Trust,
    add_server,
    change_server,
    replace_certificate,
    try_again,
    weaknesses_of,
)
from keys.kms_servers import connected, secret_of
from keys.models import KmsServer, Outage
from keys.sealing import check_vouched_row, ensure_ring, seal_for, unseal_for
from tests.factories import make_kms_key, make_kms_server, make_user
from tests.kms.certificates import another_ca, make_client, the_ca, the_client

pytestmark = pytest.mark.django_db


def settings_of(real, **fields) -> Settings:
    return replace(Settings("vault", real.host, real.port, 3072, Outage.CACHED), **fields)


def trust(**fields) -> Trust:
    return replace(Trust(the_ca().pem, the_client().pem, the_client().key_pem), **fields)


@pytest.fixture(autouse=True)
def ring():
    ensure_ring()


@pytest.mark.parametrize(
    ("mode", "oaep", "releases", "weak"),
    [
        ({"decrypt": "sha256"}, Oaep.SHA256, False, []),
        ({"decrypt": "mgf1-sha1"}, Oaep.SHA256_MGF1_SHA1, False, ["The mask of the padding uses SHA-1"]),
        ({"decrypt": "sha1"}, Oaep.SHA1, False, ["The padding uses SHA-1"]),
        ({"decrypt": "no"}, Oaep.SHA256, True, ["Private keys leave the server"]),
    ],
)
def test_the_best_that_a_server_can_do_is_found(kmip_server, mode, oaep, releases, weak):
    kmip_server.mode(**mode)
    alice = make_user()
    server, found = add_server(settings_of(kmip_server), trust(), alice)
    server.refresh_from_db()
    assert (server.oaep, server.releases_private_keys, found.left_over) == (oaep, releases, "")
    assert [weakness.title for weakness in weaknesses_of(server)] == weak
    check_vouched_row(server, "proof")
    assert unseal_for(server, "private_key_sealed").decode() == the_client().key_pem
    assert the_client().key_pem.splitlines()[1].encode() not in bytes(server.private_key_sealed)
    assert server.answered_at is not None and server.created_by == alice


def test_a_pair_that_cannot_be_destroyed_is_told(kmip_server):
    kmip_server.mode(destroys=False)
    server, found = add_server(settings_of(kmip_server), trust(), None)
    assert found.left_over
    with connected(server) as kms:
        assert kms.state(found.left_over) is not PairState.GONE


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        ({"decrypt": "no", "releases": False}, KmsRefused, "neither decrypts with a private key"),
        ({"reply": "garbage"}, KmsGarbage, "cannot be understood"),
        ({"reply": "cut"}, KmsAway, "closed the connection"),
    ],
)
def test_a_server_that_cannot_do_it_is_not_saved(kmip_server, mode, error, says):
    kmip_server.mode(**mode)
    with pytest.raises(error, match=says):
        add_server(settings_of(kmip_server), trust(), None)
    assert not KmsServer.objects.exists()


def test_a_server_that_another_ca_signed_is_not_saved(kmip_server):
    with pytest.raises(KmsUntrusted, match="not signed by the CA"):
        add_server(settings_of(kmip_server), trust(ca=another_ca().pem), None)
    assert not KmsServer.objects.exists()


def test_a_better_padding_is_found_when_it_is_tried_again(kmip_server):
    kmip_server.mode(decrypt="sha1")
    server, _ = add_server(settings_of(kmip_server), trust(), None)
    kmip_server.mode()
    try_again(server)
    server.refresh_from_db()
    assert server.oaep == Oaep.SHA256 and weaknesses_of(server) == []
    check_vouched_row(server, "proof")


def test_a_name_is_changed_without_asking_the_server():
    server = make_kms_server()  # away
    settings = Settings("renamed", server.host, server.port, 4096, Outage.FAIL)
    assert change_server(server, settings, server.ca) is None
    server.refresh_from_db()
    assert (server.name, server.key_bits, server.outage) == ("renamed", 4096, "fail")
    check_vouched_row(server, "proof")


def test_another_place_is_tried_first(kmip_server):
    server = make_kms_server(kmip_server, name="vault")
    with pytest.raises(KmsAway):
        change_server(server, settings_of(kmip_server, port=1), server.ca)
    server.refresh_from_db()
    assert server.port == kmip_server.port
    check_vouched_row(server, "proof")


def test_a_place_that_does_not_know_our_keys_is_refused(kmip_server):
    server = make_kms_server(kmip_server, name="vault", port=1)
    make_kms_key(server)  # of no server at all
    with pytest.raises(KmsRefused, match="does not know the key of"):
        change_server(server, settings_of(kmip_server), server.ca)


def test_a_new_certificate_goes_on_with_the_same_keys(kmip_server):
    server = make_kms_server(kmip_server, name="vault")
    version = make_kms_key(server, kmip_server).newest()
    again = make_client(the_ca())  # the same name, as the server knows its owners by it
    replace_certificate(server, again.pem, again.key_pem)
    server.refresh_from_db()
    assert server.certificate == again.pem
    assert unseal_for(server, "private_key_sealed").decode() == again.key_pem
    from tests.keys.test_kms_servers import opened, slot_for

    slot = slot_for(version)
    assert opened(slot, secret_of(version, slot)) == bytes(range(32))


def test_a_client_that_the_server_takes_for_another_is_refused(kmip_server):
    server = make_kms_server(kmip_server, name="vault")
    make_kms_key(server, kmip_server)
    stranger = make_client(the_ca(), "somebody else")
    with pytest.raises(KmsRefused):
        replace_certificate(server, stranger.pem, stranger.key_pem)
    server.refresh_from_db()
    assert server.certificate == the_client().pem
    assert "PRIVATE KEY" not in repr(trust())


@pytest.mark.parametrize("changed", [{"host": "203.0.113.1"}, {"releases_private_keys": True}, {"outage": "fail"}])
def test_saving_vouches_for_nothing_that_was_changed_from_outside(kmip_server, changed):
    KmsServer.objects.filter(pk=make_kms_server(kmip_server, name="vault").pk).update(**changed)
    server = KmsServer.objects.get()
    settings = Settings("renamed", server.host, server.port, server.key_bits, server.outage)
    with pytest.raises(KmsUntrusted, match="cannot be trusted"):
        change_server(server, settings, server.ca)
    again = make_client(the_ca())
    with pytest.raises(KmsUntrusted, match="cannot be trusted"):
        replace_certificate(server, again.pem, again.key_pem)
    server.refresh_from_db()
    assert server.name == "vault" and server.certificate == the_client().pem
    with pytest.raises(CannotOpenSealed):
        check_vouched_row(server, "proof")


def test_a_certificate_can_be_replaced_whose_key_does_not_open(kmip_server):
    KmsServer.objects.filter(pk=make_kms_server(kmip_server, name="vault").pk).update(private_key_sealed=b"damaged")
    server = KmsServer.objects.get()
    with pytest.raises(KmsUntrusted, match="Replace its certificate"):
        try_again(server)
    replace_certificate(server, the_client().pem, the_client().key_pem)
    try_again(KmsServer.objects.get())


def test_what_others_write_while_a_server_is_asked_stays(kmip_server):
    server = make_kms_server(kmip_server, name="vault")
    renewed = seal_for(server, "private_key_sealed", the_client().key_pem.encode())  # as a rotation does
    KmsServer.objects.filter(pk=server.pk).update(private_key_sealed=renewed, problem="said by a poll")
    change_server(server, settings_of(kmip_server, key_bits=4096), server.ca)
    try_again(server)
    server.refresh_from_db()
    assert bytes(server.private_key_sealed) == renewed
    assert (server.problem, server.key_bits) == ("said by a poll", 4096)
