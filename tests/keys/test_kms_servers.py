"""The keys of jobs on a real server: made when a job needs one, opened by the server alone, replaced, and no more used
than the rules allow.
"""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from keys import crypto_rsa
from keys.crypto_recipients import KmsRecipient
from keys.crypto_rsa import Oaep
from keys.crypto_slots import Slot, read_slots, unwrap, wrap
from keys.kms.interface import KmsAway, KmsError, KmsGarbage, KmsKeyGone, KmsRefused, KmsUntrusted
from keys.kms_servers import (
    WrapRefused,
    check_may_wrap,
    connected,
    declare_lost,
    key_for,
    pair_of,
    rotate,
    secret_of,
    slot_secrets,
)
from keys.models import KeyState, KmsKey, KmsKeyVersion, Outage
from keys.public_recipients import kms_recipient
from keys.sealing import check_vouched_row
from tests.factories import make_kms_key, make_kms_server, make_user

pytestmark = pytest.mark.django_db

CHAIN, FILE, FILE_KEY = UUID(int=1), UUID(int=2), bytes(range(32))
NOW = timezone.now()


@pytest.fixture
def server(kmip_server):
    return make_kms_server(kmip_server, answered_at=NOW)


def slot_for(version: KmsKeyVersion) -> Slot:
    return slot_of(kms_recipient(version))


def slot_of(recipient: KmsRecipient) -> Slot:
    return read_slots(wrap(recipient, FILE_KEY, chain_id=CHAIN, file_id=FILE), 1)[0][0]


def opened(slot: Slot, secret: bytes) -> bytes:
    return unwrap(slot, secret, chain_id=CHAIN, file_id=FILE)


def test_a_key_is_made_once_and_opens(server):
    owner, alice = uuid4(), make_user()
    key = key_for(server, owner=owner, owner_name="finance", by=alice)
    assert (key.owner, str(key), key.created_by) == (owner, f"key of finance on {server.name}", alice)
    version = key.newest()
    check_vouched_row(version, "proof")
    assert version.proven_at is not None and version.state == KeyState.ACTIVE
    slot = slot_for(version)
    assert opened(slot, secret_of(version, slot)) == FILE_KEY
    assert key_for(server, owner=owner, owner_name="renamed", by=alice) == key
    key.refresh_from_db()
    assert (key.versions.count(), key.owner_name) == (1, "renamed")


@pytest.mark.parametrize("mode", [{"reply": "cut"}, {"reply": "garbage"}, {"decrypt": "no"}, {"decrypt": "sha1"}])
def test_a_server_that_does_not_do_its_part_saves_nothing(server, kmip_server, mode):
    kmip_server.mode(**mode)
    with pytest.raises(KmsError):
        key_for(server, owner=uuid4(), owner_name="finance", by=None)
    assert not KmsKey.objects.exists()


def test_a_server_that_is_away_saves_nothing():
    with pytest.raises(KmsAway, match="Nothing listens"):
        key_for(make_kms_server(), owner=uuid4(), owner_name="finance", by=None)
    assert not KmsKey.objects.exists()


@pytest.mark.parametrize(
    ("mode", "oaep", "releases"),
    [("mgf1-sha1", Oaep.SHA256_MGF1_SHA1, False), ("sha1", Oaep.SHA1, False), ("no", Oaep.SHA256, True)],
)
def test_weaker_servers_open_too(kmip_server, mode, oaep, releases):
    kmip_server.mode(decrypt=mode)
    server = make_kms_server(kmip_server, oaep=oaep, releases_private_keys=releases)
    version = key_for(server, owner=uuid4(), owner_name="finance", by=None).newest()
    slot = slot_for(version)
    assert slot.oaep == oaep
    assert opened(slot, secret_of(version, slot)) == FILE_KEY


def test_a_row_that_was_changed_from_outside_is_not_talked_to(server, kmip_server):
    key = make_kms_key(server, kmip_server)
    type(server).objects.filter(pk=server.pk).update(host="203.0.113.1")
    version = KmsKeyVersion.objects.get(key=key)
    with pytest.raises(KmsUntrusted, match="cannot be trusted"):
        secret_of(version, slot_of(recipient_of(version)))


def recipient_of(version: KmsKeyVersion) -> KmsRecipient:
    """A recipient without looking at proofs."""
    return KmsRecipient(
        version.key.uuid, version.number, Oaep.SHA256, bytes(version.public), version.private_id, "elsewhere"
    )


def test_a_damaged_slot_does_not_open(server, kmip_server):
    version = make_kms_key(server, kmip_server).newest()
    other = make_kms_key(server, kmip_server).newest()
    with pytest.raises(KmsRefused):
        secret_of(version, slot_for(other))


