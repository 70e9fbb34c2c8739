"""Key management servers, the key pairs that they made for jobs, and what is known of each pair.

Of a pair the public half is here, good for wrapping only; the private half stays with its server. A job's key has
versions: each rotation adds one, and none is ever overwritten. How a server is talked to is decided in `keys.kms`.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models

from backupsite.roles import AnyUser, Right, visible


class Outage(models.TextChoices):
    """What a session does while the server does not answer."""

    CACHED = "cached", "Wrap with the cached public key, for at most 7 days"
    FAIL = "fail", "Fail the session"


class KmsServerQuerySet(models.QuerySet["KmsServer"]):
    def visible_to(self, user: AnyUser) -> KmsServerQuerySet:
        return visible(self, user, Right.KEYS)


class KmsServer(models.Model):
    """A server that holds key pairs: its address, whom it trusts and who we are to it."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=8, default="kmip")
    host = models.CharField(max_length=253)
    port = models.PositiveIntegerField(default=5696)
    ca = models.TextField(help_text="The certificates that the server's own must lead to, PEM.")
    certificate = models.TextField(help_text="Our client certificate, PEM.")
    private_key_sealed = models.BinaryField(help_text="Its private key, PEM, under the instance key.")
    key_bits = models.PositiveIntegerField(default=3072)
    oaep = models.PositiveSmallIntegerField(default=1, help_text="keys.crypto_rsa.Oaep, found by a round trip.")
    releases_private_keys = models.BooleanField(
        default=False, help_text="It cannot decrypt, so the private half is read, used and dropped: a weakness."
    )
    outage = models.CharField(max_length=8, choices=Outage.choices, default=Outage.CACHED)
    proof = models.BinaryField(null=True, help_text="The console's proof that it wrote `statement()`.")
    polled_at = models.DateTimeField(null=True)
    answered_at = models.DateTimeField(null=True, help_text="The last good poll.")
    problem = models.TextField(blank=True, help_text="Why the last poll failed; empty after a good one.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = KmsServerQuerySet.as_manager()

    SEALED = {"private_key_sealed": lambda row: (row.uuid, row.certificate)}
    VOUCHED = {"proof": lambda row: row.statement()}

    class Meta:
        ordering = ["name"]
        verbose_name = "KMS server"

    def __str__(self) -> str:
        return self.name

    def statement(self) -> dict[str, Any]:
        """Return what the instance key vouches for: nobody with the database alone turns wrapping to another server."""
        return {
            "server": str(self.uuid),
            "kind": self.kind,
            "host": self.host,
            "port": self.port,
            "ca": self.ca,
            "certificate": self.certificate,
            "oaep": self.oaep,
            "releases_private_keys": self.releases_private_keys,
            "outage": self.outage,
        }


class KmsKey(models.Model):
    """The key of one job on one server: the record of its key slots. `owner` is the job's id, kept when it is gone."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    server = models.ForeignKey(KmsServer, on_delete=models.PROTECT, related_name="keys")
    owner = models.UUIDField(editable=False)
    owner_name = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["server", "pk"]
        verbose_name = "KMS key"
        constraints = [models.UniqueConstraint(fields=["server", "owner"], name="one_kms_key_a_job_and_server")]

    def __str__(self) -> str:
        return f"key of {self.owner_name} on {self.server.name}"

    def newest(self) -> KmsKeyVersion:
        """Return the version that new restore points are sealed for; a key has at least one."""
        return self.versions.order_by("-number")[0]


class KeyState(models.TextChoices):
    """What the server said (keys.kms.interface.PairState), and what an administrator declared."""

    ACTIVE = "active", "active"
    DISABLED = "disabled", "disabled"
    SCHEDULED = "scheduled", "scheduled for deletion"
    DESTROYED = "destroyed", "destroyed"
    GONE = "gone", "gone"
    LOST = "lost", "declared lost"  # by an administrator


CLOSED_FOR_GOOD = (KeyState.DESTROYED, KeyState.LOST)
OPENING = (KeyState.ACTIVE, KeyState.SCHEDULED)  # the server opens what is sealed for it, today


class KmsKeyVersion(models.Model):
    """One key pair on the server. What is sealed for it opens only while its private half is there and active."""

    key = models.ForeignKey(KmsKey, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    private_id = models.CharField(max_length=185, help_text="What the server calls the private half.")
    public_id = models.CharField(max_length=185)
    public = models.BinaryField(help_text="DER SubjectPublicKeyInfo.")
    proof = models.BinaryField(null=True, help_text="The console's proof that it wrote `statement()`.")
    state = models.CharField(max_length=10, choices=KeyState.choices, default=KeyState.ACTIVE)
    state_since = models.DateTimeField(auto_now_add=True)
    checked_at = models.DateTimeField(null=True, help_text="When the server last told its state.")
    proven_at = models.DateTimeField(null=True, help_text="When the server last opened something sealed for it.")
    created_at = models.DateTimeField(auto_now_add=True)

    VOUCHED = {"proof": lambda row: row.statement()}

    class Meta:
        ordering = ["key", "number"]
        constraints = [
            models.UniqueConstraint(fields=["key", "number"], name="one_row_a_kms_key_version"),
            models.CheckConstraint(condition=models.Q(number__gte=1), name="kms_key_versions_from_1"),
        ]

    def __str__(self) -> str:
        return f"{self.key}, version {self.number}"

    def statement(self) -> dict[str, Any]:
        """Return what the instance key vouches for: a public half put in from outside gets no slot."""
        return {
            "key": str(self.key.uuid),
            "server": str(self.key.server.uuid),
            "owner": str(self.key.owner),
            "number": self.number,
            "private_id": self.private_id,
            "public_id": self.public_id,
            "public": bytes(self.public).hex(),
        }
