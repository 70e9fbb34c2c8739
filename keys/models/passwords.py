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


def _derived_from(version: PasswordVersion) -> tuple[object, ...]:
    """What must not be swapped under a sealed key: whose it is, and what derives it again."""
    return (
        version.record.uuid,
        version.number,
        bytes(version.salt).hex(),
        version.memory_kib,
        version.iterations,
        version.lanes,
    )


class PasswordRecordQuerySet(models.QuerySet["PasswordRecord"]):
    def visible_to(self, user: AnyUser) -> PasswordRecordQuerySet:
        return visible(self, user, Right.KEYS)


class PasswordRecord(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    hint = models.CharField(max_length=200, blank=True)
    lost_at = models.DateTimeField(null=True, help_text="When an administrator declared the password lost.")
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
    strength = models.PositiveSmallIntegerField(null=True, help_text="0 (weak) to 4, estimated when it was typed.")

    SEALED = {"kek_sealed": _derived_from}

    class Meta:
        ordering = ["record", "number"]
        constraints = [
            models.UniqueConstraint(fields=["record", "number"], name="one_row_a_password_version"),
            models.CheckConstraint(condition=models.Q(number__gte=1), name="password_versions_from_1"),
        ]

    def __str__(self) -> str:
        return f"{self.record.name}, version {self.number}"


class VerifyAttempt(models.Model):
    """One wrong secret for a subject (a password record, a backup chain): counted over all web processes."""

    subject = models.UUIDField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["subject", "at"], name="attempts_of_a_subject")]

    def __str__(self) -> str:
        return f"wrong secret for {self.subject} at {self.at}"