def test_a_slot_finds_its_version_by_record_or_by_the_servers_id(server, kmip_server):
    key = make_kms_key(server, kmip_server)
    secrets = slot_secrets()
    slot = slot_for(key.newest())
    assert opened(slot, secrets(slot, CHAIN, FILE)) == FILE_KEY
    renamed = KmsRecipient(uuid4(), 7, Oaep.SHA256, bytes(key.newest().public), key.newest().private_id)
    slot = slot_of(renamed)
    assert opened(slot, secrets(slot, CHAIN, FILE)) == FILE_KEY


def test_a_slot_of_a_lost_console_opens_on_the_server_that_it_used(server, kmip_server):
    make_kms_server(name="a server that is away")
    with connected(server) as kms:
        pair = kms.create_key_pair("backupsite-of-another-console", 3072)
    slot = slot_of(KmsRecipient(uuid4(), 1, Oaep.SHA256, pair.public, pair.private_id))
    assert opened(slot, slot_secrets()(slot, CHAIN, FILE)) == FILE_KEY


def test_a_slot_that_no_server_knows_says_who_was_away(server):
    slot = slot_of(KmsRecipient(uuid4(), 1, Oaep.SHA256, bytes(make_kms_key().newest().public), "unknown"))
    with pytest.raises(KmsAway):
        slot_secrets()(slot, CHAIN, FILE)


def test_a_key_that_is_gone_for_good_is_not_asked_for():
    version = make_kms_key().newest()
    declare_lost(version)
    version.refresh_from_db()
    with pytest.raises(KmsKeyGone, match="declared lost"):
        secret_of(version, slot_for(version))


def test_a_rotation_adds_a_version_and_the_old_one_still_opens(server, kmip_server):
    key = key_for(server, owner=uuid4(), owner_name="finance", by=None)
    old_slot = slot_for(key.newest())
    second = rotate(key, None)
    assert (second.number, key.newest()) == (2, second)
    check_vouched_row(second, "proof")
    first = key.versions.get(number=1)
    assert opened(old_slot, secret_of(first, old_slot)) == FILE_KEY
    new_slot = slot_for(second)
    assert opened(new_slot, secret_of(second, new_slot)) == FILE_KEY


def test_a_key_whose_pair_is_lost_gets_another_when_it_is_wanted_again(server):
    owner = uuid4()
    key = key_for(server, owner=owner, owner_name="finance", by=None)
    declare_lost(key.newest())
    assert key_for(server, owner=owner, owner_name="finance", by=None) == key
    assert [(v.number, v.state) for v in key.versions.order_by("number")] == [(1, "lost"), (2, "active")]


@pytest.mark.parametrize("state", [state for state in KeyState if state != KeyState.ACTIVE])
def test_nothing_is_sealed_for_a_pair_that_is_not_active(state):
    version = make_kms_key(make_kms_server(answered_at=NOW)).newest()
    version.state = state
    with pytest.raises(WrapRefused, match=f"is {state.label}: nothing is sealed"):
        check_may_wrap(version, NOW)


@pytest.mark.parametrize(
    ("answered_at", "allowed"),
    [(NOW, True), (NOW - timedelta(days=7), True), (NOW - timedelta(days=7, seconds=1), False), (None, False)],
)
def test_a_cached_public_key_counts_for_seven_days(answered_at, allowed):
    version = make_kms_key(make_kms_server(answered_at=answered_at)).newest()
    if allowed:
        check_may_wrap(version, NOW)
        return
    with pytest.raises(WrapRefused, match="7 days only"):
        check_may_wrap(version, NOW)


def test_a_pair_that_opened_something_counts_by_itself():
    version = make_kms_key(make_kms_server(answered_at=NOW - timedelta(days=9))).newest()
    version.proven_at = NOW - timedelta(days=6)
    check_may_wrap(version, NOW)


def test_a_server_that_is_to_be_asked_each_time_is_asked(server, kmip_server):
    strict = make_kms_server(kmip_server, outage=Outage.FAIL)
    version = make_kms_key(strict, kmip_server).newest()
    check_may_wrap(version, NOW)
    kmip_server.mode(ending=[version.private_id])
    with pytest.raises(WrapRefused, match="is scheduled for deletion"):
        check_may_wrap(version, NOW)
    kmip_server.mode(reply="cut")
    with pytest.raises(WrapRefused, match="set to be asked each time"):
        check_may_wrap(version, NOW)


def test_a_pair_is_what_the_server_calls_it(server, kmip_server):
    version = make_kms_key(server, kmip_server).newest()
    with connected(server) as kms:
        assert kms.public_key(version.public_id) == pair_of(version).public


def test_a_wrong_secret_is_garbage(server, kmip_server):
    """A server that opens a slot to something of another length."""
    version = make_kms_key(server, kmip_server).newest()
    slot = slot_for(version)
    forged = crypto_rsa.encapsulate(b"short", bytes(version.public), Oaep.SHA256)
    with pytest.raises(KmsGarbage, match="not the secret"):
        secret_of(version, replace(slot, encapsulated=forged))
