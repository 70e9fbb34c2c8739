"""A pair is made, wraps and unwraps on a real KMIP server; whatever goes wrong is one of the errors, in time."""

import time

import pytest
from cryptography.hazmat.primitives import serialization

from keys import crypto_rsa
from keys.crypto_rsa import Oaep
from keys.kms.connecting import connect
from keys.kms.interface import (
    KeyPair,
    KmsAway,
    KmsGarbage,
    KmsKeyGone,
    KmsMissing,
    KmsRefused,
    KmsUntrusted,
    PairState,
    ServerAddress,
)
from tests.kms import server
from tests.kms.certificates import another_ca, make_client, the_ca, the_client

SECRET = bytes(range(32))


@pytest.fixture(scope="module")
def pair(running_kmip_server):
    running_kmip_server.mode()
    with connect(running_kmip_server.address()) as kms:
        return kms.create_key_pair("shared", 3072)


def sealed_for(pair: KeyPair, oaep: Oaep = Oaep.SHA256) -> bytes:
    return crypto_rsa.encapsulate(SECRET, pair.public, oaep)


def test_a_pair_wraps_and_the_server_unwraps(kmip_server, pair):
    with connect(kmip_server.address()) as kms:
        assert kms.public_key(pair.public_id) == pair.public
        assert crypto_rsa.public_key(pair.public).key_size == 3072
        for _ in range(2):
            assert kms.unwrap(pair.private_id, sealed_for(pair), Oaep.SHA256) == SECRET
        assert kms.state(pair.private_id) is PairState.ACTIVE


@pytest.mark.parametrize(
    ("mode", "oaep"), [("sha256", Oaep.SHA256), ("mgf1-sha1", Oaep.SHA256_MGF1_SHA1), ("sha1", Oaep.SHA1)]
)
def test_each_padding_opens_only_on_a_server_that_has_it(kmip_server, pair, mode, oaep):
    kmip_server.mode(decrypt=mode)
    with connect(kmip_server.address()) as kms:
        assert kms.unwrap(pair.private_id, sealed_for(pair, oaep), oaep) == SECRET
        for other in set(Oaep) - {oaep}:
            with pytest.raises(KmsRefused):
                kms.unwrap(pair.private_id, sealed_for(pair, other), other)


def test_a_server_that_cannot_decrypt_releases_the_private_key(plain_kmip_server, pair):
    with connect(plain_kmip_server.address()) as kms:
        with pytest.raises(KmsRefused, match="not a symmetric key"):
            kms.unwrap(pair.private_id, sealed_for(pair), Oaep.SHA256)
        private = serialization.load_der_private_key(kms.private_key(pair.private_id), password=None)
        assert crypto_rsa.decapsulate(sealed_for(pair), private, Oaep.SHA256) == SECRET


def test_a_server_may_release_nothing(kmip_server, pair):
    kmip_server.mode(releases=False)
    with connect(kmip_server.address()) as kms, pytest.raises(KmsRefused, match="not released"):
        kms.private_key(pair.private_id)


def test_what_happened_to_a_key_is_told(kmip_server):
    with connect(kmip_server.address()) as kms:
        pair = kms.create_key_pair("to be destroyed", 3072)
        kmip_server.mode(ending=[pair.private_id])
        assert kms.state(pair.private_id) is PairState.SCHEDULED
        kmip_server.mode(destroys=False)
        with pytest.raises(KmsRefused):
            kms.destroy(pair)
        assert kms.state(pair.private_id) is PairState.DISABLED
        with pytest.raises(KmsRefused):
            kms.unwrap(pair.private_id, sealed_for(pair), Oaep.SHA256)


def test_a_destroyed_key_is_gone(kmip_server):
    with connect(kmip_server.address()) as kms:
        pair = kms.create_key_pair("to be destroyed", 3072)
        kms.destroy(pair)
        assert kms.state(pair.private_id) is PairState.GONE
        with pytest.raises(KmsKeyGone):
            kms.unwrap(pair.private_id, sealed_for(pair), Oaep.SHA256)


def test_a_rotation_is_found_by_the_name_of_the_next_pair(kmip_server):
    with connect(kmip_server.address()) as kms:
        first = kms.create_key_pair("turning", 3072)
        known = {first.private_id, first.public_id}
        assert kms.rotated("turning", 1, known) is None
        second = kms.rotate("turning", 1, 4096)
        assert crypto_rsa.public_key(second.public).key_size == 4096
        assert kms.rotated("turning", 1, known) == second
        assert kms.rotated("turning", 2, known | {second.private_id, second.public_id}) is None


def test_a_rotation_by_the_server_is_found_by_the_name_that_moved(kmip_server):
    """A re-key gives the name of the old pair to the new one."""
    with connect(kmip_server.address()) as kms:
        first = kms.create_key_pair("moved", 3072)
        second = kms.create_key_pair("moved", 3072)
        assert kms.rotated("moved", 1, {first.private_id, first.public_id}) == second


