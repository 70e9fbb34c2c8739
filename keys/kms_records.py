"""Adding, changing and trying a key management server: nothing is saved before the server did what it is needed for.

The certificates are checked in `keys.kms.certificates`, what the server can do in `keys.kms.trial`; forms and pages
only call these. Who may do it is decided in the views.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field

from django.db import transaction
from django.utils import timezone

from backupsite.models import User
from keys.crypto_rsa import Oaep
from keys.kms.connecting import connect
from keys.kms.interface import Kms, KmsRefused, PairState, ServerAddress
from keys.kms.trial import Found, try_out
from keys.kms_servers import TIMEOUT_SECONDS, address_of, check_trusted, connected
from keys.models import KmsKeyVersion, KmsServer
from keys.models.kms import OPENING
from keys.sealing import seal_for, vouch_for

LOOKED_FOR_AT_MOST = 20  # of our keys, to see that a server is still the one that made them


@dataclass(frozen=True, slots=True)
class Settings:
    """What an administrator sets apart from the certificates."""

    name: str
    host: str
    port: int
    key_bits: int
    outage: str


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom we trust and who we are, PEM."""

    ca: str
    certificate: str
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Weakness:
    """What this server does worse than it could, for the page: `grave` asks for another server or setting."""

    grave: bool
    title: str
    words: str


_WEAK_PADDING = {
    Oaep.SHA256_MGF1_SHA1: Weakness(
        False,
        "The mask of the padding uses SHA-1",
        "The server decrypts RSA-OAEP with SHA-256, but masks with SHA-1 (MGF1), as KMIP's default says. No attack on "
        "it is known; a server that masks with SHA-256 is better.",
    ),
    Oaep.SHA1: Weakness(
        True,
        "The padding uses SHA-1",
        "The server decrypts RSA-OAEP with SHA-1 only. No attack on this use of SHA-1 is known, but it is outdated: "
        "update the server, then test the connection again.",
    ),
}
_RELEASES = Weakness(
    True,
    "Private keys leave the server",
    "The server cannot decrypt with a private key, so each restore that needs it fetches the key, uses it and drops "
    "it. Whoever takes over this console can fetch it too.",
)


def weaknesses_of(server: KmsServer) -> list[Weakness]:
    found = [_WEAK_PADDING[Oaep(server.oaep)]] if Oaep(server.oaep) in _WEAK_PADDING else []
    return [_RELEASES, *found] if server.releases_private_keys else found


def add_server(settings: Settings, trust: Trust, by: User | None) -> tuple[KmsServer, Found]:
    """Try the server, then save it with what was found. Raises KmsError, and then nothing is saved."""
    found = _try(_address(settings, trust), settings.key_bits)
    now = timezone.now()
    server = KmsServer(**asdict(settings), created_by=by, polled_at=now, answered_at=now, private_key_sealed=b"")
    with transaction.atomic():
        _take(server, trust, found)
    return server, found


def change_server(server: KmsServer, settings: Settings, ca: str) -> Found | None:
    """Save new settings. Another place or CA is tried first, and must know our keys. Raises KmsError, also for a row
    that was changed outside this console.
    """
    check_trusted(server)
    found = None
    if (settings.host, settings.port, ca) != (server.host, server.port, server.ca):
        old = address_of(server)
        address = _address(settings, Trust(ca, old.certificate_pem, old.private_key_pem))
        found = _try(address, settings.key_bits, server)
    for name, value in asdict(settings).items():
        setattr(server, name, value)
    server.ca = ca
    with transaction.atomic():
        _vouch(server, found, (*asdict(settings), "ca"))
    return found


def replace_certificate(server: KmsServer, certificate: str, private_key: str) -> Found:
    """Go on as another client of the same server, which must know our keys. Raises KmsError, also for a row that was
    changed outside this console.
    """
    check_trusted(server)
    trust = Trust(server.ca, certificate, private_key)
    settings = Settings(server.name, server.host, server.port, server.key_bits, server.outage)
    found = _try(_address(settings, trust), server.key_bits, server)
    with transaction.atomic():
        _take(server, trust, found)
    return found


def try_again(server: KmsServer) -> Found:
    """Try the server again, and keep what was found. Raises KmsError."""
    with connected(server) as kms:
        found = try_out(kms, _trial_name(), server.key_bits)
    with transaction.atomic():
        _vouch(server, found)
    return found


def _address(settings: Settings, trust: Trust) -> ServerAddress:
    return ServerAddress(
        kind="kmip",
        host=settings.host,
        port=settings.port,
        ca_pem=trust.ca,
        certificate_pem=trust.certificate,
        private_key_pem=trust.private_key,
        name=settings.name,
        timeout_seconds=TIMEOUT_SECONDS,
    )


def _try(address: ServerAddress, bits: int, known: KmsServer | None = None) -> Found:
    with connect(address) as kms:
        if known is not None:
            _look_for_keys(kms, known)
        return try_out(kms, _trial_name(), bits)


def _look_for_keys(kms: Kms, server: KmsServer) -> None:
    """Raise KmsRefused unless the server knows the keys that it made for us: else it is another, or we are."""
    versions = KmsKeyVersion.objects.filter(key__server=server, state__in=OPENING).select_related("key")
    for version in versions.order_by("-pk")[:LOOKED_FOR_AT_MOST]:
        if kms.state(version.private_id) is PairState.GONE:
            raise KmsRefused(
                f"The server answers, but does not know the key of {version.key.owner_name}: it is another server, or "
                "it takes this client for another. Nothing was changed."
            )


def _trial_name() -> str:
    return f"backupsite-trial-{uuid.uuid4()}"


def _take(server: KmsServer, trust: Trust, found: Found) -> None:
    """Save who we are; the key is bound to the certificate, and both to the row."""
    server.ca, server.certificate = trust.ca, trust.certificate
    if server.pk is None:
        server.save()
    server.private_key_sealed = seal_for(server, "private_key_sealed", trust.private_key.encode())
    _vouch(server, found, ("ca", "certificate", "private_key_sealed"))


def _vouch(server: KmsServer, found: Found | None, changed: tuple[str, ...] = ()) -> None:
    """Save what changed. The other columns stay as they are by now: a poll, or a rotation of the instance key that
    sealed the private key anew, may have written them while the server was asked.
    """
    if found is not None:
        server.oaep, server.releases_private_keys = found.oaep, found.releases_private_keys
        changed = (*changed, "oaep", "releases_private_keys")
    server.proof = vouch_for(server, "proof")
    server.save(update_fields={*changed, "proof"})
