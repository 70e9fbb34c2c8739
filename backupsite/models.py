"""Who may sign in, what each may do, and what was done.

Users, roles as rows, the audit trail and the one-time link of the first administrator. What a role allows is a table
in `roles`; what is written to the trail, and when, is decided where it happens, through `audit`.
"""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models


class Role(models.TextChoices):
    ADMINISTRATOR = "administrator", "Administrator"
    SECURITY_ADMINISTRATOR = "security", "Security administrator"
    BACKUP_OPERATOR = "operator", "Backup operator"
    RESTORE_OPERATOR = "restore", "Restore operator"
    VIEWER = "viewer", "Viewer"


class Scope(models.TextChoices):
    EVERYTHING = "everything", "everything"


class User(AbstractUser):
    """A person who signs in. Django's groups and permissions stay unused: rights come from `RoleGrant` alone."""

    time_zone = models.CharField(max_length=64, default="UTC")

    def __str__(self) -> str:
        return self.username


class RoleGrant(models.Model):
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="grants")
    role = models.CharField(max_length=16, choices=Role.choices)
    scope = models.CharField(max_length=16, choices=Scope.choices, default=Scope.EVERYTHING)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "role", "scope"], name="one_grant_a_role_and_scope")]

    def __str__(self) -> str:
        return f"{self.user}: {self.get_role_display()}"


class Severity(models.TextChoices):
    INFO = "info", "information"
    NOTICE = "notice", "notice"
    HIGH = "high", "high"


class AuditEvent(models.Model):
    """One thing that somebody did. Rows are only ever added; the names are copies, so they outlive their objects."""

    at = models.DateTimeField(auto_now_add=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    user_name = models.CharField(max_length=150, blank=True)
    address = models.GenericIPAddressField(null=True)
    action = models.CharField(max_length=64)
    severity = models.CharField(max_length=8, choices=Severity.choices, default=Severity.INFO)
    object_type = models.CharField(max_length=32, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_name = models.CharField(max_length=200, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["-at", "-id"], name="audit_newest_first")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.user_name or 'system'} {self.action} {self.object_name}"


class FirstAdmin(models.Model):
    """The one-time link of the first administrator: only the SHA-256 of its token is kept."""

    token_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    used_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"first administrator link of {self.created_at:%Y-%m-%d %H:%M}"
