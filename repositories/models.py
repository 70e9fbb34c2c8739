"""The catalogue: repositories, backup chains, restore points, and what opens each point.

The repository is the truth; these rows are what the console knows of it. Which job writes a chain is known in `jobs`
alone; a chain keeps a copy of the job's name for the day when the job is gone.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

from django.conf import settings
from django.db import models

from backupsite.roles import AnyUser, Right, visible
from keys.models import KmsKeyVersion, PasswordVersion, RecoveryKey


class RepositoryQuerySet(models.QuerySet["Repository"]):
    def visible_to(self, user: AnyUser) -> RepositoryQuerySet:
        return visible(self, user)


class Repository(models.Model):
    """A place where backup files live: for now a directory of a proxy."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    path = models.CharField(max_length=1024, unique=True, help_text="An absolute path on the proxy.")
    requires_encryption = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RepositoryQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "repositories"

    def __str__(self) -> str:
        return self.name

    @property
    def root(self) -> Path:
        return Path(self.path)


class ChainQuerySet(models.QuerySet["Chain"]):
    def visible_to(self, user: AnyUser) -> ChainQuerySet:
        return visible(self, user)


class Chain(models.Model):
    """The files of one job in one repository: all encrypted or all plain."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="chains")
    job_name = models.CharField(max_length=100)
    encrypted = models.BooleanField()
    damage = models.TextField(
        blank=True, help_text="What is missing or damaged, by name; empty when the chain is whole."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    imported_at = models.DateTimeField(null=True, help_text="When it was taken over from outside this console.")
    expires_at = models.DateTimeField(
        null=True, help_text="Of a chain outside any job's retention: when it is deleted; null is never."
    )

    set_apart = models.JSONField(
        null=True,
        help_text="Of an imported chain: what files of its folder, by id, are to it, and why they do not belong to it.",
    )

    objects = ChainQuerySet.as_manager()

    class Meta:
        ordering = ["created_at", "pk"]

    def __str__(self) -> str:
        return f"chain {str(self.uuid)[:8]} of {self.job_name}"

    @property
    def folder(self) -> Path:
        return self.repository.root / str(self.uuid)

    def newest(self) -> RestorePoint | None:
        """Return the newest point that is sealed and not being deleted: the only one that may be a parent."""
        return self.points.sealed().order_by("-sequence").first()


class Kind(models.TextChoices):
    FULL = "full", "full"
    INCREMENTAL = "incremental", "incremental"


class PointState(models.TextChoices):
    SEALED = "sealed", "sealed"
    DELETING = "deleting", "deleting"


class RestorePointQuerySet(models.QuerySet["RestorePoint"]):
    def visible_to(self, user: AnyUser) -> RestorePointQuerySet:
        return visible(self, user)

    def sealed(self) -> RestorePointQuerySet:
        return self.filter(state=PointState.SEALED)


class RestorePoint(models.Model):
    """One sealed backup file. A row exists only after its file was published; `uuid` is the file id."""

    uuid = models.UUIDField(unique=True, editable=False)
    chain = models.ForeignKey(Chain, on_delete=models.PROTECT, related_name="points")
    sequence = models.PositiveIntegerField()
    kind = models.CharField(max_length=12, choices=Kind.choices)
    parent = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="children")
    state = models.CharField(max_length=8, choices=PointState.choices, default=PointState.SEALED)
    started_at = models.DateTimeField()
    sealed_at = models.DateTimeField()
    size_bytes = models.BigIntegerField(help_text="Length of the backup file.")
    source_bytes = models.BigIntegerField(help_text="Size of everything that the point protects.")
    read_bytes = models.BigIntegerField(default=0)
    files = models.BigIntegerField()
    seal_hash = models.BinaryField(max_length=64)
    head_generation = models.PositiveIntegerField(default=1)
    file_key_sealed = models.BinaryField(
        null=True, help_text="The file key under the instance key; null for a plain point."
    )

    objects = RestorePointQuerySet.as_manager()

    SEALED = {"file_key_sealed": lambda row: (row.uuid,)}

    class Meta:
        ordering = ["chain", "sequence"]
        constraints = [
            models.UniqueConstraint(fields=["chain", "sequence"], name="one_point_a_sequence"),
            models.CheckConstraint(
                condition=models.Q(kind=Kind.FULL, parent=None) | models.Q(kind=Kind.INCREMENTAL, parent__isnull=False),
                name="an_incremental_has_a_parent",
            ),
        ]
        indexes = [models.Index(fields=["-started_at", "-id"], name="points_newest_first")]

    def __str__(self) -> str:
        return f"point {self.sequence} of {self.chain.job_name}"

    @property
    def path(self) -> Path:
        return self.chain.folder / str(self.sequence)


class Slot(models.Model):
    """One key slot of a backup file: a secret that opens the point (and, through its keyring, the earlier ones of its
    chain).
    """

    point = models.ForeignKey(RestorePoint, on_delete=models.CASCADE, related_name="slots")
    kind = models.CharField(max_length=10, default="password")
    record_uuid = models.UUIDField()
    version = models.PositiveIntegerField()
    password = models.ForeignKey(PasswordVersion, null=True, on_delete=models.PROTECT, related_name="slots")
    kms = models.ForeignKey(KmsKeyVersion, null=True, on_delete=models.PROTECT, related_name="slots")
    recovery = models.ForeignKey(RecoveryKey, null=True, on_delete=models.PROTECT, related_name="slots")
    hint = models.CharField(
        max_length=200,
        blank=True,
        db_default="",
        help_text="As it stands in the slot: what a stranger's secret is known by.",
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["point", "record_uuid", "version"], name="one_slot_a_recipient")]

    def __str__(self) -> str:
        return f"{self.kind} slot of {self.point}"


class RecoveryRequestQuerySet(models.QuerySet["RecoveryRequest"]):
    def visible_to(self, user: AnyUser) -> RecoveryRequestQuerySet:
        return visible(self, user, Right.KEYS)


class RecoveryRequest(models.Model):
    """A request to the holder of a recovery key for the secrets of a chain's slots; the answer is used once.

    The private half that opens the answer is here, sealed, until it was used. The chain need not be in the catalogue.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    repository = models.ForeignKey(Repository, on_delete=models.CASCADE, related_name="recovery_requests")
    chain_uuid = models.UUIDField()
    text = models.TextField(help_text="What is carried to the holder. It is signed, and no secret.")
    private_sealed = models.BinaryField(null=True)
    made_at = models.DateTimeField(auto_now_add=True)
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    expires_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True)

    objects = RecoveryRequestQuerySet.as_manager()

    SEALED = {
        "private_sealed": lambda row: (row.uuid, row.chain_uuid, hashlib.sha256(row.text.encode()).hexdigest()),
    }

    class Meta:
        ordering = ["-made_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(answered_at=None) | models.Q(private_sealed=None),
                name="an_answered_request_has_no_key",
            )
        ]

    def __str__(self) -> str:
        return f"recovery request for chain {str(self.chain_uuid)[:8]}"
