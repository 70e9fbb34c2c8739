"""Password records and their versions: who can open what.

A record is what an administrator chooses; each change of the password adds a version, and none is ever overwritten.
What a job or a restore point does with a version is known in `jobs` and `repositories`, which refer to it and so
protect it from deletion.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from backupsite.roles import AnyUser, Right, visible


class PasswordRecordQuerySet(models.QuerySet["PasswordRecord"]):
    def visible_to(self, user: AnyUser) -> PasswordRecordQuerySet:
        return visible(self, user, Right.KEYS)


class PasswordRecord(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    hint = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = PasswordRecordQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def newest(self) -> PasswordVersion:
        """Return the version that new restore points are sealed for; a record has at least one."""
        return self.versions.order_by("-number")[0]


class PasswordVersion(models.Model):
    """The key encryption key of one version, sealed under the instance key, and the salt and costs that derive it
    anew.
    """

    record = models.ForeignKey(PasswordRecord, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    salt = models.BinaryField(max_length=16)
    memory_kib = models.PositiveIntegerField()
    iterations = models.PositiveIntegerField()
    lanes = models.PositiveSmallIntegerField()
    kek_sealed = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["record", "number"]
        constraints = [
            models.UniqueConstraint(fields=["record", "number"], name="one_row_a_password_version"),
            models.CheckConstraint(condition=models.Q(number__gte=1), name="password_versions_from_1"),
        ]

    def __str__(self) -> str:
        return f"{self.record.name}, version {self.number}"


class VerifyAttempt(models.Model):
    """One wrong re-typing of a record's password: counted over all web processes, in Postgres."""

    record = models.ForeignKey(PasswordRecord, on_delete=models.CASCADE, related_name="attempts")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["record", "at"], name="attempts_of_a_record")]

    def __str__(self) -> str:
        return f"wrong password for {self.record_id} at {self.at}"


class SigningKey(models.Model):
    """The key that this console signs backup files with (Ed25519). One row; the keys page shows the public half."""

    only = models.BooleanField(default=True, unique=True, editable=False)
    public = models.BinaryField(max_length=32)
    private_sealed = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(only=True), name="one_signing_key")]

    def __str__(self) -> str:
        return f"signing key {bytes(self.public).hex()[:16]}"
