"""Recovery keys: the public halves, and the yearly proof that somebody still holds the private one.

Every new backup file gets a slot for each active recovery key. The private half is on a sheet of paper and nowhere in
the console. What is sealed to a key is decided in `keys.crypto_recovery`.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models

from backupsite.roles import AnyUser, Right, visible


class MadeBy(models.TextChoices):
    OFFLINE = "offline", "made offline; only its public half was ever here"
    CONSOLE = "console", "made by the console, which showed the private half once"


class RecoveryKeyQuerySet(models.QuerySet["RecoveryKey"]):
    def visible_to(self, user: AnyUser) -> RecoveryKeyQuerySet:
        return visible(self, user, Right.KEYS)

    def active(self) -> RecoveryKeyQuerySet:
        return self.filter(retired_at=None)


class RecoveryKey(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=99, unique=True)
    public = models.BinaryField(max_length=1216, unique=True)
    made_by = models.CharField(max_length=8, choices=MadeBy.choices)
    proof = models.BinaryField(null=True, help_text="The console's proof that it wrote `statement()`.")
    proven_at = models.DateTimeField(null=True, help_text="When a holder last proved to have the private half.")
    retired_at = models.DateTimeField(null=True, help_text="Since then new backup files get no slot for it.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")

    objects = RecoveryKeyQuerySet.as_manager()

    VOUCHED = {"proof": lambda row: row.statement()}

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def statement(self) -> dict[str, Any]:
        """Return what the instance key vouches for: nobody with the database alone adds or takes away a recipient."""
        return {"recovery_key": str(self.uuid), "public": bytes(self.public).hex(), "active": self.retired_at is None}


class CustodyChallenge(models.Model):
    """A challenge sealed for a recovery key; whoever opens it offline returns `expected`, of which the hash is here."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    key = models.ForeignKey(RecoveryKey, on_delete=models.CASCADE, related_name="challenges")
    text = models.TextField(help_text="What the holder gives to `prove`.")
    expected_hash = models.BinaryField(max_length=32)
    made_at = models.DateTimeField(auto_now_add=True)
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    answered_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-made_at"]

    def __str__(self) -> str:
        return f"challenge for {self.key} of {self.made_at:%Y-%m-%d}"
