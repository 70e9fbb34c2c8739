"""The keys of jobs on key management servers: making them, sealing for them, opening with them, replacing them.

A server is asked only if the console vouches for its row; its private key for TLS is opened for the connection alone.
What a server says is decided in `keys.kms`; how a server is added and changed in `keys.kms_records`; what a poll looks
at in `keys.kms_polling`. Everything here raises KmsError when the server does not do its part, and then saves nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys.crypto import KEY_BYTES
from keys.crypto_rsa import Oaep
from keys.crypto_sealed import CannotOpenSealed
from keys.crypto_slots import Slot, SlotKind
from keys.kms import trial
from keys.kms.connecting import connect
from keys.kms.interface import (
    KeyPair,
    Kms,
    KmsAway,
    KmsError,
    KmsGarbage,
    KmsKeyGone,
    KmsRefused,
    KmsUntrusted,
    PairState,
    ServerAddress,
)
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer, Outage
from keys.models.kms import CLOSED_FOR_GOOD
from keys.sealing import check_vouched_row, unseal_for, vouch_for

CACHED_FOR = timedelta(days=7)
TIMEOUT_SECONDS = 15.0


class WrapRefused(KmsError):
    """Nothing may be sealed for this key now: its state, or the server's outage policy, forbids it."""

    code = "kms-wrap-refused"


def check_trusted(server: KmsServer) -> None:
    """Raise KmsUntrusted for a row that was changed outside this console: it is not talked to, and not saved either,
    because saving it would vouch for what somebody else put there.
    """
    try:
        check_vouched_row(server, "proof")
    except CannotOpenSealed as error:
        raise KmsUntrusted(
            f"The record of the KMS server “{server.name}” cannot be trusted: {error} Nothing is done with it: look "
            "into the audit, and bring its row back from a backup of the console."
        ) from None


def address_of(server: KmsServer) -> ServerAddress:
    """Return how the server is reached. Raises KmsUntrusted for a row that was changed outside this console."""
    check_trusted(server)
    try:
        private_key = unseal_for(server, "private_key_sealed").decode()
    except CannotOpenSealed as error:
        raise KmsUntrusted(
            f"The private key for the KMS server “{server.name}” does not open: {error} Replace its certificate, and "
            "look into the audit."
        ) from None
    return ServerAddress(
        kind=server.kind,
        host=server.host,
        port=server.port,
        ca_pem=server.ca,
        certificate_pem=server.certificate,
        private_key_pem=private_key,
        name=server.name,
        timeout_seconds=TIMEOUT_SECONDS,
    )


@contextmanager
def connected(server: KmsServer) -> Iterator[Kms]:
    with connect(address_of(server)) as kms:
        yield kms


def pair_name(key_uuid: UUID) -> str:
    """Return what the pairs of a key are named on the server; each adds the number of its version."""
    return f"backupsite-{key_uuid}"


def pair_of(version: KmsKeyVersion) -> KeyPair:
    return KeyPair(version.private_id, version.public_id, bytes(version.public))


def key_for(server: KmsServer, *, owner: UUID, owner_name: str, by: User | None) -> KmsKey:
    """Return the owner's key on the server, made there if it is not yet, or again if its newest pair is gone for good.

    Raises KmsError, and then nothing is saved.
    """
    key = KmsKey.objects.filter(server=server, owner=owner).first()
    if key is None:
        return _new_key(server, owner, owner_name, by)
    if key.newest().state in CLOSED_FOR_GOOD:
        rotate(key, by)
    KmsKey.objects.filter(pk=key.pk).update(owner_name=owner_name)  # a job may have another name by now
    return key


def _new_key(server: KmsServer, owner: UUID, owner_name: str, by: User | None) -> KmsKey:
    key = KmsKey(uuid=uuid.uuid4(), server=server, owner=owner, owner_name=owner_name, created_by=by)
    with connected(server) as kms:
        pair = kms.create_key_pair(pair_name(key.uuid), server.key_bits)
        prove(kms, server, pair)
    with transaction.atomic():
        key.save()
        add_version(key, pair)
    return key


def rotate(key: KmsKey, by: User | None) -> KmsKeyVersion:
    """Let the server make the pair that replaces the newest one. Raises KmsError, and then nothing is saved."""
    with connected(key.server) as kms:
        pair = kms.rotate(pair_name(key.uuid), key.newest().number, key.server.key_bits)
        prove(kms, key.server, pair)
    return add_version(key, pair)


def prove(kms: Kms, server: KmsServer, pair: KeyPair) -> None:
    """Raise KmsError unless the server opens what is sealed for the pair."""
    trial.prove(kms, pair, Oaep(server.oaep), releases_private_keys=server.releases_private_keys)


