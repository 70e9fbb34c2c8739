"""Jobs, and the chains that they write. What the next session writes is decided in `planning`, when it is due in
`schedule`, what stays in `retention`.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import Q

from backupsite.roles import AnyUser, visible
from jobs.models.proxies import Proxy
from keys.models import KmsKey, PasswordRecord
from repositories.models import Chain, Repository


class Encryption(models.TextChoices):
    OFF = "off", "Not encrypted"
    PASSWORD = "password", "With a password"
    KMS = "kms", "With a key management server"


class Level(models.TextChoices):
    NONE = "none", "None"
    FAST = "fast", "Fast"
    BALANCED = "balanced", "Balanced"
    STRONG = "strong", "Strong"


class ScheduleKind(models.TextChoices):
    MANUAL = "manual", "Manual"
    MINUTES = "minutes", "Every few minutes"
    HOURLY = "hourly", "Every hour"
    DAILY = "daily", "Every day"
    WEEKLY = "weekly", "Days of the week"
    MONTHLY = "monthly", "Days of the month"
    CRON = "cron", "Cron expression"


class Misfire(models.TextChoices):
    """What happens to a due time that nobody was there for, once somebody is there again."""

    ONCE = "once", "One session, however late"
    WITHIN = "within", "One session, if not too late"
    SKIP = "skip", "None until the next time"


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: AnyUser) -> JobQuerySet:
        return visible(self, user)


class Job(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    proxy = models.ForeignKey(Proxy, on_delete=models.PROTECT, related_name="jobs")
    sources = models.JSONField(help_text="Absolute paths on the proxy.")
    include = models.JSONField(default=list, blank=True)
    exclude = models.JSONField(default=list, blank=True)
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="jobs")
    level = models.CharField(max_length=8, choices=Level.choices, default=Level.FAST)
    encryption = models.CharField(max_length=8, choices=Encryption.choices, default=Encryption.PASSWORD)
    password = models.ForeignKey(PasswordRecord, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    kms_key = models.ForeignKey(KmsKey, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    strict_custody = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Of a KMS job: no file key is kept here; whoever reads asks the server.",
    )
    ask_password = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Of a password job: a restore or download asks for the password again.",
    )
    encryption_off_reason = models.CharField(max_length=200, blank=True)
    protection_proof = models.BinaryField(null=True, help_text="The console's proof that it wrote `protection()`.")
    schedule_kind = models.CharField(max_length=8, choices=ScheduleKind.choices, default=ScheduleKind.MANUAL)
    schedule_time = models.TimeField(null=True, blank=True, help_text="Of an hourly schedule only the minute counts.")
    schedule_weekdays = models.JSONField(default=list, blank=True, help_text="0 is Monday.")
    schedule_minutes = models.PositiveSmallIntegerField(null=True, blank=True)
    schedule_days = models.JSONField(null=True, blank=True, help_text="Of the month; 0 is the last.")
    schedule_cron = models.CharField(max_length=200, blank=True, db_default="")
    misfire = models.CharField(
        max_length=6, choices=Misfire.choices, default=Misfire.ONCE, db_default=Misfire.ONCE.value
    )
    misfire_hours = models.PositiveSmallIntegerField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    schedule_since = models.DateTimeField(null=True, help_text="Due times at or before this instant are settled.")
    paused = models.BooleanField(default=False)
    keep_points = models.PositiveIntegerField(default=14)
    full_requested = models.BooleanField(default=False)
    new_chain_requested = models.BooleanField(default=False)
    version = models.PositiveIntegerField(
        default=1, help_text="Grows with every save of the form: two editors notice each other."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = JobQuerySet.as_manager()

    VOUCHED = {"protection_proof": lambda row: row.protection()}

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(encryption=Encryption.OFF, password=None, kms_key=None)
                | Q(encryption=Encryption.PASSWORD, password__isnull=False, kms_key=None)
                | Q(encryption=Encryption.KMS, password=None, kms_key__isnull=False),
                name="an_encrypted_job_has_a_key",
            ),
            models.CheckConstraint(
                condition=Q(strict_custody=False) | Q(encryption=Encryption.KMS), name="strict_custody_needs_a_kms"
            ),
            models.CheckConstraint(condition=Q(keep_points__gte=1), name="a_job_keeps_a_point"),
        ]

    def __str__(self) -> str:
        return self.name

    def protection(self) -> dict[str, Any]:
        """Return what the instance key vouches for: a row changed outside the console gets no slot and fails its
        session.
        """
        return {
            "job": str(self.uuid),
            "encryption": self.encryption,
            "password": str(self.password.uuid) if self.password else None,
            **({"kms_key": str(self.kms_key.uuid), "strict_custody": self.strict_custody} if self.kms_key else {}),
            **({"ask_password": True} if self.ask_password else {}),
        }

    def current_chain(self) -> Chain | None:
        """Return the chain that the next session may go on with, if there is one."""
        link = self.job_chains.select_related("chain__repository").filter(state=JobChainState.CURRENT).first()
        return link.chain if link else None


class JobChainState(models.TextChoices):
    CURRENT = "current", "current"
    PREVIOUS = "previous", "previous"  # still under the job's retention
    DETACHED = "detached", "detached"  # restorable, outside the job's retention


class JobChain(models.Model):
    """A chain that a job wrote."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="job_chains")
    chain = models.OneToOneField(Chain, on_delete=models.CASCADE, related_name="job_chain")
    state = models.CharField(max_length=8, choices=JobChainState.choices, default=JobChainState.CURRENT)
    delete_after_full = models.BooleanField(
        default=False,
        help_text="Delete this chain when the first full of its successor has succeeded and was verified.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job"], condition=Q(state="current"), name="one_current_chain_a_job"),
        ]

    def __str__(self) -> str:
        return f"{self.chain} ({self.state})"