@pytest.mark.parametrize(
    ("listener", "says"),
    [
        ("expired", "has expired"),
        ("early", "not valid yet"),
        ("wrong-host", "not for this address"),
        ("another-ca", "not signed by the CA"),
    ],
)
def test_a_server_with_a_wrong_certificate_is_not_talked_to(kmip_server, listener, says):
    with pytest.raises(KmsUntrusted, match=says) as caught, connect(kmip_server.address(listener)):
        pass
    assert "“vault” (127.0.0.1:" in str(caught.value)


def test_the_host_name_counts(kmip_server):
    with pytest.raises(KmsUntrusted, match="another host name"), connect(kmip_server.address(host="localhost")):
        pass


CLIENTS = {
    "another CA": lambda: make_client(another_ca()),
    "expired": lambda: make_client(the_ca(), since=-30 * server.DAY, until=-server.DAY),
    "no client usage": lambda: make_client(the_ca(), usage=server.SERVER_AUTH),
    "no usage at all": lambda: make_client(the_ca(), usage=None),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_the_server_does_not_accept_is_told_so(kmip_server, name):
    """With TLS 1.3 a server closes after the handshake: whether its reason arrives before the end is chance."""
    address = kmip_server.address(client=CLIENTS[name]())
    with (
        pytest.raises((KmsUntrusted, KmsAway), match=r"our( client)? certificate|[Cc]lient certificate"),
        connect(address) as kms,
    ):
        kms.state("1")


def test_certificates_that_cannot_be_used_are_told(kmip_server):
    other = make_client(the_ca())
    for fields in (
        {"private_key_pem": other.key_pem},
        {"private_key_pem": the_client().encrypted_key_pem()},
        {"certificate_pem": "nonsense"},
        {"ca_pem": "nonsense"},
    ):
        with pytest.raises(KmsUntrusted, match="cannot be used"), connect(kmip_server.address(**fields)):
            pass


@pytest.mark.parametrize("reply", ["garbage", "html", "huge", "empty", "stranger", "no-kmip-key"])
def test_garbage_is_told_and_ends_the_connection(kmip_server, pair, reply):
    with connect(kmip_server.address()) as kms:
        kmip_server.mode(reply=reply)
        with pytest.raises(KmsGarbage, match="cannot be understood"):
            kms.public_key(pair.public_id)
        with pytest.raises(KmsAway, match="is closed"):
            kms.state(pair.private_id)


def test_a_connection_that_is_cut_is_away(kmip_server, pair):
    with connect(kmip_server.address()) as kms:
        kmip_server.mode(reply="cut")
        with pytest.raises(KmsAway, match="closed the connection"):
            kms.state(pair.private_id)


@pytest.mark.parametrize("reply", ["silent", "drip"])
def test_a_slow_server_is_waited_for_no_longer_than_said(kmip_server, pair, reply):
    with connect(kmip_server.address(timeout_seconds=0.4)) as kms:
        kmip_server.mode(reply=reply)
        began = time.monotonic()
        with pytest.raises(KmsAway, match=r"did not answer within 0\.4 seconds"):
            kms.public_key(pair.public_id)
        assert 0.3 < time.monotonic() - began < 5  # dripping, the whole answer would take 60 seconds


def test_an_outage_and_its_end(tmp_path):
    with server.start(tmp_path / "kms") as kmip:
        with connect(kmip.address()) as kms:
            pair = kms.create_key_pair("kept", 3072)
        kmip.stop()
        with pytest.raises(KmsAway, match="Nothing listens"), connect(kmip.address()):
            pass
        kmip.start_again()
        with connect(kmip.address()) as kms:
            assert kms.unwrap(pair.private_id, sealed_for(pair), Oaep.SHA256) == SECRET


def test_a_port_that_speaks_no_tls_is_told(kmip_server):
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as plain:
                plain.recv(100)
                plain.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = kmip_server.address(port=listener.getsockname()[1])
        with pytest.raises(KmsGarbage, match="does not speak TLS"), connect(address):
            pass
        thread.join()


def test_a_host_that_cannot_be_is_told(kmip_server):
    for host, says in (("no.such.host.invalid", "host name .* is not known"), ("a" * 70, "not a host name|not known")):
        with pytest.raises(KmsAway, match=says), connect(kmip_server.address(host=host)):
            pass


def test_without_memory_files_the_key_is_in_a_folder_that_goes_at_once(kmip_server, pair, monkeypatch, tmp_path):
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with connect(kmip_server.address()) as kms:
        assert list(tmp_path.iterdir()) == []
        assert kms.state(pair.private_id) is PairState.ACTIVE


def test_a_kind_that_is_not_known_is_missing(kmip_server):
    with pytest.raises(KmsMissing, match="of kind “vault”"):
        connect(kmip_server.address(kind="vault"))


def test_without_its_packages_it_says_how_to_install_them(kmip_server, monkeypatch):
    monkeypatch.setattr("keys.kms.connecting.find_spec", lambda name: None)
    with pytest.raises(KmsMissing, match="make kmip"):
        connect(kmip_server.address())


def test_no_repr_shows_the_private_key(kmip_server):
    address = kmip_server.address()
    assert isinstance(address, ServerAddress)
    assert address.private_key_pem not in repr(address) and "PRIVATE" not in repr(address)