@transaction.atomic
def add_version(key: KmsKey, pair: KeyPair) -> KmsKeyVersion:
    """Add a pair that was just proven as the next version; earlier ones stay for the points that need them."""
    KmsKey.objects.select_for_update().get(pk=key.pk)
    last = key.versions.order_by("-number").first()
    now = timezone.now()
    version = KmsKeyVersion(
        key=key,
        number=last.number + 1 if last else 1,
        private_id=pair.private_id,
        public_id=pair.public_id,
        public=pair.public,
        checked_at=now,
        proven_at=now,
    )
    version.save()
    version.proof = vouch_for(version, "proof")
    version.save(update_fields=["proof"])
    return version


def declare_lost(version: KmsKeyVersion) -> None:
    """Note that nobody will ever open with this pair again; what the server says of it counts no more."""
    KmsKeyVersion.objects.filter(pk=version.pk).update(state=KeyState.LOST, state_since=timezone.now())


def check_may_wrap(version: KmsKeyVersion, now: datetime) -> None:
    """Raise WrapRefused unless a new restore point may be sealed for the pair: its state, then the outage policy."""
    server = version.key.server
    if version.state != KeyState.ACTIVE:
        raise WrapRefused(
            f"The {version.key} is {version.get_state_display()}: nothing is sealed for it. Rotate the key, or choose "
            "another for the job."
        )
    if server.outage == Outage.FAIL:
        _ask_before_wrapping(version)
        return
    # A poll that was good for this pair counts, also if another pair of the server had a problem.
    last_good = max(filter(None, (server.answered_at, version.proven_at)), default=None)
    if last_good is None or now - last_good > CACHED_FOR:
        since = f"since {last_good:%Y-%m-%d}" if last_good else "yet"
        raise WrapRefused(
            f"The KMS server “{server.name}” has not answered a poll well {since}, and its cached public keys count "
            f"for {CACHED_FOR.days} days only. Bring it back, and poll it."
        )


def _ask_before_wrapping(version: KmsKeyVersion) -> None:
    server = version.key.server
    try:
        with connected(server) as kms:
            state = kms.state(version.private_id)
    except KmsError as error:
        raise WrapRefused(f"The session fails because “{server.name}” is set to be asked each time. {error}") from None
    if state is not PairState.ACTIVE:
        said = KeyState(state.value).label
        raise WrapRefused(
            f"The KMS server “{server.name}” says that the {version.key} is {said}: nothing is sealed for it. Rotate "
            "the key, or choose another for the job."
        )


def secret_of(version: KmsKeyVersion, slot: Slot) -> bytes:
    """Return the secret that a slot encapsulates for this pair, opened by the server. Raises KmsError."""
    if version.state in CLOSED_FOR_GOOD:
        raise KmsKeyGone(f"The {version} is {version.get_state_display()}: nothing opens with it any more.")
    with connected(version.key.server) as kms:
        return _opened(kms, version.key.server, version.private_id, slot)


def _opened(kms: Kms, server: KmsServer, private_id: str, slot: Slot) -> bytes:
    assert slot.oaep is not None, "a KMS slot that this release reads says its padding"
    secret = trial.open_secret(
        kms, private_id, slot.encapsulated, slot.oaep, releases_private_keys=server.releases_private_keys
    )
    if len(secret) != KEY_BYTES:
        raise KmsGarbage(f"The KMS server “{server.name}” opened a slot, but it is not the secret of one.")
    return secret


def slot_secrets() -> Callable[[Slot, UUID, UUID], bytes | None]:
    """Return what the engine's reader asks for the secret of a slot: our key's, or a server's that knows the key's id.

    None where it is no KMS slot, or none that a server of ours opens. Raises KmsError where the key is ours.
    """

    def secret(slot: Slot, chain_id: UUID, file_id: UUID) -> bytes | None:
        if slot.kind is not SlotKind.KMS or slot.oaep is None:
            return None
        version = version_of(slot)
        return secret_of(version, slot) if version else _opened_by_any(slot)

    return secret


def version_of(slot: Slot) -> KmsKeyVersion | None:
    """Return our version that a KMS slot was made for: by its record and number, or by its id at the server; the
    public half is the same.
    """
    versions = KmsKeyVersion.objects.select_related("key__server")
    named = versions.filter(key__uuid=slot.record, number=slot.version)
    for version in (*named, *versions.filter(private_id=slot.key_id)):
        if hashlib.sha256(bytes(version.public)).digest() == slot.fingerprint:
            return version
    return None


def _opened_by_any(slot: Slot) -> bytes | None:
    """Ask every server of ours for a key that another console made: it may be the same server.

    Whether the secret is right shows when the slot is unwrapped with it. A server that is away says so only if no
    other opens it.
    """
    away: KmsAway | None = None
    for server in KmsServer.objects.order_by("pk"):
        try:
            with connected(server) as kms:
                return _opened(kms, server, slot.key_id, slot)
        except KmsAway as error:
            away = error
        except (KmsRefused, KmsKeyGone, KmsGarbage):
            continue
    if away is not None:
        raise away
    return None
