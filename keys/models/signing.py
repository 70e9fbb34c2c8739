"""The key that this console signs backup files with."""

from __future__ import annotations

from django.db import models


class SigningKey(models.Model):
    """The key that this console signs backup files with (Ed25519). One row; the keys page shows the public half."""

    only = models.BooleanField(default=True, unique=True, editable=False)
    public = models.BinaryField(max_length=32)
    private_sealed = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    SEALED = {"private_sealed": lambda row: (bytes(row.public).hex(),)}

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(only=True), name="one_signing_key")]

    def __str__(self) -> str:
        return f"signing key {bytes(self.public).hex()[:16]}"
